"""One command at a time writes a bundle or a pack; a second one is told whom to wait for.

The lock is the kernel's (flock(2)), on a small file that says who holds it: it ends with
the process, however that ended, and a file that was left behind holds nobody up.
"""

import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from agent.core.authoring import AuthoringError
from agent.core.feedback import printable

HOLDER_LIMIT = 200  # characters of what the file says, which anybody may have written
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MODE = 0o644
ATTEMPTS = 100  # as many commands do not end in one moment


@contextmanager
def claimed(path: Path, lock: Path, act: str) -> Iterator[None]:
    """Be the only one who writes, for the duration.

    Args:
        path: what is written, for messages.
        lock: the file to lock; it is removed in the end, and so are directories above it
            that were made for it and that nothing was put into.
        act: what is done, e.g. ``makes 'rpi-lmp-42'``.

    Raises:
        AuthoringError: somebody else is at it, or it cannot be written; nothing was changed.
    """
    made = _missing(lock.parent)
    try:
        fd = _held(path, lock)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, _holder(act).encode())
            yield
        finally:
            with suppress(OSError):  # a stick may be gone
                lock.unlink()  # while it is held: nobody can have locked another one
            os.close(fd)
    finally:
        for directory in made:
            with suppress(OSError):
                directory.rmdir()


def _missing(directory: Path) -> tuple[Path, ...]:
    """Return the directories that are not there yet, the innermost first."""
    return tuple(place for place in (directory, *directory.parents) if not place.exists())


def _held(path: Path, lock: Path) -> int:
    """Return the open lock file, once it is ours and still the one that others would open."""
    try:
        return _tried(lock, ATTEMPTS)
    except BlockingIOError as e:
        raise AuthoringError(
            f"'{path}' is in use: {_read_holder(lock)}",
            hint="wait until that has ended, then repeat the command; nothing was changed",
        ) from e
    except OSError as e:
        raise AuthoringError(f"'{path}' cannot be written: {e.strerror}") from e


def _tried(lock: Path, attempts: int) -> int:
    """Open and lock; whoever ends just now may take file and directory away under our hands."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        fd = _opened(lock)
    except FileNotFoundError:
        if attempts == 1:
            raise
        return _tried(lock, attempts - 1)
    if _is_ours(fd, lock):
        return fd
    os.close(fd)
    return _tried(lock, attempts)


def _opened(lock: Path) -> int:
    """Open the lock file; one that somebody else left behind makes room for ours."""
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, MODE)
    except PermissionError:
        if not lock.exists():
            raise
    _remove_left(lock)
    return os.open(lock, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, MODE)


def _remove_left(lock: Path) -> None:
    """Remove another person's lock file that nobody holds."""
    fd = os.open(lock, os.O_RDONLY | OPEN_FLAGS)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        lock.unlink()
    finally:
        os.close(fd)


def _is_ours(fd: int, lock: Path) -> bool:
    """Lock an open file; false when its name went to another one meanwhile."""
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        return os.path.samestat(os.fstat(fd), lock.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
    except BaseException:
        os.close(fd)
        raise


def _holder(act: str) -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in containers
        user = f"user {os.getuid()}"
    return f"{user} on {platform.node()} {act} (process {os.getpid()})"


def _read_holder(lock: Path) -> str:
    with suppress(OSError, ValueError):
        fd = os.open(lock, os.O_RDONLY | OPEN_FLAGS)
        try:
            said = os.read(fd, 4 * HOLDER_LIMIT).decode()
        finally:
            os.close(fd)
        return printable(said, HOLDER_LIMIT) or "another command is writing it"
    return "another command is writing it"
