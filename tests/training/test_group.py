"""Processes that share a training end with the bits of one that accumulates; one that dies ends the others."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from in_group import train, train_on_policy
from torch import nn

from compress.errors import StageError
from compress.models import Mlp
from compress.stage import Optimization
from compress.stage.group import Group
from compress.stage.training import ACCUMULATE_VERSION
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.stages.train import Train
from compress.tasks import Batch
from compress.training import loop
from compress.training.loader import RoleLoader
from compress.training.running import RunningStatistics
from compress.training.sharing import SharedUpdate


def run(
    folder: Path, size: int, *, dies_at: int = -1, rows: int = 0, kind: str | None = None
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process of a group."""
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "in_group.py")]
            + [str(rank), str(size), str(meeting), str(folder), str(dies_at), str(rows), *([kind] if kind else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = [process.communicate(timeout=180) for process in processes]
    return [(process.returncode, *told) for process, told in zip(processes, ended, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), Group())


def bits(ended) -> set[str]:
    assert all(code == 0 for code, _, _ in ended), ended
    return {told.strip() for _, told, _ in ended}


def test_two_processes_end_with_the_bits_of_one_and_go_on_after_one_has_died(alone, tmp_path):
    dead = run(tmp_path, 2, dies_at=4)
    assert [code for code, _, _ in dead] == [1, 9]
    assert "another process that shares this training has ended" in dead[0][2]
    assert list((tmp_path / "checkpoints").glob("checkpoint.safetensors"))
    assert bits(run(tmp_path, 2)) == {alone}


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(10))
def test_a_training_that_was_killed_goes_on_in_another_number_of_processes_to_the_same_bits(alone, tmp_path, attempt):
    sizes = (2, 4) if attempt % 2 else (4, 2)
    run(tmp_path, sizes[0], dies_at=attempt)
    assert bits(run(tmp_path, sizes[1])) == {alone}


@pytest.mark.slow
def test_one_process_goes_on_with_what_four_began(alone, tmp_path):
    run(tmp_path, 4, dies_at=3)
    assert train(tmp_path, Group()) == alone


@pytest.mark.slow
def test_passes_of_fewer_samples_give_the_same_bits_in_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "fitting_rows", loop.fitting_rows)
    for name in ("one", "two", "four"):
        (tmp_path / name).mkdir()
    alone = train(tmp_path / "one", Group(), rows=8)
    assert bits(run(tmp_path / "two", 2, rows=8)) == bits(run(tmp_path / "four", 4, rows=8)) == {alone}


@pytest.mark.slow
def test_what_students_write_themselves_is_the_same_in_any_number_of_processes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert bits(run(tmp_path / "two", 2, kind="on-policy")) == {train_on_policy(tmp_path / "one", Group())}


def test_parts_of_batches_are_in_one_order_whoever_has_the_batches():
    batches = [Batch((torch.arange(5.0),), None, torch.arange(5) + 10 * number, None) for number in range(4)]
    whole = [part.index.tolist() for part in loop._split(batches, 2)]
    assert whole[:5] == [[0, 1], [10, 11], [20, 21], [30, 31], [2, 3]]
    for size in (2, 4):
        shared = [loop._split(batches[rank::size], 2) for rank in range(size)]
        assert [part.index.tolist() for parts in zip(*shared, strict=True) for part in parts] == whole
    assert loop._split(batches, None) is batches


class Twofold(Group):
    """A group whose other process has three times what this one has."""

    def gather(self, value):
        return [value, 3 * value]

    def add(self, value):
        return value + 3 * value


@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_gradients_are_summed_buffers_averaged_and_what_has_no_gradient_keeps_none(reduction):
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    module.register_buffer("own", torch.tensor(1.0))
    trained = nn.ModuleDict({"model": module, "unused": nn.Linear(2, 2)})
    shared = SharedUpdate(Twofold(0, 2), trained, seed=0, reduction=reduction)
    with shared.part(0, 0):
        module(torch.randn(3, 2, 5, 5)).square().sum().backward()
    own = [value.grad.clone() for value in module.parameters()]
    assert [float(means["hard"]) for means in shared.add({"hard": torch.tensor(2.0)})] == [2.0, 6.0]
    shared.release()
    for value, before in zip(module.parameters(), own, strict=True):
        assert torch.equal(value.grad, before + 3 * before)
        assert value.grad.stride() == value.stride()
    assert trained["unused"].weight.grad is None
    assert float(module.own) == 2.0


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_batch_norms_move_on_as_if_one_process_had_seen_the_parts_in_turn(momentum):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3) + number for number in range(4)]
    alone, parted = nn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    for batch in batches:
        alone(batch)
    running, seen = RunningStatistics(parted), []
    for batch in batches:
        with running.apart():
            parted(batch)
        seen.append(running.seen)
    assert torch.equal(parted.running_mean, torch.zeros(3))
    running.move(seen[:2])
    running.move(seen[2:])
    with running.apart():
        pass
    running.move([running.seen])  # a part that the norm did not see
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(parted.state_dict()[name], value)
    with pytest.raises(ValueError, match="more than 1 value"), running.apart():
        parted(batches[0][:1])
    assert parted.momentum == momentum
    torch.testing.assert_close(parted.running_var, alone.running_var)


class Uncounted(nn.BatchNorm1d):
    """Moves its statistics by a rule of its own, which reads them, and counts no batches."""

    def forward(self, input):
        mean, var = input.mean(0), input.var(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return (input - mean) / self.running_var.sqrt()


@pytest.mark.parametrize(
    ("kind", "momentum", "times"),
    [(nn.BatchNorm1d, 0.1, 3), (nn.BatchNorm1d, 1.0, 3), (nn.BatchNorm1d, None, 3), (Uncounted, 0.1, 1)],
)
def test_each_pass_of_a_part_moves_a_norm_as_it_does_alone(kind, momentum, times):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3) * (number + 1) + number for number in range(4 * times)]
    alone, parted = kind(3, momentum=momentum), kind(3, momentum=momentum)
    frozen = nn.Sequential(parted, nn.BatchNorm1d(3))
    frozen[1].running_var.fill_(4.0)
    frozen[1].eval()
    running = RunningStatistics(frozen)
    for first in range(0, len(batches), times):
        with running.apart():
            for batch in batches[first : first + times]:
                expected = alone(batch)
                if first == 0:
                    torch.testing.assert_close(parted(batch), expected)
                else:
                    parted(batch)
            torch.testing.assert_close(frozen[1](batch), batch / 2, rtol=1e-4, atol=1e-4)  # it reads its own
        running.move([running.seen])
    torch.testing.assert_close(parted.running_mean, alone.running_mean)
    torch.testing.assert_close(parted.running_var, alone.running_var)
    assert frozen[1].running_var.tolist() == [4.0] * 3


def test_keys_know_how_norms_move_only_where_updates_have_several_batches(make_context):
    context = make_context()
    source = Create(model=Mlp(widths=(4,))).run(None, *context)
    recover = Optimization(accumulate=2)
    for stage in (Train(accumulate=2), Distill(accumulate=2), Prune(kept_macs_fraction=0.5, steps=2, recover=recover)):
        assert stage.inputs(source, *context)["accumulate"] == ACCUMULATE_VERSION
    for stage in (Train(), Distill(), Prune(kept_macs_fraction=0.5)):
        assert "accumulate" not in stage.inputs(source, *context)


def test_an_update_that_cannot_be_shared_is_refused(make_context):
    context, optimization = make_context(), Optimization(batch_size=10, accumulate=3)
    with pytest.raises(StageError, match="a multiple of 2"):
        RoleLoader(context.task, context.data.train, optimization, seed=0, views=lambda *_: None, group=Group(0, 2))
