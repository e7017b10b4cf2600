"""Written blobs are made durable while the next one is read."""

from collections import deque
from collections.abc import Callable
from io import FileIO
from typing import TYPE_CHECKING, Self

from agent.adapters.apps.manifest import Blob

if TYPE_CHECKING:
    from concurrent.futures import Future


class Durably:
    """Makes blobs durable, one after the other, while the next one is read.

    The disk is waited for in a thread, or a copy would read, wait, read, wait. What fails
    there is raised by a later `add`, or at the end.
    """

    def __init__(self, keep: Callable[[FileIO, Blob, str], None]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  only who copies pays

        self._keep = keep
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        self._pool.shutdown(wait=True)
        if failed[0] is None:
            self._settle(0)

    def add(self, file: FileIO, blob: Blob, what: str) -> None:
        """Hand over a written blob; waits while two others are on their way already."""
        self._waiting.append(self._pool.submit(self._keep, file, blob, what))
        self._settle(2)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()
