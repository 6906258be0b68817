"""What a missed gate says: the moves are arithmetic on rows, the advice follows from them."""

from dataclasses import replace

import pytest

from compress.benchmark.document import Row
from compress.judge.remedy import moves, remedy
from compress.measures.intervals import Estimate
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.stages.vocabulary import PruneVocabulary

PROFILE = "openvino-b1-t1"


def row(accuracy: float, size_bytes: int, latency_ms: float | None) -> Row:
    return Row(
        name="row",
        size_bytes=size_bytes,
        num_params=None,
        accuracy=Estimate(accuracy, accuracy, accuracy),
        accuracy_change=None,
        mcnemar_p=None,
        agreement=None,
        latency_ms={} if latency_ms is None else {PROFILE: latency_ms},
        speedup={},
        measurable={},
    )


STAGES = (
    Distill(epochs=10),
    Prune(kept_params_fraction=0.6),
    Distill(name="recover", epochs=20),
    Quantize(max_accuracy_drop=0.002),
    Export(),
)
ROWS = {
    "teacher": row(0.94, 2_800, 0.8),
    "distill": row(0.93, 700, 0.2),
    "prune": row(0.70, 420, 0.16),
    "recover": row(0.925, 420, 0.16),
    "quantize": row(0.924, 120, 0.08),
    "export": row(0.924, 125, 0.08),
}
FACTS = {name: {} for name in ROWS} | {"quantize": {"int8_macs_fraction": 1.0}}


def told(quantity, *, stages=STAGES, rows=ROWS, facts=FACTS, missing=0.8, **changes) -> str:
    found = moves(stages, rows, facts, PROFILE)
    return remedy(quantity, found, missing=missing, **({"float_file": False, "measured_passes": False} | changes))


def test_a_move_is_a_stage_with_the_training_that_recovers_from_it():
    found = moves(STAGES, ROWS, FACTS, PROFILE)
    assert [move.name for move in found] == ["distill", "prune with recover", "quantize", "export"]
    assert [move.points for move in found] == pytest.approx([-1.0, -0.5, -0.1, 0.0])
    assert [move.smaller for move in found] == pytest.approx([4.0, 700 / 420, 3.5, 120 / 125])
    assert [move.faster for move in found] == pytest.approx([4.0, 1.25, 2.0, 1.0])
    assert str(found[1]) == "prune with recover -0.50 points, 1.67x smaller, 1.25x faster"
    assert str(found[3]) == "export +0.00 points, 1.04x larger, 1.00x faster"


def test_times_that_are_not_known_are_left_out():
    found = moves(STAGES, ROWS | {"recover": row(0.925, 420, None)}, FACTS, PROFILE)
    assert [move.faster is None for move in found] == [False, True, True, False]
    assert "faster" not in str(found[1])


def test_for_accuracy_the_stage_that_lost_most_is_named_with_its_setting():
    assert told("accuracy").startswith("most accuracy is lost by distill (-1.00 points): raise stages.distill.epochs")
    worse = ROWS | {"recover": row(0.90, 420, 0.16)}
    assert "raise stages.prune.kept_params_fraction above 0.6" in told("accuracy", rows=worse)
    worse = ROWS | {"quantize": row(0.90, 120, 0.08), "export": row(0.90, 125, 0.08)}
    assert "lower stages.quantize.max_accuracy_drop below 0.002" in told("accuracy", rows=worse)
    better = {name: replace(found, accuracy=Estimate(0.95, 0.95, 0.95)) for name, found in ROWS.items()}
    assert "no stage lost accuracy on select" in told("accuracy", rows=better)


def test_for_size_and_speed_the_cheapest_stage_that_can_still_give_is_named():
    for quantity in ("size", "speed"):  # everything is in int8 already, so pruning is what is left
        assert told(quantity).startswith(
            "prune with recover has most to give: try stages.prune.kept_params_fraction=0.48"
        )
    floats = FACTS | {"quantize": {"int8_macs_fraction": 0.5}}  # 0.1 points for 3.5x, pruning took 0.5 for 1.67x
    assert told("size", facts=floats).startswith("quantize has most to give: raise stages.quantize.max_accuracy_drop")
    dear = ROWS | {"quantize": row(0.90, 400, 0.15)}
    assert told("size", facts=floats, rows=dear).startswith("prune with recover has most to give")


def test_what_no_stage_can_give_is_not_promised():
    assert told("size", missing=0.01).startswith("no stage has enough left to give: choose a smaller `student`")
    without = tuple(stage for stage in STAGES if not isinstance(stage, Prune))
    assert "add `prune`, or choose a smaller" in told("size", stages=without)


def test_a_file_without_int8_is_told_to_quantize_unless_it_is_a_float_variant():
    floats = tuple(stage for stage in STAGES if not isinstance(stage, Quantize))
    assert told("size", stages=floats).startswith("nothing is quantized: add `quantize`")
    assert told("size", stages=floats, float_file=True).startswith("prune with recover has most to give")


def test_a_vocabulary_gives_bytes_and_no_speed():
    stages = (PruneVocabulary(min_count=2), *STAGES[3:])
    rows = ROWS | {"prune-vocabulary": row(0.94, 1_000, 0.8)}
    facts = FACTS | {"prune-vocabulary": {}}
    assert "raise stages.prune-vocabulary.min_count above 2" in told("size", stages=stages, rows=rows, facts=facts)
    assert told("speed", stages=stages, rows=rows, facts=facts).startswith("no stage has enough left to give")


def test_an_interval_that_is_too_wide_asks_for_more_samples_not_for_another_model():
    assert told("accuracy", measured_passes=True).startswith(
        "the value measured passes, its interval does not: more test"
    )
    assert "`benchmark.preset: strict`" in told("speed", measured_passes=True)


def test_a_stage_that_made_it_worse_is_not_asked_for_more():
    slower = ROWS | {"recover": row(0.925, 420, 0.25)}  # pruned, and slower than before
    assert "kept_params_fraction=" not in told("speed", rows=slower)
    assert told("speed", rows=slower).startswith("no stage has enough left to give: choose a smaller `student`")
    assert "kept_params_fraction=" in told("size", rows=slower)


def test_int8_that_is_slower_than_float32_is_not_shipped():
    slower = ROWS | {"quantize": row(0.924, 120, 0.2), "export": row(0.924, 125, 0.2)}
    assert told("speed", rows=slower).startswith("int8 is 1.25x slower than float32 here: ship fp32")
    assert "not all that is missing: ship fp32" in told("speed", rows=slower, missing=0.5)
    floats = tuple(stage for stage in STAGES if not isinstance(stage, Quantize))
    assert told("speed", stages=floats, int8_is_slow=True).startswith("prune with recover has most to give")


def test_another_file_that_holds_the_gate_goes_before_every_setting():
    assert told("speed", better="fp32").startswith("ship fp32: it holds this gate on select")
