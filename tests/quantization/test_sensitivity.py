import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from compress.benchmark.model_file import macs
from compress.errors import StageError
from compress.export.session import Session
from compress.quantization.calibration import minmax, observe
from compress.quantization.kernels import check_agreement
from compress.quantization.plan import QuantPlan
from compress.quantization.sensitivity import Quantizer, Score, choose_layers, most_files
from compress.quantization.writer import plan_without_training, write_quantized
from compress.surgery.cost import model_cost

FRAGILE = {"2.first.0", "2.second.0"}


def scaled(model: onnx.ModelProto, factors: dict[str, tuple[int, float]]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in factors:
            axis, factor = factors[tensor.name]
            array = numpy_helper.to_array(tensor).copy()
            array[(slice(None),) * axis + (slice(0, 4),)] *= factor
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


@pytest.fixture(scope="module")
def fragile(trained, export) -> onnx.ModelProto:
    """The trained network with four channels between two layers a thousand times as large: equal in float only."""
    factors = {"2.first.0.weight": (0, 1e3), "2.first.0.bias": (0, 1e3), "2.second.0.weight": (1, 1e-3)}
    return scaled(export(trained), factors)


@pytest.fixture(scope="module")
def score(images, labels):
    def score(path):
        logits = Session(path)(images[1200:])[0].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        log_p = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(597), labels[1200:]]
        return Score(loss=float(-log_p.mean()), accuracy=float((logits.argmax(1) == labels[1200:]).mean()))

    return score


def search(model, images, score, *, max_accuracy_drop, keep_float=None, done=lambda: None):
    quantizer = Quantizer(model, mode="static", keep_float=keep_float or {})
    histograms = observe(model, quantizer.values, lambda: [(images[:256],)])
    ranges = {name: minmax(histogram) for name, histogram in histograms.items()}
    return choose_layers(quantizer, ranges, score, max_accuracy_drop=max_accuracy_drop, done=done)


def test_a_harmless_network_goes_to_int8_whole(trained, export, images, score):
    choice = search(export(trained), images, score, max_accuracy_drop=0.01)
    assert choice.plan.kept_float == {}
    assert len(choice.plan.weights) == len(choice.ranking) == 7
    assert [point.kept_float for point in choice.curve] == [()]


def test_the_fewest_layers_that_hurt_stay_in_float(fragile, images, score):
    choice = search(fragile, images, score, max_accuracy_drop=0.01)
    assert set(list(choice.ranking)[:2]) == FRAGILE
    assert set(choice.plan.kept_float) == FRAGILE
    assert choice.curve[0].score.accuracy < choice.float_score.accuracy - 0.05
    assert choice.curve[-1].score.accuracy >= choice.float_score.accuracy - 0.01


def test_the_ranking_is_in_falling_order_of_lost_nats(fragile, images, score):
    losses = list(search(fragile, images, score, max_accuracy_drop=1.0).ranking.values())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 10 * abs(losses[2])


def test_layers_asked_to_stay_in_float_are_not_ranked(trained, export, images, score):
    choice = search(export(trained), images, score, max_accuracy_drop=0.01, keep_float={"0.0": "keep_float: 0.*"})
    assert "0.0" not in choice.ranking
    assert choice.plan.kept_float == {"0.0": "keep_float: 0.*"}


@pytest.mark.parametrize(("max_accuracy_drop", "files"), [(1.0, 9), (-1.0, 12)])
def test_every_file_of_the_search_is_counted_and_their_number_bounded(fragile, images, score, max_accuracy_drop, files):
    counted: list[None] = []
    choice = search(fragile, images, score, max_accuracy_drop=max_accuracy_drop, done=lambda: counted.append(None))
    assert len(counted) == 1 + len(choice.ranking) + len(choice.curve) == files
    assert most_files(len(choice.ranking)) == 12
    assert most_files(0) == 1


def test_a_plan_is_json(fragile, images, score):
    plan = search(fragile, images, score, max_accuracy_drop=0.01).plan
    assert QuantPlan.model_validate_json(plan.model_dump_json()) == plan


def test_agreement_counts_decisions():
    reference = np.array([0, 1, 2, 3])
    assert check_agreement(reference, reference.copy(), layers=("a", "b")) == 1.0
    with pytest.raises(StageError, match=r"75\.0%; in int8: a; b"):
        check_agreement(reference, np.array([0, 1, 2, 2]), layers=("a", "b"))


def test_a_file_and_torch_count_the_same_products(networks, zoo, images):
    for name, build in networks.items():
        counted = model_cost(build(), (torch.zeros(2, 1, 8, 8),)).macs
        assert sum(macs(zoo[name]).values()) == counted, name
        plan = plan_without_training(zoo[name], lambda: [(images[:64],)], mode="static", find=minmax)
        assert sum(macs(write_quantized(zoo[name], plan)).values()) == counted, name


def test_macs_against_counting_by_hand(zoo):
    assert macs(zoo["mlp"]) == {"1": 64 * 32, "3": 32 * 32, "5": 32 * 10}
    assert macs(zoo["grouped"]) == {"0.0": 64 * 16 * 9, "2.0": 64 * 32 * 4 * 9, "4.2": 32 * 10}
