"""Two machines share a run: each has a network and a name of its own, a cable joins them, and both see one disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.store.manifest import Manifest

RECIPE = """\
schema: 1
name: tiny
data: {source: digits, augment: {crop_padding: 1, views: 2}}
teacher:
  model: {resnet: {width: 8, blocks: [1, 1]}}
  train: {epochs: 12, batch_size: 16, accumulate: 4}
student: {cnn: {widths: [4, 8], strides: [2, 1]}}
stages:
  - distill: {epochs: 2, batch_size: 16, accumulate: 4}
"""

# Namespaces of the kernel, as containers have them; nothing outside of the script's own sees them.
MACHINES = """\
set -e
mount -t tmpfs none /run
printf '127.0.0.1 localhost\\n10.7.0.1 first\\n10.7.0.2 second\\n' > hosts
mount --bind hosts /etc/hosts
ip netns add first
ip netns add second
ip link add cable netns first type veth peer name cable netns second
ip -n first address add 10.7.0.1/24 dev cable
ip -n second address add 10.7.0.2/24 dev cable
for machine in first second; do
  ip -n $machine link set lo up
  ip -n $machine link set cable up
done
share() {
  ip netns exec "$1" unshare --uts bash -c 'hostname "$0"; exec "$@"' "$1" \\
    "$PYTHON" -m torch.distributed.run --nnodes 2 --nproc-per-node 1 \\
    --rdzv-id run --rdzv-backend c10d --rdzv-endpoint first:29500 \\
    -m compress run recipe.yaml --until distill --force-teacher --store store > "$1.out" 2> "$1.err"
}
"""

WHOLE = """\
share second &
share first
wait $!
"""

CUT = """\
share second & second=$!
share first & first=$!
until grep -q 'training: 2 processes' first.err; do
  kill -0 $first
  sleep 0.1
done
ip -n second link set cable down
wait $first && exit 1
grep -q 'nothing is heard of process 2 of 2' first.err
until grep -q 'nothing is heard of process 1 of 2' second.err; do sleep 0.1; done
kill -9 $second  # torchrun's agent, which still waits for the other machine's
"""


def share(folder: Path, script: str) -> None:
    """Let two machines run the recipe in a folder, as a script says."""
    (folder / "recipe.yaml").write_text(RECIPE)
    alone = ["unshare", "--user", "--map-root-user", "--net", "--mount", "bash", "-c", MACHINES + script]
    variables = {"PYTHON": sys.executable, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        alone, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=400, check=False
    )
    told = "".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.err")))
    assert done.returncode == 0, done.stderr + told


def models(folder: Path) -> dict[str, str]:
    """Return the digest of every model of a store, by key."""
    found = [Manifest.read(path.parent) for path in (folder / "store" / "artifacts").glob("*/manifest.json")]
    return {entry.key: entry.digest for entry in found if entry.kind == "model"}


@pytest.mark.slow
def test_two_machines_end_with_the_bits_of_one_also_after_the_cable_was_cut(tmp_path):
    alone, shared, cut = (tmp_path / name for name in ("alone", "shared", "cut"))
    for folder in (alone, shared, cut):
        folder.mkdir()
    (alone / "recipe.yaml").write_text(RECIPE)
    command = ["-m", "compress", "run", "recipe.yaml", "--until", "distill", "--force-teacher", "--store", "store"]
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, *command, "--threads", "1"], cwd=alone, env=os.environ | variables, check=True, timeout=300
    )
    expected = models(alone)
    assert len(expected) == 4  # as they began and as they ended

    share(shared, WHOLE)
    assert (shared / "first.err").read_text().count("training: 2 processes (exact sums)") == 1
    assert "artifact: " not in (shared / "second.out").read_text()
    assert models(shared) == expected

    share(cut, CUT)
    assert models(cut) != expected
    share(cut, WHOLE)
    assert models(cut) == expected
