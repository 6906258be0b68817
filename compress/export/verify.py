"""Checks a bundle on the machine it was taken to, with onnxruntime and numpy alone: no torch, no onnx.

int8 is not the same model on every CPU: without VNNI (or an equivalent) the products saturate, unless ONNX Runtime is
asked for exact ones, as here and in the bundle's predict.py. So outputs are compared, not only hashes. The bundle may
come from anybody: nothing outside its directory is opened, nothing is read beyond the size that the manifest gives, and
what it holds is data, never code.
"""

import hashlib
import json
import mmap
import os
import platform
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from compress.errors import ArtifactError
from compress.export.manifest import MIN_REFERENCE_ROWS, NAME, Bounds, Manifest
from compress.export.processor import NOTABLE, can_saturate, cpu_flags, saturates
from compress.export.program_file import graph_files, open_model
from compress.export.session import EXACT_INT8, RUN_ERRORS, can_be_exact

TOKENIZER = "tokenizer.json"
MAX_TOKENIZER_BYTES = 2**28  # ten times that of the largest vocabularies
MAX_REFERENCE_BYTES = 2**33  # of the arrays, which may be compressed to almost nothing
# What reading and running raise for arrays and graphs that are not as a bundle of ours has them.
UNFIT = (
    KeyError, TypeError, ValueError, NotImplementedError, EOFError, MemoryError, OSError, zipfile.BadZipFile,
    zlib.error, *RUN_ERRORS,
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What decides here how int8 is computed.

    Attributes:
        machine: the architecture.
        flags: features of the CPU that matter; empty where they cannot be read.
    """

    machine: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """A variant's outputs here against the reference.

    Attributes:
        passed: whether it is within its bounds.
        max_abs: largest difference of an output.
        allowed: how large it may be; None: judged by its decisions.
        agreement: share of equal decisions, 0 to 1.
        min_agreement: the least that is allowed.
    """

    passed: bool
    max_abs: float
    allowed: float | None
    agreement: float
    min_agreement: float


@dataclass(frozen=True)
class Verified:
    """What came of a bundle's check.

    Attributes:
        passed: whether every variant is within its bounds.
        primary: the file that the headline is about.
        sha256: of that file.
        cpu: where it was checked.
        warnings: what may spoil int8 here, and what sessions of one's own have to set.
        variants: by name.
    """

    passed: bool
    primary: str
    sha256: str
    cpu: Machine
    warnings: list[str]
    variants: dict[str, Compared]


def verify_bundle(path: Path) -> Verified:
    """Repeats a bundle's check here.

    Args:
        path: the bundle's directory.

    Raises:
        ArtifactError: a file is missing, truncated, changed or unreadable, or the bundle is of another format.
        ModelError: a regular expression of its tokenizer does not come to an end.
    """
    manifest = Manifest.read(path)
    check_files(path, manifest)
    untried = _try_patterns(path / TOKENIZER) if TOKENIZER in manifest.files else []
    try:
        reference = _read_reference(path / "reference.npz")
        inputs = [reference[f"input/{name}"] for name in manifest.inputs]
        rows = min(len(array) for array in inputs)
        if rows < MIN_REFERENCE_ROWS:
            raise ValueError(f"{rows} reference inputs, expected {MIN_REFERENCE_ROWS} or more")
        variants = {name: _compare(path, name, bounds, inputs, reference) for name, bounds in manifest.variants.items()}
    except UNFIT as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError("the bundle does not fit its manifest", got=_first_line(error), where=path) from error
    flags = cpu_flags()
    return Verified(
        passed=all(found.passed for found in variants.values()),
        primary=manifest.primary,
        sha256=manifest.sha256,
        cpu=Machine(platform.machine(), tuple(sorted(flags & NOTABLE))),
        warnings=_warnings(path, manifest, known=bool(flags)) + untried,
        variants=variants,
    )


def _warnings(path: Path, manifest: Manifest, *, known: bool) -> list[str]:
    """Return what a user of a bundle has to know of int8 on this CPU."""
    if not known:
        return ["the CPU's features are unknown here; judge by the agreement"]
    if not saturates():
        return []
    int8 = {
        name: all(map(can_be_exact, graph_files(path / bounds.file)))
        for name, bounds in manifest.variants.items()
        if can_saturate(name)
    }
    cpu = "this CPU has no VNNI, and int8 products would saturate"
    return [
        f"{cpu}: {name} was checked with {EXACT_INT8}=1, as predict.py runs; set it in sessions of your own by "
        "SessionOptions.add_session_config_entry"
        if exact
        else f"{cpu}: ONNX Runtime cannot load {name} with {EXACT_INT8}=1, so judge by the agreement, or export "
        "int8-x86-7bit"
        for name, exact in int8.items()
    ]


def check_files(path: Path, manifest: Manifest) -> None:
    """Check every file against the manifest: a plain file of the size it gives, and then its content."""
    for name, entry in manifest.files.items():
        try:
            with os.fdopen(os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise ArtifactError("a file of the bundle is no plain file", where=path / name)
                if found.st_size != entry.size_bytes:
                    raise ArtifactError(
                        "a file of the bundle is truncated or longer",
                        expected=f"{entry.size_bytes} bytes",
                        got=f"{found.st_size} bytes",
                        where=path / name,
                    )
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise ArtifactError(
                f"a file of the bundle is {'missing' if missing else 'no plain file'}",
                expected="a plain file beside bundle.json",
                got="a link" if (path / name).is_symlink() else error.strerror,
                where=path / name,
            ) from error
        if digest != entry.sha256:
            raise ArtifactError(
                "a file of the bundle was changed", expected=entry.sha256, got=digest, where=path / name
            )
    listed = {*manifest.files, NAME}
    unlisted = [os.fsencode(entry.name) for entry in path.iterdir() if entry.name not in listed]
    for bounds in manifest.variants.values():
        for graph in graph_files(path / bounds.file):
            if graph.name not in listed:
                raise ArtifactError(
                    "a program names a graph that the manifest does not list", got=graph.name, where=path
                )
            _check_weights(graph, unlisted)


def _try_patterns(path: Path) -> list[str]:
    """Refuse a tokenizer whose own regular expressions do not end on texts that are made to tire them.

    Returns:
        A warning where they cannot be tried, because this machine has no tokenizers.
    """
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {MAX_TOKENIZER_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
        plain = json.dumps(content)  # without the escapes that the file may have
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the tokenizer of the bundle cannot be read", got=_first_line(error), where=path) from error
    if '"Regex"' not in plain:
        return []
    if not all(map(find_spec, ("torch", "tokenizers"))):
        return [f"{path.name} has regular expressions of its own, which are not tried without torch and tokenizers"]
    from compress.tasks.patterns import check_hostile

    check_hostile(plain)
    return []


def _check_weights(model: Path, unlisted: Sequence[bytes]) -> None:
    """Refuse a graph that names a file beside it that is not listed; ONNX Runtime refuses those outside."""
    if model.stat().st_size == 0:
        return  # which is no graph, as ONNX Runtime says
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        used = [os.fsdecode(name) for name in unlisted if content.find(name) >= 0]
    if used:
        raise ArtifactError(
            "a model names files that the manifest does not list",
            expected="its weights among the files",
            got=", ".join(used),
            where=model,
        )


def _read_reference(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of ``reference.npz``.

    Raises:
        ValueError: when they are larger than any reference, or objects.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_REFERENCE_BYTES:
        raise ValueError(f"reference.npz holds {size} bytes, expected at most {MAX_REFERENCE_BYTES}")
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:300]


def _compare(
    path: Path, name: str, bounds: Bounds, inputs: list[np.ndarray], reference: dict[str, np.ndarray]
) -> Compared:
    session = open_model(path / bounds.file)
    worst, allowed, agreement = 0.0, 0.0, 1.0
    finite = True
    for output, array in zip(session.outputs, session(*inputs), strict=True):
        expected = reference[f"{name}/{output}"]
        if expected.shape != array.shape or expected.dtype != array.dtype:
            raise ValueError(
                f"{output} is {array.dtype}{list(array.shape)}, its reference {expected.dtype}{list(expected.shape)}"
            )
        finite = finite and bool(np.isfinite(expected).all())
        finite = finite and bool(np.isfinite(array).all())
        if expected.dtype.kind == "i":  # symbols: a text is the same or another
            agreement = min(agreement, float((array == expected).all(-1).mean()))
            continue
        worst = max(worst, float(np.abs(array - expected).max()))
        allowed = max(allowed, (bounds.tolerance or 0.0) * max(1.0, float(np.abs(expected).max())))
        if expected.ndim > 1:
            agreement = min(agreement, float((array.argmax(-1) == expected.argmax(-1)).mean()))
    close = bounds.tolerance is None or worst <= allowed
    return Compared(
        passed=finite and close and agreement >= bounds.min_agreement,
        max_abs=worst,
        allowed=None if bounds.tolerance is None else allowed,
        agreement=agreement,
        min_agreement=bounds.min_agreement,
    )
