"""Which models have a table of what can be cut, and which are traced instead."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from compress.surgery import encoders, writers
from compress.surgery.encoders import Unit
from compress.surgery.groups import Group


@dataclass(frozen=True)
class LayerList:
    """The layers of one side of a transformer.

    Attributes:
        path: of the list.
        listed: how many are in it.
        count: how many a sample goes through.
        staying: positions of those in the list that cannot leave.
        why: they cannot.
        repeats: whether each of the list runs several times, as often as the configuration says.
    """

    path: str
    listed: int
    count: int
    staying: tuple[int, ...] = ()
    why: str = ""
    repeats: bool = False


def is_mapped(model: nn.Module) -> bool:
    """Whether a table says what of a model can be cut.

    Raises:
        ModelError: it is a model of transformers that is in none.
    """
    return writers.writer(model) is not None or encoders.encoder(model) is not None


def mapped_groups(model: nn.Module, units: Sequence[Unit], *, protected: frozenset[str]) -> list[Group] | None:
    """Return what a table says can be cut of a model, unproved; None for a model that is traced instead.

    Args:
        model: may be anything.
        units: of which kinds.
        protected: paths of modules whose outputs keep all channels; of layers, which stay.

    Raises:
        ModelError: the family cannot be cut, or not in these units; a parameter has no known place.
    """
    if (writer := writers.writer(model)) is not None:
        return writers.groups(writer, units, protected=protected)
    encoder = encoders.encoder(model)
    return None if encoder is None else encoders.groups(encoder, units, protected=protected)


def layer_lists(model: nn.Module, *, verb: str) -> dict[str, LayerList]:
    """Return each list of layers of a transformer, by its side: ``encoder``, ``decoder``; empty for others.

    A causal model has a decoder alone.

    Raises:
        ModelError: it is a model of transformers that is in no table.
    """
    if (writer := writers.writer(model, verb=verb)) is not None:
        lists = {}
        for side, path in writer.stacks.items():
            count = len(writer.each_layer(path))
            staying = tuple(range(count)) if writer.why_staying else ()
            lists[side] = LayerList(path, count, count, staying, writer.why_staying)
        return lists
    encoder = encoders.encoder(model, verb=verb)
    if encoder is None:
        return {}
    staying, why = encoder.staying
    listed = len(encoder.each_layer)
    found = LayerList(encoder.layer_list, listed, encoder.depth, tuple(staying), why, encoder.family.repeats)
    return {"encoder": found}
