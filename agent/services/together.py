"""Two things copied at once, told as one: a rootfs is work for a processor, Apps for a disk."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from agent.ports import Progress

Work = Callable[[Progress], None]


class StoppedError(Exception):
    """What is being done is of no use any more: the other has failed, or somebody interrupted."""


def together(step: str, works: Sequence[Work], progress: Progress) -> None:
    """Do all of ``works`` at once; what the first of them raises is raised.

    Args:
        step: what is being done, as one.
        works: each tells a progress of its own.
        progress: told the sum of them.
    """
    sum_of = _Sum(step, progress)
    with ThreadPoolExecutor(len(works)) as pool:
        try:
            jobs = [pool.submit(work, sum_of.part(n)) for n, work in enumerate(works)]
            wait(jobs, return_when=FIRST_EXCEPTION)
            failed = [job.exception() for job in jobs if job.done() and job.exception()]
        finally:
            sum_of.stop()
    for error in failed:
        if error:
            raise error


class _Sum:
    """Adds up the progress of several threads."""

    def __init__(self, step: str, progress: Progress) -> None:
        self._step, self._progress = step, progress
        self._lock = threading.Lock()
        self._parts: dict[int, tuple[int, int]] = {}
        self._stopped = False

    def part(self, number: int) -> Progress:
        """Return the progress of one of them."""

        def told(_: str, done: int, total: int) -> None:
            with self._lock:
                if self._stopped:
                    raise StoppedError
                self._parts[number] = done, total
                all_done, all_total = map(sum, zip(*self._parts.values(), strict=True))
                self._progress(self._step, all_done, all_total)

        return told

    def stop(self) -> None:
        """Let none of them go on; those that have ended do not mind."""
        with self._lock:
            self._stopped = True
