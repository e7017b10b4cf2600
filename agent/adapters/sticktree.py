"""Look at directories of a stick without following a link, and without end.

In: a directory somebody else filled. Out: names, kinds and sizes. Every directory is opened
relative to its parent with ``O_NOFOLLOW``, so that no component can be swapped for a link
while we look. Nothing here opens a file: what a file holds is read by `files.read_bounded`.

`walk_plain` is for trees that another program will read: it accepts directories and regular
files alone, since a FIFO would hang that program and a link would lead it elsewhere.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotPlainError(Exception):
    """A link or special file stands where a directory or regular file is expected."""


class TooMuchError(Exception):
    """There are more entries than may be looked at, or looking takes too long."""


@dataclass(slots=True)
class Budget:
    """How much may still be looked at.

    Attributes:
        entries: directory entries left.
        deadline_s: moment on ``clock`` after which looking stops; None for never.
        clock: a clock that only goes forward, in seconds.
    """

    entries: int
    deadline_s: float | None = None
    clock: Callable[[], float] = time.monotonic

    def spend(self, where: object) -> None:
        """Pay for one entry of ``where``.

        Raises:
            TooMuchError: nothing is left.
        """
        self.entries -= 1
        if self.entries < 0:
            raise TooMuchError(f"'{where}' brings more entries than may be looked at")
        if self.deadline_s is not None and self.clock() > self.deadline_s:
            raise TooMuchError(f"looking at '{where}' took too long")


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A regular file of a walked tree.

    Attributes:
        path: relative to the walk's start.
        directory_fd: its directory, open until the next item is asked for.
    """

    path: Path
    directory_fd: int

    def size_bytes(self) -> int:
        """Ask for the file's length: one look-up, so only where it is needed."""
        return os.stat(self.path.name, dir_fd=self.directory_fd, follow_symlinks=False).st_size


@contextmanager
def open_directory(path: str | Path, *, parent_fd: int | None = None) -> Iterator[int]:
    """Open a real directory; its last component must not be a link.

    Raises:
        FileNotFoundError: there is nothing of that name.
        NotPlainError: it is a link, a file or something special.
        OSError: the medium cannot be read.
    """
    try:
        fd = os.open(path, DIRECTORY_FLAGS, dir_fd=parent_fd)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP):  # a link gives the one or the other
            raise NotPlainError(f"'{path}' is not a directory") from e
        raise
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_directories(first: str | Path, *below: str) -> Iterator[int]:
    """Open ``first/below[0]/...``, refusing a link at every step.

    Raises:
        FileNotFoundError, NotPlainError, OSError: as `open_directory`.
    """
    with ExitStack() as stack:
        fd = stack.enter_context(open_directory(first))
        for name in below:
            fd = stack.enter_context(open_directory(name, parent_fd=fd))
        yield fd


def entries(directory_fd: int, budget: Budget, where: object) -> list[os.DirEntry[str]]:
    """List a directory, paying for each entry, sorted by name.

    Raises:
        TooMuchError: the budget is spent.
        OSError: the medium cannot be read.
    """
    listed = []
    with os.scandir(directory_fd) as scan:
        for entry in scan:
            budget.spend(where)
            listed.append(entry)
    return sorted(listed, key=lambda entry: entry.name)


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is a real directory, not a link to one."""
    return entry.is_dir(follow_symlinks=False)


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file, not a link to one."""
    return entry.is_file(follow_symlinks=False)


def walk_plain(
    directory_fd: int, budget: Budget, *, depth: int, where: Path | None = None
) -> Iterator[PlainFile]:
    """Yield every regular file below an open directory, one directory in memory at a time.

    Args:
        directory_fd: where to start; stays open.
        budget: shared by the whole walk.
        depth: how many levels of directories may lie below.
        where: path of the start, for `PlainFile.path` and messages.

    Raises:
        NotPlainError: something is neither a directory nor a regular file.
        TooMuchError: the budget is spent, or directories are nested deeper than ``depth``.
        OSError: the medium cannot be read.
    """
    here = where or Path()
    for entry in entries(directory_fd, budget, here):
        path = here / entry.name
        if is_regular(entry):
            yield PlainFile(path, directory_fd)
        elif not is_directory(entry):
            raise NotPlainError(f"'{path}' is neither a directory nor a regular file")
        elif depth == 0:
            raise TooMuchError(f"'{path}' lies deeper than directories may be nested")
        else:
            with open_directory(entry.name, parent_fd=directory_fd) as fd:
                yield from walk_plain(fd, budget, depth=depth - 1, where=path)
