"""An App in a directory, as its author keeps it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.adapters import files
from agent.core.appfiles import AppFile, Kind
from agent.core.authoring import AuthoringError


@dataclass(frozen=True, slots=True)
class DirectoryApp:
    """The App of a directory; it is called as the directory is."""

    path: Path

    @property
    def name(self) -> str:
        """The App's name."""
        return self.path.resolve().name

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"App directory '{self.path}'"

    def files(self) -> Iterator[AppFile]:
        """Yield every entry, at any depth.

        Raises:
            AuthoringError: the directory cannot be read.
        """
        try:
            yield from self._walk("")
        except OSError as e:
            raise AuthoringError(f"{self.where} cannot be read: {files.why(e, self.path)}") from e

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file of at most ``limit`` bytes, None when there is none.

        Raises:
            AuthoringError: it is no regular file, too long, or cannot be read.
        """
        try:
            return files.read_bounded(self.path / name, limit=limit)
        except FileNotFoundError:
            return None
        except (OSError, files.NotRegularError, files.TooLargeError) as e:
            raise AuthoringError(
                f"'{self.path / name}' cannot be read: {files.why(e, self.path / name)}"
            ) from e

    def image(self, text: str) -> str:
        """Return an image reference: a directory means what it says."""
        return text

    def _walk(self, below: str) -> Iterator[AppFile]:
        with os.scandir(self.path / below) as entries:
            listed = list(entries)
        for entry in listed:
            name = f"{below}/{entry.name}" if below else entry.name
            yield self._file(entry, name)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(name)

    def _file(self, entry: os.DirEntry[str], name: str) -> AppFile:
        if entry.is_symlink():
            return AppFile(name, Kind.LINK, link=str(Path(entry.path).readlink()))
        if entry.is_dir(follow_symlinks=False):
            return AppFile(name, Kind.DIRECTORY)
        if not entry.is_file(follow_symlinks=False):
            return AppFile(name, Kind.OTHER)
        runs = bool(entry.stat(follow_symlinks=False).st_mode & stat.S_IXUSR)
        return AppFile(name, Kind.FILE, executable=runs, open=lambda: _opened(Path(entry.path)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    try:
        with files.open_regular(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
            yield file, os.fstat(fd).st_size
    except (OSError, files.NotRegularError) as e:
        raise AuthoringError(f"'{path}' cannot be read: {files.why(e, path)}") from e
