import onnx
import pytest
import torch

from compress.errors import StageError
from compress.export.feed import Feed
from compress.export.graph import to_onnx
from compress.models import load_model, load_structure
from compress.quantization.plan import QuantPlan
from compress.quantization.writer import write_quantized
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize


def written(artifact, context) -> onnx.ModelProto:
    module, signature = load_model(artifact.path), load_structure(artifact.path).signature
    example = context.task.batch(context.data.select, torch.arange(2)).inputs
    return write_quantized(
        to_onnx(module, signature, example), QuantPlan.model_validate(artifact.read_json("quant_plan.json"))
    )


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


def test_a_trained_model_becomes_int8_with_the_same_weights(context, trained_digits):
    artifact = Quantize().run(trained_digits, *context)
    assert artifact.kind == "quantized"
    before, after = load_model(trained_digits.path).state_dict(), load_model(artifact.path).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert artifact.facts["int8_macs_fraction"] == 1.0
    assert artifact.facts["weight_bytes_fraction"] == 0.25
    assert artifact.facts["agreement"] >= 0.98
    assert artifact.facts["kernels"]["QLinearConv"] == 3
    logits = Feed(context.task, context.data.select, threads=1).outputs(written(artifact, context).SerializeToString())
    assert context.task.tally(logits, context.data.select).value > 0.9


def test_the_curve_of_the_search_is_stored(context, trained_digits):
    artifact = Quantize().run(trained_digits, *context)
    curve = artifact.read_json("quant_curve.json")
    assert len(curve["loss_increase_nats"]) == 4
    assert curve["curve"][0]["kept_float"] == []


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_every_calibration_keeps_the_decisions(context, trained_digits, calibration):
    artifact = Quantize(calibration=calibration, max_accuracy_drop=None).run(trained_digits, *context)
    assert artifact.facts["agreement"] >= 0.98
    assert not (artifact.path / "quant_curve.json").exists()


def test_layers_can_be_kept_in_float_by_glob(context, trained_digits):
    module = load_model(trained_digits.path)
    head = next(name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear))
    stage = Quantize(keep_float=(head,), max_accuracy_drop=None)
    artifact = stage.run(trained_digits, *context)
    assert artifact.facts["float_layers"] == {head: f"keep_float: {head}"}


def test_a_glob_that_matches_nothing_is_refused(context, trained_digits):
    with pytest.raises(StageError, match="matches no layer"):
        Quantize(keep_float=("layers.9.*",)).run(trained_digits, *context)


def test_dynamic_mode_on_a_convolutional_network_misses_the_bound_by_name(context, trained_digits):
    with pytest.raises(StageError, match="dynamic int8 convolution"):
        Quantize(mode="dynamic").run(trained_digits, *context)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_quantization_only_is_taken_as_it_comes_out(context, trained_digits, mode):
    artifact = Quantize.without_limits(mode=mode).run(trained_digits, *context)
    assert artifact.read_json("quant_plan.json")["mode"] == mode


def test_a_bound_on_decisions_is_kept_and_names_the_layers(context, trained_digits):
    with pytest.raises(StageError, match=r"decides differently[^$]*in int8: layers\.0; "):
        Quantize(percentile=51, max_accuracy_drop=None, min_agreement=1.0).run(trained_digits, *context)
    with pytest.raises(StageError, match=r"decides differently[^$]*nats alone\)") as caught:
        Quantize(percentile=51, max_accuracy_drop=1.0, min_agreement=1.0).run(trained_digits, *context)
    told = str(caught.value).split("in int8: ")[1].split(" nats alone)")[:-1]
    increases = [float(part.rsplit("(", 1)[1]) for part in told]
    assert increases == sorted(increases, reverse=True)
    assert len(increases) > 1


def test_smoke_searches_but_does_not_judge_accuracy():
    assert Quantize().smoke().max_accuracy_drop == 1.0
    assert Quantize().smoke().min_agreement == 0.0
    assert Quantize.without_limits(mode="static").smoke().max_accuracy_drop is None


def test_a_recurrent_network_is_refused_before_anything_trains(context):
    module = torch.nn.Sequential(torch.nn.GRU(8, 16), torch.nn.Linear(16, 10))
    with pytest.raises(StageError, match=r"(?s)recurrent.*GRU '0'.*export fp32"):
        Quantize().check(module, context.work)


def foresee(stage, context, trained_digits):
    model = load_structure(trained_digits.path).model
    return stage.foresee(load_model(trained_digits.path), model, context.work, context.host)


def test_the_share_that_int8_can_take_is_known_before_and_is_that_which_runs(context, trained_digits):
    (line,) = foresee(Quantize(), context, trained_digits)
    made = Quantize(max_accuracy_drop=None).run(trained_digits, *context)
    share = made.facts["int8_macs_fraction"]
    assert line.startswith(f"static int8 kernels can take {share:.1%} of the MACs with a weight")


def test_too_little_int8_and_globs_without_a_layer_are_refused_before(context, trained_digits):
    with pytest.raises(StageError, match=r"(?s)too little of the model can.*keep_float: layers.0.*leave quantize"):
        foresee(Quantize(keep_float=("layers.0",), min_int8_macs_fraction=1.0), context, trained_digits)
    with pytest.raises(StageError, match=r"(?s)nothing can run in int8.*dynamic int8 kernel|dynamic int8 convolution"):
        foresee(Quantize(mode="dynamic"), context, trained_digits)
    with pytest.raises(StageError, match="matches no layer"):
        foresee(Quantize(keep_float=("layers.9.*",)), context, trained_digits)


def test_behind_a_cut_the_share_of_the_uncut_model_is_told_and_refuses_nothing(context, trained_digits):
    structure, cut = load_structure(trained_digits.path), Prune(kept_macs_fraction=0.5)
    stage = Quantize(keep_float=("layers.0",), min_int8_macs_fraction=1.0)
    asked = (load_model(trained_digits.path), structure.model, context.work, context.host)
    (told,) = stage.foresee(*asked, after=(cut,))
    assert "of the MACs with a weight, before it is cut; less than 100.0% of what is left will be refused" in told
    assert "in float: layers.0" in told
