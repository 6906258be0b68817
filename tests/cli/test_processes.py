"""Several processes run one recipe: the bits of one process, who ends when one dies, and what is refused."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline
import torch
from torch import distributed
from typed import compressor

from compress.cli.options import read_reduction
from compress.cli.processes import gather
from compress.errors import EnvironmentFault, RecipeError, UsageError
from compress.pipeline.plan import plan
from compress.pipeline.run import help_run, run
from compress.pipeline.run_directory import Asked, decide_execution
from compress.recipe import Recipe
from compress.stage import Group
from compress.store.manifest import Manifest

RECIPE = """\
schema: 1
name: tiny
data: {source: digits, augment: {crop_padding: 1, views: 2}}
teacher:
  model: {resnet: {width: 8, blocks: [1, 1]}}
  train: {epochs: 2, batch_size: 16, accumulate: 4}
student: {cnn: {widths: [4, 8], strides: [2, 1]}}
stages:
  - distill: {epochs: 2, batch_size: 16, accumulate: 4, generations: 2}
"""


def recipe(*overrides: str) -> Recipe:
    return Recipe.parse(RECIPE, origin="recipe.yaml", directory=Path(), overrides=overrides)


def take_part(store: Path, meeting: Path, rank: int, size: int, reduction: str) -> None:
    """Run the recipe as one of several processes."""
    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    options = tiny_pipeline.options(
        store,
        precision="float32",
        until_stage="distill",
        force_teacher=True,
        group=Group(rank, size, rank, size),
        reduction=reduction,
    )
    if rank:
        help_run(recipe(), options)
    else:
        run(recipe(), options)


def digests(store: Path, size: int, *, reduction: str = "exact") -> dict[str, str]:
    """Return the digest of every model and of every teacher output that so many processes leave, by key."""
    store.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(tiny_pipeline.IMPORTED)
    processes = [
        context.Process(target=take_part, args=(store, store.parent / "meeting", rank, size, reduction))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * size
    found = [Manifest.read(path.parent) for path in (store / "artifacts").glob("*/manifest.json")]
    return {made.key: made.digest for made in found if made.kind in ("model", "step", "outputs")}


def test_a_recipe_ends_with_the_bits_of_one_process_batch_norms_too(tmp_path):
    alone = digests(tmp_path / "one" / "store", 1)
    assert digests(tmp_path / "two" / "store", 2) == alone


@pytest.mark.slow
def test_four_processes_end_with_the_bits_of_one_and_fast_sums_with_as_many_artifacts(tmp_path):
    alone = digests(tmp_path / "one" / "store", 1)
    assert digests(tmp_path / "four" / "store", 4) == alone
    assert len(digests(tmp_path / "fast" / "store", 4, reduction="fast")) == len(alone)


OWN = """\
import os
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if "COMPRESS_PROCESS" in os.environ and os.environ.get("DIES") == str(self.calls):
            os.kill(os.getpid(), 9)
        return self.layer(x.flatten(1))

def build():
    return Net()
"""
MORTAL = """\
schema: 1
name: mortal
data: {source: digits}
teacher:
  model: {file: {path: net.py}}
  train: {epochs: 3, batch_size: 32, accumulate: 2}
student: teacher
stages:
  - distill: {epochs: 1, batch_size: 32, accumulate: 2}
"""


COMMAND = ("run", "recipe.yaml", "--until", "teacher", "--processes", "2", "--code", "net.py", "--force-teacher")


@pytest.fixture
def mortal(tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    (tmp_path / "recipe.yaml").write_text(MORTAL)
    return tmp_path


def test_a_process_that_dies_ends_the_run_with_its_reason(mortal):
    died = compressor(*COMMAND, cwd=mortal, DIES="25")
    assert died.returncode == 5, died.stderr
    assert "process 2 of 2 has ended" in died.stderr
    assert "SIGKILL" in died.stderr
    assert "Traceback" not in died.stderr


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_process_has_died(mortal):
    assert compressor(*COMMAND, cwd=mortal, DIES="25").returncode == 5
    went_on = compressor(*COMMAND, cwd=mortal)
    assert went_on.returncode == 0, went_on.stderr
    assert "training: 2 processes (exact sums)" in went_on.stderr


@pytest.mark.slow
def test_torchrun_starts_the_processes_of_a_run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["-m", "compress", "run", "recipe.yaml", "--until", "teacher", "--force-teacher"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("training: 2 processes") == 1
    assert result.stdout.count("artifact: ") == 1


def test_plan_and_run_refuse_every_stage_whose_updates_the_processes_cannot_share(tmp_path):
    options = tiny_pipeline.options(tmp_path, group=Group(size=4, local_size=4))
    asked = recipe("stages.distill.batch_size=1024", "teacher.train.accumulate=2")
    for act in (plan, run):
        with pytest.raises(RecipeError) as refused:
            act(asked, options)
        told = str(refused.value)
        assert "teacher: an update of 2 batches cannot be shared by 4 processes" in told
        assert "distill: the train role is smaller than one update: 1,168 samples; expected at least 4,096" in told


def test_processes_share_the_cores_of_their_machine_and_each_has_an_accelerator_of_its_own(tmp_path, monkeypatch):
    cores = "compress.pipeline.run_directory.count_allowed_cores"
    monkeypatch.setattr(cores, lambda: 8)
    two = decide_execution(tmp_path, Asked(device="cpu", group=Group(size=4, local_size=2)), say=print)
    assert (two.threads, two.processes, two.reduction) == (4, 4, "exact")
    monkeypatch.setattr("compress.pipeline.run_directory.check_device", str)
    monkeypatch.setattr(torch, "get_device_module", lambda _device: torch.cpu)
    with pytest.raises(EnvironmentFault, match="every process needs a device of its own"):
        decide_execution(tmp_path, Asked(device="xpu:0", group=Group(size=2, local_size=2)), say=print)


def test_two_launchers_at_once_and_words_that_mean_nothing_are_refused(monkeypatch):
    assert read_reduction("fast") == "fast"
    with pytest.raises(UsageError, match="no such reduction"):
        read_reduction("exactly")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="are started already"), gather(2):
        pass
