"""How long ``ostree`` may take, and a look at how far it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.ports import Progress

STEP = "ostree"  # what `Progress` calls a pull


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long ``ostree`` may take, in seconds.

    Attributes:
        pull: a whole pull; 8 GB from a USB 2 stick on a slow eMMC take about an hour.
        standstill: no byte read or written during a pull; a dying stick retries for minutes.
        deploy: a checkout and its syncs, also the removal of an old one.
        query: anything that only reads.
    """

    pull: float = 4 * 3600
    standstill: float = 300
    deploy: float = 1800
    query: float = 120


class StandstillError(Exception):
    """A pull neither read nor wrote anything for too long."""


class Watch:
    """Look at a running pull: tell how far it is, and end it when it stands still.

    The kernel counts what a process reads and writes, so this costs one small read; nothing
    of the stick is looked at. Without that count (CONFIG_TASK_IO_ACCOUNTING) there is
    neither progress nor standstill, only the deadline.
    """

    def __init__(
        self,
        progress: Progress,
        total_bytes: int,
        standstill_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._total = total_bytes
        self._standstill_s = standstill_s
        self._clock = clock
        self._seen = (0, 0)
        self._since = clock()

    def __call__(self, pid: int) -> None:
        """Look once.

        Raises:
            StandstillError: nothing moved for ``standstill_s``.
        """
        try:
            counts = _io_counts(pid)
        except (OSError, KeyError, ValueError):
            return
        if counts != self._seen:
            self._seen, self._since = counts, self._clock()
            self._progress(STEP, min(counts[0], self._total), self._total)
        elif self._clock() - self._since > self._standstill_s:
            raise StandstillError(f"nothing was read for {self._standstill_s:g} s")


def _io_counts(pid: int) -> tuple[int, int]:
    """Return the bytes a process has read and written so far (proc(5))."""
    lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])
