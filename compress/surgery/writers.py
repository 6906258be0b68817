"""Where models that write keep what can be cut: heads, feed-forward width and layers of their encoder and decoder.

A causal model has a decoder alone.

A table, as `encoders` is for transformers that decide, and for its reasons. What it says is proved by a trial cut of a
copy. Every parameter within a layer must be in the table; one that is not is named, and nothing is cut. What is
outside the layers (embeddings, norms, the output layer) has the width of the hidden state, which stays.

T5's first layer holds one table of relative positions, with a column for each head, which all layers of its side add
to their scores. So there a head leaves in all of them at once, and that layer stays.

Where several queries share a head of keys and values (Llama, Qwen2), they leave with it. GPT-2's layers stay where they
scale their scores by their number.

Lacks on purpose: the hidden width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compress.errors import ModelError
from compress.loss.attention import NAMES
from compress.models.causal import CausalTransformer
from compress.models.transducer import Transducer
from compress.surgery import layers
from compress.surgery.encoders import UNITS, Unit
from compress.surgery.groups import Group, Kind, Member, inside


@dataclass(frozen=True)
class Family:
    """Paths of one family; those that a layer has not are passed over."""

    stacks: Mapping[str, str]
    """Lists of layers in the model, by side: those that read, where there are such, and those that write."""
    attentions: tuple[str, ...]
    """In a layer: attention to its own sequence, and to the source."""
    output: str
    """In an attention: reads all heads, writes to the hidden state."""
    ups: tuple[str, ...]
    """In a layer: read the hidden state, write the feed-forward channels; two where one gates the other."""
    downs: tuple[str, ...]
    """In a layer: read those, write to the hidden state; a layer has one of them."""
    norms: tuple[str, ...]
    """In a layer."""
    table: str = ""
    """In the first layer's first attention: has a column for each head of all layers."""


TRANSDUCER = Family(
    stacks={"encoder": "encoder", "decoder": "decoder"},
    attentions=("attention", "cross"),
    output="output",
    ups=("feed_forward.inner",),
    downs=("feed_forward.outer",),
    norms=("attention_norm", "cross_norm", "feed_forward.norm"),
)
BART = Family(
    stacks={"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    attentions=("self_attn", "encoder_attn"),
    output="out_proj",
    ups=("fc1",),
    downs=("fc2",),
    norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
)
T5 = Family(
    stacks={"encoder": "encoder.block", "decoder": "decoder.block"},
    attentions=("layer.0.SelfAttention", "layer.1.EncDecAttention"),
    output="o",
    ups=tuple(f"layer.{place}.DenseReluDense.{name}" for place in (1, 2) for name in ("wi", "wi_0", "wi_1")),
    downs=tuple(f"layer.{place}.DenseReluDense.wo" for place in (1, 2)),
    norms=tuple(f"layer.{place}.layer_norm" for place in range(3)),
    table="relative_attention_bias",
)
CAUSAL = Family(
    stacks={"decoder": "decoder"},
    attentions=("attention",),
    output="output",
    ups=("feed_forward.inner",),
    downs=("feed_forward.outer",),
    norms=("attention_norm", "feed_forward.norm"),
)
GPT2 = Family(
    stacks={"decoder": "transformer.h"},
    attentions=("attn",),
    output="c_proj",
    ups=("mlp.c_fc",),
    downs=("mlp.c_proj",),
    norms=("ln_1", "ln_2"),
)
LLAMA = Family(
    stacks={"decoder": "model.layers"},
    attentions=("self_attn",),
    output="o_proj",
    ups=("mlp.gate_proj", "mlp.up_proj"),
    downs=("mlp.down_proj",),
    norms=("input_layernorm", "post_attention_layernorm"),
)
BUILT_IN = {Transducer: "transducer", CausalTransformer: "causal"}
FAMILIES = {
    "transducer": TRANSDUCER, "marian": BART, "bart": BART, "mbart": BART, "t5": T5, "mt5": T5,
    "causal": CAUSAL, "gpt2": GPT2, "llama": LLAMA, "qwen2": LLAMA,
}  # fmt: skip
NUMBERED = "scale_attn_by_inverse_layer_idx"  # of GPT-2's configuration


@dataclass(frozen=True, eq=False)
class Writer:
    """A model of a known family: the table's paths as paths of this model."""

    model: nn.Module
    family: Family
    name: str
    """``transducer``, ``causal``, or the configuration's ``model_type``."""
    stacks: Mapping[str, str]
    """Paths of the lists of layers, by side."""
    why_staying: str
    """Why no layer can leave; empty where they can."""

    def there(self, *paths: str) -> list[str]:
        """Those of some paths that the model has."""
        return [path for path in paths if _has(self.model, path)]

    def each_layer(self, stack: str) -> list[str]:
        """Path of every layer of a stack."""
        module = self.model.get_submodule(stack)
        assert isinstance(module, nn.ModuleList)
        return [f"{stack}.{index}" for index in range(len(module))]

    def in_layer(self, layer: str, names: Sequence[str]) -> list[str]:
        """Those of the table's paths that a layer has."""
        return self.there(*(f"{layer}.{name}" for name in names))

    def projections(self, attention: str) -> list[str]:
        """Query, key and value layers of an attention module, or the one for all."""
        names = next((names for names in NAMES if _has(self.model, f"{attention}.{names[0]}")), ())
        return [f"{attention}.{name}" for name in names] or self.in_layer(attention, layers.FUSED)


def writer(model: nn.Module, *, verb: str = "prune") -> Writer | None:
    """Return where a model that writes keeps its parts; None for what is none, or none that is known.

    Nothing is run and nothing is cut.

    Args:
        model: may be anything.
        verb: the stage that asks, for messages.

    Raises:
        ModelError: a layer has a parameter that its family has not, or shares one; names it.
    """
    for path, part in model.named_modules():
        config = getattr(part, "config", None)
        built_in = (name for kind, name in BUILT_IN.items() if isinstance(part, kind))
        name = next(built_in, getattr(config, "model_type", ""))
        family = FAMILIES.get(name)
        if family is not None:
            prefix = f"{path}." if path else ""
            stacks = {side: prefix + stack for side, stack in family.stacks.items()}
            numbered = getattr(config, NUMBERED, False)
            why = f"its layers scale their scores by their number ({NUMBERED})" if numbered else ""
            found = Writer(model, family, name, stacks, why)
            if found.there(*stacks.values()) == [*stacks.values()]:
                _check_mapped(found, verb=verb)
                return found
    return None


def groups(found: Writer, units: Sequence[Unit], *, protected: frozenset[str]) -> list[Group]:
    """Return the groups of some units, in the model's order, unproved.

    Args:
        found: the model.
        units: which.
        protected: paths of modules whose outputs keep all channels; of layers, which stay.

    Raises:
        ModelError: the hidden width is asked for.
    """
    if "hidden" in units:
        raise ModelError(
            "the hidden width of a model that writes cannot be cut",
            expected=f"units: {', '.join(unit for unit in UNITS if unit != 'hidden')}",
            got="units: hidden",
            where=found.name,
        )
    made = [group for stack in found.stacks.values() for group in _in_stack(found, stack, units)]
    free = [group for group in made if not any(inside(path, protected) for path in _outs(group))]
    if "layers" in units and not found.why_staying:
        for stack in found.stacks.values():
            first = 1 if found.family.table else 0
            paths = found.each_layer(stack)
            indices = [index for index in range(first, len(paths)) if not inside(paths[index], protected)]
            if indices:
                member = Member(stack, "out", "ModuleList", torch.arange(len(indices)), torch.tensor(indices))
                free.append(_group(stack, len(indices), [member], kind="layers"))
    return free


def _in_stack(found: Writer, stack: str, units: Sequence[Unit]) -> Iterator[Group]:
    family, paths = found.family, found.each_layer(stack)
    if "heads" in units and family.table:
        for attention in family.attentions:
            if there := found.there(*(f"{layer}.{attention}" for layer in paths)):
                yield _heads(found, there)
    for layer in paths:
        if "heads" in units and not family.table:
            for attention in found.in_layer(layer, family.attentions):
                yield _heads(found, [attention])
        if "feed_forward" in units:
            ups, downs = found.in_layer(layer, family.ups), found.in_layer(layer, family.downs)
            members = [*(_member(found.model, up, "out") for up in ups), _member(found.model, downs[0], "in")]
            yield _group(ups[0], len(members[0].channels), members, kind="feed_forward")


def _heads(found: Writer, attentions: Sequence[str]) -> Group:
    """Heads that leave together in some attention modules; a table of one column a head follows."""
    model, members = found.model, []
    layout = layers.layout(model.get_submodule(attentions[0]), "out")
    assert layout is not None
    for attention in attentions:
        written = (attention, *found.projections(attention))
        members += [_member(model, path, "out", of=layout) for path in written]
        for table in found.there(f"{attention}.{found.family.table}") if found.family.table else ():
            columns = torch.arange(layout.size // layout.run)
            members.append(Member(table, "out", "Embedding", columns * layout.run, columns))
        members.append(_member(model, f"{attention}.{found.family.output}", "in"))
    return _group(attentions[0], layout.size, members, kind="heads", run=layout.run)


def _member(model: nn.Module, path: str, side: layers.Side, *, of: layers.Layout | None = None) -> Member:
    """One side of a layer.

    Args:
        model: has it.
        path: of the layer.
        side: of it.
        of: the heads of the group. A layer has their channels in order, once or more, or fewer for each of the units
            that leave together: then those stand for the first of the unit. None where channel c is index c.
    """
    found = layers.layout(model.get_submodule(path), side)
    assert found is not None
    indices = channels = torch.arange(found.size)
    if of is not None:
        each = min(of.run, found.size * of.run // of.size)
        channels = indices // each * of.run % of.size + indices % each
    return Member(path, side, found.kind, channels, indices)


def _group(name: str, width: int, members: list[Member], *, kind: Kind, run: int = 1) -> Group:
    blocks = torch.zeros(width, dtype=torch.int64)
    return Group(name, width, tuple(members), torch.arange(width) // run, blocks, kind=kind)


def _outs(group: Group) -> list[str]:
    return [member.path for member in group.members if member.side == "out"]


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _check_mapped(found: Writer, *, verb: str) -> None:
    family = found.family
    owners: dict[int, str] = {}
    for stack in found.stacks.values():
        for layer in found.each_layer(stack):
            known = {*found.in_layer(layer, (*family.ups, *family.downs, *family.norms))}
            for attention in found.in_layer(layer, family.attentions):
                known |= {*found.projections(attention), f"{attention}.{family.output}"}
                known |= {f"{attention}.{family.table}"} if family.table else set()
            for name, parameter in found.model.get_submodule(layer).named_parameters(remove_duplicate=False):
                path = f"{layer}.{name}"
                if path.rpartition(".")[0] not in known:
                    raise ModelError(
                        f"a parameter of the model is not in what {verb} knows of the family {found.name!r}",
                        expected="only parameters with a known place: any other might depend on what is cut",
                        got=path,
                        hint=f"leave the {verb} stage out; distil into a smaller student instead",
                    )
                if (other := owners.setdefault(id(parameter), path)) != path:
                    raise ModelError(
                        "A layer shares its parameters with another", got=f"{other}, {path}", where=found.name
                    )
