"""Which modules of two models go together."""

import torch

from compress.loss import Tap
from compress.loss.pairing import last_features, spread, stage_pairs
from compress.loss.taps import dry_run
from compress.models import Cnn, Mlp, ResNet
from compress.tasks import Signature
from compress.tasks.signature import Tensor

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 16, 16)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)


def trace(model, role="student"):
    return dry_run(model.build(SIGNATURE, code=()), (torch.zeros(2, 1, 16, 16),), role=role)


def test_the_shorter_list_is_spread_evenly_over_the_longer():
    """TinyBERT: four layers on twelve take the third, sixth, ninth and twelfth."""
    ours, theirs = [Tap(f"s{index}") for index in range(4)], [Tap(f"t{index}") for index in range(12)]
    assert [pair[1].path for pair in spread(ours, theirs)] == ["t2", "t5", "t8", "t11"]
    assert [pair[0].path for pair in spread(theirs, ours)] == ["t2", "t5", "t8", "t11"]
    assert [pair[1].path for pair in spread(ours[:3], theirs[:5])] == ["t1", "t3", "t4"]


def test_stages_of_equal_map_size_are_paired():
    student, teacher = trace(Cnn(widths=(4, 8), strides=(2, 2))), trace(ResNet(width=4, blocks=(1, 1, 1)), "teacher")
    pairs = stage_pairs(student, teacher)
    assert [student.shape(ours)[2:] for ours, _ in pairs] == [teacher.shape(theirs)[2:] for _, theirs in pairs]
    assert [str(theirs) for _, theirs in pairs] == ["layers.1", "layers.2"]


def test_perceptrons_are_paired_by_their_activations():
    pairs = stage_pairs(trace(Mlp(widths=(8, 8))), trace(Mlp(widths=(9, 9, 9, 9)), "teacher"))
    assert [(str(ours), str(theirs)) for ours, theirs in pairs] == [("layers.1", "layers.4"), ("layers.4", "layers.10")]


def test_last_features_are_what_the_last_linear_layer_reads():
    assert last_features(trace(ResNet(width=4))) == Tap("head", "input")
