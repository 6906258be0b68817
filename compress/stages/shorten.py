"""Shorten: a transformer without some of its layers, chosen by hand; where DistilBERT and its kin begin."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from compress.config import Values
from compress.errors import ModelError, StageError
from compress.models import load_model, load_structure
from compress.models.structure import keep_layers
from compress.stage import Host, Need, Quantity, Stage, Work
from compress.store.artifact import Artifact
from compress.surgery import encoders

Count = Annotated[int, Field(ge=1, le=1000)]


class Ends(Values):
    """How many layers to keep of either end.

    Attributes:
        first: nearest to the embeddings.
        last: nearest to the output.
    """

    first: Annotated[int, Field(ge=0, le=1000)] = 0
    last: Annotated[int, Field(ge=0, le=1000)] = 0


class Shorten(Stage):
    """Keeps some layers of a transformer with their weights: the student of DistilBERT (Sanh et al. 2019, section 3).

    Which layers matter is not asked; `Prune` with ``units: [layers]`` asks the guided loss.

    Attributes:
        layers: ``every-other`` (the first, the third and so on, as DistilBERT), positions from 0, or
            ``{first: 1, last: 2}``.
    """

    cuts: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()

    verb: Literal["shorten"] = "shorten"
    layers: Literal["every-other"] | Ends | tuple[Annotated[int, Field(ge=0, le=1000)], ...]

    def keep(self, count: int) -> list[int]:
        """Return the positions that are kept of this many layers, ascending.

        Raises:
            StageError: when one is not there, or nothing would be kept or removed.
        """
        if self.layers == "every-other":
            found = [*range(0, count, 2)]
        elif isinstance(self.layers, Ends):
            ends = [*range(self.layers.first), *range(count - self.layers.last, count)]
            found = sorted({position for position in ends if 0 <= position < count})
        else:
            found = sorted(set(self.layers))
        if not found or found[-1] >= count or len(found) == count:
            raise StageError(
                "these layers cannot be kept",
                expected=f"some, and not all, of the positions 0 to {count - 1}",
                got=found,
                where=self.title,
            )
        return found

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Drop the other layers and commit.

        Raises:
            StageError: as ``check`` does.
            ModelError: as ``check`` does.
        """
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        found, kept = self._choose(module)
        facts = {"layers_before": len(found.each_layer), "kept": kept}
        keep_layers(module, found.layer_list, kept)
        return self.commit(
            module, source, work, host, model=structure.model, signature=structure.signature, facts=facts
        )

    def gentler(self, path: str) -> str:
        """Keep more layers."""
        return f"keep more {path}.layers"

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        """Keep fewer layers."""
        del quantity, missing, facts
        return f"keep fewer {path}.layers"

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse layers that are not there: a stage before this one may remove some, and none adds any.

        Raises:
            StageError: when the layers are not there, or none or all would be kept.
            ModelError: when the model is no transformer that is known.
        """
        del work
        self._choose(module)

    def _choose(self, module: nn.Module) -> tuple[encoders.Encoder, list[int]]:
        """Return where the model has its layers, and the positions of those that are kept."""
        found = encoders.encoder(module, verb=self.verb)
        if found is None:
            raise ModelError(
                "the model has no layers to drop",
                expected="a transformer",
                got=type(module).__name__,
                where=self.title,
                hint="leave the shorten stage out; distil into a smaller student instead",
            )
        return found, self.keep(len(found.each_layer))
