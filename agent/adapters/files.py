"""Read, write, lock: the few file operations that everything else is careful with.

`read_bounded` for anything a stick holds, `write_atomic` for anything that must survive
a power cut, `locked` for one writer at a time.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# O_NONBLOCK: opening a FIFO returns at once, so that it can be refused instead of waited for.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

LOCK_POLL_S = 0.02  # flock(2) knows no deadline


class NotRegularError(Exception):
    """A link, directory or special file stands where a regular file is expected."""


class TooLargeError(Exception):
    """A file is longer than it may be."""


def read_bounded(path: Path, *, limit: int) -> bytes:
    """Read a small file from an untrusted medium in one go.

    Args:
        path: file to read; its last component must not be a link.
        limit: largest size in bytes to accept.

    Raises:
        FileNotFoundError: there is no such file.
        NotRegularError: it is a link, directory, FIFO, socket or device.
        TooLargeError: it is longer than ``limit``.
        OSError: the medium cannot be read.
    """
    with open_regular(path) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise TooLargeError(f"'{path}' has {size} bytes, more than {limit}")
        return _read_to_end(fd, limit, path)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a regular file for reading, refusing everything else without blocking.

    Raises:
        FileNotFoundError, NotRegularError, OSError: as `read_bounded`.
    """
    fd = _open_no_follow(path)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegularError(f"'{path}' is not a regular file")
        yield fd
    finally:
        os.close(fd)


def _open_no_follow(path: Path) -> int:
    try:
        return os.open(path, READ_FLAGS)
    except FileNotFoundError:
        raise
    except OSError as e:
        # ELOOP for a link, ENXIO for a socket; a failing medium gives EIO and stays OSError.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise NotRegularError(f"'{path}' is not a regular file") from e
        raise


def _read_to_end(fd: int, limit: int, path: Path) -> bytes:
    data = bytearray()
    while chunk := os.read(fd, 1 << 16):
        data += chunk
        if len(data) > limit:
            raise TooLargeError(f"'{path}' grew past {limit} bytes while it was read")
    return bytes(data)


def why(error: Exception, path: Path | None = None) -> str:
    """Say what the system says, for a person: no number, and ``path`` not again.

    Args:
        error: what was raised.
        path: named already in the sentence.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    other = error.filename is not None and os.fsdecode(error.filename) != str(path)
    return error.strerror + (f": '{os.fsdecode(error.filename)}'" if other else "")


def kind(path: Path) -> int:
    """Return what lies at the end of a path, as `stat.S_IFMT` says it; 0 when that cannot be said.

    A stick that was pulled out answers EIO, where `Path.is_file` raises.
    """
    with suppress(OSError):
        return stat.S_IFMT(path.stat().st_mode)
    return 0


def free_inodes(volume: os.statvfs_result) -> int | None:
    """Return how many files can still be made on a volume; None where it makes inodes as it goes.

    Source: statvfs(3).
    """
    if not volume.f_files:
        return None
    return volume.f_ffree if os.geteuid() == 0 else volume.f_favail


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``: one write(2) near a full disk may take a part of it and not say so.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file so that after a power cut it is the old one or the new one, whole.

    Args:
        path: file to write; its directory exists.
        data: the new content.
        mode: permission bits of the new file.
    """
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file so that a power cut does not bring it back. Idempotent."""
    path.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Hold an exclusive lock on a file for the duration.

    The file is left in place: removing it would let a second process lock a new inode.

    Args:
        path: the file.
        wait_s: how long to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it.

    Source: flock(2).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)
    try:
        _lock(fd, time.monotonic() + wait_s)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(LOCK_POLL_S)
