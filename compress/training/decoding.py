"""Writing with models in torch: greedy, with a beam, or by sampling; many sources at a time, keys and values kept.

What ships writes the same by `compress.export.decoding`; here there are also the n best of a beam, samples, and several
models that write together, on any device.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from compress.config import Values, one_key
from compress.errors import ModelError
from compress.loss.term import average_log
from compress.stage.device import has_float64
from compress.tasks.symbols import BEGIN, END, PAD

NEVER = [PAD, BEGIN]  # are no symbols of a text


@dataclass(frozen=True)
class Candidates:
    """What was written for some sources, the likeliest first, or samples in the order in which they were drawn.

    Attributes:
        ids: int64 [N, n, length], without begin and end, padded.
        log_probability: of the symbols and the end, float64 [N, n], in nats; -infinity where there is none.
        ended: bool [N, n], whether it came to its end; a model that repeats itself for ever does not.
    """

    ids: Tensor
    log_probability: Tensor
    ended: Tensor

    @property
    def lengths(self) -> Tensor:
        """Of each, int64 [N, n], the end not counted."""
        return (self.ids != PAD).sum(dim=2)


class Voices:
    """One or several models at the same place of the same texts; their probabilities are averaged.

    Rows are texts being written. Several may have one source.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        weights: Sequence[float],
        ids: Tensor,
        mask: Tensor,
        *,
        first: int | None = None,
    ) -> None:
        """Read the sources.

        Args:
            models: with ``encode``, ``step`` and ``empty_past``, as `compress.models.Transducer` has them.
            weights: of the models, summing to 1.
            ids: of the sources, int64 [N, S].
            mask: int64 [N, S], 0 for padding.
            first: what every text begins with, whatever the models say; None leaves it to them.
        """
        self._models: list[Any] = [*models]
        self._first = first
        self._weights, self._mask = weights, mask
        self.device = mask.device if has_float64(mask.device) else torch.device("cpu")
        self._cross = [model.encode(ids, mask) for model in self._models]
        self._past = [model.empty_past(cross) for model, cross in zip(self._models, self._cross, strict=True)]

    def __len__(self) -> int:
        return len(self._mask)

    def advance(self, token: Tensor) -> Tensor:
        """Read a symbol, int64 [rows], and return the log-probabilities of the next, float64 [rows, V]."""
        logs = []
        for number, (model, cross) in enumerate(zip(self._models, self._cross, strict=True)):
            last = token[:, None].to(self._mask.device)
            logits, self._past[number] = model.step(last, self._mask, cross, self._past[number])
            logits = logits.to(self.device).double()
            for never in NEVER:
                logits[:, never] = -torch.inf
            if self._first is not None:
                others = torch.arange(logits.shape[1], device=self.device) != self._first
                logits = logits.masked_fill(others, -torch.inf)
            logs.append(logits.log_softmax(dim=1))
        self._first = None
        return average_log(logs, self._weights)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows, int64; a row may be there several times."""
        rows = rows.to(self._mask.device)
        self._mask = self._mask[rows]
        self._cross = [tuple(part[rows] for part in cross) for cross in self._cross]
        self._past = [tuple(part[rows] for part in past) for past in self._past]


class Decoding(Values):
    """How texts are written."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many are written for each source."""

    @property
    def rows(self) -> int:
        """How many are followed at a time for each source."""
        return self.count

    @abstractmethod
    def write(self, voices: Voices, *, steps: Tensor, generator: torch.Generator) -> Candidates:
        """Write for every source.

        Args:
            voices: have read the sources, and nothing else.
            steps: of each source the symbols with the end, at most, int64 [N]; what has not ended by then is cut.
            generator: draws samples, on the CPU.
        """

    def smoke(self) -> Self:
        """The same with little effort."""
        return self


class Greedy(Decoding):
    """The likeliest symbol at each place."""

    decoding: Literal["greedy"] = "greedy"

    @property
    def count(self) -> int:
        """One."""
        return 1

    def write(self, voices: Voices, *, steps: Tensor, generator: torch.Generator) -> Candidates:  # noqa: ARG002
        """Write for every source."""
        return _one_by_one(voices, lambda logs, _live, _place: logs.argmax(dim=1), steps)


class Beam(Decoding):
    """The likeliest texts that a beam finds.

    A complete text stays in the beam as it is; a source is done when its ``best`` first ones are complete.

    Attributes:
        size: texts that are followed for each source.
        best: how many of them are kept, at most ``size``.
        length_penalty: a text ranks by its log-probability over its length, end included, to this power. 0 favours
            short ones, 1 ranks by the mean.
    """

    decoding: Literal["beam"] = "beam"
    size: Annotated[int, Field(ge=1, le=1024)] = 5
    best: Annotated[int, Field(ge=1, le=1024)] = 1
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0

    def model_post_init(self, _context: object) -> None:
        """Refuse to keep more than there are."""
        if self.best > self.size:
            raise ValueError(f"the n best are of the beam; expected best up to size {self.size}, got {self.best}")

    @property
    def count(self) -> int:
        """The best ones."""
        return self.best

    @property
    def rows(self) -> int:
        """The beam."""
        return self.size

    def smoke(self) -> Self:
        """A narrow beam."""
        return self.model_copy(update={"size": min(self.size, 2), "best": min(self.best, 2)})

    def write(self, voices: Voices, *, steps: Tensor, generator: torch.Generator) -> Candidates:  # noqa: ARG002
        """Write for every source."""
        sources, size, device = len(voices), self.size, voices.device
        longest = int(steps.max())
        found = _blank(sources, self.best, longest, device)
        live = torch.arange(sources, device=device)
        voices.keep(live.repeat_interleave(size))
        ids = torch.full((sources, size, longest), PAD, device=device)
        # At first all are the same text, of which one counts.
        total = torch.full((sources, size), -torch.inf, dtype=torch.float64, device=device)
        total[:, 0] = 0
        length, complete = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
        token = torch.full((sources * size,), BEGIN, device=device)
        for place in range(longest):
            gain = voices.advance(token).view(len(live), size, -1)
            symbols = gain.shape[2]
            gain = gain.masked_fill(complete[..., None], -torch.inf)
            gain[..., END] = torch.where(complete, 0.0, gain[..., END])
            length = torch.where(complete, length, place + 1)
            reached = total[..., None] + gain
            rank = (reached / (length**self.length_penalty)[..., None]).flatten(1)
            picked = rank.argsort(dim=1, descending=True, stable=True)[:, :size]
            parent, chosen = picked // symbols, picked % symbols
            total, length = reached.flatten(1).gather(1, picked), length.gather(1, parent)
            complete = complete.gather(1, parent)
            ids = ids.gather(1, parent[..., None].expand(-1, -1, longest))
            ids[..., place] = torch.where((chosen == END) | complete, PAD, chosen)
            complete = complete | (chosen == END)
            done = complete[:, : self.best].all(dim=1) | (steps[live] == place + 1)
            over = int(done.sum())  # the one read of a step, which waits for a device
            ended, going = _places(done, over), _places(~done, len(live) - over)
            best = [value[ended][:, : self.best] for value in (ids, total, complete)]
            found.ids[live[ended]], found.log_probability[live[ended]] = best[:2]
            # A beam that is wider than there are texts holds some that are impossible.
            found.ended[live[ended]] = best[2] & best[1].isfinite()
            if over == len(live):
                break
            rows = (torch.arange(len(live), device=device)[:, None] * size + parent)[going].flatten()
            voices.keep(rows)
            live, ids, total, length, complete = (value[going] for value in (live, ids, total, length, complete))
            token = chosen[going].flatten()
        return found


class Sample(Decoding):
    """Texts drawn from the model, symbol by symbol.

    Attributes:
        texts: for each source.
        temperature: logits are divided by it; below 1 likely symbols become likelier.
        top_p: only the likeliest symbols are drawn that have this probability together, at least one (nucleus
            sampling, Holtzman et al. 2020, arXiv 1904.09751).
    """

    decoding: Literal["sample"] = "sample"
    texts: Annotated[int, Field(ge=1, le=10_000)] = 4
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def count(self) -> int:
        """All of them."""
        return self.texts

    def smoke(self) -> Self:
        """Few."""
        return self.model_copy(update={"texts": min(self.texts, 2)})

    def write(self, voices: Voices, *, steps: Tensor, generator: torch.Generator) -> Candidates:
        """Write for every source; the log-probability is the model's own, at temperature 1 and without a nucleus."""
        sources = len(voices)
        voices.keep(torch.arange(sources, device=voices.device).repeat_interleave(self.texts))

        def draw(logs: Tensor, _live: Tensor, _place: int) -> Tensor:
            shares = nucleus((logs / self.temperature).softmax(dim=1), self.top_p)
            return torch.multinomial(shares.cpu(), 1, generator=generator)[:, 0].to(logs.device)

        found = _one_by_one(voices, draw, steps.repeat_interleave(self.texts))
        return Candidates(
            found.ids.view(sources, self.texts, -1),
            found.log_probability.view(sources, self.texts),
            found.ended.view(sources, self.texts),
        )


AnyDecoding = Annotated[
    Annotated[Beam | Greedy | Sample, Field(discriminator="decoding")],
    BeforeValidator(one_key("decoding")),
]


def nucleus(shares: Tensor, top_p: float) -> Tensor:
    """Return probabilities [rows, V] with all but the likeliest ones 0, those that have ``top_p`` together."""
    ordered, places = shares.sort(dim=1, descending=True, stable=True)
    before = nn.functional.pad(ordered.cumsum(dim=1)[:, :-1], (1, 0))  # 0 for the first one, which is always there
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(shares).scatter(1, places, ordered)


def refuse_silent(model: nn.Module, *, where: str) -> None:
    """Refuse a model that cannot write step by step.

    Raises:
        ModelError: naming what it has not.
    """
    missing = [name for name in ("encode", "step", "empty_past") if not hasattr(model, name)]
    if missing:
        raise ModelError(
            "the model cannot write step by step",
            expected="encode, step and empty_past besides forward, as the family transducer has them",
            got=f"{type(model).__name__} without {', '.join(missing)}",
            where=where,
        )


def draw_texts(voices: Voices, numbers: Tensor, steps: Tensor, *, temperature: float) -> Candidates:
    """Draw one text a row with numbers that are given, so that no text depends on what is written beside it.

    Args:
        voices: have read the sources, and nothing else.
        numbers: float64 [rows, length] in [0, 1); a symbol is the first whose cumulated probability is above its own.
        steps: symbols with the end at most, int64 [rows], up to ``length``.
        temperature: logits are divided by it.
    """

    def draw(logs: Tensor, live: Tensor, place: int) -> Tensor:
        reached = (logs / temperature).softmax(dim=1).cumsum(dim=1)
        wanted = numbers[live, place, None] * reached[:, -1:]  # the last one is 1 but for rounding
        return torch.searchsorted(reached, wanted, right=True)[:, 0]

    return _one_by_one(voices, draw, steps)


def _one_by_one(voices: Voices, choose: Callable[[Tensor, Tensor, int], Tensor], steps: Tensor) -> Candidates:
    """Write one text a row; rows that ended, or have no step left, are left.

    Args:
        voices: have read the sources.
        choose: each symbol from the log-probabilities [rows, V], the rows that are left, and the place.
        steps: symbols with the end at most, int64 [rows].
    """
    rows, device, longest = len(voices), voices.device, int(steps.max())
    found = _blank(rows, 1, longest, device)
    live = torch.arange(rows, device=device)
    token = torch.full((rows,), BEGIN, device=device)
    found.log_probability.zero_()
    for place in range(longest):
        logs = voices.advance(token)
        token = choose(logs, live, place)
        found.log_probability[live, 0] += logs.gather(1, token[:, None])[:, 0]
        going = token != END
        found.ids[live, 0, place] = torch.where(going, token, PAD)
        found.ended[live, 0] = ~going
        going &= steps[live] > place + 1
        left = int(going.sum())  # the one read of a step, which waits for a device
        if left == 0:
            break
        if left < len(live):
            rows = _places(going, left)
            live, token = live[rows], token[rows]
            voices.keep(rows)
    return found


def _places(chosen: Tensor, count: int) -> Tensor:
    """Return where bool [rows] is true, int64 [count], in order; rows that are taken by bool wait for a device."""
    return chosen.to(torch.uint8).argsort(descending=True, stable=True)[:count]


def _blank(sources: int, count: int, longest: int, device: torch.device) -> Candidates:
    return Candidates(
        torch.full((sources, count, longest), PAD, device=device),
        torch.full((sources, count), -torch.inf, dtype=torch.float64, device=device),
        torch.zeros(sources, count, dtype=torch.bool, device=device),
    )
