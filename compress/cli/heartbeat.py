"""Heartbeats of processes on several machines: one whose machine or cable is gone closes no connection.

What waits for such a process would wait for as long as the system believes in the connection, which may be hours. So
each process says every second in the launcher's store that it lives, and one that has not heard of another for
`SILENCE` of its own seconds ends. Seconds are counted, not read from a clock: machines that sleep together wake up
together.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from compress.cli.messages import tell_error
from compress.stage.group import LostProcessError

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

SILENCE = 40  # beats that another process may miss
EVERY_S = 1.0


def end_at_once(error: LostProcessError) -> None:
    """Tell an error and end this process, whose main thread may wait for what no longer comes."""
    tell_error(error)
    os._exit(error.exit_code)


@contextmanager
def heartbeats(
    store: "Store", rank: int, size: int, *, every_s: float = EVERY_S, lose: Callable[[LostProcessError], None]
) -> Iterator[None]:
    """Say for the block that this process lives, and look whether the others do.

    Args:
        store: that all processes share; a clone of it is used.
        rank: of this process.
        size: how many there are.
        every_s: seconds between beats.
        lose: called, in a thread, with an error that names the processes of which nothing was heard `SILENCE` times.
    """
    done = Event()
    silent = dict.fromkeys((other for other in range(size) if other != rank), 0)
    own = store.clone()  # pyright: ignore[reportAttributeAccessIssue] # its calls may never return

    def beat() -> None:
        seen: dict[int, bytes] = {}
        number = 0
        while not done.wait(every_s):
            number += 1
            try:
                own.set(f"alive {rank}", str(number))
                for other in [other for other in silent if own.check([f"alive {other}"])]:
                    if (told := own.get(f"alive {other}")) != seen.get(other):
                        seen[other], silent[other] = told, 0
            except RuntimeError:
                continue  # the store is gone; so nothing is heard of anybody

    def listen() -> None:
        while not done.wait(every_s):
            for other in silent:
                silent[other] += 1
            lost = [other for other, missed in silent.items() if missed > SILENCE]
            if lost and not done.is_set():
                lose(_lost(lost, size))
                return

    threads = [Thread(target=target, name=target.__name__, daemon=True) for target in (beat, listen)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()


def _lost(ranks: list[int], size: int) -> LostProcessError:
    named = ", ".join(str(rank + 1) for rank in ranks)
    return LostProcessError(
        f"nothing is heard of process {named} of {size}",
        expected="a sign of life every second",
        got=f"none for {SILENCE} seconds: its machine, the network, or the launcher's store is gone",
        hint="the same command goes on from the last checkpoint, with any number of processes",
    )
