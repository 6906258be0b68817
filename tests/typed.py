"""The command line as a user types it: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def compressor(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m compress`` and return its exit code, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-m", "compress", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
