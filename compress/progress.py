"""Progress on standard error: live bars on a terminal, elsewhere a plain line whenever there was none for a while.

And `fold`, by which lines of words fit a terminal.
"""

import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_EVERY_S = 20.0  # the longest silence inside a block, where there is no terminal


@dataclass
class Bar:
    """One task in progress.

    Attributes:
        name: what is done.
        total: units of it; None when it cannot be divided.
        live: the terminal's display; None where there is none.
        done: units that are.
        note: what stands behind the bar.
    """

    name: str
    total: int | None
    live: Progress | None
    done: int = 0
    note: str = ""
    started_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._task = None if self.live is None else self.live.add_task(self.name, total=self.total, note="", count="")
        self._show()

    def expect(self, total: int) -> None:
        """Change how many units there are."""
        self.total = total
        self._show()

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Say that ``count`` more units are done; ``note`` replaces the text behind the bar."""
        self.done += count
        self.note = self.note if note is None else note
        self._show()

    def end(self) -> None:
        """Take it off the terminal, after its last state was shown: a quick block may end between two refreshes."""
        if self.live is not None and self._task is not None:
            self.live.refresh()
            self.live.remove_task(self._task)

    @property
    def count(self) -> str:
        """How much is done: ``3/10``, or nothing for what cannot be divided."""
        return "" if self.total is None else f"{self.done}/{self.total}"

    def line(self) -> str:
        """Return how far it is, for where there is no terminal."""
        elapsed_s = time.monotonic() - self.started_s
        parts = [f"{self.name} {self.count}".rstrip(), f"{elapsed_s:.0f} s"]
        if self.total is not None and self.done:
            parts.append(f"{elapsed_s * (self.total - self.done) / self.done:.0f} s left")
        return f"  {', '.join(parts)}  {self.note}".rstrip()

    def _show(self) -> None:
        if self.live is not None and self._task is not None:
            self.live.update(self._task, total=self.total, completed=self.done, note=self.note, count=self.count)


@dataclass(eq=False)
class Reporter:
    """Where progress and notices go; bars may be nested.

    Attributes:
        quiet: print nothing but errors.
    """

    quiet: bool = False
    _open: list[Bar] = field(default_factory=list, repr=False)
    _spoke_s: float = field(default_factory=time.monotonic, repr=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self._spoke_s = time.monotonic()
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    @contextmanager
    def bar(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """Show a bar for the block; it disappears at its end. A block that never advances is seen to be at work too.

        Args:
            name: what is done.
            total: how many units ``Bar.advance`` will count; None for what cannot be divided.
        """
        with nullcontext(self._open[0].live) if self._open else self._display() as live:
            bar = Bar(name, total, live)
            self._open.append(bar)
            try:
                yield bar
            finally:
                self._open.remove(bar)
                bar.end()

    def _display(self) -> AbstractContextManager[Progress | None]:
        if self.quiet:
            return nullcontext()
        console = Console(stderr=True)
        if not console.is_terminal:
            return self._speaking()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            _Left(),
            TextColumn("{task.fields[note]}"),
        )
        return Progress(*columns, console=console, transient=True)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Print how far the innermost bar is whenever nothing was printed for a while; the thread ends with the block.

        A thread, because one step may take minutes in which nothing else of ours runs. Each line is written at once.
        """
        ended = threading.Event()

        def speak() -> None:
            while not ended.wait(max(0.01, self._spoke_s + PLAIN_EVERY_S - time.monotonic())):
                bar = next(reversed(self._open[:]), None)
                if bar is not None and time.monotonic() >= self._spoke_s + PLAIN_EVERY_S:
                    self.say(bar.line())

        thread = threading.Thread(target=speak, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class _Left(TimeRemainingColumn):
    """The time that remains, said so; nothing for what cannot be divided."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        return Text() if task.total is None else Text("left ", style="progress.remaining") + super().render(task)


def fold(text: str, width: int, *, indent: str = "  ") -> list[str]:
    """Return a text in lines of at most a width, except for words that are longer.

    Args:
        text: one line; how far it is indented holds for all.
        width: columns.
        indent: of further lines besides.
    """
    more = " " * (len(text) - len(text.lstrip())) + indent
    folded = textwrap.wrap(text, width, subsequent_indent=more, break_long_words=False, break_on_hyphens=False)
    return folded or [""]
