"""A process that says nothing any more is found by the others, and a busy one is not."""

from threading import Event

import pytest
from torch.distributed import TCPStore

from compress.cli.heartbeat import SILENCE, heartbeats


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_who_falls_silent_is_named_and_who_lives_is_not(store: TCPStore):
    lost, ended = [], Event()
    every_s = 0.05

    def lose(error):
        lost.append(error)
        ended.set()

    with heartbeats(store, 0, 3, every_s=every_s, lose=lose):
        with heartbeats(store, 1, 3, every_s=every_s, lose=lambda _: None):
            assert ended.wait(60)  # nobody has the rank 2
        assert "process 3 of 3" in str(lost[0])
        assert f"none for {SILENCE} seconds" in str(lost[0])


def test_all_are_silent_where_the_store_does_not_answer():
    lost, ended = [], Event()

    class Hung:
        def clone(self):
            return self

        def set(self, _name, _value):
            ended.wait()
            raise RuntimeError

    with heartbeats(Hung(), 1, 3, every_s=0.001, lose=lambda error: (lost.append(error), ended.set())):
        assert ended.wait(60)
    assert "process 1, 3 of 3" in str(lost[0])
