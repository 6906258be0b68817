"""Gates: which bound is compared with a limit, and what a missed one says."""

from compress.judge.contenders import Contender
from compress.judge.gates import judge_limits, judge_on_select
from compress.judge.race import run_race
from compress.measures.intervals import Estimate
from compress.recipe.sections import Benchmark, Gates, Limits, ProfileChoice


def test_every_limit_is_judged_on_the_unfavourable_bound():
    limits = Limits(max_accuracy_drop=0.02, max_size_mb=1, min_speedup=2, max_latency_ms={"a": 1.0, "b": 1.0})
    found = judge_limits(
        limits,
        change=Estimate(-0.01, -0.03, 0.01),
        size_bytes=1_000_000,
        speedup=Estimate(2.5, 1.9, 3.0),
        latency_ms={"a": Estimate(0.9, 0.8, 1.1), "b": Estimate(0.9, 0.8, 1.0)},
        primary="a",
        variant="fp32",
    )
    assert [(gate.name, gate.judged, gate.passed, gate.profile) for gate in found] == [
        ("fp32: max_accuracy_drop", 0.03, False, ""),
        ("fp32: max_size_mb", 1.0, True, ""),
        ("fp32: min_speedup", 1.9, False, "a"),
        ("fp32: max_latency_ms.a", 1.1, False, "a"),
        ("fp32: max_latency_ms.b", 1.0, True, "b"),
    ]
    assert [gate.field for gate in found[2:4]] == ["min_speedup", "max_latency_ms"]
    assert found[2].gap.startswith("fp32: min_speedup: at least 2x asked")
    assert found[3].gap == "fp32: max_latency_ms.a: at most 1 ms asked, 1.1 ms at the interval's bound, 0.9 ms measured"


def test_a_latency_has_a_limit_in_each_runtime_and_a_missed_one_says_what_to_change(recipe, context, teacher, tmp_path):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino"))
    limits = {"ort-cpu-b1-t1": 60_000, "openvino-b1-t1": 1e-9}
    recipe = recipe.model_copy(
        update={"benchmark": Benchmark(preset="quick", profiles=profiles), "gates": Gates(max_latency_ms=limits)}
    )
    contenders = [teacher, Contender("distill", teacher.artifact, teacher.scores)]
    race = run_race(recipe, *context, contenders, rivals=("distill",), directory=tmp_path)
    loose, tight = judge_on_select(recipe, contenders, race)
    assert loose.passed
    assert not loose.remedy
    assert not tight.passed
    assert tight.estimate == race.result.comparisons[1].latency_ms("distill").value
    assert tight.judged == race.result.comparisons[1].latency_ms("distill").high > tight.estimate
    assert "nothing is quantized" in tight.remedy
    assert "By stage, on select: distill +0.00 points, 1.00x" in tight.remedy
