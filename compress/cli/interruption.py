"""Ctrl-C and termination: the first asks for a checkpoint and a clean stop, the second stops at once."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from compress.config.user_code import raise_users


@dataclass
class Interruption:
    """Whether somebody asked to stop, and how.

    Attributes:
        number: the signal, or 0.
    """

    number: int = 0

    def __call__(self) -> bool:
        """Whether to checkpoint and stop."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells report it: 130 for Ctrl-C, 143 for termination."""
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def watch(*, quiet: bool = False) -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM of the block into a request; the second ends the process by that signal.

    Args:
        quiet: say nothing of it.
    """
    state = Interruption()

    def ask(number: int, _frame: FrameType | None) -> None:
        if state():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        state.number = number
        if not quiet:
            sys.stderr.write("\nstopping at the next checkpoint; once more stops at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_unasked(error: KeyboardInterrupt, interrupted: Interruption) -> None:
    """Refuse an interruption that nobody asked for: the user's own code raised it.

    Args:
        error: as it was caught inside of `watch`.
        interrupted: of that block.

    Raises:
        InputError: with the user's own line.
    """
    if not interrupted():
        raise_users(error)
