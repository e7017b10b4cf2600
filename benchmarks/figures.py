"""What the benchmarks share: one line of the table, ratios, times, a place to work in."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 5
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; ``met`` is None where nothing is bounded."""

    what: str
    ours: str
    bare: str
    value: str
    bound: str
    met: bool | None

    def row(self) -> str:
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.what} | {self.ours} | {self.bare} | {self.value} | {self.bound} | {met} |"


def _in_turn(
    ours: Callable[[], float], bare: Callable[[], float], *, swap: bool
) -> tuple[float, float]:
    if swap:
        theirs = bare()
        return ours(), theirs
    return ours(), bare()


def ratio(
    what: str,
    ours: Callable[[], float],
    bare: Callable[[], float],
    bound: float,
    *,
    rounds: int = 2 * ROUNDS,
) -> Figure:
    """Take both in turn, each first as often as second; the median of the turns' ratios counts.

    A machine is slower in one minute than in the next: what two runs beside each other say of
    one another stands, what the medians of both columns say would not.
    """
    taken = [_in_turn(ours, bare, swap=bool(n % 2)) for n in range(rounds)]
    mine, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
    spread = max(a for a, _ in taken) - min(a for a, _ in taken)
    value = statistics.median(a / b for a, b in taken)
    return Figure(
        what, f"{mine:.2f} s (spread {spread:.2f})", f"{theirs:.2f} s", f"{value:.2f}",
        f"<= {bound}", value <= bound,
    )  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="usb-update-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
