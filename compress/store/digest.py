"""SHA-256 of values and of files: what keys and digests are."""

import hashlib
import json
from pathlib import Path
from typing import Any


def hash_values(values: Any) -> str:
    """Return the SHA-256 of JSON values in canonical form."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
