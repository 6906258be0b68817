"""What teachers write for a role, once per (teachers, sources, decoding), stored like their outputs."""

import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from compress.data import Samples
from compress.errors import StageError
from compress.models import load_model
from compress.stage import Compute, Host, Work
from compress.store.digest import hash_values
from compress.tasks import Task, TransductionTask
from compress.tasks.lengths import parts_by_length
from compress.tasks.symbols import PAD
from compress.training.decoding import AnyDecoding, Candidates, Voices, refuse_silent
from compress.training.numerics import numerics, placed

VERSION = 2  # raised by hand when the same inputs come to mean other texts
SHARD = 4096  # sources per committed directory
ROWS = 512  # texts of an ordinary length that are written at a time


class Shard(NamedTuple):
    """What was written for some sources.

    Attributes:
        texts: of each source.
        seconds: that it took when it was written.
    """

    texts: list[list["Written"]]
    seconds: float


class Written(NamedTuple):
    """A text that was written.

    Attributes:
        ids: its symbols, without begin, end and padding.
        log_probability: of the symbols and the end, in nats.
        ended: whether it came to its end.
    """

    ids: tuple[int, ...]
    log_probability: float
    ended: bool


def writing_task(task: Task, *, hint: str = "leave `label` out") -> TransductionTask:
    """Return the task, if its models write; else say what to change.

    Raises:
        StageError: when they decide.
    """
    if not isinstance(task, TransductionTask):
        raise StageError(
            "there is nothing to write",
            expected="data with texts to write: a column target_text or completion",
            got=f"a task judged by {task.measure}",
            hint=hint,
        )
    return task


def write_role(work: Work, host: Host, sources: Samples, how: AnyDecoding) -> Iterator[Shard]:
    """Yield what the work's teachers write together, source after source, from the store where it is there already.

    Each shard is committed by itself, so an interrupted pass continues.

    Args:
        work: with the teachers.
        host: store, execution.
        sources: labels are not read.
        how: decoding.

    Raises:
        StageError: when there is no teacher, or they have different symbols.
        ModelError: when one cannot write step by step.
    """
    task = writing_task(work.teacher.task)
    if len({member.task.digest for member in work.teachers}) > 1:
        raise StageError("teachers that write together need the same symbols", got="vocabularies of their own")
    total = sum(member.weight for member in work.teachers)
    weights = [member.weight / total for member in work.teachers]
    models: list[nn.Module] = []
    starts = range(0, len(sources), SHARD)
    for number, start in enumerate(starts):
        shard = sources.take(np.arange(start, min(start + SHARD, len(sources))))
        inputs = {
            "written": how.model_dump(mode="json"),
            "version": VERSION,
            "teachers": [[member.artifact.digest, member.weight] for member in work.teachers],
            "task": task.digest,
            "samples": shard.digest,
            "rows": ROWS,
            "precision": host.execution.precision,
            **host.execution.in_keys,
            "torch": importlib.metadata.version("torch"),
        }
        key = hash_values(inputs)
        found = host.store.find(key)
        if found is None:
            models = models or [load_model(member.artifact.path, code=host.code) for member in work.teachers]
            title = "labels" if len(starts) == 1 else f"labels, part {number + 1} of {len(starts)}"
            started_s = time.monotonic()
            texts = write(models, task, shard, how, host, weights=weights, seed=int(key[:8], 16), name=title)
            rounding = host.execution.rounding
            found = host.store.commit(
                inputs,
                kind="outputs",
                rounding=rounding,
                write=partial(_save, texts=texts, seconds=time.monotonic() - started_s),
            )
        yield Shard(_load(found.path), found.facts["seconds"])


def write(
    models: Sequence[nn.Module],
    task: TransductionTask,
    samples: Samples,
    how: AnyDecoding,
    host: Compute,
    *,
    weights: Sequence[float] = (1.0,),
    seed: int = 0,
    name: str = "writing",
) -> list[list[Written]]:
    """Return what models write together for each source, in the sources' order.

    Batches are of similar lengths and depend on the sources alone.

    Args:
        models: in evaluation mode.
        task: numbers symbols.
        samples: labels are not read.
        how: decoding.
        host: execution, progress.
        weights: of the models, summing to 1.
        seed: draws samples.
        name: shown in progress.

    Raises:
        ModelError: when one cannot write step by step.
        KeyboardInterrupt: when ``host.interrupted`` says so.
    """
    for model in models:
        refuse_silent(model, where=name)
    sources, generator = task.sources(samples), torch.Generator().manual_seed(seed)
    found: dict[int, list[Written]] = {}
    size = max(1, ROWS // how.rows)
    with numerics(host, seed=0), placed(host, *models), torch.no_grad(), host.reporter.bar(name, len(samples)) as bar:
        for part in parts_by_length(torch.from_numpy(sources.lengths), size=size):
            if host.interrupted():
                raise KeyboardInterrupt
            ids, mask = (torch.from_numpy(values).to(host.device) for values in sources.pad(part.numpy()))
            most = torch.from_numpy(task.vocabularies.steps(sources.lengths[part.numpy()]))
            with host.autocast():
                voices = Voices(models, weights, ids, mask.long(), first=task.vocabularies.first)
                candidates = how.write(voices, steps=most.to(voices.device), generator=generator)
            found |= zip(part.tolist(), read_texts(candidates), strict=True)
            bar.advance(len(part))
    return [found[row] for row in range(len(samples))]


def read_texts(candidates: Candidates) -> list[list[Written]]:
    """Return the texts of each source; places of a beam that no text has are left out."""
    rows = zip(candidates.ids.tolist(), candidates.log_probability.tolist(), candidates.ended.tolist(), strict=True)
    return [
        [
            Written(tuple(number for number in ids if number != PAD), nats, ended)
            for ids, nats, ended in zip(*row, strict=True)
            if nats > -np.inf
        ]
        for row in rows
    ]


def _save(directory: Path, *, texts: Sequence[Sequence[Written]], seconds: float) -> dict[str, Any]:
    flat = [text for row in texts for text in row]
    np.savez(
        directory / "texts.npz",
        allow_pickle=False,
        counts=np.array([len(row) for row in texts], np.int32),
        lengths=np.array([len(text.ids) for text in flat], np.int32),
        ids=np.fromiter((number for text in flat for number in text.ids), np.int32),
        log_probability=np.array([text.log_probability for text in flat], np.float64),
        ended=np.array([text.ended for text in flat], bool),
    )
    return {"sources": len(texts), "texts": len(flat), "seconds": seconds}


def _load(directory: Path) -> list[list[Written]]:
    with np.load(directory / "texts.npz") as stored:
        counts, lengths, ids, nats, ended = (
            stored[name] for name in ("counts", "lengths", "ids", "log_probability", "ended")
        )
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    flat = iter(
        Written(tuple(part.tolist()), own, whole)
        for part, own, whole in zip(parts, nats.tolist(), ended.tolist(), strict=True)
    )
    return [[next(flat) for _ in range(count)] for count in counts]
