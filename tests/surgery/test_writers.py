"""Heads, feed-forward width and layers of models that write: the masked copy, with padding and with caches."""

from functools import cache

import pytest
import torch
import writer_zoo
from surgery_zoo import find_groups
from torch import nn
from writer_zoo import CAUSAL, CAUSAL_CONFIGS, FAMILIES, build, inputs

from compress.errors import ModelError, StageError
from compress.export.decoding import Writing
from compress.export.program import check_program, program_of
from compress.functional import prune
from compress.models import CausalLM, EncoderDecoder, Transducer, load_model, save_model
from compress.models.published import configuration_of
from compress.surgery import cut, verify, writers
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.find import find
from compress.surgery.groups import Group, Kept, keep_all
from compress.surgery.importance import taylor
from compress.surgery.maps import layer_lists


@cache
def found(name: str) -> tuple[Group, ...]:
    return find_groups(build(name), inputs())


def drawn(name: str, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """About half of everything, other numbers in each group."""
    generator, kept = torch.Generator().manual_seed(seed), {}
    for position, group in enumerate(found(name)):
        steps = group.width // group.unit
        count = max(1, min(steps, steps // 2 + position % 3 - 1))
        kept[group.name] = group.pick(torch.rand(group.width, generator=generator), group.unit * count)
    return kept


def cut_to(name: str, kept: Kept) -> nn.Module:
    model = build(name)
    cut.apply(model, found(name), kept)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_encoder_and_decoder_have_their_heads_widths_and_layers(name):
    groups = found(name)
    together = name.endswith("t5") or name == "t5-gated"
    heads = [group for group in groups if group.kind == "heads"]
    assert len(heads) == (3 if together else 2 + 2 * 3)
    assert {group.width // group.unit for group in heads} == {4}
    assert sum(group.kind == "feed_forward" for group in groups) == 5
    assert [group.width for group in groups if group.kind == "layers"] == ([1, 2] if together else [2, 3])
    if name in ("t5-gated", "mt5"):
        assert [len(group.members) for group in groups if group.kind == "feed_forward"] == [3] * 5


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_loses_queries_with_the_keys_that_they_share(name):
    groups = found(name)
    heads = [group for group in groups if group.kind == "heads"]
    units = {"llama": 2, "qwen2": 1}.get(name, 4)  # heads of keys and values
    assert [group.width // group.unit for group in heads] == [units] * 3
    assert sum(group.kind == "feed_forward" for group in groups) == 3
    assert [group.width for group in groups if group.kind == "layers"] == [3]


def test_layers_that_know_their_number_stay():
    model = build("gpt2")
    model.model.config.scale_attn_by_inverse_layer_idx = True
    (kept,) = layer_lists(model, verb="shorten").values()
    assert kept.staying == (0, 1, 2)
    (told,) = find(model, inputs(), units=("heads", "layers")).left
    assert "scale their scores by their number" in str(told)


@pytest.mark.parametrize("name", [*FAMILIES, *CAUSAL])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_cut_model_is_the_masked_copy_step_by_step_too_and_costs_what_was_foreseen(name, seed):
    kept, model = drawn(name, seed=seed), build(name)
    smaller = cut_to(name, kept)
    assert verify.against_masked(model, smaller, found(name), kept, inputs()) <= 1e-12
    assert verify.against_steps(smaller, inputs()) <= 1e-12
    foreseen = cost_model(model, found(name), inputs()).cost(kept)
    assert foreseen == model_cost(smaller, inputs())
    assert foreseen.parameters == sum(value.numel() for value in smaller.parameters())


@pytest.mark.parametrize("name", [*FAMILIES, *CAUSAL])
def test_keeping_everything_is_the_bitwise_identity(name):
    assert torch.equal(cut_to(name, keep_all(found(name)))(*inputs()), build(name)(*inputs()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transducer", "marian", "bart", "t5-gated", *CAUSAL])
def test_the_program_of_a_cut_model_has_its_cache_and_writes_what_it_writes(name):
    smaller = cut_to(name, drawn(name))
    program = program_of(smaller, Writing(max_length=5))
    given = [value.numpy() for value in inputs()]
    report = check_program(smaller, lambda optimize: opened(program, optimize), given)
    assert report["argmax_agreement"] == 1


def opened(program, optimize: bool):
    import onnxruntime

    from compress.export.decoding import Decoder

    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for graph in program.graphs.values()
    ]
    return Decoder.of(*sessions, program.writing)


def test_the_cache_of_each_layer_has_its_own_heads():
    names = [group.name for group in found("transducer") if group.name.startswith("decoder") and group.kind == "heads"]
    kept = keep_all(found("transducer")) | {names[0]: torch.arange(4), names[3]: torch.arange(8)}
    smaller = cut_to("transducer", kept)
    cross = smaller.encode(*inputs()[:2])
    assert [part.shape[1] for part in cross] == [4, 4, 2, 2, 4, 4]
    assert [part.shape[1] for part in smaller.empty_past(cross)] == [1, 1, 4, 4, 4, 4]


def test_scores_are_of_each_head_and_a_head_that_does_nothing_has_none():
    model = build("t5-gated")
    group = next(group for group in found("t5-gated") if "EncDec" in group.name)
    with torch.no_grad():
        for member in group.members:
            if member.side == "in":
                model.get_submodule(member.path).weight[:, 6:12] = 0
    importance = taylor(
        model, found("t5-gated"), [inputs()], seed=0,
        loss=lambda module, given: module(*given).log_softmax(-1)[..., 3].sum(1),
        logits=lambda module, given: module(*given).flatten(0, 1),
    )  # fmt: skip
    scores = importance.scores[group.name].view(4, 6)[:, 0]
    assert scores[1] == 0
    assert (scores[[0, 2, 3]] > 0).all()
    assert all(bool((value > 0).any()) for value in importance.scores.values())


@pytest.mark.parametrize("name", CAUSAL_CONFIGS)
def test_a_pruned_causal_model_is_stored_and_loaded(name, tmp_path):
    smaller = cut_to(name, drawn(name))
    family = CausalLM(path="none", pretrained=False, config=configuration_of(smaller.model))
    names = ("prompt_ids", "prompt_mask", "completion_ids")
    declared = tuple(
        tensor.model_copy(update={"name": name, "symbols": writer_zoo.SYMBOLS if name == names[0] else None})
        for tensor, name in zip(writer_zoo.SIGNATURE.inputs, names, strict=True)
    )
    save_model(smaller, tmp_path, model=family, signature=writer_zoo.SIGNATURE.model_copy(update={"inputs": declared}))
    assert torch.equal(load_model(tmp_path)(*inputs()), smaller(*inputs()))


def test_a_pruned_model_is_stored_and_loaded_with_its_heads_and_layers(tmp_path):
    smaller = cut_to("transducer", drawn("transducer"))
    family = EncoderDecoder(width=16, heads=4, feed_forward=24, encoder_layers=2, decoder_layers=3, max_length=16)
    save_model(smaller, tmp_path, model=family, signature=writer_zoo.SIGNATURE)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded(*inputs()), smaller(*inputs()))
    again = find_groups(loaded, inputs())
    assert {group.kind for group in again} == {"heads", "feed_forward", "layers"}


@pytest.mark.parametrize("name", ["transducer", "t5", "gpt2", "llama"])
def test_the_methods_prune_takes_a_model_that_writes(name):
    pruned = prune(build(name), inputs(), kept_macs_fraction=0.6, round_to=1, quiet=True)
    assert 0.5 < pruned.choice.reached <= 0.6
    assert pruned.masked_difference < 1e-12


def test_what_cannot_be_cut_is_refused_by_name():
    with pytest.raises(ModelError, match="hidden width of a model that writes"):
        find_groups(build("marian"), inputs(), units=("hidden",))
    odd = build("bart")
    odd.model.model.decoder.layers[1].gamma = nn.Parameter(torch.ones(16))
    with pytest.raises(ModelError, match=r"model\.model\.decoder\.layers\.1\.gamma"):
        writers.writer(odd)
    tied = build("transducer")
    tied.encoder[1].feed_forward.inner.weight = tied.encoder[0].feed_forward.inner.weight
    with pytest.raises(ModelError, match="shares its parameters"):
        writers.writer(tied)


class Forgetful(Transducer):
    """Whose cache begins with a symbol that nobody wrote."""

    def empty_past(self, cross):
        return tuple(part.new_ones(*part.shape[:2], 1, part.shape[3]) for part in super().empty_past(cross))


def test_a_cache_that_gives_other_logits_is_found():
    model = cut_to("transducer", drawn("transducer"))
    model.__class__ = Forgetful
    with pytest.raises(StageError, match="step by step"):
        verify.against_steps(model, inputs())
