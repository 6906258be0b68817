"""The processes that share a run: those that ``torchrun`` has started, or those that ``--processes`` starts here."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from signal import Signals
from typing import IO, TYPE_CHECKING

from compress.errors import UsageError
from compress.stage.group import Group, LostProcessError

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

PLACE = "COMPRESS_PROCESS"  # rank, size and port, told to a process that is started here
LOCALHOST = "127.0.0.1"
# The others wait while the first one scores and measures. Who dies is found by its connections, not by waiting.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Child:
    """Another process of the run that was started here."""

    rank: int
    process: subprocess.Popen[bytes]
    told: IO[bytes]

    @property
    def end(self) -> str | None:
        """How it has ended, in words; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"ended by {Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.told.seek(0)
        lines = [line for line in self.told.read().decode(errors="replace").splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
        return f"{how}: {said}" if said else how


@dataclass(frozen=True)
class Crew:
    """This process among those of the run, and the others that it has started.

    Attributes:
        group: of all.
        children: that were started here.
    """

    group: Group
    children: tuple[Child, ...] = ()

    def watch(self, interrupted: Callable[[], bool]) -> Callable[[], bool]:
        """Return the same question, which also looks after the processes that were started here."""

        def ask() -> bool:
            self.check()
            return interrupted()

        return ask

    def check(self) -> None:
        """Raise ``LostProcessError`` when one of them has ended; a run has not until they are told."""
        for child in self.children:
            if child.end is not None:
                raise LostProcessError(
                    f"process {child.rank + 1} of {self.group.size} has ended",
                    got=child.end,
                    hint="the same command goes on from the last checkpoint, with any number of processes",
                )


@contextmanager
def gather(processes: int | None) -> Iterator[Crew]:
    """Join the processes of this run for the block, or start them; none of those outlives it.

    Raises:
        UsageError: when both ``torchrun`` and ``--processes`` say how many there are.
        LostProcessError: when one of them ends before the run does.
    """
    if place := os.environ.get(PLACE):
        rank, size, port = map(int, place.split(":"))
        with _joined(_meet(port), rank=rank, size=size) as group:
            yield Crew(group)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        if processes is not None:
            raise UsageError(
                "the processes of this run are started already",
                got=f"--processes {processes}, under a launcher that has started {os.environ['WORLD_SIZE']}",
                hint="leave --processes out",
            )
        with _joined(None) as group:
            yield Crew(group)
    elif processes is None or processes == 1:
        yield Crew(Group())
    else:
        with _started(processes) as crew:
            yield crew


@contextmanager
def _started(processes: int) -> Iterator[Crew]:
    """Start the other processes with this one's own command."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else is to connect
    meeting = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
    children: list[Child] = []
    try:
        for rank in range(1, processes):
            told = tempfile.TemporaryFile()  # noqa: SIM115 # closed below
            environment = os.environ | {PLACE: f"{rank}:{processes}:{meeting.port}"}
            command = [sys.executable, "-m", "compress", *sys.argv[1:]]
            # In a session of their own, so that Ctrl-C reaches this process alone, which tells them.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True
            )
            children.append(Child(rank, process, told))
        crew = Crew(Group(0, processes, 0, processes), tuple(children))
        while not all(meeting.check([f"here {child.rank}"]) for child in children):
            crew.check()
            time.sleep(0.05)
        with _joined(meeting, rank=0, size=processes):
            try:
                yield crew
            except LostProcessError:
                time.sleep(1.0)  # until it is seen who has ended, and how
                crew.check()
                raise
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            try:
                child.process.wait(10)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.told.close()


def _meet(port: int) -> "TCPStore":
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    return TCPStore(LOCALHOST, port, is_master=False, wait_for_workers=False)


@contextmanager
def _joined(meeting: "TCPStore | None", *, rank: int = 0, size: int = 1) -> Iterator[Group]:
    """Join the group for the block, by a meeting on this machine or as a launcher's environment says."""
    from torch import cuda, distributed

    backend = "cpu:gloo,cuda:nccl" if cuda.is_available() and distributed.is_nccl_available() else "gloo"
    if meeting is None:
        distributed.init_process_group(backend, timeout=PATIENCE)
        local = (int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    else:
        meeting.set(f"here {rank}", "")
        distributed.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=PATIENCE)
        local = (rank, size)
    yield Group(distributed.get_rank(), distributed.get_world_size(), *local)
    distributed.destroy_process_group()  # where the block fails, the process's end tells the others
