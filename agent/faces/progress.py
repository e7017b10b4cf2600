"""A progress bar on a terminal: bytes done and in all, rate, time left. Silent elsewhere.

On stderr, so that stdout carries the answer alone.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 24  # cells of the bar
REDRAW_S = 0.1  # more often than an eye follows costs more than it shows
SETTLE_S = 0.5  # before this a rate says nothing
MIB = 1024 * 1024
SECONDS_A_MINUTE = 60


class ProgressBar:
    """Draws one line, over and over; one line per step remains.

    Call it as `ports.Progress`: ``bar(step, done, total)``.
    """

    def __init__(
        self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, colour: bool = False
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._colour = colour
        self._step = ""
        self._began = 0.0
        self._drawn = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show how far ``step`` has come.

        Args:
            step: what is being done.
            done: bytes so far.
            total: bytes in all; 0 when that is not known.
        """
        now = self._clock()
        if step != self._step:
            self.close()
            self._step, self._began, self._drawn = step, now, 0.0
        if now - self._drawn >= REDRAW_S or done == total:
            self._drawn = now
            self._draw(done, total, now - self._began)

    def close(self) -> None:
        """End the line that is being drawn."""
        if self._step:
            self._stream.write("\n")
            self._stream.flush()
        self._step = ""

    def _draw(self, done: int, total: int, elapsed_s: float) -> None:
        parts = [self._step, self._bar(done, total), amount(done, total)]
        if elapsed_s >= SETTLE_S:
            parts.append(pace(done, total, elapsed_s))
        self._stream.write("\r\x1b[K" + "  ".join(part for part in parts if part))
        self._stream.flush()

    def _bar(self, done: int, total: int) -> str:
        if total <= 0:
            return ""
        cells = min(WIDTH, WIDTH * done // total)
        full = "#" * cells
        return f"[{self._green(full)}{'.' * (WIDTH - cells)}]"

    def _green(self, text: str) -> str:
        return f"\x1b[32m{text}\x1b[0m" if self._colour else text


def amount(done: int, total: int) -> str:
    """Say how much is done, in MiB."""
    if total <= 0:
        return f"{done / MIB:.1f} MiB"
    return f"{done / MIB:.1f}/{total / MIB:.1f} MiB"


def pace(done: int, total: int, elapsed_s: float) -> str:
    """Say how fast it goes and how long it still takes."""
    rate = done / elapsed_s
    words = f"{rate / MIB:.1f} MiB/s"
    if rate and total > done:
        words += f"  {_minutes((total - done) / rate)} left"
    return words


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(int(seconds) + 1, SECONDS_A_MINUTE)
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def progress(stream: TextIO | None = None) -> ProgressBar | None:
    """Return a bar for stderr, or None when nobody is watching a terminal."""
    stream = stream or sys.stderr
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    return ProgressBar(stream, colour="NO_COLOR" not in os.environ)
