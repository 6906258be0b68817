import io
import re
import sys
import threading
import time

import pytest

from compress import progress
from compress.progress import Bar, Reporter


class Listener(io.StringIO):
    """A stream that says when a line with a word was written."""

    def __init__(self, word: str, *, terminal: bool = False) -> None:
        super().__init__()
        self.word, self.terminal, self.heard = word, terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.word in text:
            self.heard.set()
        return written


@pytest.fixture
def listen(monkeypatch):
    """Return a function that puts a listener in the place of standard error and makes bars speak at once."""

    def start(word: str, *, every_s: float = 0.01, terminal: bool = False) -> Listener:
        listener = Listener(word, terminal=terminal)
        monkeypatch.setattr(sys, "stderr", listener)
        monkeypatch.setattr(progress, "PLAIN_EVERY_S", every_s)
        monkeypatch.setenv("TERM", "xterm")
        return listener

    return start


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "progress"]


def test_one_long_step_that_never_advances_is_told_of(listen):
    listener = listen("export")
    with Reporter().bar("export"):
        assert listener.heard.wait(timeout=30)
    assert not threads()
    lines = listener.getvalue().splitlines()
    assert lines
    assert all(re.fullmatch(r"  export, \d+ s", line) for line in lines)


def test_the_innermost_of_nested_bars_speaks_and_then_the_outer_one_again(listen):
    listener, reporter = listen("inner"), Reporter()
    with reporter.bar("outer") as outer:
        with reporter.bar("inner", 7) as inner:
            inner.advance(2, note="loss 0.5")
            assert listener.heard.wait(timeout=30)
        listener.heard.clear()
        listener.word = "outer"
        outer.advance(note="on")
        assert listener.heard.wait(timeout=30)
    assert not threads()
    assert re.search(r"^  inner 2/7, \d+ s, \d+ s left  loss 0.5$", listener.getvalue(), re.MULTILINE)


def test_a_bar_is_silent_while_other_lines_were_printed_lately(listen):
    listener, reporter = listen("work", every_s=3600), Reporter()
    reporter.say("first")
    with reporter.bar("work"):
        reporter.say("second")
    assert listener.getvalue() == "first\nsecond\n"


def test_quiet_prints_nothing_and_starts_nothing(listen):
    listener, reporter = listen("work"), Reporter(quiet=True)
    with reporter.bar("work", 3) as bar:
        bar.advance(3)
        assert not threads()
    reporter.say("done")
    assert listener.getvalue() == ""


def test_an_interrupted_block_ends_its_thread(listen):
    listen("work")
    reporter = Reporter()

    def interrupted() -> None:
        with reporter.bar("work"):
            assert threads()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not threads()
    with reporter.bar("next"):  # and the reporter still works
        assert threads()
    assert not threads()


def test_a_terminal_shows_nested_bars_at_once_and_leaves_nothing(listen):
    listener, reporter = listen("inner", terminal=True), Reporter()
    with reporter.bar("outer"), reporter.bar("inner", 7) as inner:
        inner.advance(2, note="loss 0.5")
        assert not threads()
        assert listener.heard.wait(timeout=30)
        inner.expect(9)
    shown = listener.getvalue()
    assert "outer" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_line_tells_the_time_that_remains_once_something_is_done():
    bar = Bar("rank", 10, None, started_s=time.monotonic() - 40)
    assert bar.line() == "  rank 0/10, 40 s"
    bar.advance(4, note="layer")
    assert bar.line() == "  rank 4/10, 40 s, 60 s left  layer"
