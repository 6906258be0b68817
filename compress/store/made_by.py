"""What finds things out: our own source, and the libraries that build, export, read data and cut text."""

import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path
from typing import Any

import compress

# Another version may do it otherwise.
LIBRARIES = (
    "torch", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch-pruning", "transformers", "tokenizers", "timm",
    "numpy", "pandas", "pyarrow", "pillow", "scikit-learn", "safetensors", "datasets",
)  # fmt: skip


@cache
def made_by() -> dict[str, Any]:
    """Return what another state of would prove nothing of what was found out, as JSON values."""
    return {
        "source": our_source(),
        "libraries": versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def our_source() -> str:
    """Return the SHA-256 of this package's Python files."""
    state = hashlib.sha256()
    for path in sorted(Path(compress.__file__).parent.rglob("*.py")):
        state.update(path.read_bytes())
    return state.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
