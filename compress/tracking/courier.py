"""The thread that carries events to the server, so that training never waits for it."""

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Literal

from compress.config.secrets import mask_message
from compress.errors import ArtifactError, EnvironmentFault
from compress.tracking.outbox import Down, Outbox, Sink

_log = logging.getLogger("compress.tracking")
INTERVAL_S = 3.0
LONGEST_INTERVAL_S = 60.0


class Courier:
    """Delivers outboxes every few seconds, and at once when asked to.

    Args:
        connect: makes the sink; called on the courier's thread, again after every failure until it succeeds.
    """

    def __init__(self, connect: Callable[[], Sink]) -> None:
        self._connect = connect
        self._sink: Sink | None = None
        self._outboxes: list[Outbox] = []
        self._damaged: set[Outbox] = set()
        self._changed = threading.Condition()
        self._asked, self._served = 0, 0
        self._closing = False
        self._state: Literal["new", "up", "down"] = "new"
        self._delivered = False
        self.fault: EnvironmentFault | None = None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def add(self, outbox: Outbox) -> None:
        """Deliver this outbox too, from the next round on."""
        with self._changed:
            self._outboxes.append(outbox)

    def flush(self, *, timeout_s: float) -> bool:
        """Start a round now and wait for its end.

        Returns:
            Whether the server had every event by then. While it is down, False as soon as that is seen again.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            answered = self._changed.wait_for(lambda: self._served >= mine or self.fault is not None, timeout_s)
            return answered and self._delivered

    def close(self) -> bool:
        """End the thread after its current step.

        Returns:
            Whether it ended; a thread that waits for a dead server is left behind.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)
        return not self._thread.is_alive()

    def _run(self) -> None:
        served, pause_s = 0, INTERVAL_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda served=served: self._asked > served or self._closing, pause_s)
                if self._closing:
                    return
                served, outboxes = self._asked, list(self._outboxes)
            delivered = self._round(outboxes)
            with self._changed:
                self._served, self._delivered = served, delivered
                self._changed.notify_all()
            if self.fault is not None:
                return
            pause_s = INTERVAL_S if delivered else min(2 * pause_s, LONGEST_INTERVAL_S)

    def _deliver(self, outbox: Outbox, sink: Sink) -> None:
        try:
            outbox.deliver(sink)
        except ArtifactError as error:
            _log.warning("a journal is damaged, and what is left in it is not sent: %s", error)
            self._damaged.add(outbox)

    def _round(self, outboxes: list[Outbox]) -> bool:
        try:
            self._sink = self._sink or self._connect()
            for outbox in outboxes:
                if outbox not in self._damaged:
                    self._deliver(outbox, self._sink)
        except Down as down:
            if self._state != "down":
                _log.warning("the tracking server is down; events stay on disk and are sent later (%s)", down)
            self._state = "down"
            return False
        except EnvironmentFault as fault:
            _log.warning("tracking stopped, events stay on disk: %s", fault)
            self.fault = fault
            return False
        except Exception as error:  # noqa: BLE001 - a thread's border: unseen, it would end and flush would wait in vain
            trace = mask_message(traceback.format_exc())
            _log.warning("tracking stopped, events stay on disk\n%s", trace)
            self.fault = EnvironmentFault("delivery to the tracking server failed", got=mask_message(repr(error)))
            return False
        if self._state == "down":
            _log.warning("the tracking server is back; events on disk were sent")
        self._state = "up"
        return True
