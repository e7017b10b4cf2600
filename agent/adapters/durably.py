"""What was written is made durable while the next is read."""

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from concurrent.futures import Future


class Durably:
    """Makes things durable, one after the other, while the next one is read.

    The disk is waited for in a thread, or a copy would read, wait, read, wait. What fails
    there is raised by a later `add`, or at the end. Several threads may add.

    Args:
        ahead: how many may be on their way while another is written.
    """

    def __init__(self, ahead: int = 2) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  only who copies pays

        self._ahead = ahead
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failed: object) -> None:
        self._pool.shutdown(wait=True)
        if failed[0] is None:
            self._settle(0)

    def add(self, keep: Callable[[], None]) -> None:
        """Hand over what makes something durable; waits while enough are on their way."""
        with self._lock:
            self._waiting.append(self._pool.submit(keep))
            self._settle(self._ahead)

    def _settle(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()
