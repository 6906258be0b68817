"""Which models have a table of what can be cut, and which are traced instead."""

from collections.abc import Sequence

from torch import nn

from compress.surgery import encoders, writers
from compress.surgery.encoders import Unit
from compress.surgery.groups import Group


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


def layer_lists(model: nn.Module, *, verb: str) -> dict[str, str]:
    """Return the path of each list of layers of a transformer, by its side: ``encoder``, ``decoder``; empty for others.

    Raises:
        ModelError: it is a model of transformers that is in no table.
    """
    if (writer := writers.writer(model, verb=verb)) is not None:
        return dict(zip(("encoder", "decoder"), writer.stacks, strict=True))
    encoder = encoders.encoder(model, verb=verb)
    return {} if encoder is None else {"encoder": encoder.layer_list}
