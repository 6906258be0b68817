"""What the verdict needs timed."""

from dataclasses import replace

from compress.judge.contenders import Contender, find_needed_rows
from compress.recipe.sections import Benchmark, Gates, Limits, ProfileChoice


def test_a_profile_with_a_limit_must_measure_the_file_and_only_that(recipe, teacher):
    profiles = (ProfileChoice(), ProfileChoice(runtime="openvino"), ProfileChoice(batch_size=8))
    recipe = recipe.model_copy(
        update={
            "benchmark": Benchmark(profiles=profiles),
            "gates": Gates(
                max_latency_ms={"openvino-b1-t1": 1}, variants={"fp32": Limits(max_latency_ms={"ort-cpu-b8-t1": 2})}
            ),
        }
    )
    float_file = Contender("export:fp32", teacher.artifact, teacher.scores, "fp32")
    contenders = [teacher, float_file, replace(teacher, name="export")]
    assert find_needed_rows(recipe, contenders, rivals=("rival",)) == {
        "ort-cpu-b1-t1": ["teacher", "rival", "export:fp32", "export"],
        "ort-cpu-b8-t1": ["export:fp32"],
        "openvino-b1-t1": ["export"],
    }
