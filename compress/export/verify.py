"""Checks a bundle on the machine it was taken to, with onnxruntime and numpy alone: no torch, no onnx.

int8 is not the same model on every CPU: without VNNI (or an equivalent) the products saturate. So outputs are
compared, not only hashes.
"""

import hashlib
import json
import os
import platform
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ArtifactError
from compress.export.session import Session

MANIFEST = "bundle.json"
FORMAT_VERSION = 1
VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # x86, then ARM
NOTABLE = VNNI | {"avx2", "avx512f", "avx512bw", "amx_bf16", "avx512_bf16", "asimd", "sve"}


def verify_bundle(path: Path) -> dict[str, Any]:
    """Repeats a bundle's check here.

    Args:
        path: the bundle's directory.

    Returns:
        ``passed`` (every variant is within its bounds), ``primary``, ``sha256`` of the primary file, ``cpu`` (machine
        and int8-related flags), ``warnings``, and ``variants``: name to ``passed``, ``max_abs``, ``allowed`` (None:
        judged by its decisions), ``agreement`` with the reference (0 to 1) and ``min_agreement``.

    Raises:
        ArtifactError: a file is missing, truncated, changed or unreadable, or the bundle is of another format.
    """
    manifest = _manifest(path)
    try:
        with np.load(path / "reference.npz", allow_pickle=False) as archive:
            reference = {name: archive[name] for name in archive.files}
        inputs = [reference[f"input/{entry['name']}"] for entry in manifest["signature"]["inputs"]]
        variants = {
            name: _compare(path / entry["file"], name, entry, inputs, reference)
            for name, entry in manifest["variants"].items()
        }
        digest = manifest["files"][manifest["primary"]]["sha256"]
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError("the bundle does not fit its manifest", got=repr(error), where=path) from error
    flags = cpu_flags()
    warnings = []
    if any(name.startswith("int8") for name in variants) and flags and not VNNI & flags:
        warnings.append(
            "this CPU has no VNNI: int8 products may saturate; set session.x64quantprecision=1 in ONNX Runtime, or "
            "quantize with reduce_range"
        )
    if not flags:
        warnings.append("the CPU's features are unknown here; judge by the agreement")
    return {
        "passed": all(entry["passed"] for entry in variants.values()),
        "primary": manifest["primary"],
        "sha256": digest,
        "cpu": {"machine": platform.machine(), "flags": sorted(flags & NOTABLE)},
        "warnings": warnings,
        "variants": variants,
    }


def _manifest(path: Path) -> dict[str, Any]:
    """Reads ``bundle.json`` and checks every file against it."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version, files = manifest["format_version"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError("this is no bundle", got=repr(error), where=path / MANIFEST) from error
    if version != FORMAT_VERSION:
        raise ArtifactError("the bundle has another format", expected=FORMAT_VERSION, got=version, where=path)
    for name, entry in files.items():
        try:
            with (path / name).open("rb") as file:
                size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError("a file of the bundle is missing", where=path / name) from error
        if size != entry["size_bytes"]:
            raise ArtifactError(
                "a file of the bundle is truncated or longer",
                expected=f"{entry['size_bytes']} bytes",
                got=f"{size} bytes",
                where=path / name,
            )
        if digest != entry["sha256"]:
            raise ArtifactError(
                "a file of the bundle was changed", expected=entry["sha256"], got=digest, where=path / name
            )
    return manifest


def _compare(
    path: Path, name: str, entry: dict[str, Any], inputs: list[np.ndarray], reference: dict[str, np.ndarray]
) -> dict[str, Any]:
    session = Session(path)
    worst, allowed, agreement = 0.0, 0.0, 1.0
    finite = True
    for output, array in zip(session.outputs, session(*inputs), strict=True):
        expected = reference[f"{name}/{output}"]
        finite = finite and bool(np.isfinite(array).all())
        worst = max(worst, float(np.abs(array - expected).max()))
        allowed = max(allowed, (entry["tolerance"] or 0.0) * max(1.0, float(np.abs(expected).max())))
        agreement = min(agreement, float((array.argmax(-1) == expected.argmax(-1)).mean()))
    close = entry["tolerance"] is None or worst <= allowed
    return {
        "passed": finite and close and agreement >= entry["min_agreement"],
        "max_abs": worst,
        "allowed": allowed if entry["tolerance"] is not None else None,
        "agreement": agreement,
        "min_agreement": entry["min_agreement"],
    }


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()
