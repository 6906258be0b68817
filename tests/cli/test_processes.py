"""Several processes run one recipe: the bits of one process, who ends when one dies, and what is refused."""

import multiprocessing
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import tiny_pipeline
import torch
from torch import distributed

from compress.cli.options import read_reduction
from compress.cli.processes import Launched, choose_processes, count_processes, gather, refuse_several
from compress.errors import EnvironmentFault, RecipeError, StageError, UsageError
from compress.models import load_model
from compress.pipeline.plan import plan
from compress.pipeline.processes import failing_together
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


def take_part(store: Path, meeting: Path, size: int, reduction: str, rank: int) -> None:
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


def start(target, size: int) -> None:
    """Call a function in so many processes, with the rank of each; all end well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(tiny_pipeline.IMPORTED)
    processes = [context.Process(target=target, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * size


def made(folder: Path, size: int, reduction: str = "exact") -> dict[str, Path]:
    """Return where every model and every teacher output lies that so many processes leave, by key."""
    store = folder / "store"
    store.mkdir(parents=True)
    start(partial(take_part, store, folder / "meeting", size, reduction), size)
    found = [(Manifest.read(path.parent), path.parent) for path in (store / "artifacts").glob("*/manifest.json")]
    return {entry.key: path for entry, path in found if entry.kind in ("model", "step", "outputs")}


def digests(paths: dict[str, Path]) -> dict[str, str]:
    return {key: Manifest.read(path).digest for key, path in paths.items()}


@pytest.mark.slow
def test_processes_end_with_the_bits_of_one_batch_norms_too_and_fast_sums_with_nearly_them(tmp_path):
    alone = made(tmp_path / "one", 1)
    assert digests(made(tmp_path / "two", 2)) == digests(alone)
    assert digests(made(tmp_path / "four", 4)) == digests(alone)
    fast = made(tmp_path / "fast", 4, "fast")
    assert len(fast) == len(alone)
    teacher = trained_teacher(fast)
    for name, value in trained_teacher(alone).items():
        torch.testing.assert_close(teacher[name], value, rtol=1e-3, atol=1e-4)


def trained_teacher(paths: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Return the weights of the only model that was trained from labels."""
    (path,) = [path for path in paths.values() if Manifest.read(path).inputs.get("stage") == "Train"]
    return load_model(path).state_dict()


def fail_in_turn(meeting: Path, rank: int) -> None:
    """Fail at what is shared in one process, the other, both and none; whoever has left it goes on with the next."""
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    group = Group(rank, 2)
    told = []
    for failing in ((0,), (1,), (0, 1), ()):
        try:
            with failing_together(group):
                group.total(1, 2)
                if rank in failing:
                    raise StageError("it does not go", got=rank)
                group.gather(torch.zeros(1000))
        except StageError as error:
            told.append(str(error).split())
    first, second, both = map(" ".join, told)
    assert ("process 1 of 2 fails" in first) == (rank == 1)
    assert ("process 2 of 2 fails" in second) == (rank == 0)
    assert "it does not go" in first
    assert "it does not go" in second
    assert both == f"it does not go got: {rank}"
    assert group.tell("all" if rank == 0 else None) == "all"


def test_what_fails_in_one_process_fails_in_all_and_they_go_on_in_step(tmp_path):
    start(partial(fail_in_turn, tmp_path / "meeting"), 2)


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

class Failing(Net):
    def forward(self, x):
        if self.training and self.calls == 3 and "COMPRESS_PROCESS" in os.environ:
            raise ValueError("not this batch")
        return super().forward(x)

def build():
    return Net()

def fail():
    return Failing()
"""
MORTAL = """\
schema: 1
name: mortal
data: {source: digits}
teacher:
  model: {file: {path: net.py}}
  train: {epochs: 3, batch_size: 32, accumulate: 2}
student: teacher
baselines:
  other: {model: {file: {path: net.py, factory: fail}}, train: {epochs: 1, batch_size: 32, accumulate: 2}}
stages:
  - distill: {epochs: 1, batch_size: 32, accumulate: 2}
  - export: {variants: [fp32]}
benchmark: {preset: quick, profiles: [{threads: 1}]}
"""
# Where the installed command lies, Python looks for modules there and not in the working directory. Counts updates.
COMMAND = """\
from functools import partial

from compress.cli.main import main
from compress.pipeline import run
from compress.training import loop

if __name__ == "__main__":
    updates, sum_gradients = 0, loop._sum_gradients

    def counted(*arguments, **named):
        global updates
        updates += 1
        return sum_gradients(*arguments, **named)

    loop._sum_gradients = counted
    run.Options = partial(run.Options, checkpoint_every_s=0.0)
    try:
        main()
    finally:
        print("updates:", updates)
"""
RUN = ("run", "recipe.yaml", "--processes", "2", "--code", "net.py", "--force-teacher")
UNTIL = ("--until", "teacher")


@pytest.fixture
def mortal(tmp_path):
    """A command that runs in a folder whose yaml.py is not for it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "net.py").write_text(OWN)
    (folder / "recipe.yaml").write_text(MORTAL)
    (folder / "yaml.py").write_text("raise SystemExit('a file of the working directory was run')")
    (tmp_path / "compressor.py").write_text(COMMAND)

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, tmp_path / "compressor.py", *arguments],
            cwd=folder,
            env=os.environ | given | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


def test_a_process_that_dies_ends_the_run_with_its_reason(mortal):
    died = mortal(*RUN, *UNTIL, DIES="25")
    assert died.returncode == 5, died.stderr
    assert "process 2 of 2 has ended" in died.stderr
    assert "SIGKILL" in died.stderr
    assert "Traceback" not in died.stderr


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_process_has_died(mortal):
    died = mortal(*RUN, *UNTIL, DIES="25")
    assert died.returncode == 5
    went_on = mortal(*RUN, *UNTIL)
    assert went_on.returncode == 0, went_on.stderr
    assert "training: 2 processes (exact sums)" in went_on.stderr
    updates = [int(told) for ended in (died, went_on) for told in re.findall(r"updates: (\d+)", ended.stdout)]
    assert updates == [25, 3 * 18 - 24]


@pytest.mark.slow
def test_a_comparison_that_fails_in_one_process_is_left_out_by_all(mortal):
    ended = mortal(*RUN)
    assert ended.returncode in (0, 4), ended.stderr
    line = next(line for line in ended.stderr.splitlines() if line.startswith("other"))
    assert "none" in line
    assert "not this batch" in line
    assert "export" in ended.stdout


@pytest.mark.slow
def test_two_processes_share_the_variants_of_a_sweep_and_one_that_fails_stops_neither(mortal):
    values = "teacher.model.file.factory=build,fail"
    learnt = ("--set", values, "--set", "gates={max_size_mb: 1}", "--set", "baselines={}")
    swept = mortal("sweep", "recipe.yaml", "--processes", "2", "--code", "net.py", "--force-teacher", *learnt)
    assert swept.returncode in (0, 4), swept.stderr
    assert swept.stderr.count("training: 2 processes (exact sums)") == 3  # two variants, and the verdict on the chosen
    assert "variant 2 failed" in swept.stderr
    assert "not this batch" in swept.stderr


@pytest.mark.slow
def test_an_error_of_the_first_process_is_the_runs(mortal):
    ended = mortal(*RUN, "--set", "teacher.expected_accuracy=1.0")
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr


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


class Told(Group):
    """The first of processes that hear whatever it says."""

    def tell(self, value=None):
        return value


def test_plan_and_run_refuse_every_stage_whose_updates_the_processes_cannot_share(tmp_path):
    options = tiny_pipeline.options(tmp_path, group=Told(size=4, local_size=4))
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
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UsageError, match="are started already"), gather(2):
        pass
    assert count_processes(None) == 2
    with gather(1) as crew:
        assert crew.group == Group()
    with pytest.raises(UsageError, match="advice is one process's"):
        refuse_several(None, "advice")
    assert choose_processes(None, recipe("execution.processes=4")) is None  # those that are there


def test_the_recipe_says_how_many_processes_unless_the_command_line_does():
    four = recipe("execution.processes=4")
    assert choose_processes(None, four) == 4
    assert choose_processes(2, four) == 2
    assert choose_processes(None, four, smoke=True) is None
    assert choose_processes(None, recipe()) is None


def test_what_a_launcher_says_is_read_or_refused_with_what_to_set(monkeypatch):
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_LOCALID")

    def read(*values, **slurm):
        for name in (*names, "SLURM_STEP_TASKS_PER_NODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in [*zip(names, values, strict=False), *slurm.items()]:
            monkeypatch.setenv(name, value)
        return Launched.read()

    assert read() is None
    assert read("0", "1") is None
    assert read("1", "4", "head", "29500") == Launched(1, 4, "head:29500", None, 1)
    assert read("3", "4", "head", "29500", "1", "2") == Launched(3, 4, "head:29500", 1, 2)
    slurm = read("3", "4", "head", "29500", SLURM_LOCALID="1", SLURM_STEP_TASKS_PER_NODE="2(x2)")
    assert slurm == Launched(3, 4, "head:29500", 1, 2)
    for values, wrong in (
        (("0",), "no WORLD_SIZE, no MASTER_ADDR, no MASTER_PORT"),
        (("0", "", "head", "29500"), "WORLD_SIZE=''"),
        (("4", "4", "head", "29500"), "RANK='4'"),
        (("-1", "4", "", "port"), "RANK='-1', MASTER_ADDR='', MASTER_PORT='port'"),
        (("0", "2", "head", "29500", "x"), "LOCAL_RANK='x'"),
    ):
        with pytest.raises(UsageError, match=re.escape(wrong)):
            read(*values)
