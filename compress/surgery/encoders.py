"""Where transformers' encoder families keep what can be cut: heads, feed-forward width, hidden width, layers.

A table instead of a trace: attention hides its coupling from autograd graphs (fused kernels, reshapes, a number of
heads that is an attribute), and normalisation makes the hidden width more than a mask. What the table says is proved
like everything else, by a trial cut of a copy. Every parameter of the model must be in the table; one that is not is
named, and nothing is cut.

What a model keeps once for all its layers is cut for all of them: heads that read one table of biases leave together,
and one layer that runs as all of them (ALBERT) loses what it loses in every run.

Lacks on purpose: decoders, key heads that several query heads share, and queries, keys and values that one layer writes
head by head (DeBERTa version 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import nn

from compress.errors import ModelError
from compress.loss.attention import NAMES
from compress.surgery import layers
from compress.surgery.groups import Group, Kind, Member, inside

Unit = Literal["heads", "feed_forward", "hidden", "layers"]
UNITS: tuple[Unit, ...] = get_args(Unit)
Place = tuple[str, layers.Side, int]
"""A side of the layer at a path, and how many times it has all channels, one after the other."""


@dataclass(frozen=True)
class Family:
    """Paths of one family in one version of transformers; those that a model has not are passed over."""

    layers: str
    """The list of layers, in the base model."""
    attention: str
    """In a layer: what holds the query, key and value layers, or the one that writes all three, and counts heads."""
    output: str
    """In a layer: reads all heads, writes to the hidden state."""
    up: str
    """In a layer: reads the hidden state, writes the feed-forward channels, once or more, see `copies`."""
    down: str
    """In a layer: reads those, writes to the hidden state."""
    norms: tuple[str, ...]
    """In a layer."""
    embeddings: tuple[str, ...]
    """In the base model: write the hidden state, or normalise it, outside the layers."""
    heads: tuple[tuple[str, ...], ...]
    """In the base model or the model: of each task head, what reads the hidden state, and what reads that."""
    projection: str = "embeddings_project"
    """In the base model: where there is one, it alone writes the hidden state, and the embeddings keep their width."""
    positions: tuple[str, ...] = ()
    """In the attention: further layers by head, which read relative positions."""
    fixed: tuple[str, ...] = ()
    """In the base model: parameters of the hidden width which are not cut, so neither is the hidden width."""
    tables: tuple[str, ...] = ()
    """In the base model: have a channel for each head and are read by every layer, so that all lose the same heads."""
    copies: int = 1
    """How often `up` writes the feed-forward channels: twice where one half is multiplied by the other."""
    first_stays: bool = False
    """Whether the first layer is built otherwise than those behind it."""
    repeats: bool = False
    """Whether each of the list runs several times, so that the number of layers is one of the configuration."""


TEXT = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    embeddings=tuple(f"embeddings.{name}" for name in TEXT),
    heads=(("pooler.dense", "classifier"),),
)
ROBERTA = replace(BERT, heads=(("classifier.dense", "classifier.out_proj"), ("classifier",)))  # of texts, of words
DISTILBERT = Family(
    layers="transformer.layer",
    attention="attention",
    output="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    embeddings=BERT.embeddings,
    heads=(("pre_classifier", "classifier"),),
)
DEBERTA_V2 = replace(
    BERT,
    embeddings=(),
    positions=("pos_key_proj", "pos_query_proj"),
    fixed=(*BERT.embeddings, "embeddings.embed_proj", "encoder.rel_embeddings", "encoder.LayerNorm"),
)
MPNET = replace(
    ROBERTA,
    attention="attention.attn",
    output="attention.attn.o",
    norms=("attention.LayerNorm", "output.LayerNorm"),
    tables=("encoder.relative_attention_bias",),
)
ALBERT = Family(
    layers="encoder.albert_layer_groups",
    attention="albert_layers.0.attention",
    output="albert_layers.0.attention.dense",
    up="albert_layers.0.ffn",
    down="albert_layers.0.ffn_output",
    norms=("albert_layers.0.attention.LayerNorm", "albert_layers.0.full_layer_layer_norm"),
    embeddings=BERT.embeddings,
    heads=(("pooler", "classifier"),),
    projection="encoder.embedding_hidden_mapping_in",
    repeats=True,
)
MODERNBERT = Family(
    layers="layers",
    attention="attn",
    output="attn.Wo",
    up="mlp.Wi",
    down="mlp.Wo",
    norms=("attn_norm", "mlp_norm"),
    embeddings=("embeddings.tok_embeddings", "embeddings.norm", "final_norm"),
    heads=(("head.dense", "head.norm", "classifier"),),
    copies=2,
    first_stays=True,
)
VIT = Family(
    layers="layers",
    attention="attention",
    output="attention.o_proj",
    up="mlp.fc1",
    down="mlp.fc2",
    norms=("layernorm_before", "layernorm_after"),
    embeddings=("embeddings", "embeddings.patch_embeddings.projection", "layernorm"),
    heads=(("classifier",), ("cls_classifier",), ("distillation_classifier",)),
)
VIT_4 = replace(
    VIT,
    layers="encoder.layer",
    attention="attention.attention",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
)
FAMILIES: dict[str, tuple[Family, ...]] = {
    "bert": (BERT,),
    "roberta": (ROBERTA,),
    "xlm-roberta": (ROBERTA,),
    "camembert": (ROBERTA,),
    "distilbert": (DISTILBERT,),
    "electra": (ROBERTA,),
    "deberta-v2": (DEBERTA_V2,),
    "mpnet": (MPNET,),
    "albert": (ALBERT,),
    "modernbert": (MODERNBERT,),
    "vit": (VIT, VIT_4),  # of transformers 5 and 4
    "deit": (VIT, VIT_4),
}


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model of a known family: the table's paths as paths of this model."""

    model: nn.Module
    family: Family
    name: str
    """The configuration's ``model_type``."""
    prefix: str
    """Path of the transformers model, with a dot, or empty."""
    base: str
    """Path of the base model, with a dot, or empty."""

    @cached_property
    def paths(self) -> frozenset[str]:
        """Of all modules."""
        return frozenset(path for path, _ in self.model.named_modules())

    @property
    def layer_list(self) -> str:
        """Path of the list of layers."""
        return self.base + self.family.layers

    def there(self, *paths: str) -> list[str]:
        """Those of some paths that the model has."""
        return [path for path in paths if path in self.paths]

    @property
    def each_layer(self) -> list[str]:
        """Path of every layer."""
        module = self.model.get_submodule(self.layer_list)
        assert isinstance(module, nn.ModuleList)
        return [f"{self.layer_list}.{index}" for index in range(len(module))]

    def in_layers(self, name: str) -> list[str]:
        """A path in every layer."""
        return [f"{layer}.{name}" for layer in self.each_layer]

    @property
    def config(self) -> Any:
        """The configuration, which several modules of the model hold."""
        return self.model.get_submodule(self.prefix.removesuffix(".")).config

    @property
    def depth(self) -> int:
        """How many layers a sample goes through."""
        return self.config.num_hidden_layers if self.family.repeats else len(self.each_layer)

    @property
    def staying(self) -> tuple[list[int], str]:
        """Positions in the list of the layers that cannot leave, and why."""
        every = [*range(len(self.each_layer))]
        if self.family.repeats:
            return every, f"one set of weights runs {self.depth} times; shorten lets it run fewer times"
        if not self.family.first_stays:
            return [], ""
        if getattr(self.config, "layer_types", None) is None:
            return every, "in transformers 4 their position decides which of them are local; 5 keeps what they are"
        return every[:1], "the first layer is built otherwise than those behind it"

    def projections(self, attention: str) -> tuple[list[str], list[str]]:
        """Query, key and value layers of an attention module, or the one for all; further layers by head."""
        fused = self.there(*(f"{attention}.{name}" for name in layers.FUSED))
        names = [] if fused else next(names for names in NAMES if f"{attention}.{names[0]}" in self.paths)
        return fused or [f"{attention}.{name}" for name in names], self.there(
            *(f"{attention}.{name}" for name in self.family.positions)
        )

    @property
    def projection(self) -> list[str]:
        """The layer from the embeddings' width to the hidden width, if there is one."""
        return self.there(self.base + self.family.projection)

    @property
    def embeddings(self) -> list[str]:
        """What writes or normalises the hidden state outside the layers, or would without a projection."""
        return self.there(*(self.base + name for name in self.family.embeddings))

    @property
    def tables(self) -> list[str]:
        """What has a channel for each head, of all layers together."""
        return self.there(*(self.base + name for name in self.family.tables))

    @property
    def task_heads(self) -> list[list[str]]:
        """The layers of each task head, in the order in which they run."""
        spelled = [[place + name for name in head for place in (self.base, self.prefix)] for head in self.family.heads]
        there = ([path for path in self.there(*head) if _has_own(self.model.get_submodule(path))] for head in spelled)
        return [found for found in there if found]


def encoder(model: nn.Module, *, verb: str = "prune") -> Encoder | None:
    """Return where a transformers encoder keeps its parts; None for what is no model of transformers with attention.

    Nothing is run and nothing is cut.

    Args:
        model: may be anything.
        verb: the stage that asks, for messages.

    Raises:
        ModelError: the family is not in the table, or the model has a parameter that its family has not; names it.
    """
    found = _transformers_model(model)
    if found is None:
        return None
    path, inner = found
    name = inner.config.model_type
    prefix = f"{path}." if path else ""
    own = inner.base_model_prefix
    base = f"{prefix}{own}." if own and hasattr(inner, own) else prefix
    known = [Encoder(model, family, name, prefix, base) for family in FAMILIES.get(name, ())]
    fitting = next((each for each in known if _fits(each)), None)
    if fitting is None:
        raise ModelError(
            f"{verb} does not know {'this form of' if known else 'the family'} {name!r}",
            expected=f"one of {', '.join(sorted(FAMILIES))}",
            got=type(inner).__name__,
            where=path or None,
            hint=f"leave the {verb} stage out; distil into a smaller student instead",
        )
    _check_mapped(fitting, verb=verb)
    return fitting


def groups(found: Encoder, units: Sequence[Unit], *, protected: frozenset[str]) -> list[Group]:
    """Return the groups of some units, in the model's order, unproved.

    Args:
        found: the encoder.
        units: which.
        protected: paths of modules whose outputs keep all channels; of layers, which stay.

    Raises:
        ModelError: the hidden width is asked for and cannot be cut in this family.
    """
    made: list[Group] = []
    if "heads" in units and found.tables:
        made.append(_heads(found, found.each_layer))
    for layer in found.each_layer:
        if "heads" in units and not found.tables:
            made.append(_heads(found, [layer]))
        if "feed_forward" in units:
            up, down = (f"{layer}.{name}" for name in (found.family.up, found.family.down))
            sides: list[Place] = [(up, "out", found.family.copies), (down, "in", 1)]
            made.append(_channels(found.model, up, sides, kind="feed_forward"))
    if "hidden" in units:
        made.append(_hidden(found))
    free = [group for group in made if not any(inside(path, protected) for path in _find_producers(group))]
    if "layers" in units:
        stays = {found.each_layer[index] for index in found.staying[0]} | protected
        indices = [index for index, path in enumerate(found.each_layer) if not inside(path, stays)]
        member = Member(found.layer_list, "out", "ModuleList", torch.arange(len(indices)), torch.tensor(indices))
        if indices:
            free.append(_group(found.layer_list, len(indices), [member], kind="layers"))
    return free


def _transformers_model(model: nn.Module) -> tuple[str, Any] | None:
    """Path and module of a model of transformers that has attention."""
    for path, module in model.named_modules():
        if isinstance(getattr(getattr(module, "config", None), "model_type", None), str) and hasattr(
            module, "base_model_prefix"
        ):
            attends = any("Attention" in type(part).__name__ for part in module.modules())
            return (path, module) if attends else None
    return None


def _has_own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _fits(found: Encoder) -> bool:
    """Whether the model has the list of layers and, in each, all that a cut needs, with one width for all heads."""
    if found.layer_list not in found.paths:
        return False
    family = found.family
    needed = [path for name in (family.output, family.up, family.down) for path in found.in_layers(name)]
    if found.there(*needed) != needed:
        return False
    for path in found.in_layers(family.attention):
        module = found.model.get_submodule(path) if path in found.paths else nn.Identity()
        projections = layers.attention_projections(module)
        apart = projections is not None and len({layer.out_features for layer in projections}) == 1
        if not apart and layers.fused_projection(module) is None:
            return False
    return True


def _check_mapped(found: Encoder, *, verb: str) -> None:
    family = found.family
    in_layers = (family.output, family.up, family.down, *family.norms)
    known = {path for name in in_layers for path in found.in_layers(name)}
    for attention in found.in_layers(family.attention):
        known |= {path for paths in found.projections(attention) for path in paths}
    known |= {*found.embeddings, *found.projection, *(path for head in found.task_heads for path in head)}
    known |= {*found.tables, *(found.base + name for name in family.fixed)}
    owners: dict[int, str] = {}
    for name, parameter in found.model.named_parameters(remove_duplicate=False):
        path, _, own = name.rpartition(".")
        layout = layers.layout(found.model.get_submodule(path), "out") if path in known else None
        if layout is None or own not in dict(layout.dims):
            raise ModelError(
                f"a parameter of the model is not in what {verb} knows of the family {found.name!r}",
                expected="only parameters with a known place: any other might depend on what is cut",
                got=name,
                hint=f"leave the {verb} stage out; distil into a smaller student instead",
            )
        if (other := owners.setdefault(id(parameter), name)) != name:
            raise ModelError("A layer shares its parameters with another", got=f"{other}, {name}", where=found.name)


def _heads(found: Encoder, of: Sequence[str]) -> Group:
    """The heads of some layers, which leave together; named after the first of them."""
    sides: list[Place] = []
    for layer in of:
        attention, output = (f"{layer}.{name}" for name in (found.family.attention, found.family.output))
        of_tokens, of_positions = found.projections(attention)
        times = 3 if len(of_tokens) == 1 else 1
        sides.append((attention, "out", 1))
        sides.extend((path, "out", times) for path in (*of_tokens, *of_positions))
        sides.append((output, "in", 1))
    group = _channels(found.model, sides[0][0], sides, kind="heads")
    # A table has one channel for each head, and so has the first channel of each head in the group.
    heads = torch.arange(group.width // group.unit)
    read = [Member(path, "out", "Embedding", heads * group.unit, heads) for path in found.tables]
    return replace(group, members=(*group.members, *read))


def _hidden(found: Encoder) -> Group:
    family = found.family
    if family.fixed:
        raise ModelError(
            f"the hidden width of the family {found.name!r} cannot be cut",
            expected="units: heads, feed_forward, layers",
            got="units: hidden",
            where=", ".join(found.there(*(found.base + name for name in family.fixed))),
        )
    written = found.projection or found.embeddings
    written += [path for name in (family.output, family.down) for path in found.in_layers(name)]
    norms = [path for name in family.norms for path in found.in_layers(name)]
    written += [path for path in norms if _has_own(found.model.get_submodule(path))]
    read = [path for attention in found.in_layers(family.attention) for path in found.projections(attention)[0]]
    read += [*found.in_layers(family.up), *(head[0] for head in found.task_heads)]
    name = (found.projection or [f"{found.base}embeddings"])[0]
    return _channels(found.model, name, [*_sides(written, "out"), *_sides(read, "in")], kind="hidden")


def _sides(paths: Sequence[str], side: layers.Side) -> list[Place]:
    return [(path, side, 1) for path in paths]


def _channels(model: nn.Module, name: str, sides: Sequence[Place], *, kind: Kind) -> Group:
    """A group in which channel c is index c of every side, in each of as many runs as the side has of them."""
    members, runs, widths = [], set(), set()
    for path, side, times in sides:
        found = layers.layout(model.get_submodule(path), side)
        if found is None:
            raise ModelError("A layer cannot lose channels", got=type(model.get_submodule(path)).__name__, where=path)
        width = found.size // times
        members.append(Member(path, side, found.kind, torch.arange(width).repeat(times), torch.arange(width * times)))
        runs.add(found.run)
        widths.add(width)
    if len(widths) != 1:
        raise ModelError("Layers that share channels have different widths", expected="one", got=widths, where=name)
    return _group(name, widths.pop(), members, kind=kind, run=max(runs))


def _group(name: str, width: int, members: list[Member], *, kind: Kind, run: int = 1) -> Group:
    return Group(
        name, width, tuple(members), torch.arange(width) // run, torch.zeros(width, dtype=torch.int64), kind=kind
    )


def _find_producers(group: Group) -> Iterator[str]:
    return (member.path for member in group.members if member.side == "out")
