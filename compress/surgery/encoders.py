"""Where transformers' encoder families keep what can be cut: heads, feed-forward width, hidden width, layers.

A table instead of a trace: attention hides its coupling from autograd graphs (fused kernels, reshapes, a number of
heads that is an attribute), and normalisation makes the hidden width more than a mask. What the table says is proved
like everything else, by a trial cut of a copy. Every parameter of the model must be in the table; one that is not is
named, and nothing is cut.

Lacks on purpose: decoders, key heads that several query heads share, and attention with one layer for queries, keys and
values (DeBERTa version 1).
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


@dataclass(frozen=True)
class Family:
    """Paths of one family in one version of transformers; those that a model has not are passed over."""

    layers: str
    """The list of layers, in the base model."""
    attention: str
    """In a layer: what holds the query, key and value layers and counts heads."""
    output: str
    """In a layer: reads all heads, writes to the hidden state."""
    up: str
    """In a layer: reads the hidden state, writes the feed-forward channels."""
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
ROBERTA = replace(BERT, heads=(("classifier.dense", "classifier.out_proj"),))
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

    def projections(self, attention: str) -> tuple[list[str], list[str]]:
        """Query, key and value layers of an attention module; further layers by head."""
        names = next(names for names in NAMES if f"{attention}.{names[0]}" in self.paths)
        return [f"{attention}.{name}" for name in names], self.there(
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
    def task_heads(self) -> list[list[str]]:
        """The layers of each task head, in the order in which they run."""
        spelled = [[place + name for name in head for place in (self.base, self.prefix)] for head in self.family.heads]
        return [found for head in spelled if (found := self.there(*head))]


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
    for layer in found.each_layer:
        if "heads" in units:
            made.append(_heads(found, f"{layer}.{found.family.attention}", f"{layer}.{found.family.output}"))
        if "feed_forward" in units:
            up, down = (f"{layer}.{name}" for name in (found.family.up, found.family.down))
            made.append(_channels(found.model, up, [(up, "out"), (down, "in")], kind="feed_forward"))
    if "hidden" in units:
        made.append(_hidden(found))
    free = [group for group in made if not any(inside(path, protected) for path in _find_producers(group))]
    if "layers" in units:
        indices = [index for index, path in enumerate(found.each_layer) if not inside(path, protected)]
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


def _fits(found: Encoder) -> bool:
    """Whether the model has the list of layers and, in each, all that a cut needs, with one width for all heads."""
    if found.layer_list not in found.paths:
        return False
    family = found.family
    needed = [path for name in (family.output, family.up, family.down) for path in found.in_layers(name)]
    if found.there(*needed) != needed:
        return False
    for path in found.in_layers(family.attention):
        projections = layers.attention_projections(found.model.get_submodule(path)) if path in found.paths else None
        if projections is None or len({layer.out_features for layer in projections}) != 1:
            return False
    return True


def _check_mapped(found: Encoder, *, verb: str) -> None:
    family = found.family
    in_layers = (family.output, family.up, family.down, *family.norms)
    known = {path for name in in_layers for path in found.in_layers(name)}
    for attention in found.in_layers(family.attention):
        known |= {path for paths in found.projections(attention) for path in paths}
    known |= {*found.embeddings, *found.projection, *(path for head in found.task_heads for path in head)}
    known |= {found.base + name for name in family.fixed}
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


def _heads(found: Encoder, attention: str, output: str) -> Group:
    of_tokens, of_positions = found.projections(attention)
    written = _sides([attention, *of_tokens, *of_positions], "out")
    return _channels(found.model, attention, [*written, (output, "in")], kind="heads")


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
    written += [path for name in (family.output, family.down, *family.norms) for path in found.in_layers(name)]
    read = [path for attention in found.in_layers(family.attention) for path in found.projections(attention)[0]]
    read += [*found.in_layers(family.up), *(head[0] for head in found.task_heads)]
    name = (found.projection or [f"{found.base}embeddings"])[0]
    return _channels(found.model, name, [*_sides(written, "out"), *_sides(read, "in")], kind="hidden")


def _sides(paths: Sequence[str], side: layers.Side) -> list[tuple[str, layers.Side]]:
    return [(path, side) for path in paths]


def _channels(model: nn.Module, name: str, sides: Sequence[tuple[str, layers.Side]], *, kind: Kind) -> Group:
    """A group in which channel c is index c of every side."""
    members, runs, widths = [], set(), set()
    for path, side in sides:
        found = layers.layout(model.get_submodule(path), side)
        if found is None:
            raise ModelError("A layer cannot lose channels", got=type(model.get_submodule(path)).__name__, where=path)
        channels = torch.arange(found.size)
        members.append(Member(path, side, found.kind, channels, channels))
        runs.add(found.run)
        widths.add(found.size)
    if len(widths) != 1:
        raise ModelError("Layers that share channels have different widths", expected="one", got=widths, where=name)
    return _group(name, widths.pop(), members, kind=kind, run=max(runs))


def _group(name: str, width: int, members: list[Member], *, kind: Kind, run: int = 1) -> Group:
    return Group(
        name, width, tuple(members), torch.arange(width) // run, torch.zeros(width, dtype=torch.int64), kind=kind
    )


def _find_producers(group: Group) -> Iterator[str]:
    return (member.path for member in group.members if member.side == "out")
