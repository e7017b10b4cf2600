"""A line on a console or terminal, for whoever happens to look."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.feedback import Signal, Stage

# O_NONBLOCK: a serial console whose other end says "wait" must not stop an update.
TTY_FLAGS = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Console:
    """Writes one line per stage, none for progress.

    Attributes:
        path: for example ``/dev/console`` or ``/dev/tty1``.
    """

    path: Path
    _last: tuple[Stage, str] | None = field(default=None)

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        news = (signal.stage, signal.sentence)
        if news == self._last:
            return
        self._last = news
        write_to_tty(self.path, f"\r\nusb-update: {signal.sentence}\r\n".encode())


def write_to_tty(path: Path, data: bytes) -> None:
    """Write a few bytes to a terminal; what it does not take at once is lost.

    Raises:
        OSError: it is not there or takes nothing.
    """
    fd = os.open(path, TTY_FLAGS)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
