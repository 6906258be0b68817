import functools
from collections import Counter
from fnmatch import fnmatchcase

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from compress.benchmark.model_file import macs
from compress.errors import StageError
from compress.export.graph import to_onnx
from compress.export.session import Session
from compress.quantization.calibration import minmax
from compress.quantization.kernels import check_kernels, float_copies, inspect_kernels, weight_bytes_fraction
from compress.quantization.placement import layers, place_dynamic, usual_mode
from compress.quantization.plan import dynamic_plan
from compress.quantization.quantize import Bounds, quantize
from compress.quantization.sensitivity import Quantizer, Score, choose_layers
from compress.quantization.view import GraphView
from compress.quantization.writer import plan_without_training, write_quantized
from compress.surgery.cost import model_cost

WORDS = "model.bert.embeddings.word_embeddings"
POSITIONS = "model.bert.embeddings.position_embeddings"
SEGMENTS = "model.bert.embeddings.token_type_embeddings"


@pytest.fixture(scope="module")
def encoder(make_encoder, text_signature, tokens) -> onnx.ModelProto:
    example = tuple(torch.from_numpy(array) for array in tokens(2, 7))
    return to_onnx(make_encoder("Bert", "sdpa"), text_signature, example)


@pytest.fixture(scope="module")
def plan_of(encoder, tokens):
    batches = [tokens(8, 20), tokens(8, 33)]
    return functools.cache(lambda mode: plan_without_training(encoder, lambda: batches, mode=mode, find=minmax))


@pytest.fixture(scope="module")
def family_of(make_encoder, make_image_encoder, text_signature, image_signature, tokens):
    """From the name of a family to its float graph, and a function from a number of rows to inputs."""

    def images(rows):
        return (np.random.default_rng(rows).standard_normal((rows, 3, 16, 16)).astype(np.float32),)

    def make(family):
        if family == "ViT":
            return to_onnx(make_image_encoder(family), image_signature, (torch.zeros(2, 3, 16, 16),)), images
        example = tuple(map(torch.from_numpy, tokens(2, 7)))
        return to_onnx(make_encoder(family, "eager"), text_signature, example), lambda rows: tokens(rows, 21)

    return make


def optimized(model: onnx.ModelProto, path) -> onnx.GraphProto:
    Session(model.SerializeToString(), save_optimized=path)
    return onnx.load(path).graph


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_every_product_with_a_weight_runs_in_int8(encoder, plan_of, mode):
    plan = plan_of(mode)
    report = inspect_kernels(encoder, write_quantized(encoder, plan), plan)
    check_kernels(report, min_int8_macs_fraction=1.0)
    assert set(report.float_layers.values()) == {"both inputs depend on data"}
    assert len(report.float_layers) == 4  # two products of activations in each of two layers
    assert sum(report.kernels.values()) == 14  # six layers in each of two blocks, pooler and classifier


@pytest.mark.parametrize(
    ("family", "products", "in_float"),
    [
        ("Roberta", 14, []),
        ("DebertaV2", 14, []),
        ("MPNet", 14, []),
        # And the one from the embeddings' width; one layer runs twice.
        pytest.param("Albert", 15, [], marks=pytest.mark.slow),
        # Four in each block: queries, keys and values are one, and so are both halves.
        pytest.param("ModernBert", 10, [], marks=pytest.mark.slow),
        ("ViT", 13, ["Conv"]),
    ],
)
def test_every_family_runs_its_products_with_a_weight_in_int8_and_agrees_with_float(
    family_of, family, products, in_float
):
    """Six in each of two blocks, and the head's; of a vision transformer all but the patches' convolution."""
    graph, batch_of = family_of(family)
    plan = dynamic_plan(place_dynamic(graph.graph, keep_float={}))
    quantized = write_quantized(graph, plan)
    report = inspect_kernels(graph, quantized, plan)
    types = {node.name: node.op_type for node in graph.graph.node}
    float_layers = {name: why for name, why in report.float_layers.items() if why != "both inputs depend on data"}
    assert [types[name] for name in float_layers] == in_float
    assert sum(report.kernels.values()) == products
    batch = batch_of(128)
    reference, int8 = (Session(model.SerializeToString())(*batch)[0] for model in (graph, quantized))
    assert np.abs(reference - int8).max() < 0.15 * np.abs(reference).max()
    assert ((reference - int8) ** 2).sum() < 0.01 * ((reference - reference.mean(axis=0)) ** 2).sum()
    assert (reference.argmax(axis=1) == int8.argmax(axis=1)).mean() > 0.9


def test_dynamic_int8_has_the_kernels_of_onnx_runtimes_own_quantizer(encoder, plan_of, tmp_path):
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(encoder, source)
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
    kernels = [
        Counter(node.op_type for node in optimized(model, tmp_path / "optimized.onnx").node)
        for model in (onnx.load(target), write_quantized(encoder, plan_of("dynamic")))
    ]
    for kind in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLinear", "MatMulInteger"):
        assert kernels[1][kind] == kernels[0][kind]
    assert kernels[1]["DynamicQuantizeLinear"] == 2  # one for query, key and value together


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_layer_normalization_stays_apart_from_the_residual(encoder, plan_of, tmp_path, mode):
    float_types = Counter(node.op_type for node in optimized(encoder, tmp_path / "float.onnx").node)
    int8 = optimized(write_quantized(encoder, plan_of(mode)), tmp_path / "int8.onnx")
    types = Counter(node.op_type for node in int8.node)
    assert float_types["SkipLayerNormalization"] == 4  # what this is about; see residual.py if it fails
    assert types["SkipLayerNormalization"] == 0
    assert types["LayerNormalization"] == types["Sum"] == 5


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_int8_is_close_to_float_at_any_batch_and_length(encoder, plan_of, tokens, mode):
    reference, quantized = (
        Session(model.SerializeToString()) for model in (encoder, write_quantized(encoder, plan_of(mode)))
    )
    for rows, length in ((1, 1), (1, 9), (5, 33)):
        batch = tokens(rows, length)
        difference = np.abs(reference(*batch)[0] - quantized(*batch)[0])
        assert difference.max() < 0.15 * np.abs(reference(*batch)[0]).max()


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_an_embedding_is_stored_by_row(encoder, plan_of, mode):
    before, quantized = arrays(encoder), write_quantized(encoder, plan_of(mode))
    after = arrays(quantized)
    table = before[f"{WORDS}.weight"].astype(np.float64)
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(after[f"{WORDS}.weight_scale"], scale, rtol=1e-6)
    assert after[f"{WORDS}.weight_int8"].dtype == np.int8
    restored = after[f"{WORDS}.weight_int8"] * after[f"{WORDS}.weight_scale"].astype(np.float64)
    assert (np.abs(restored - table) <= 0.5001 * scale).all()
    assert f"{WORDS}.weight" not in after
    assert weight_bytes_fraction(encoder, quantized, plan_of(mode)) == 0.25
    assert float_copies(encoder, quantized, plan_of(mode)) == {}


def test_the_lookup_gives_the_stored_rows(encoder, plan_of, tokens):
    quantized = write_quantized(encoder, plan_of("dynamic"))
    quantized.graph.output.append(onnx.helper.make_empty_tensor_value_info(WORDS))
    session = Session(quantized.SerializeToString())
    ids, mask = tokens(3, 11)
    rows = dict(zip(session.outputs, session(ids, mask), strict=True))[WORDS]
    stored = arrays(quantized)
    table = stored[f"{WORDS}.weight_int8"].astype(np.float32) * stored[f"{WORDS}.weight_scale"]
    np.testing.assert_array_equal(rows, table[ids])


def test_an_unused_row_of_zeros_stays_zero(encoder, plan_of):
    changed = onnx.ModelProto()
    changed.CopyFrom(encoder)
    for tensor in changed.graph.initializer:
        if tensor.name == f"{WORDS}.weight":
            table = numpy_helper.to_array(tensor).copy()
            table[7] = 0
            tensor.CopyFrom(numpy_helper.from_array(table, tensor.name))
    stored = arrays(write_quantized(changed, plan_of("dynamic")))
    assert (stored[f"{WORDS}.weight_int8"][7] == 0).all()
    assert stored[f"{WORDS}.weight_scale"][7] == 1


def test_tables_too_small_to_save_bytes_stay_float(encoder, plan_of):
    quantized = [entry.at.path for entry in plan_of("dynamic").weights]
    assert WORDS in quantized
    for name in (POSITIONS, SEGMENTS):  # 6 kB and 256 bytes
        assert plan_of("dynamic").kept_float[name] == "the table is too small to save bytes"
        assert f"{name}.weight" in arrays(write_quantized(encoder, plan_of("dynamic")))


def test_reduce_range_leaves_embeddings_at_8_bits(encoder, plan_of):
    stored = arrays(write_quantized(encoder, plan_of("dynamic").model_copy(update={"reduce_range": True})))
    largest = {name: np.abs(array.astype(int)).max() for name, array in stored.items() if name.endswith("weight_int8")}
    assert largest.pop(f"{WORDS}.weight_int8") == 127
    assert set(largest.values()) == {63}


def test_a_glob_reaches_an_embedding(encoder):
    kept = {node.name: "asked" for node in layers(GraphView(encoder.graph)) if fnmatchcase(node.name, "*.embeddings.*")}
    assert set(kept) == {WORDS, POSITIONS, SEGMENTS}
    plan = dynamic_plan(place_dynamic(encoder.graph, keep_float=kept))
    assert f"{WORDS}.weight" in arrays(write_quantized(encoder, plan))


def test_the_ranking_leaves_an_embedding_in_float_when_it_hurts_most(encoder):
    quantizer = Quantizer(encoder, mode="dynamic", keep_float={})
    assert WORDS in quantizer.layers

    def score(path):  # as if only the table mattered
        wrong = float(f"{WORDS}.weight" not in arrays(onnx.load(path)))
        return Score(loss=wrong, accuracy=1 - wrong)

    choice = choose_layers(quantizer, {}, score, max_accuracy_drop=0.0)
    assert next(iter(choice.ranking)) == WORDS
    assert [name for name, reason in choice.plan.kept_float.items() if "accuracy" in reason] == [WORDS]
    assert WORDS not in [entry.at.path for entry in choice.plan.weights]


def test_the_products_of_an_encoder_are_counted_at_the_nominal_length(encoder):
    linear = 64 * (4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 * 16 + 2 * 32 * 96) + 32 * 32 + 32 * 3
    attention = 2 * 64 * 64 * (32 + 16)  # widths of all heads together in the two layers
    assert sum(macs(encoder).values()) == linear + attention


def test_a_file_and_torch_count_the_same_products_of_an_encoder(encoder, make_encoder, plan_of, tokens):
    module = make_encoder("Bert", "sdpa")
    counted = model_cost(module, tuple(map(torch.from_numpy, tokens(2, 48)))).macs
    assert sum(macs(encoder, length=48).values()) == pytest.approx(counted, rel=0.01)
    for mode in ("static", "dynamic"):
        assert sum(macs(write_quantized(encoder, plan_of(mode)), length=48).values()) == pytest.approx(
            counted, rel=0.01
        )


def test_attention_makes_a_graph_dynamic(encoder, zoo):
    assert usual_mode(encoder) == "dynamic"
    assert usual_mode(zoo["resnet"]) == usual_mode(zoo["mlp"]) == "static"


class OneAttention(torch.nn.Module):
    """A convolutional network with one product of two activations; `width` is that of its convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.conv = torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.Conv2d(width, 64, 3, padding=1)
        self.query, self.head = torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2)
        weights = (self.query(rows) @ rows.transpose(1, 2) / 8).softmax(-1)
        return self.head((weights @ rows).mean(1))


def test_the_mode_goes_by_where_the_products_are(export):
    convolutional, mixed = export(OneAttention(32)), export(OneAttention(2))
    assert usual_mode(convolutional) == "static"
    assert usual_mode(mixed) == "dynamic"  # 29% in convolutions
    assert usual_mode(mixed, min_int8_macs_fraction=0.9) == "static"


def test_a_convolutional_network_with_one_attention_is_int8_by_default(export, images):
    torch.manual_seed(0)
    made = quantize(
        export(OneAttention(32)), lambda: [(images[:128],)], find=minmax, decide=lambda graph: None, bounds=Bounds()
    )
    assert made.plan.mode == "static"
    assert made.report.int8_macs_fraction == 1.0


def test_a_bound_that_dynamic_int8_misses_names_the_mode_that_keeps_it(export, images):
    with pytest.raises(StageError, match="set mode: static"):
        quantize(export(OneAttention(32)), list, find=minmax, decide=lambda graph: None, mode="dynamic")
