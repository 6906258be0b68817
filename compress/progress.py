"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_S = 20.0


@dataclass
class Bar:
    """One task in progress."""

    name: str
    total: int
    live: Progress | None
    done: int = 0
    note: str = ""
    started_s: float = field(default_factory=time.monotonic)
    printed_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._task = None if self.live is None else self.live.add_task(self.name, total=self.total, note="")

    def expect(self, total: int) -> None:
        """Change how many units there are."""
        self.total = total
        if self.live is not None and self._task is not None:
            self.live.update(self._task, total=total)

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Say that ``count`` more units are done; ``note`` replaces the text behind the bar."""
        self.done += count
        self.note = self.note if note is None else note
        if self.live is not None and self._task is not None:
            self.live.update(self._task, completed=self.done, note=self.note)
        elif time.monotonic() - self.printed_s > PLAIN_EVERY_S:
            self.printed_s = time.monotonic()
            elapsed = self.printed_s - self.started_s
            left = elapsed * (self.total - self.done) / max(self.done, 1)
            line = f"  {self.name} {self.done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left  {self.note}"
            sys.stderr.write(line.rstrip() + "\n")


@dataclass(frozen=True)
class Reporter:
    """Where progress and notices go.

    Attributes:
        quiet: print nothing but errors.
    """

    quiet: bool = False

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        """Show a bar for the block; it disappears at its end."""
        if self.quiet:
            yield Bar(name, total, None, printed_s=float("inf"))
            return
        console = Console(stderr=True)
        if not console.is_terminal:
            yield Bar(name, total, None)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as live:
            yield Bar(name, total, live)
