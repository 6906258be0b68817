"""Heads, feed-forward width, hidden width and layers of transformers, against references that share nothing with it."""

import copy
import json
import math
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import encoder_zoo
import onnxruntime
import pytest
import text_zoo
import torch
import torch.nn.functional as F
from encoder_zoo import EAGER_ONLY, FAMILIES, build, inputs, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_zoo import find_groups
from torch import Tensor, nn

from compress.errors import ModelError, StageError
from compress.export.graph import to_onnx
from compress.loss import GuidedLoss, Targets, bind
from compress.loss.attention import DynamicLayers, Layers, Relations, Scores
from compress.loss.logits import Hard
from compress.loss.taps import capture_taps
from compress.models import HuggingFace, UserFile, load_model, save_model
from compress.models.structure import load_structure
from compress.surgery import cut, encoders, verify
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.find import find
from compress.surgery.groups import Group, Kept, Member, keep_all
from compress.surgery.importance import magnitude, taylor
from compress.surgery.prune import find_reach
from compress.surgery.verify import _Exact
from compress.tasks import Signature
from compress.tasks import Tensor as Declared

FOUR = encoder_zoo.transformers.__version__ < "5"
FORMS = [(name, kind) for name in FAMILIES for kind in ("eager", "sdpa") if kind == "eager" or name not in EAGER_ONLY]


def units_of(name: str) -> tuple[encoders.Unit, ...]:
    return tuple(unit for unit in encoders.UNITS if unit != "hidden" or name != "deberta-v2")


@cache
def found(name: str, attention: str = "sdpa") -> tuple[Group, ...]:
    return find(build(name, attention=attention), inputs(name), units=units_of(name)).groups


def leaving(name: str) -> int:
    """How many of the three layers can leave."""
    return {"albert": 0, "modernbert": 0 if FOUR else 2}.get(name, 3)


def of_kind(name: str, kind: str) -> list[Group]:
    return [group for group in found(name) if group.kind == kind]


def halves(groups, *, seed: int = 0) -> dict[str, Tensor]:
    """About half of everything, other numbers in each layer."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for index, group in enumerate(groups):
        steps = group.width // group.unit
        count = max(1, min(steps, steps // 2 + index % 3 - 1))
        kept[group.name] = group.pick(torch.rand(group.width, generator=generator), group.unit * count)
    return kept


def pruned(name: str, kept: Kept | None = None, **options) -> nn.Module:
    model = build(name, **options)
    cut.apply(model, found(name), halves(found(name)) if kept is None else kept)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_has_its_heads_and_its_feed_forward_width_and_the_model_one_hidden_width(name):
    groups, pair = found(name), ["heads", "feed_forward"]
    kinds = {"mpnet": ["heads", *["feed_forward"] * 3], "albert": pair}.get(name, pair * 3)
    assert [group.kind for group in groups if group.kind in pair] == kinds
    assert {(group.width, group.unit) for group in of_kind(name, "heads")} == {(32, 8)}
    assert {(group.width, group.unit) for group in of_kind(name, "feed_forward")} == {(48, 1)}
    assert [(group.width, group.unit) for group in of_kind(name, "layers")] == [(leaving(name), 1)] * bool(
        leaving(name)
    )
    assert [group.width for group in of_kind(name, "hidden")] == ([] if name == "deberta-v2" else [32])


@pytest.mark.parametrize(("name", "attention"), FORMS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_removing_equals_the_reference_with_padding_and_costs_what_was_predicted(name, attention, data):
    """Any units, any numbers in each layer; the difference is a rounding error of float64."""
    model, groups = build(name, attention=attention), found(name, attention)
    units = data.draw(st.sets(st.sampled_from(units_of(name)), min_size=1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    kept = keep_all(groups)
    for group in groups:
        if group.kind in units:
            count = data.draw(st.integers(1, group.width // group.unit))
            kept[group.name] = group.pick(torch.rand(group.width, generator=generator), group.unit * count)
    smaller = copy.deepcopy(model)
    cut.apply(smaller, groups, kept)
    batch = inputs(name)
    assert verify.against_masked(model, smaller, groups, kept, batch) <= 1e-9
    predicted = cost_model(model, groups, batch).cost(kept)
    measured = model_cost(smaller, batch)
    assert predicted == measured
    assert predicted.parameters == sum(parameter.numel() for parameter in smaller.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_everything_is_the_bitwise_identity(name):
    model, before = build(name), build(name)
    cut.apply(model, found(name), keep_all(found(name)))
    assert torch.equal(model(*inputs(name)), before(*inputs(name)))


def bert_by_hand(state: dict[str, Tensor], batch: tuple[Tensor, ...], kept: dict[str, Tensor]) -> Tensor:
    """BERT's logits by its formulas, float64, with what is not in `kept` masked, normalised away or passed by."""
    ids, mask, segments = batch
    hidden = torch.zeros(32, dtype=torch.float64).index_fill(0, kept["hidden"], 1.0)

    def linear(x, path):
        return x @ state[f"{path}.weight"].T + state[f"{path}.bias"]

    def norm(x, path):
        chosen = x[..., kept["hidden"]]
        mean, variance = chosen.mean(-1, keepdim=True), chosen.var(-1, unbiased=False, keepdim=True)
        scale, shift = state[f"{path}.weight"], state[f"{path}.bias"]
        return ((x - mean) / (variance + 1e-12).sqrt() * scale + shift) * hidden

    words, positions, kinds = (
        state[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    x = norm(words[ids] + positions[: ids.shape[1]] + kinds[segments], "bert.embeddings.LayerNorm")
    for index in kept["layers"].tolist():
        path = f"bert.encoder.layer.{index}"
        heads, neurons = (
            torch.zeros(size, dtype=torch.float64).index_fill(0, kept[f"{name}{index}"], 1.0)
            for name, size in (("heads", 32), ("feed_forward", 48))
        )
        query, key, value = (
            linear(x, f"{path}.attention.self.{name}").unflatten(-1, (4, 8)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(8)
        weights = scores.masked_fill(mask[:, None, None] == 0, -math.inf).softmax(-1)
        context = (weights @ value).transpose(1, 2).flatten(2) * heads
        x = norm((linear(context, f"{path}.attention.output.dense") + x) * hidden, f"{path}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{path}.intermediate.dense")) * neurons
        x = norm((linear(inner, f"{path}.output.dense") + x) * hidden, f"{path}.output.LayerNorm")
    return linear(linear(x[:, 0], "bert.pooler.dense").tanh(), "classifier")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_pruned_bert_is_bert_by_its_formulas(attention):
    kept = halves(found("bert"), seed=3)
    named = {"hidden": kept["model.bert.embeddings"], "layers": kept["model.bert.encoder.layer"]}
    for index in range(3):
        named[f"heads{index}"] = kept[f"model.bert.encoder.layer.{index}.attention.self"]
        named[f"feed_forward{index}"] = kept[f"model.bert.encoder.layer.{index}.intermediate.dense"]
    state = {key.removeprefix("model."): value.double() for key, value in build("bert").state_dict().items()}
    expected = bert_by_hand(state, inputs("bert"), named)
    smaller = pruned("bert", kept, attention=attention).double()
    difference = (smaller(*inputs("bert")).detach() - expected).abs().max()
    assert float(difference / expected.abs().max()) < 1e-12
    ids, mask, segments = inputs("bert")
    other = smaller(torch.where(mask.bool(), ids, 7), mask, segments)  # what padding holds does not matter
    torch.testing.assert_close(other, smaller(ids, mask, segments), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_modules_say_how_many_heads_they_have_and_the_configuration_how_many_layers(name):
    kept = halves(found(name))
    model = pruned(name, kept)
    attentions = [module for module in model.modules() if layers_heads(module) is not None]
    every = [*range(1 if name == "albert" else 3)]
    stay = every[: len(every) - leaving(name)]
    layers = stay + [len(stay) + index for group in of_kind(name, "layers") for index in kept[group.name].tolist()]
    heads = [len(kept[group.name]) // 8 for group in of_kind(name, "heads")]
    heads = heads * len(every) if name == "mpnet" else heads  # all lose the same
    told = [] if name == "modernbert" and not FOUR else [heads[index] for index in layers]
    assert [layers_heads(module) for module in attentions] == told
    assert model.model.config.num_hidden_layers == (3 if name == "albert" else len(layers))


def layers_heads(module: nn.Module) -> int | None:
    if isinstance(vars(module).get("layer"), nn.ModuleList) or "layer" in dict(module.named_children()):
        return None  # a whole encoder
    names = ("num_attention_heads", "n_heads") + (("num_heads",) if hasattr(module, "Wqkv") else ())
    return next((vars(module)[name] for name in names if name in vars(module)), None)


@pytest.mark.parametrize("name", FAMILIES)
def test_cutting_twice_is_cutting_once_more(name):
    once = pruned(name)
    again = find(once, inputs(name), units=units_of(name)).groups
    twice = copy.deepcopy(once)
    smallest = {group.name: group.pick(torch.arange(group.width), group.unit) for group in again}
    cut.apply(twice, again, smallest)
    assert verify.against_masked(once, twice, again, smallest, inputs(name)) <= 1e-9


@pytest.mark.parametrize(("name", "kind"), [("bert", kind) for kind in encoders.UNITS] + [("vit", "hidden")])
def test_a_wrong_index_map_is_caught(name, kind):
    groups = list(found(name))
    position = next(index for index, group in enumerate(groups) if group.kind == kind)
    group = groups[position]
    members = [
        Member(m.path, m.side, m.kind, m.channels, m.indices.roll(group.unit) if index == 0 else m.indices)
        for index, m in enumerate(reversed(group.members))
    ]
    altered = Group(group.name, group.width, tuple(members), group.atoms, group.blocks, kind=group.kind)
    kept = keep_all(groups) | {group.name: torch.arange(group.unit * (group.width // group.unit // 2))}
    model, smaller = build(name), build(name)
    cut.apply(smaller, [*groups[:position], altered, *groups[position + 1 :]], kept)
    assert smaller(*inputs(name)).shape == (4, 3)  # a shape test would not notice
    with pytest.raises(StageError, match="index map"):
        verify.against_masked(model, smaller, groups, kept, inputs(name))


@pytest.mark.parametrize(("name", "attribute"), [("bert", "all_head_size"), ("vit", "num_attention_heads")])
def test_a_number_of_heads_that_is_stale_is_named(name, attribute):
    model = pruned(name)
    path, module = next((path, part) for path, part in model.named_modules() if attribute in vars(part))
    setattr(module, attribute, vars(module)[attribute] + 1)
    with pytest.raises(StageError, match=path.replace(".", r"\.")):
        verify.attributes_agree(model)


def test_normalisation_over_all_channels_is_not_the_reference():
    """A cut that divides by the old width differs, and is noticed."""
    group = of_kind("vit", "hidden")[0]
    kept = keep_all(found("vit")) | {group.name: torch.arange(24)}
    smaller = pruned("vit", kept)
    last = [module for module in smaller.modules() if isinstance(module, nn.LayerNorm)][-1]
    with torch.no_grad():
        last.weight.mul_(math.sqrt(32 / 24))
    with pytest.raises(StageError, match="difference at most"):
        verify.against_masked(build("vit"), smaller, found("vit"), kept, inputs("vit"))


def cross_entropy(model, batch):
    return F.cross_entropy(model(*batch), torch.arange(len(batch[0])) % 3, reduction="none")


def logits(model, batch):
    return model(*batch)


def test_scores_are_squared_changes_of_the_loss_for_a_small_step_towards_removal():
    """Finite differences of the reading weights for heads, neurons and hidden channels, of the layer for layers."""
    model, batch, step = build("bert").double(), inputs("bert"), 1e-5
    result = taylor(model, found("bert"), [batch], loss=cross_entropy, logits=logits, seed=0)
    inner = model.model.bert.encoder.layer[1]
    expected = {}

    def change(scale) -> float:
        losses = []
        for factor in (1 + step, 1 - step):
            undo = scale(factor)
            losses.append(cross_entropy(model, batch).detach())
            undo()
        return float(((losses[0] - losses[1]) / (2 * step)).square().mean())

    def columns(modules, index):
        def scale(factor):
            before = [module.weight.data.clone() for module in modules]
            for module in modules:
                module.weight.data[:, index] *= factor

            def undo():
                for module, weight in zip(modules, before, strict=True):
                    module.weight.data = weight

            return undo

        return scale

    def bypass(factor):
        hook = inner.register_forward_hook(
            lambda _, given, output: (
                (given[0] + factor * (output[0] - given[0]), *output[1:])
                if isinstance(output, tuple)
                else given[0] + factor * (output - given[0])
            )
        )
        return hook.remove

    readers = [model.model.bert.pooler.dense]
    for layer in model.model.bert.encoder.layer:
        readers += [layer.attention.self.query, layer.attention.self.key, layer.attention.self.value]
        readers.append(layer.intermediate.dense)
    scored = {name.removeprefix("model.bert."): score for name, score in result.scores.items()}
    expected = {
        ("encoder.layer.1.attention.self", 9): change(columns([inner.attention.output.dense], slice(8, 16))),
        ("encoder.layer.1.intermediate.dense", 5): change(columns([inner.output.dense], 5)),
        ("embeddings", 7): change(columns(readers, 7)),
        ("encoder.layer", 1): change(bypass),
    }
    assert result.method == "taylor"
    for (name, channel), value in expected.items():
        assert float(scored[name][channel]) == pytest.approx(value, rel=1e-5), name
    heads = scored["encoder.layer.1.attention.self"].view(4, 8)
    assert torch.equal(heads, heads[:, :1].expand(4, 8))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_that_equals_its_teacher_is_ranked_all_the_same(name):
    model, teacher = build(name), build(name)

    def divergence(model, batch):
        targets = teacher(*batch).detach().log_softmax(-1)
        return F.kl_div(model(*batch).log_softmax(-1), targets, reduction="none", log_target=True).sum(-1)

    scores = taylor(model, found(name), [inputs(name)], loss=divergence, logits=logits, seed=0)
    assert scores.method == "fisher"
    assert all(float(score.max()) > 0 for score in scores.scores.values())


def test_the_magnitude_of_a_layer_is_that_of_all_its_weights():
    model = build("bert")
    norms = torch.stack(
        [
            torch.cat([value.flatten() for value in layer.parameters()]).double().norm()
            for layer in model.model.bert.encoder.layer
        ]
    )
    scores = magnitude(model, found("bert")).scores["model.bert.encoder.layer"]
    torch.testing.assert_close(scores, (norms / norms.mean()).detach())


def test_layers_of_different_sizes_have_a_magnitude():
    """The first one of ModernBERT has no norm; those of a model that was cut have other numbers of heads."""
    for model in (build("modernbert"), pruned("bert")):
        name = "modernbert" if hasattr(model.model, "head") else "bert"
        groups = find(model, inputs(name), units=units_of(name)).groups
        scores = magnitude(model, groups).scores
        assert {key: len(value) for key, value in scores.items()} == {group.name: group.width for group in groups}
        assert all(bool((value > 0).all()) for value in scores.values())


def test_macs_of_attention_are_those_of_the_length_and_shrink_with_the_heads():
    model, groups = build("bert"), found("bert")
    for tokens in (5, 9):
        batch = inputs("bert", tokens=tokens)
        costs = cost_model(model, groups, batch)
        assert costs.products == {group.name: 2 * 4 * 8 * tokens**2 for group in of_kind("bert", "heads")}
        assert costs.other_macs == 0
        name = of_kind("bert", "heads")[0].name
        saved = costs.cost(keep_all(groups)).macs - costs.cost(keep_all(groups) | {name: torch.arange(8)}).macs
        assert saved == 3 * (2 * 8 * tokens**2 + 4 * 32 * 8 * tokens)


def test_protected_modules_keep_their_channels_and_protected_layers_stay():
    path = "model.bert.encoder.layer.1"
    groups = find_groups(build("bert"), inputs("bert"), protected=frozenset({path}))
    assert {group.name.split(".")[4] for group in groups if group.kind != "layers"} == {"0", "2"}
    layers = groups[-1]
    assert (layers.kind, layers.width) == ("layers", 2)
    kept = keep_all(groups) | {layers.name: torch.tensor([1])}
    model, smaller = build("bert"), build("bert")
    cut.apply(smaller, groups, kept)
    verify.against_masked(model, smaller, groups, kept, inputs("bert"))
    assert len(smaller.model.bert.encoder.layer) == 2
    weight = smaller.model.bert.encoder.layer[0].intermediate.dense.weight
    assert torch.equal(weight, model.model.bert.encoder.layer[1].intermediate.dense.weight)


def test_an_unmapped_parameter_is_named():
    model = build("bert")
    model.model.bert.encoder.layer[2].output.gamma = nn.Parameter(torch.ones(32))
    with pytest.raises(ModelError, match=r"model\.bert\.encoder\.layer\.2\.output\.gamma"):
        encoders.encoder(model)
    scaled = build("vit")
    scaled.model.classifier.register_parameter("gamma", nn.Parameter(torch.ones(3)))
    with pytest.raises(ModelError, match=r"model\.classifier\.gamma"):
        encoders.encoder(scaled)
    with pytest.raises(ModelError, match=r"encoder\.conv\.conv\.weight"):
        encoders.encoder(plain("deberta-v2", conv_kernel_size=3))
    tied = build("roberta")
    tied.model.classifier.dense.weight = tied.model.roberta.encoder.layer[0].attention.output.dense.weight
    with pytest.raises(ModelError, match=r"shares its parameters"):
        encoders.encoder(tied)


@pytest.mark.parametrize("kind", ["XLMRoberta", "Camembert"])
def test_families_that_are_built_as_roberta_is_are_cut_and_proved_like_it(kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**encoder_zoo.SIZES, **encoder_zoo.TEXT)
    model = encoder_zoo.TextLogits(getattr(transformers, f"{kind}ForSequenceClassification")(config)).eval()
    groups = find_groups(model, inputs("roberta"), units=encoders.UNITS)
    assert {group.kind for group in groups} == {*encoders.UNITS}


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Electra", "Albert", "MPNet", "ModernBert"])
def test_a_model_that_decides_for_each_word_is_cut_as_one_that_decides_for_texts(kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**encoder_zoo.SIZES, **encoder_zoo.TEXT, pad_token_id=1)
    model = encoder_zoo.TextLogits(getattr(transformers, f"{kind}ForTokenClassification")(config)).eval()
    groups = find(model, inputs("mpnet"), units=encoders.UNITS).groups
    assert {*encoders.UNITS} - {"layers"} <= {group.kind for group in groups}


def test_heads_that_read_one_table_of_positions_leave_all_layers_together():
    (heads,) = of_kind("mpnet", "heads")
    model = pruned("mpnet", keep_all(found("mpnet")) | {heads.name: torch.arange(8, 24)})
    table, before = (each.model.mpnet.encoder.relative_attention_bias.weight for each in (model, build("mpnet")))
    assert torch.equal(table, before[:, 1:3])
    assert {layer.attention.attn.num_attention_heads for layer in model.model.mpnet.encoder.layer} == {2}


def test_a_layer_that_runs_as_all_of_them_stays_and_loses_what_it_loses_in_every_run():
    told = find(build("albert"), inputs("albert")).left
    assert [(each.name, each.width, each.kind) for each in told] == [
        ("model.albert.encoder.albert_layer_groups", 3, "layers")
    ]
    assert "shorten lets it run fewer times" in str(told[0])
    with pytest.raises(StageError, match=r"(?s)no channels that could be removed.*keeps its 3 layers"):
        find_reach(build("albert"), inputs("albert"), measure="macs", units=("layers",))
    costs = [
        model_cost(pruned("albert", keep_all(found("albert")) | {group.name: torch.arange(8)}), inputs("albert")).macs
        for group in of_kind("albert", "heads")
    ]
    lost = 4 * 32 * 24 * 9 + 2 * 24 * 9**2  # three heads of four in one run: four layers, two products of tokens
    assert model_cost(build("albert"), inputs("albert")).macs - costs[0] == 3 * lost


@pytest.mark.skipif(FOUR, reason="transformers 4 decides by their position which layers are local")
def test_layers_that_are_left_see_as_many_tokens_around_as_before(tmp_path):
    name = of_kind("modernbert", "layers")[0].name
    model = pruned("modernbert", keep_all(found("modernbert")) | {name: torch.tensor([1])})
    assert model.model.config.layer_types == ["full_attention", "sliding_attention"]
    everything = {"layer_types": ["full_attention"] * 3}
    all_see_all = encoder_zoo.plain("modernbert", **everything)
    all_see_all.load_state_dict(build("modernbert").state_dict())
    batch = inputs("modernbert")
    assert not torch.allclose(all_see_all(*batch), build("modernbert")(*batch), atol=1e-3)


def test_what_a_model_rounds_to_float32_by_itself_is_proved_in_float64():
    model = build("modernbert").double()
    rounded = []
    for precise in (False, True):
        with _Exact() if precise else nullcontext():
            rounded.append(model(*inputs("modernbert")).detach())
    assert 1e-9 < float((rounded[0] - rounded[1]).abs().max() / rounded[1].abs().max()) < 1e-4


def test_a_family_that_is_not_known_is_named():
    import transformers

    config = transformers.SqueezeBertConfig(**encoder_zoo.SIZES, **encoder_zoo.TEXT, embedding_size=32)
    with pytest.raises(ModelError, match="'squeezebert'"):
        encoders.encoder(encoder_zoo.TextLogits(transformers.SqueezeBertForSequenceClassification(config)))
    with pytest.raises(ModelError, match="hidden width of the family 'deberta-v2'"):
        find_groups(build("deberta-v2"), inputs("deberta-v2"), units=("hidden",))


def test_what_reads_the_hidden_state_is_the_first_layer_of_the_head_there_is():
    import transformers

    config = transformers.BertConfig(**encoder_zoo.SIZES, **encoder_zoo.TEXT)
    tagger = encoder_zoo.TextLogits(transformers.BertForTokenClassification(config)).eval()
    groups = find_groups(tagger, inputs("bert"), units=("hidden",))
    assert "model.classifier" in {member.path for member in groups[0].members if member.side == "in"}
    bare = transformers.BertModel(config).eval()
    assert find_groups(bare, inputs("bert")[:2])
    with pytest.raises(ModelError, match="does not do what masking"):  # the hidden state itself is the output
        find_groups(bare, inputs("bert")[:2], units=("hidden",))


def test_a_network_without_attention_is_not_in_the_table():
    import transformers

    config = transformers.ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    assert encoders.encoder(encoder_zoo.ImageLogits(transformers.ResNetForImageClassification(config))) is None
    assert encoders.encoder(nn.Linear(2, 2)) is None


def signature(name: str) -> Signature:
    out = (Declared(name="logits", dtype="float32", shape=("batch", 3)),)
    if "image_size" in FAMILIES[name][2]:
        return Signature(inputs=(Declared(name="image", dtype="float32", shape=("batch", 1, 8, 8)),), outputs=out)
    names = ("input_ids", "attention_mask", "token_type_ids")[: len(inputs(name))]
    declared = tuple(Declared(name=each, dtype="int64", shape=("batch", "length")) for each in names)
    return Signature(inputs=declared, outputs=out)


@pytest.mark.parametrize(
    ("name", "attention"), [("bert", "eager"), ("bert", "sdpa"), ("vit", "eager"), ("vit", "sdpa")]
)
def test_the_exported_form_equals_the_pruned_model_at_any_length_with_padding(name, attention):
    model = pruned(name, attention=attention)
    graph = to_onnx(model, signature(name), inputs(name))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (inputs(name), inputs(name, samples=2, tokens=15, seed=2)):
        feed = {declared.name: tensor.numpy() for declared, tensor in zip(signature(name).inputs, batch, strict=True)}
        with torch.no_grad():
            torch.testing.assert_close(
                torch.from_numpy(session.run(None, feed)[0]), model(*batch), rtol=1e-4, atol=1e-4
            )


FACTORY = Path(encoder_zoo.__file__)
RELOAD = """
import sys
sys.modules["torch_pruning"] = None
from pathlib import Path
import torch
from compress.models import load_model
torch.set_num_threads(1)
for directory in sorted(Path(sys.argv[1]).iterdir()):
    model = load_model(directory, code=[Path(sys.argv[2])])
    batch = torch.load(directory / "inputs.pt")
    with torch.no_grad():
        torch.save(model(*batch), directory / "outputs.pt")
"""


def test_stored_models_load_in_a_process_without_torch_pruning(tmp_path, tmp_path_factory):
    for name in FAMILIES:
        directory = tmp_path / name
        directory.mkdir()
        factory = UserFile(path=FACTORY, factory="plain", arguments={"name": name})
        save_model(pruned(name), directory, model=factory, signature=signature(name))
        torch.save(inputs(name), directory / "inputs.pt")
    narrower, batch = narrower_hugging_face(tmp_path / "huggingface", tmp_path_factory.mktemp("published"))
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path), str(FACTORY)], check=True)
    for name in FAMILIES:
        assert torch.equal(torch.load(tmp_path / name / "outputs.pt"), pruned(name)(*inputs(name)))
    assert torch.equal(torch.load(tmp_path / "huggingface" / "outputs.pt"), narrower(*batch))


def narrower_hugging_face(directory: Path, published: Path) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A checkpoint of transformers that lost hidden channels, stored in a directory with inputs for it."""
    model = HuggingFace(path=str(text_zoo.make_bert(published)))
    declared = signature("distilbert")  # ids and mask
    module, batch = model.build(declared, code=()).eval(), inputs("distilbert")
    (hidden,) = find_groups(module, batch, units=("hidden",))
    cut.apply(module, [hidden], {hidden.name: torch.arange(0, hidden.width, 2)})
    assert module.model.bert.encoder.layer[1].output.dense.out_features == hidden.width // 2
    directory.mkdir()
    save_model(module, directory, model=model, signature=declared)
    torch.save(batch, directory / "inputs.pt")
    return module, batch


def test_a_stored_model_says_how_many_layers_are_left_and_prunes_and_stores_again(tmp_path):
    factory = UserFile(path=FACTORY, factory="plain", arguments={"name": "bert"})
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    kept = keep_all(found("bert")) | {"model.bert.encoder.layer": torch.tensor([0, 2])}
    save_model(pruned("bert", kept), first, model=factory, signature=signature("bert"))
    assert load_structure(first).lengths["model.bert.encoder.layer"] == 2
    model = load_model(first, code=[FACTORY])
    assert torch.equal(model(*inputs("bert")), pruned("bert", kept)(*inputs("bert")))
    groups = find_groups(model, inputs("bert"))
    cut.apply(model, groups, halves(groups))
    save_model(model, second, model=load_structure(first).model, signature=signature("bert"))
    assert torch.equal(load_model(second, code=[FACTORY])(*inputs("bert")), model(*inputs("bert")))


def test_the_first_format_still_loads(tmp_path):
    factory = UserFile(path=FACTORY, factory="plain", arguments={"name": "vit"})
    save_model(build("vit"), tmp_path, model=factory, signature=signature("vit"))
    content = json.loads((tmp_path / "structure.json").read_text())
    del content["lengths"]
    (tmp_path / "structure.json").write_text(json.dumps(content | {"format": 1}))
    assert torch.equal(load_model(tmp_path, code=[FACTORY])(*inputs("vit")), build("vit")(*inputs("vit")))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_losses_on_layers_and_attention_bind_to_a_student_with_other_heads_in_each_layer(name):
    groups = [group for group in found(name) if group.kind != "hidden"]
    kept = halves(groups) | {of_kind(name, "layers")[0].name: torch.tensor([0, 2])}
    student, teacher = build(name), build(name, seed=1)
    cut.apply(student, groups, kept)
    loss = GuidedLoss(hard=Hard(), relations=Relations(), dynamic_layers=DynamicLayers(), layers=Layers())
    bound = bind(loss, student, teacher, inputs(name), seed=0)
    heads = {len(kept[group.name]) // 8 for group in of_kind(name, "heads")}
    assert len(heads) > 1
    assert {pair.shapes[0][-1] for pair in bound.pairs["relations"]} <= {count * 8 for count in heads}
    assert len({pair.student for pair in bound.pairs["dynamic_layers"]}) == 2
    with pytest.raises(ModelError, match="equal heads"):
        bind(GuidedLoss(scores=Scores()), student, teacher, inputs(name), seed=0)
    with capture_taps(teacher, list(bound.teacher_shapes)) as theirs, torch.no_grad():
        targets = Targets(teachers=(teacher(*inputs(name)),), hard=torch.zeros(4))
        features = theirs.take()
    with bound.attach(student):
        terms = bound(student(*inputs(name)), targets, teacher_features=features)
    assert all(float(value.detach().mean()) > 0 for key, value in terms.values.items() if key != "hard")
    terms.total.backward()
    assert all(bool(value.grad.isfinite().all()) for value in student.parameters() if value.grad is not None)
