"""The store: commits are atomic, damage is found, a key decides the content."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from compress.errors import EnvironmentFault, LockedError
from compress.store import store as store_module
from compress.store.artifact import ancestry
from compress.store.digest import hash_values
from compress.store.store import Store


def write_two(directory: Path) -> dict:
    (directory / "a.txt").write_text("alpha")
    (directory / "sub").mkdir()
    (directory / "sub" / "b.bin").write_bytes(b"\0" * 100)
    return {"answer": 42}


def test_commit_then_find_gives_the_same_artifact(tmp_path):
    store = Store.open(tmp_path / "s")
    made = store.commit({"x": 1}, kind="model", write=write_two)
    found = store.find(hash_values({"x": 1}), verify=True)
    assert found == made
    assert made.facts == {"answer": 42}
    assert store.find(hash_values({"x": 2})) is None


def test_an_existing_key_is_not_written_again(tmp_path):
    store = Store.open(tmp_path)
    first = store.commit({"x": 1}, kind="model", write=write_two)

    def fail(directory):
        raise AssertionError("written twice")

    assert store.commit({"x": 1}, kind="model", write=fail) == first


def test_digest_depends_on_content_not_on_key(tmp_path):
    store = Store.open(tmp_path)
    one, two = (store.commit({"x": x}, kind="model", write=write_two) for x in (1, 2))
    assert one.key != two.key
    assert one.digest == two.digest


def test_the_ancestry_is_the_chain_of_sources_and_a_loop_ends(tmp_path):
    store = Store.open(tmp_path)

    def made(text: str, source: str | None):
        return store.commit(
            {"text": text, "source": source}, kind="model", write=lambda directory: write_text(directory, text)
        )

    def write_text(directory: Path, text: str) -> dict:
        (directory / "a").write_text(text)
        return {}

    first = made("one", None)
    second = made("two", first.digest)
    third = made("three", second.digest)
    made("one", second.digest)  # the same content again, from its own descendant
    (tmp_path / "artifacts" / "damaged").mkdir()
    (tmp_path / "artifacts" / "damaged" / "manifest.json").write_text("{")
    line = ancestry(third)
    assert line == [first, second, third]
    store.discard(second.key)
    assert ancestry(third) == [third]


def test_failed_write_leaves_nothing(tmp_path):
    store = Store.open(tmp_path)

    def fail(directory):
        write_two(directory)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.commit({"x": 1}, kind="model", write=fail)
    assert not list((tmp_path / "artifacts").iterdir())


def test_full_disk_is_a_clear_error_and_leaves_earlier_artifacts(tmp_path):
    store = Store.open(tmp_path)
    earlier = store.commit({"x": 1}, kind="model", write=write_two)

    def full(directory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EnvironmentFault, match="No space left") as caught:
        store.commit({"x": 2}, kind="model", write=full)
    assert caught.value.exit_code == 5
    assert store.find(earlier.key, verify=True) == earlier


FULL = """
    import resource, sys
    from pathlib import Path
    import numpy
    from safetensors.numpy import save_file
    from compress.store.store import Store
    from compress.errors import EnvironmentFault
    store, writer = Store.open(Path(sys.argv[1])), sys.argv[2]
    earlier = store.commit({"x": 1}, kind="model", write=lambda directory: (directory / "a").write_text("a") and {})
    noise = numpy.random.default_rng(0).random(10_000)
    def write(directory):
        if writer == "bytes": (directory / "b").write_bytes(noise.tobytes())
        if writer == "numpy": numpy.save(directory / "b.npy", noise)
        if writer == "archive": numpy.savez(directory / "b.npz", noise=noise)
        if writer == "safetensors": save_file({"noise": noise}, directory / "b.safetensors")
        return {}
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try: store.commit({"x": 2}, kind="model", write=write)
    except EnvironmentFault as error: assert "what was committed before is intact" in str(error)
    else: raise AssertionError("written whole")
    assert store.find(earlier.key, verify=True) == earlier
    assert len(list((store.root / "artifacts").iterdir())) == 1
"""


@pytest.mark.parametrize("writer", ["bytes", "numpy", "archive", "safetensors"])
def test_a_write_that_the_disk_cuts_short_is_a_clear_error_whoever_writes(tmp_path, writer):
    """The kernel refuses bytes past a limit, as on a full disk; numpy and safetensors tell it in their words."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), writer], check=True)


def test_other_errors_of_a_writer_pass_unchanged(tmp_path):
    def missing(directory):
        return (directory / "none").read_bytes()

    with pytest.raises(FileNotFoundError):
        Store.open(tmp_path).commit({"x": 1}, kind="model", write=missing)


def test_unwritable_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        Store.open(tmp_path / "file")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import compress.store.store as module
    point, root = sys.argv[1], Path(sys.argv[2])
    def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
    if point == "write": write = lambda directory: (directory / "a").write_text("x") and die()
    else: write = lambda directory: (directory / "a").write_text("alpha") and {}
    if point == "manifest": module._manifest = die
    if point == "sync": module.sync = die
    if point == "rename": module.os.rename = die
    module.Store.open(root).commit({"x": 1}, kind="model", write=write)
"""


@pytest.mark.parametrize("point", ["write", "manifest", "sync", "rename"])
def test_killed_before_the_rename_there_is_no_artifact_and_the_next_commit_works(tmp_path, point):
    code = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), point, str(tmp_path)], check=False).returncode
    assert code == -signal.SIGKILL
    assert len(list((tmp_path / "artifacts").glob(".draft-*"))) == 1
    store = Store.open(tmp_path)
    assert not list((tmp_path / "artifacts").iterdir())
    assert store.find(hash_values({"x": 1})) is None
    made = store.commit({"x": 1}, kind="model", write=lambda directory: (directory / "a").write_text("alpha") and {})
    assert store.find(made.key, verify=True) == made


def test_drafts_of_the_living_and_recent_ones_of_other_machines_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = f".draft-{'0' * 16}-{store_module._machine()}"
    living, dead = f"{own}-{os.getpid()}-{'1' * 8}", f"{own}-{ended.pid}-{'1' * 8}"
    recent, old = (f".draft-{'0' * 16}-{'f' * 8}-{ended.pid}-{digit * 8}" for digit in "12")
    for name in (living, dead, recent, old, ".discarded-1"):
        path = tmp_path / "artifacts" / name
        path.mkdir(parents=True)
        write_two(path)
    two_days_ago = time.time() - 48 * 3600
    os.utime(tmp_path / "artifacts" / old, (two_days_ago, two_days_ago))
    os.utime(tmp_path / "artifacts" / living, (two_days_ago, two_days_ago))
    Store.open(tmp_path)
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {living, recent}


def _hold(root: str, ready, done) -> None:
    with Store.open(Path(root)).lock("k", wait=None):
        ready.set()
        done.wait(20)


def test_a_second_process_is_refused_or_waits(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(str(tmp_path), ready, done))
    holder.start()
    assert ready.wait(30)
    store = Store.open(tmp_path)
    with pytest.raises(LockedError, match="process"), store.lock("k", wait=None):
        pass
    said: list[str] = []

    def release(message: str) -> None:
        said.append(message)
        done.set()

    with store.lock("k", wait=release):
        assert "waiting for process" in said[0]
    holder.join()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", missing)
    with pytest.raises(EnvironmentFault, match=r"(?s)no locks.*--store"), Store.open(tmp_path).lock("k", wait=None):
        pass


def test_a_killed_holder_frees_its_lock(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold, args=(str(tmp_path), ready, done))
    holder.start()
    assert ready.wait(30)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Store.open(tmp_path).lock("k", wait=None):  # its end is seen, so the kernel has freed it
        pass
