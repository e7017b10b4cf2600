"""One poll(2) for everything the daemon listens to: no threads, no ticking.

In: descriptors and what to call when they are readable. SIGTERM, SIGINT and SIGHUP ask the
daemon to end (after SIGHUP the service manager starts it anew, with the new configuration);
they arrive through a pipe, so none is missed between two looks.
"""

import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.ports import Source

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOUNTINFO = Path("/proc/self/mountinfo")

Listener = Callable[[], None]


class PollWakeups:
    """`Wakeups`: poll(2).

    Args:
        alive: told at every wake-up, and so often that a watchdog stays calm during the
            longest sleep.
        alive_s: seconds between two of these; 0 for wake-ups only.
        monotonic: seconds of a clock that cannot jump.
    """

    def __init__(
        self,
        alive: Callable[[], None] = lambda: None,
        *,
        alive_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alive = alive
        self._alive_s = alive_s or math.inf
        self._monotonic = monotonic
        self._poll = select.poll()
        self._listeners: dict[int, Listener] = {}
        self._mounts = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self._stopping = False

    def listen(self, source: Source, listener: Listener) -> None:
        """Call ``listener`` whenever ``source`` is readable.

        Args:
            source: must stay open; its descriptor is taken once.
            listener: reads what there is without waiting.
        """
        fd = source.fileno()
        self._listeners[fd] = listener
        self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float | None, *, mounts: bool = False) -> None:
        """See `ports.Wakeups`."""
        if mounts:
            self._poll.register(self._mounts, select.POLLPRI)
        try:
            ready = self._sleep(math.inf if timeout_s is None else timeout_s)
        finally:
            if mounts:
                self._poll.unregister(self._mounts)
        for fd, events in ready:
            self._tell(fd, events)

    def _sleep(self, timeout_s: float) -> list[tuple[int, int]]:
        end = self._monotonic() + timeout_s
        while True:
            left = max(end - self._monotonic(), 0)
            nap = min(left, self._alive_s)
            ready = self._poll.poll(None if nap == math.inf else math.ceil(nap * 1000))
            self._alive()
            if ready or left <= self._alive_s:
                return ready

    def _tell(self, fd: int, events: int) -> None:
        listener = self._listeners.get(fd)
        if listener is not None and events & (select.POLLIN | select.POLLERR):
            listener()  # POLLERR as well: a netlink socket that overflowed says so to its reader
        elif listener is not None:  # closed at its other end: polling it again would spin
            self._poll.unregister(fd)
            del self._listeners[fd]

    def stopping(self) -> bool:
        """See `ports.Wakeups`."""
        return self._stopping

    def stop(self) -> None:
        """Ask the daemon to end."""
        self._stopping = True

    @contextmanager
    def signals_heard(self) -> Iterator[None]:
        """Let signals wake the poll for the duration; main thread only."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, _noted) for number in STOP_SIGNALS}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._listeners[reader] = lambda: self._signalled(reader)
        self._poll.register(reader, select.POLLIN)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._poll.unregister(reader)
            del self._listeners[reader]
            os.close(reader)
            os.close(writer)

    def _signalled(self, reader: int) -> None:
        numbers = os.read(reader, 64)
        self._stopping |= any(number in STOP_SIGNALS for number in numbers)

    def close(self) -> None:
        """Listen no longer."""
        os.close(self._mounts)


def _noted(_number: int, _frame: object) -> None:
    """Only be there: the interpreter writes the signal's number into the pipe."""
