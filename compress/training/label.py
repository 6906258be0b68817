"""Label: the teachers write what a student learns (Kim and Rush 2016, arXiv 1606.07947, sections 3.2 and 3.3).

Writing is dear and stored (`compress.training.writing`); what of it is learnt is chosen afterwards, at no cost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field

from compress.config import Values
from compress.data import Data, Samples
from compress.data.answers import gather, objects
from compress.data.encoding import decode
from compress.errors import DataError, StageError
from compress.measures.edits import nearest
from compress.stage import Host, Work, Writing
from compress.store.digest import hash_file
from compress.training.backward import Backward
from compress.training.decoding import AnyDecoding, Beam
from compress.training.writing import Written, write_role, writing_task

PRESETS: Mapping[str, dict[str, Any]] = {
    # Kim and Rush 2016, section 3.2: the best of a beam of five.
    "sequence": {},
    # The same, section 3.3: of the n best, the one that is nearest to what is right.
    "sequence-interpolation": {"decoding": {"beam": {"size": 8, "best": 8}}, "choose": "nearest"},
    # Of texts that are drawn, those that are right (Yuan et al. 2023, arXiv 2308.01825).
    "rejection": {"decoding": {"sample": {"texts": 4}}, "choose": "all", "max_error_rate": 0.0},
}


class Label(Values):
    """What the teachers write, and what of it is learnt instead of the texts that are known to be right.

    Texts that did not come to an end are never learnt.

    Attributes:
        decoding: how they write: ``greedy``, ``beam`` or ``sample``.
        choose: ``first`` takes the likeliest text of a source (the first sample), ``nearest`` the one that is nearest
            to what is right, ``all`` each different one.
        max_error_rate: texts with more edits than this, over the symbols of what is right, are dropped; 0 keeps what
            is right. It says nothing of sources whose right texts nobody knows.
        min_log_probability: texts that the teachers give less than this are dropped: nats a symbol, the end among them.
        drop_fraction: of what is left, this share with the lowest log-probability a symbol is dropped.
        keep_given: whether the texts that are known to be right are learnt besides.
        sources: a UTF-8 file of further texts to be read, one a line. Those that any role has are left out.
        backward: drops the pairs whose source a model finds unlikely that writes sources from targets, last of all.
    """

    decoding: AnyDecoding = Beam()
    choose: Literal["first", "nearest", "all"] = "first"
    max_error_rate: Annotated[float, Field(ge=0)] | None = None
    min_log_probability: Annotated[float, Field(lt=0)] | None = None
    drop_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep_given: bool = False
    sources: Path | None = None
    backward: Annotated[Backward | None, Field(exclude_if=lambda found: found is None)] = (
        None  # keys are what they were
    )

    def model_post_init(self, _context: object) -> None:
        """Refuse a choice among one."""
        if self.decoding.count == 1 and self.choose != "first":
            raise ValueError(f"each source has one text, and nothing to choose; leave out choose: {self.choose}")

    def writing(self) -> Writing:
        """Return what is written, for predictions.

        Raises:
            DataError: when the file cannot be read.
        """
        further = 0 if self.sources is None else len(_lines(self.sources))
        texts = self.decoding.count if self.choose == "all" else 1
        return Writing(
            rows=self.decoding.rows,
            texts=texts,
            further=further,
            given=self.keep_given,
            max_error_rate=self.max_error_rate,
        )

    def tell_sources(self, data: Data) -> tuple[str, ...]:
        """Return what is left out of further sources because a role has it, in a sentence; none without a file.

        Raises:
            DataError: when the file cannot be read.
        """
        if self.sources is None:
            return ()
        lines = _lines(self.sources)
        own = {line.strip() for line in lines}
        taken = {role: len(own & {text.strip() for text in samples.array}) for role, samples in data.roles.items()}
        told = ", ".join(f"{role} {count:,}" for role, count in taken.items() if count)
        left = f"; those that a role has are left out ({told})" if told else ""
        return (f"{len(lines):,} further sources to write for{left}",)

    def identity(self) -> dict[str, Any]:
        """Return what decides the texts, as JSON values: the fields, the file by its content.

        Raises:
            DataError: when the file cannot be read.
            ArtifactError: when there is no stored backward model.
        """
        content: dict[str, Any] = {} if self.sources is None else {"sources": _read(self.sources, hash_file)}
        if self.backward is not None:
            content["backward"] = self.backward.identity()
        return self.model_dump(mode="json") | content

    def check(self, work: Work) -> None:
        """Refuse a task that decides, files that cannot be read, and a backward model of other texts.

        Raises:
            StageError: likewise.
            DataError: for the file.
            ArtifactError: when there is no stored model.
        """
        task = writing_task(work.task)
        self.identity()
        if self.backward is not None:
            self.backward.check(task, work.data)

    def smoke(self) -> Self:
        """Little effort, no further sources, and nothing dropped: a teacher of a few steps gets all wrong."""
        update = {"decoding": self.decoding.smoke(), "sources": None, "keep_given": True}
        return self.model_copy(update=update)


def _expand(given: Any) -> Any:
    """Replace the name of a preset by its fields."""
    if not isinstance(given, str):
        return given
    if given not in PRESETS:
        raise ValueError(f"expected fields, or one of {', '.join(PRESETS)}; got {given!r}")
    return PRESETS[given]


AnyLabel = Annotated[Label, BeforeValidator(_expand)]


@dataclass
class Counts:
    """What became of the sources.

    Attributes:
        sources: that the teachers read, each once.
        further: of these, whose right texts nobody knows.
        taken: further sources that were left out because a role has them.
        texts: that they wrote.
        runaway: of these, that did not come to an end.
        empty: that have no symbol.
        wrong: that were dropped for their edits.
        unlikely: that were dropped for their log-probability.
        backward: that were dropped because a backward model finds their source unlikely.
        learnt: what the student learns.
        exact_match: share of the sources with a known text whose first text is right.
        seconds: that writing took, when it was done.
        symbols: that were read in them: of each source those of its longest text with the end, times all that are
            followed.
    """

    sources: int = 0
    further: int = 0
    taken: int = 0
    texts: int = 0
    runaway: int = 0
    empty: int = 0
    wrong: int = 0
    unlikely: int = 0
    backward: int = 0
    learnt: int = 0
    exact_match: float = 0.0
    seconds: float = 0.0
    symbols: int = 0

    def __str__(self) -> str:
        """In one line."""
        reasons = {
            "without an end": self.runaway,
            "empty": self.empty,
            "wrong": self.wrong,
            "unlikely": self.unlikely,
            "with a source that the backward model finds unlikely": self.backward,
        }
        dropped = "; ".join(f"{count:,} {why}" for why, count in reasons.items() if count)
        taken = f"{self.taken:,} further sources are left out, because a role has them; " if self.taken else ""
        left = f" (dropped: {dropped})" if dropped else ""
        return (
            f"{taken}{self.texts:,} texts written for {self.sources:,} sources, the first right for "
            f"{self.exact_match:.1%} of those with a known text; {self.learnt:,} are learnt{left}"
        )


def label(work: Work, host: Host, how: Label) -> tuple[Data, Counts]:
    """Return the work's data with what the teachers write as its train role, and what became of the sources.

    Args:
        work: with the teachers; several write together.
        host: store, execution.
        how: what is written and learnt.

    Raises:
        StageError: when there is no teacher, the task writes nothing, or nothing is left to learn.
        ModelError: when a teacher cannot write step by step.
        DataError: when the file of further sources cannot be read.
    """
    # In the teachers' symbols, of which the student may have fewer.
    task, train = writing_task(work.teacher.task), gather(work.data.train)
    assert train.labels is not None
    further = [] if how.sources is None else _further(how.sources, work.data)
    sources = Samples(np.concatenate([train.array, objects(further)]), None)
    counts = Counts(sources=len(sources), further=len(further))
    if how.sources is not None:
        counts.taken = len(_lines(how.sources)) - len(further)
    kept: list[tuple[str, Written]] = []
    right_firsts = 0
    references = [*train.labels, *([()] * len(further))]
    for source, known, found in zip(sources.array, references, _write(work, host, sources, how, counts), strict=True):
        right = [tuple(task.vocabularies.target.encode(text)) for text in known]
        right_firsts += bool(found) and found[0].ended and found[0].ids in right
        kept += [(source, text) for text in _choose(found, right, how, counts)]
    kept = _drop_unlikely(kept, how, counts)
    texts = [(source, task.vocabularies.target.decode(text.ids)) for source, text in kept]
    if how.backward is not None and texts:
        how.backward.prove(task, work.data, host)
        scores = how.backward.score(texts, task, host)
        counts.backward = int(how.backward.drop_fraction * len(texts))
        fine = np.sort(np.argsort(scores, kind="stable")[counts.backward :])
        texts = [texts[place] for place in fine]
    pairs = [(source, (text,)) for source, text in texts]
    if how.keep_given:
        assert work.data.train.labels is not None
        pairs += zip(work.data.train.array, work.data.train.labels, strict=True)
    counts.learnt, counts.exact_match = len(pairs), right_firsts / len(train)
    if not pairs:
        raise StageError(
            "nothing that the teachers wrote is left to learn", got=counts, hint="drop less, or train the teacher more"
        )
    host.reporter.say(f"labels: {counts}")
    learnt = Samples(objects(source for source, _ in pairs), objects(texts for _, texts in pairs))
    return replace(work.data, roles={**work.data.roles, "train": learnt}), counts


def _write(work: Work, host: Host, sources: Samples, how: Label, counts: Counts) -> Iterator[list[Written]]:
    """Yield what is written for each source, and count how long it took."""
    for shard in write_role(work, host, sources, how.decoding):
        counts.seconds += shard.seconds
        longest = (max((len(text.ids) + 1 for text in texts), default=0) for texts in shard.texts)
        counts.symbols += how.decoding.rows * sum(longest)
        yield from shard.texts


def _choose(texts: list[Written], right: Sequence[tuple[int, ...]], how: Label, counts: Counts) -> list[Written]:
    """Return what is learnt of the texts of one source, but for how likely they are."""
    ended = [text for text in texts if text.ended]
    found = [*{text.ids: text for text in ended if text.ids}.values()]
    counts.texts += len(texts)
    counts.runaway += len(texts) - len(ended)
    counts.empty += sum(not text.ids for text in ended)
    if how.choose == "nearest" and right:
        found = sorted(found, key=lambda text: error_rate(text.ids, right))
    chosen = found if how.choose == "all" else found[:1]
    if how.max_error_rate is None or not right:
        return chosen
    near = [text for text in chosen if error_rate(text.ids, right) <= how.max_error_rate]
    counts.wrong += len(chosen) - len(near)
    return near


def error_rate(written: Sequence[int], right: Sequence[Sequence[int]]) -> float:
    """Return what ``max_error_rate`` is compared with: edits of symbols, over those of the nearest right text.

    Args:
        written: numbers, without the end.
        right: each right.
    """
    edits, symbols = nearest(written, right)
    return edits / max(1, symbols)


def _drop_unlikely(kept: list[tuple[str, Written]], how: Label, counts: Counts) -> list[tuple[str, Written]]:
    """Return the texts without those of the lowest log-probability a symbol."""
    nats = np.array([text.log_probability / (len(text.ids) + 1) for _, text in kept])
    likely = np.ones(len(kept), bool) if how.min_log_probability is None else nats >= how.min_log_probability
    order = np.flatnonzero(likely)[np.argsort(nats[likely], kind="stable")]
    likely[order[: int(how.drop_fraction * len(order))]] = False
    counts.unlikely += int((~likely).sum())
    return [pair for pair, fine in zip(kept, likely, strict=True) if fine]


def _further(path: Path, data: Data) -> list[str]:
    """Return the lines of a file that no role has, each once; white space around a text makes no other of it."""
    taken = {text.strip() for samples in data.roles.values() for text in samples.array}
    return [line for line in _lines(path) if line.strip() not in taken]


def _lines(path: Path) -> list[str]:
    """Return the different lines of a file that are not empty, as they are: a prompt may end in a space."""
    lines = _read(path, lambda file: decode(file.read_bytes(), file)).splitlines()
    return [line for line in dict.fromkeys(lines) if line.strip()]


def _read(path: Path, how: Callable[[Path], str]) -> str:
    try:
        return how(path)
    except OSError as error:
        raise DataError("the further sources cannot be read", got=error, where=path) from error
