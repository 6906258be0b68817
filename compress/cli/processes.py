"""The processes that share a run: those that ``torchrun`` has started, or those that ``--processes`` starts here."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from signal import Signals
from typing import IO, TYPE_CHECKING

from compress.cli.heartbeat import end_at_once, heartbeats
from compress.cli.messages import say
from compress.errors import EnvironmentFault, UsageError
from compress.stage.group import Group, LostProcessError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    from compress.recipe import Recipe

PLACE = "COMPRESS_PROCESS"  # rank, size and port, told to a process that is started here
LOCALHOST = "127.0.0.1"
JOINING = timedelta(minutes=10)  # until all have come; and for what NCCL has begun, which all are there for
# The others wait while the first one scores and measures. Who dies is found by its connections, not by waiting.
PATIENCE = timedelta(days=30)
WITHIN = f"up to {JOINING.seconds // 60} minutes"
ENDING_S = 10.0  # for all others to end, after the run has
DYING_S = 1.0  # until it is seen who has ended, and how
ALONE = "--processes 1 runs alone, whatever they are"


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


@dataclass(frozen=True)
class Launched:
    """What a launcher, such as ``torchrun``, tells each of the processes that it has started.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        address: where they meet: host and port.
        local_rank: of this process among those of its machine; None when it is not told.
        local_size: how many there are on its machine, as far as it is told.
    """

    rank: int
    size: int
    address: str
    local_rank: int | None
    local_size: int

    @classmethod
    def read(cls) -> "Launched | None":
        """Return what the environment says; None where nothing, or one process, has been launched.

        Raises:
            UsageError: with every variable that is missing or makes no sense.
        """
        size = _whole("WORLD_SIZE")
        if size == 1 or not {"RANK", "WORLD_SIZE"} & os.environ.keys():
            return None
        rank, port, host = _whole("RANK"), _whole("MASTER_PORT"), os.environ.get("MASTER_ADDR")
        local = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in os.environ), None)
        local_rank = None if local is None else _whole(local)
        right = {
            "WORLD_SIZE": bool(size),
            "RANK": rank is not None and rank < (size or sys.maxsize),
            "MASTER_ADDR": bool(host),
            "MASTER_PORT": port is not None and 0 < port < 2**16,
            **({} if local is None else {local: local_rank is not None}),
        }
        if size is None or rank is None or not all(right.values()):
            wrong = [name for name, fits in right.items() if not fits]
            raise UsageError(
                "a launcher's variables do not say which processes share this run",
                expected="RANK below WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them",
                got=", ".join(f"{name}={os.environ[name]!r}" if name in os.environ else f"no {name}" for name in wrong),
                hint=f"set {', '.join(wrong)}; {ALONE}",
            )
        on_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # 4(x2): on two nodes four each
        beside = _whole("LOCAL_WORLD_SIZE") or (int(on_node[0]) if on_node else 1)
        return cls(rank, size, f"{host}:{port}", local_rank, beside)


def _whole(name: str) -> int | None:
    """Return a variable's whole number from 0; None where it holds none."""
    told = os.environ.get(name, "")
    return int(told) if told.isdecimal() else None


def count_processes(processes: int | None) -> int:
    """Return how many processes share this run: those that are asked for, or those that a launcher has started.

    Args:
        processes: as ``--processes`` says; 1 is alone, whatever a launcher's variables say.

    Raises:
        UsageError: when both say a number, or a launcher's variables make no sense.
    """
    launched = None if processes == 1 else Launched.read()
    if launched is None:
        return processes or 1
    if processes is not None:
        raise UsageError(
            "the processes of this run are started already",
            got=f"--processes {processes}, under a launcher that has started {launched.size}",
            hint=f"leave --processes out; {ALONE}",
        )
    return launched.size


def choose_processes(processes: int | None, recipe: "Recipe", *, smoke: bool = False) -> int | None:
    """Return how many processes are asked for: by the command line, or by the recipe where no launcher has started any.

    Args:
        processes: as ``--processes`` says.
        recipe: may say a number, too.
        smoke: whether it is a smoke run, which is one process's whatever the recipe says.

    Raises:
        UsageError: when a launcher's variables make no sense.
    """
    if processes is not None or smoke or Launched.read() is not None:
        return processes
    return recipe.execution.processes


def refuse_several(processes: int | None, what: str) -> None:
    """Refuse to share what one process does.

    Args:
        processes: as ``--processes`` says.
        what: is done by one, with an article.

    Raises:
        UsageError: when several are asked for, or a launcher has started several.
    """
    if (size := count_processes(processes)) > 1:
        raise UsageError(f"{what} is one process's", got=f"{size} processes", hint="say --processes 1")


@contextmanager
def gather(processes: int | None) -> Iterator[Crew]:
    """Join the processes of this run for the block, or start them; none of those outlives it.

    Raises:
        UsageError: as ``count_processes``, or when a launcher does not say which accelerator is this process's.
        EnvironmentFault: when not all of them come.
        LostProcessError: when one of them ends before the run does.
    """
    if place := os.environ.get(PLACE):
        rank, size, port = map(int, place.split(":"))
        with _joined(f"{LOCALHOST}:{port}", (rank, size), (rank, size), meeting=_meet(port)) as group:
            yield Crew(group)
    elif (size := count_processes(processes)) == 1:
        yield Crew(Group())
    elif launched := Launched.read():
        with _launched(launched) as group:
            yield Crew(group)
    else:
        with _started(size) as crew:
            yield crew


@contextmanager
def _launched(told: Launched) -> Iterator[Group]:
    """Join the processes that a launcher has started."""
    from torch import cuda
    from torch.distributed.rendezvous import rendezvous

    if told.local_rank is None and cuda.is_available():
        raise UsageError(
            "the launcher does not say which of its machine's processes this one is, and so which GPU it takes",
            expected="LOCAL_RANK, or SLURM_LOCALID",
            hint=f"set LOCAL_RANK, to 0 where each machine has one process; {ALONE}",
        )
    say(f"joining {told.size} processes at {told.address} as number {told.rank + 1}, for {WITHIN}")
    local = (told.local_rank or 0, told.local_size)
    with _finding(told.size, told.address):
        store, *_ = next(rendezvous("env://", timeout=JOINING))
    with (
        _joined(told.address, (told.rank, told.size), local, meeting=store) as group,
        heartbeats(store, told.rank, told.size, lose=end_at_once),
    ):
        yield group


@contextmanager
def _started(processes: int) -> Iterator[Crew]:
    """Start the other processes as this one was started, which decides where Python looks for modules."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else is to connect
    meeting = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
    children: list[Child] = []
    try:
        for rank in range(1, processes):
            told = tempfile.TemporaryFile()  # noqa: SIM115 # closed below
            environment = os.environ | {PLACE: f"{rank}:{processes}:{meeting.port}"}
            command = [sys.executable, *sys.orig_argv[1:]]
            # In a session of their own, so that Ctrl-C reaches this process alone, which tells them.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True
            )
            children.append(Child(rank, process, told))
        others = Crew(Group(0, processes, 0, processes), tuple(children))
        while not all(meeting.check([f"here {child.rank}"]) for child in children):
            others.check()
            time.sleep(0.05)
        address = f"{LOCALHOST}:{meeting.port}"
        with _joined(address, (0, processes), (0, processes), meeting=meeting) as group:
            try:
                yield replace(others, group=group)
            except LostProcessError:
                until_s = time.monotonic() + DYING_S
                while time.monotonic() < until_s:
                    others.check()
                    time.sleep(0.05)
                raise
        until_s = time.monotonic() + ENDING_S
        while any(child.end is None for child in children) and time.monotonic() < until_s:
            time.sleep(0.05)
    finally:
        for child in children:
            child.process.kill()  # after its end it is nothing; one that waits for this process hears no other signal
            child.process.wait()
            child.told.close()


def _meet(port: int) -> "TCPStore":
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    return TCPStore(LOCALHOST, port, is_master=False, wait_for_workers=False)


@contextmanager
def _joined(address: str, place: tuple[int, int], local: tuple[int, int], *, meeting: "Store") -> Iterator[Group]:
    """Join the group for the block.

    Args:
        address: where the processes meet.
        place: this process's rank, and how many there are.
        local: the same among those of its machine.
        meeting: at the address.
    """
    from torch import cuda, distributed

    backend = "cpu:gloo,cuda:nccl" if cuda.is_available() and distributed.is_nccl_available() else "gloo"
    rank, size = place
    meeting.set(f"here {rank}", "")
    with _finding(size, address):
        distributed.init_process_group(backend, timeout=JOINING, store=meeting, rank=rank, world_size=size)
        waiting = distributed.new_group(backend="gloo", timeout=PATIENCE)
    assert not isinstance(waiting, int)  # as it is where a process is not among them
    yield Group(rank, size, *local, waiting)
    distributed.destroy_process_group()  # where the block fails, the process's end tells the others


@contextmanager
def _finding(size: int, address: str) -> Iterator[None]:
    """Say what torch's own error means where processes do not meet."""
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentFault(
            "the processes that share this run do not find one another",
            expected=f"{size} at {address} in {WITHIN}",
            got=str(error).splitlines()[0],
            hint=f"look at what the launcher has started, and its variables; {ALONE}",
        ) from error
