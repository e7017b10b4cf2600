"""Work of many hands: a few things at once, counted together, stopped together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

from agent.ports import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crew:
    """How a source of blobs is read by several threads.

    Attributes:
        workers: how many at most.
        stop: called when one of them failed: the others need not try any more.
    """

    workers: int
    stop: Callable[[], None]


class StoppedError(Exception):
    """Another thread has failed, or somebody interrupted: what is being done is of no use."""


class Meter:
    """Adds up what several threads have done.

    Args:
        progress: told after each piece.
        step: what is being done.
        total: bytes in all.
    """

    def __init__(self, progress: Progress, step: str, total: int) -> None:
        self._progress, self._step, self._total = progress, step, total
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0

    def add(self, count: int) -> None:
        """Count more bytes.

        Raises:
            StoppedError: after `stop`.
        """
        if self._stopped.is_set():
            raise StoppedError
        with self._lock:
            self._done += count
            self._progress(self._step, self._done, self._total)

    def stop(self) -> None:
        """Let no thread go on."""
        self._stopped.set()


def at_once(
    work: Callable[[T], None], things: Sequence[T], meter: Meter, crew: Crew | None
) -> None:
    """Do ``work`` for each of ``things``: by a crew several at a time, else one by one.

    The first failure is raised when all threads have ended: nothing is left at work.
    """
    if crew is None:
        for thing in things:
            work(thing)
    else:
        _shared_out(work, things, meter, crew)


def _shared_out(work: Callable[[T], None], things: Sequence[T], meter: Meter, crew: Crew) -> None:
    pool = ThreadPoolExecutor(crew.workers)
    jobs = [pool.submit(work, thing) for thing in things]
    try:
        for job in as_completed(jobs):
            job.result()
    except BaseException:
        meter.stop()
        crew.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
