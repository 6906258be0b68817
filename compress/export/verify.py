"""Checks a bundle on the machine it was taken to, with onnxruntime and numpy alone: no torch, no onnx.

int8 is not the same model on every CPU: without VNNI (or an equivalent) the products saturate, unless ONNX Runtime is
asked for exact ones, as here and in the bundle's predict.py. So outputs are compared, not only hashes.
"""

import hashlib
import os
import platform
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.errors import ArtifactError
from compress.export.manifest import Bounds, Manifest
from compress.export.processor import NOTABLE, cpu_flags, saturates
from compress.export.session import EXACT_INT8, Session, can_be_exact


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
    """
    manifest = Manifest.read(path)
    _check_files(path, manifest)
    try:
        with np.load(path / "reference.npz", allow_pickle=False) as archive:
            reference = {name: archive[name] for name in archive.files}
        inputs = [reference[f"input/{name}"] for name in manifest.inputs]
        variants = {name: _compare(path, name, bounds, inputs, reference) for name, bounds in manifest.variants.items()}
        digest = manifest.sha256
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError("the bundle does not fit its manifest", got=repr(error), where=path) from error
    flags = cpu_flags()
    return Verified(
        passed=all(found.passed for found in variants.values()),
        primary=manifest.primary,
        sha256=digest,
        cpu=Machine(platform.machine(), tuple(sorted(flags & NOTABLE))),
        warnings=_warnings(path, manifest, known=bool(flags)),
        variants=variants,
    )


def _warnings(path: Path, manifest: Manifest, *, known: bool) -> list[str]:
    """Return what a user of a bundle has to know of int8 on this CPU."""
    if not known:
        return ["the CPU's features are unknown here; judge by the agreement"]
    if not saturates():
        return []
    int8 = {name: can_be_exact(path / bounds.file) for name, bounds in manifest.variants.items() if "int8" in name}
    cpu = "this CPU has no VNNI, and int8 products would saturate"
    return [
        f"{cpu}: {name} was checked with {EXACT_INT8}=1, as predict.py runs; set it in sessions of your own by "
        "SessionOptions.add_session_config_entry"
        if exact
        else f"{cpu}: ONNX Runtime cannot load {name} with {EXACT_INT8}=1, so judge by the agreement, or quantize with "
        "reduce_range"
        for name, exact in int8.items()
    ]


def _check_files(path: Path, manifest: Manifest) -> None:
    """Check every file against the manifest."""
    for name, entry in manifest.files.items():
        try:
            with (path / name).open("rb") as file:
                size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError("a file of the bundle is missing", where=path / name) from error
        if size != entry.size_bytes:
            raise ArtifactError(
                "a file of the bundle is truncated or longer",
                expected=f"{entry.size_bytes} bytes",
                got=f"{size} bytes",
                where=path / name,
            )
        if digest != entry.sha256:
            raise ArtifactError(
                "a file of the bundle was changed", expected=entry.sha256, got=digest, where=path / name
            )


def _compare(
    path: Path, name: str, bounds: Bounds, inputs: list[np.ndarray], reference: dict[str, np.ndarray]
) -> Compared:
    session = Session(path / bounds.file)
    worst, allowed, agreement = 0.0, 0.0, 1.0
    finite = True
    for output, array in zip(session.outputs, session(*inputs), strict=True):
        expected = reference[f"{name}/{output}"]
        finite = finite and bool(np.isfinite(array).all())
        worst = max(worst, float(np.abs(array - expected).max()))
        allowed = max(allowed, (bounds.tolerance or 0.0) * max(1.0, float(np.abs(expected).max())))
        agreement = min(agreement, float((array.argmax(-1) == expected.argmax(-1)).mean()))
    close = bounds.tolerance is None or worst <= allowed
    return Compared(
        passed=finite and close and agreement >= bounds.min_agreement,
        max_abs=worst,
        allowed=None if bounds.tolerance is None else allowed,
        agreement=agreement,
        min_agreement=bounds.min_agreement,
    )
