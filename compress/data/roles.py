"""Which sample plays which role: fixed by the source, or drawn from train by hash, stratified, the same every time."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from compress.config import Values
from compress.data.answers import gather, spread
from compress.data.checks import check_inputs, check_role, class_names
from compress.data.samples import ROLES, Data, Role, Samples
from compress.data.source import Raw
from compress.errors import DataError

DRAWN: tuple[Role, ...] = ("test", "select", "calibration")
Overlap = Literal["refuse", "drop-from-train"]


def _whole_or_fraction(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("expected a whole number of samples, or a fraction of train below 1")
    return value


Size = Annotated[float, Field(gt=0), AfterValidator(_whole_or_fraction)]


class Split(Values):
    """How large the roles are that the source does not fix; they are drawn from train, each class in proportion.

    Attributes:
        test: a number of samples (1 or more), or a fraction of train (below 1).
        select: the same, 32 or more; every choice is made on it, so it should have a thousand where there are as many.
        calibration: the same; quantization ranges settle within a few hundred samples.
        seed: draws the roles; apart from the pipeline's seed, so that repeated trainings share their roles.
    """

    test: Size = 0.2
    select: Size = 0.1
    calibration: Size = 0.05
    seed: int = 0


def assign(raw: Raw, *, split: Split, overlap: Overlap, labelled: bool = True) -> Data:
    """Check what a source gave and return it with all four roles.

    Samples are ordered by the hash of their input, so the order of files changes nothing. When a role is drawn from
    train, train is freed of duplicates first, so that no sample lands in two roles; inputs with several labels leave it
    altogether, because no file says which of them is right. Where the source fixes all roles, they are counted alone.
    Of texts to write several may be right: rows of equal inputs are one sample that knows all of them, so that they
    share their role; train alone then has a sample for each.

    Args:
        raw: roles that the source fixes, train among them.
        split: sizes of the others.
        overlap: what to do with train samples that are also in another fixed role. The other roles are never touched.
        labelled: False where no role has labels, and those of select and test follow.

    Raises:
        DataError: when a role is missing, empty, too small, unlabelled, overlapping or not what a classifier can learn
            from.
    """
    if "train" not in raw.roles:
        raise DataError("the train role is missing", expected="train among the roles", got=sorted(raw.roles))
    given: dict[Role, Samples] = {role: raw.roles[role] for role in ROLES if role in raw.roles}
    check_inputs(given)
    given = {role: gather(samples) if samples.written else samples for role, samples in given.items()}
    classes = class_names(given, raw.classes) if labelled else raw.classes
    roles: dict[Role, Samples] = {role: _order(samples) for role, samples in given.items()}
    missing: list[Role] = [role for role in DRAWN if role not in roles]
    conflicts: dict[Role, int] = {role: len(_conflicting(samples)) for role, samples in roles.items()}
    dropped = 0
    if missing:
        roles["train"], dropped = _without_duplicates(_without_conflicts(roles["train"]))
    roles["train"], overlapping = _without_overlap(roles, overlap=overlap)
    if missing:
        roles |= _draw(roles["train"], missing, split=split)
    if roles["train"].written:
        roles["train"] = spread(roles["train"])
    for role in ROLES:
        check_role(role, roles[role], classes, labelled=labelled)
    notes = [_tell_conflicts(role, count, left=bool(missing)) for role, count in conflicts.items() if count]
    told = (*raw.notes, *notes)
    return Data(
        roles,
        classes,
        dropped_duplicates=dropped + overlapping,
        notes=told,
        layouts=raw.layouts,
        continues=raw.continues,
    )


def subset(data: Data, *, per_role: int) -> Data:
    """Return the same roles with at most ``per_role`` samples each, every class in proportion; for smoke runs."""

    def few(samples: Samples) -> Samples:
        if len(samples) <= per_role:
            return samples
        return samples.take(np.sort(_stratify(samples.groups, np.arange(len(samples)), size=per_role)))

    return replace(data, roles={role: few(samples) for role, samples in data.roles.items()})


def _order(samples: Samples) -> Samples:
    """Return the samples ordered by the hash of their input, then by label."""
    hashes, labels = samples.hashes, samples.labels
    counts = Counter(hashes)

    def key(position: int) -> tuple[bytes, list[Any]]:
        # As Python values, labels take many times their memory: only those of equal inputs, which they order.
        if labels is None or counts[hashes[position]] == 1:
            return hashes[position], []
        return hashes[position], np.ravel(labels[position]).tolist()

    return samples.take(np.array(sorted(range(len(samples)), key=key), np.int64))


def _conflicting(samples: Samples) -> set[bytes]:
    """Return the hashes of inputs that have more than one label."""
    labels, counts = samples.labels, Counter(samples.hashes)
    if labels is None or len(counts) == len(samples):
        return set()
    found: dict[bytes, set[bytes]] = {digest: set() for digest, count in counts.items() if count > 1}
    for digest, label in zip(samples.hashes, labels, strict=True):
        if digest in found:
            found[digest].add(np.asarray(label).tobytes())
    return {digest for digest, different in found.items() if len(different) > 1}


def _without_conflicts(samples: Samples) -> Samples:
    """Return the samples whose input has one label.

    Raises:
        DataError: when none has.
    """
    conflicts = _conflicting(samples)
    if not conflicts:
        return samples
    kept = np.flatnonzero([digest not in conflicts for digest in samples.hashes])
    if not len(kept):
        raise DataError(
            "every input of the train role has several labels",
            expected="one label for equal inputs",
            got=f"{len(conflicts):,} different inputs in {len(samples):,} samples",
            where="train",
        )
    return samples.take(kept)


def _tell_conflicts(role: Role, count: int, *, left: bool) -> str:
    done = "left out, as none is known to be right" if left and role == "train" else "all kept"
    return f"{count:,} inputs of {role} have several labels: {done}"


def _without_duplicates(samples: Samples) -> tuple[Samples, int]:
    """Return the samples whose input did not occur before, and how many were left out."""
    first = {digest: position for position, digest in reversed(list(enumerate(samples.hashes)))}
    kept = np.array(sorted(first.values()), np.int64)
    return (samples, 0) if len(kept) == len(samples) else (samples.take(kept), len(samples) - len(kept))


def _without_overlap(roles: Mapping[Role, Samples], *, overlap: Overlap) -> tuple[Samples, int]:
    """Return train without the samples of other roles, and how many those were.

    Raises:
        DataError: when roles overlap and the overlap may not be dropped, or lies outside train.
    """
    train = roles["train"]
    seen: dict[bytes, Role] = {}
    for role in DRAWN:
        for digest in set(roles[role].hashes) if role in roles else ():
            if digest in seen:
                raise DataError(
                    "a sample is in two roles", expected="roles without overlap", where=f"{seen[digest]} and {role}"
                )
            seen[digest] = role
    shared = np.array([digest in seen for digest in train.hashes])
    count = int(shared.sum())
    if count and overlap == "refuse":
        others = sorted({seen[digest] for digest in train.hashes if digest in seen})
        raise DataError(
            f"{count} train samples are also in another role",
            expected="roles without overlap",
            where=f"train and {', '.join(others)}",
            hint="set data.overlap: drop-from-train to train without them",
        )
    if count == len(train):
        raise DataError("the train role is empty", got="every train sample is also in another role", where="train")
    return (train.take(np.flatnonzero(~shared)), count) if count else (train, 0)


def _draw(pool: Samples, missing: list[Role], *, split: Split) -> dict[Role, Samples]:
    """Return the missing roles and what is left of train."""
    asked: dict[Role, float] = {"test": split.test, "select": split.select, "calibration": split.calibration}
    sizes: dict[Role, int] = {
        role: int(asked[role]) if asked[role] >= 1 else round(asked[role] * len(pool)) for role in missing
    }
    if min(sizes.values()) < 1 or sum(sizes.values()) >= len(pool):
        raise DataError(
            "train is too small for the roles drawn from it",
            expected=f"at least 1 sample each for train, {', '.join(missing)}",
            got=f"{len(pool)} samples without duplicates, of which {sizes} were asked",
            where="train",
            hint="ask for less under data.split",
        )
    key = split.seed.to_bytes(8, signed=True)
    ranks = [hashlib.blake2b(digest, key=key, digest_size=16).digest() for digest in pool.hashes]
    left = np.array(sorted(range(len(pool)), key=ranks.__getitem__), np.int64)
    drawn: dict[Role, Samples] = {}
    for role, size in sizes.items():
        taken = _stratify(pool.groups[left], left, size=size)
        left = left[~np.isin(left, taken)]
        drawn[role] = pool.take(np.sort(taken))
    drawn["train"] = pool.take(np.sort(left))
    return drawn


def _stratify(groups: NDArray[np.int64], positions: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
    """Return ``size`` of the positions, the first ones of each class; largest remainders settle the odd samples.

    Args:
        groups: class of each position, in the same order.
        positions: what to choose from, best first.
        size: how many, at most all.
    """
    counts = np.bincount(groups)
    shares = size * counts / counts.sum()
    quotas = np.floor(shares).astype(np.int64)
    odd = np.argsort(quotas - shares, kind="stable")[: size - int(quotas.sum())]
    quotas[odd] += 1
    return np.concatenate([positions[groups == group][:quota] for group, quota in enumerate(quotas)])
