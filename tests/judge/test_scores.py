from dataclasses import asdict

import pytest

from compress.errors import StageError
from compress.export.checks import DECISION_SAMPLES
from compress.export.feed import first_inputs
from compress.export.parity import check_decisions
from compress.judge.scores import score
from compress.stages.export import Export
from compress.stages.quantize import Quantize


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


@pytest.fixture
def quantized(context, trained_digits):
    return Quantize(max_accuracy_drop=None).run(trained_digits, *context)


def test_each_file_of_a_bundle_is_scored_by_itself_byte_for_byte(context, quantized):
    names = ("fp32", "fp16-gpu", "int8-x86")
    bundle = Export(variants=names).run(quantized, *context)
    found = {name: score(bundle, *context, role="select", teacher=None, variant=name) for name in names}
    for name, scores in found.items():
        assert scores.onnx_path.read_bytes() == (bundle.path / f"{name}.onnx").read_bytes()
        assert scores.accuracy > 0.9
        assert scores.facts.parity.argmax_agreement >= 0.98
    assert asdict(found["fp32"].facts.parity) == bundle.facts["parity"]
    primary = score(bundle, *context, role="select", teacher=None)
    assert primary.onnx_path.read_bytes() == found["int8-x86"].onnx_path.read_bytes()


def test_a_quantized_file_is_compared_with_itself_under_its_stages_bound(context, quantized):
    scores = score(quantized, *context, role="select", teacher=None)
    assert scores.artifact.inputs["min_agreement"] == 0.98
    inputs = first_inputs(context.task, context.data.select, DECISION_SAMPLES)[0]
    assert asdict(scores.facts.parity) == check_decisions(scores.onnx_path, (inputs,), min_agreement=0.98)
    assert scores.facts.parity.max_abs > 0
    with pytest.raises(StageError, match="decides otherwise"):
        check_decisions(scores.onnx_path, (inputs,), min_agreement=1.01)


def test_what_is_taken_as_it_comes_out_is_not_judged(context, trained_digits):
    scores = score(
        Quantize.without_limits(mode="dynamic").run(trained_digits, *context), *context, role="select", teacher=None
    )
    assert scores.artifact.inputs["min_agreement"] == 0
    assert scores.facts.parity.argmax_agreement > 0.9
