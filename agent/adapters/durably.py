"""What else is done with bytes while the next ones are read: hash them, make them durable."""

import hashlib
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


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


class Digest(Protocol):
    """What takes bytes in order and names them; ``hashlib.sha256()`` is one."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the name of all bytes taken."""


class HashedBehind:
    """Hashes in a thread what is being written meanwhile; the bytes are those that were read."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  only who copies pays

        self._pool = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def begin(self) -> Digest:
        """Return the digest of one file's bytes."""
        return _Behind(self._pool)


class _Behind:
    def __init__(self, pool: "ThreadPoolExecutor") -> None:
        self._pool = pool
        self._sha256 = hashlib.sha256()
        self._last: Future[None] | None = None

    def update(self, data: bytes, /) -> None:
        self._settle()  # one piece behind: memory for two
        self._last = self._pool.submit(self._sha256.update, data)

    def hexdigest(self) -> str:
        self._settle()
        return self._sha256.hexdigest()

    def _settle(self) -> None:
        if self._last:
            self._last.result()
