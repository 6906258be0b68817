"""Shorten: a transformer without some of its layers, chosen by hand; where DistilBERT and its kin begin."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from compress.config import Values
from compress.errors import ModelError, StageError
from compress.models import load_model, load_structure
from compress.models.huggingface import Logits
from compress.models.layer_lists import Count, keep_layers, spread
from compress.stage import Host, Need, Quantity, Stage, Work
from compress.store.artifact import Artifact
from compress.surgery.maps import LayerList, layer_lists

Position = Annotated[int, Field(ge=0, le=1000)]


class Ends(Values):
    """How many layers to keep of either end.

    Attributes:
        first: nearest to the embeddings.
        last: nearest to the output.
    """

    first: Annotated[int, Field(ge=0, le=1000)] = 0
    last: Annotated[int, Field(ge=0, le=1000)] = 0


class Evenly(Values):
    """How many layers to keep, spread evenly, the first and the last among them (Shleifer and Rush 2020, section 3).

    Attributes:
        evenly: how many; one is the first.
    """

    evenly: Count


Which = Literal["every-other"] | Ends | Evenly | tuple[Position, ...]
Side = Annotated[Which | None, Field(exclude_if=lambda found: found is None)]  # keys are what they were


class Shorten(Stage):
    """Keeps some layers of a transformer with their weights: the student of DistilBERT (Sanh et al. 2019, section 3).

    Of a model that writes, ``encoder`` and ``decoder`` are chosen apart; with the teacher as student and the loss
    ``shrink-and-fine-tune`` that is shrink and fine-tune (Shleifer and Rush 2020, arXiv 2010.13002).

    Which layers matter is not asked; `Prune` with ``units: [layers]`` asks the guided loss. Of ALBERT, whose one layer
    runs as all of them, it runs fewer times.

    Attributes:
        layers: of an encoder: ``every-other`` (the first, the third and so on, as DistilBERT), positions from 0,
            ``{first: 1, last: 2}``, or ``{evenly: 3}``.
        encoder: the same, of a model that writes: of the layers that read; None keeps all.
        decoder: of those that write, which run once for each symbol. A causal model has these alone.
    """

    cuts: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset()

    verb: Literal["shorten"] = "shorten"
    layers: Side = None
    encoder: Side = None
    decoder: Side = None

    def model_post_init(self, _context: object) -> None:
        """Refuse layers of nothing, and of two kinds of model at once."""
        if (self.layers is None) == (self.encoder is None and self.decoder is None):
            raise ValueError("expected layers, of an encoder; or encoder, decoder or both, of a model that writes")

    def run(self, source: Artifact, work: Work, host: Host) -> Artifact:
        """Drop the other layers and commit.

        Raises:
            StageError: as ``check`` does.
            ModelError: as ``check`` does.
        """
        structure, module = load_structure(source.path), load_model(source.path, code=host.code)
        facts: dict[str, Any] = {}
        for side, (found, kept) in self._choose(module).items():
            told = {"layers_before": found.count, "kept": kept}
            facts |= told if side == "layers" else {side: told}
            if found.repeats:
                assert isinstance(module, Logits)
                module.model.config.num_hidden_layers = len(kept)
            else:
                keep_layers(module, found.path, kept)
        return self.commit(
            module, source, work, host, model=structure.model, signature=structure.signature, facts=facts
        )

    def gentler(self, path: str) -> str:
        """Keep more layers."""
        return f"keep more {path}.{self._last}"

    def cheaper(self, path: str, quantity: Quantity, *, missing: float, facts: Mapping[str, Any]) -> str:
        """Keep fewer layers."""
        del quantity, missing, facts
        return f"keep fewer {path}.{self._last}"

    def check(self, module: nn.Module, work: Work) -> None:
        """Refuse layers that are not there: a stage before this one may remove some, and none adds any.

        Raises:
            StageError: when the layers are not there, or none or all would be kept.
            ModelError: when the model is no transformer that is known, or has no layers of that side.
        """
        del work
        self._choose(module)

    @property
    def _asked(self) -> dict[str, Which]:
        """What is asked of each side, by its field."""
        sides: dict[str, Which | None] = {"layers": self.layers, "encoder": self.encoder, "decoder": self.decoder}
        return {side: which for side, which in sides.items() if which is not None}

    @property
    def _last(self) -> str:
        """The field that matters most to speed."""
        return [*self._asked][-1]

    def _choose(self, module: nn.Module) -> dict[str, tuple[LayerList, list[int]]]:
        """Return where the model has its layers, and the positions of those that are kept, by field."""
        found = layer_lists(module, verb=self.verb)
        if not found:
            raise ModelError(
                "the model has no layers to drop",
                expected="a transformer",
                got=type(module).__name__,
                where=self.title,
                hint="leave the shorten stage out; distil into a smaller student instead",
            )
        lists = found if "decoder" in found else {"layers": found["encoder"]}
        for side in self._asked:
            if side not in lists:
                raise ModelError(
                    "the model has no such layers", expected=f"{' or '.join(lists)}", got=side, where=self.title
                )
        return {side: (lists[side], self._keep(which, lists[side], module)) for side, which in self._asked.items()}

    def _keep(self, which: Which, found: LayerList, module: nn.Module) -> list[int]:
        """Return the positions that are kept of a list; refuse to lose a layer that has to stay."""
        kept = choose_layers(which, found.count, where=self.title)
        if found.repeats and (found.listed > 1 or not isinstance(module, Logits)):
            own = "a model of your own file, which decides how often its layer runs"
            raise ModelError(
                "the number of times that layers run cannot be changed",
                expected="one layer that runs as all of them, of a model: {huggingface: {path: ...}}",
                got=own if found.listed == 1 else f"{found.listed} layers that run several times each",
                where=self.title,
                hint="leave the shorten stage out; build a smaller student instead",
            )
        if not found.repeats and (gone := sorted({*found.staying} - {*kept})):
            raise StageError(
                "these layers have to stay", expected=f"{gone} kept", got=kept, where=self.title, hint=found.why
            )
        return kept


def choose_layers(which: Which, count: int, *, where: str) -> list[int]:
    """Return the positions that are kept of some layers, ascending.

    Args:
        which: as the stage's fields say it.
        count: how many layers there are.
        where: named in messages.

    Raises:
        StageError: when one is not there, or nothing would be kept or removed.
    """
    if which == "every-other":
        found = [*range(0, count, 2)]
    elif isinstance(which, Evenly):
        found = spread(count, min(which.evenly, count), how="evenly")
    elif isinstance(which, Ends):
        ends = [*range(which.first), *range(count - which.last, count)]
        found = sorted({position for position in ends if 0 <= position < count})
    else:
        found = sorted(set(which))
    if not found or found[-1] >= count or len(found) == count:
        raise StageError(
            "these layers cannot be kept",
            expected=f"some, and not all, of the positions 0 to {count - 1}",
            got=found,
            where=where,
        )
    return found
