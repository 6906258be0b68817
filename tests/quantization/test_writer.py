import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compress.errors import StageError
from compress.export.session import Session
from compress.quantization.calibration import minmax, observe
from compress.quantization.formulas import activation_scale, quantize_weight, weight_scale
from compress.quantization.kernels import (
    check_kernels,
    check_weight_bytes,
    float_copies,
    inspect_kernels,
    weight_bytes_fraction,
)
from compress.quantization.placement import place_static
from compress.quantization.plan import QuantPlan, static_plan
from compress.quantization.writer import plan_without_training, write_quantized

NAMES = ("plain", "resnet", "squeeze_excite", "gated", "grouped", "concat", "mlp", "sigmoid")


def static(model, images, **choice):
    placement = place_static(model.graph, **choice)
    histograms = observe(model, placement.values, lambda: [(images[:128],), (images[128:256],)])
    return static_plan(model.graph, placement, {name: minmax(histogram) for name, histogram in histograms.items()})


def arrays(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", NAMES)
def test_int8_is_close_to_float_with_and_without_runtime_optimisation(zoo, images, name):
    model = zoo[name]
    quantized = write_quantized(model, static(model, images)).SerializeToString()
    reference = Session(model.SerializeToString())(images[300:400])[0]
    scale = reference.std()
    off = Session(quantized, optimize=False)(images[300:400])[0]
    on = Session(quantized)(images[300:400])[0]
    assert np.abs(off - reference).mean() < 0.1 * scale
    assert np.abs(on - off).mean() < 0.03 * scale


@pytest.mark.parametrize("name", NAMES)
def test_all_layers_run_in_int8_kernels_except_the_gates(zoo, images, name):
    model = zoo[name]
    plan = static(model, images)
    report = inspect_kernels(model, write_quantized(model, plan), plan)
    check_kernels(report)
    gates = {"squeeze_excite": {"4.down", "4.up"}, "gated": {"2.down", "2.up"}}.get(name, set())
    assert set(report.float_layers) == gates
    assert all(reason == "squeeze-excite gate" for reason in report.float_layers.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"QLinearConv": 3, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("resnet", {"QLinearConv": 6, "QLinearAdd": 2, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("gated", {"QLinearConv": 2, "QLinearMul": 1, "QGemm": 1, "QLinearGlobalAveragePool": 2}),
        ("grouped", {"QLinearConv": 2, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("concat", {"QLinearConv": 4, "QLinearConcat": 1, "QGemm": 1, "QLinearGlobalAveragePool": 1}),
        ("mlp", {"QGemm": 3}),
    ],
)
def test_companions_join_the_layers(zoo, images, name, expected):
    model = zoo[name]
    plan = static(model, images)
    assert inspect_kernels(model, write_quantized(model, plan), plan).kernels == expected


def test_a_relu_keeps_no_pair_before_it(zoo, images):
    placed = place_static(zoo["resnet"].graph).values
    relus = [node for node in zoo["resnet"].graph.node if node.op_type == "Relu"]
    assert all(relu.output[0] in placed for relu in relus)
    assert not any(relu.input[0] in placed for relu in relus)


def test_a_head_and_a_layer_before_a_float_activation_write_float(zoo):
    placed = place_static(zoo["mlp"].graph).values
    assert placed == ("0", "2", "4")  # flattened image, ReLU, GELU: not the GELU's input, not the logits


@pytest.mark.parametrize("name", NAMES)
def test_no_float_copy_of_a_quantized_weight_is_left(zoo, images, name):
    model = zoo[name]
    plan = static(model, images)
    quantized = write_quantized(model, plan)
    weights = {node.input[1] for node in model.graph.node if node.name in {entry.at.path for entry in plan.weights}}
    assert not weights & arrays(quantized).keys()
    assert weight_bytes_fraction(model, quantized, plan) == 0.25
    assert float_copies(model, quantized, plan) == {}


def test_float_copies_left_behind_count_and_are_named_the_largest_first(zoo, images):
    model = zoo["mlp"]
    plan = static(model, images)
    quantized = write_quantized(model, plan)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantized.graph.initializer.extend([weights["3.weight"], weights["1.weight"]])
    fraction, copies = weight_bytes_fraction(model, quantized, plan), float_copies(model, quantized, plan)
    assert list(copies.items()) == [("1", 64 * 32 * 4), ("3", 32 * 32 * 4)]
    with pytest.raises(StageError, match=r"still in fp32 too: 1 \(8192 bytes\); 3 \(4096 bytes\)") as caught:
        check_weight_bytes(fraction, copies=copies)
    assert "keep both in float" in str(caught.value)
    with pytest.raises(StageError, match="raise max_weight_bytes_fraction"):
        check_weight_bytes(0.25, copies={}, max_weight_bytes_fraction=0.2)


def test_the_float_graph_is_not_changed(zoo, images):
    before = zoo["plain"].SerializeToString()
    write_quantized(zoo["plain"], static(zoo["plain"], images))
    assert zoo["plain"].SerializeToString() == before


def test_weight_scales_follow_the_weights_in_the_graph(zoo, images):
    model = zoo["plain"]
    plan = QuantPlan.model_validate_json(static(model, images).model_dump_json())
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == "3.0.weight":
            tensor.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(tensor), tensor.name))
    before, after = arrays(write_quantized(model, plan)), arrays(write_quantized(changed, plan))
    np.testing.assert_allclose(after["3.0.weight_scale"], 3 * before["3.0.weight_scale"], rtol=1e-6)
    np.testing.assert_array_equal(after["3.0.weight_int8"], before["3.0.weight_int8"])


def test_a_plan_survives_an_export_of_the_same_module(trained, export, images):
    plan = static(export(trained), images)
    assert (
        write_quantized(export(trained), plan).SerializeToString()
        == write_quantized(export(trained), plan).SerializeToString()
    )


def test_a_plan_for_another_architecture_is_refused_by_name(zoo, images):
    with pytest.raises(StageError, match=r"3\.0"):
        write_quantized(zoo["mlp"], static(zoo["plain"], images))


def test_reduce_range_keeps_weights_within_7_bits(zoo, images):
    plan = static(zoo["plain"], images).model_copy(update={"reduce_range": True})
    int8 = [
        array
        for array in arrays(write_quantized(zoo["plain"], plan)).values()
        if array.dtype == np.int8 and array.ndim > 1
    ]
    assert max(np.abs(array.astype(int)).max() for array in int8) == 63


def test_a_large_bias_on_a_dead_channel_fits_int32(zoo, images):
    model = onnx.ModelProto()
    model.CopyFrom(zoo["plain"])
    for tensor in model.graph.initializer:
        if tensor.name in {"3.0.weight", "3.0.bias"}:
            array = numpy_helper.to_array(tensor).copy()
            array[0] = 1e-12 if tensor.name.endswith("weight") else 2.0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    reference = Session(model.SerializeToString())(images[:50])[0]
    quantized = Session(write_quantized(model, static(model, images)).SerializeToString())(images[:50])[0]
    assert np.abs(quantized - reference).mean() < 0.1 * reference.std()


def test_scales_against_float64_numpy():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    scale = weight_scale(weight, axis=0)
    expected = np.abs(weight.astype(np.float64).reshape(5, -1)).max(1) / 127
    expected[2] = 1
    np.testing.assert_allclose(scale, expected, rtol=1e-6)
    int8 = quantize_weight(weight, scale, axis=0)
    restored = int8.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
    assert (np.abs(restored - weight) <= scale[:, None, None, None] * 0.5001).all()
    assert np.abs(int8).max() == 127
    step, zero = activation_scale(-1.0, 3.0)
    assert step == np.float32(4 / 255)
    assert zero == round(255 / 4)
    assert activation_scale(0.0, 0.0) == (1.0, 0)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_any_float_graph_can_be_quantized_without_training(zoo, images, method):
    model = zoo["mlp"]
    plan = plan_without_training(model, lambda: [(images[:256],)], mode=method, find=minmax)
    reference = Session(model.SerializeToString())(images)[0]
    quantized = Session(write_quantized(model, plan).SerializeToString())(images)[0]
    assert (reference.argmax(1) == quantized.argmax(1)).mean() > 0.95


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_files_can_be_loaded_with_exact_products_and_give_the_same(zoo, images, name, mode):
    """ONNX Runtime replaces each weight and zero point then, and refuses a file where two layers share one."""
    plan = plan_without_training(zoo[name], lambda: [(images[:256],)], mode=mode, find=minmax)
    quantized = write_quantized(zoo[name], plan)
    exact, plain = (Session(quantized, exact_int8=each)(images[300:400])[0] for each in (True, False))
    np.testing.assert_allclose(exact, plain, atol=1e-3 * np.abs(plain).max())


def test_dynamic_layers_fuse_with_their_bias(zoo, images):
    model = zoo["mlp"]
    plan = plan_without_training(model, list, mode="dynamic", find=minmax)
    quantized = write_quantized(model, plan)
    assert inspect_kernels(model, quantized, plan).kernels == {"DynamicQuantizeMatMul": 3}
    assert weight_bytes_fraction(model, quantized, plan) < 0.30


def test_dynamic_mode_leaves_convolutions_in_float_and_says_so(zoo, images):
    model = zoo["plain"]
    plan = plan_without_training(model, list, mode="dynamic", find=minmax)
    report = inspect_kernels(model, write_quantized(model, plan), plan)
    assert "dynamic int8 convolution" in report.float_layers["3.0"]
    with pytest.raises(StageError, match="3.0"):
        check_kernels(report)


def test_a_file_without_an_int8_kernel_is_refused_whatever_the_bound(zoo, images):
    model = zoo["plain"]
    plan = static(model, images, keep_float={"0.0": "asked", "3.0": "asked", "5.0": "asked", "7.2": "asked"})
    report = inspect_kernels(model, write_quantized(model, plan), plan)
    with pytest.raises(StageError, match="no layer runs in int8"):
        check_kernels(report, min_int8_macs_fraction=0.0)


def test_int8_loses_little_accuracy_on_real_digits(trained, export, images, labels):
    model = export(trained)
    plan = static(model, images)
    with torch.no_grad():
        reference = trained(torch.from_numpy(images[1200:])).numpy()
    quantized = Session(write_quantized(model, plan).SerializeToString())(images[1200:])[0]
    accuracy = (reference.argmax(1) == labels[1200:]).mean()
    assert accuracy > 0.9
    assert (quantized.argmax(1) == labels[1200:]).mean() > accuracy - 0.01
