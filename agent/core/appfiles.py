"""An App's files as values: what may go into an App, whatever holds them.

In: names, links and first bytes, from a directory or a git tree that somebody else filled.
Out: `AppFile` for `adapters.authoring.packing`, or a sentence that says why not. Both
sources are judged by these rules alone, so that the same files give the same App.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import IO, Protocol

from agent.core.authoring import AuthoringError

COMPOSE_NAME = "docker-compose.yml"
IGNORE_NAME = ".composeappignores"

LFS_HEAD = b"version https://git-lfs.github.com/spec/v"
LFS_POINTER_LIMIT_BYTES = 1024  # Git LFS's own bound: what is longer is no pointer


class Kind(Enum):
    """What an entry is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    OTHER = "other"


def _nothing() -> AbstractContextManager[tuple[IO[bytes], int]]:
    raise ValueError("only files have content")


@dataclass(frozen=True, slots=True)
class AppFile:
    """One entry of an App.

    Attributes:
        name: its path in the App, with ``/``.
        kind: what it is.
        executable: whether its owner may execute it; nothing else of a mode is kept.
        link: where a link leads, as written.
        note: what an entry of kind ``OTHER`` is, and what to do about it, for messages.
        open: gives the content of a file and its length in bytes.
    """

    name: str
    kind: Kind
    executable: bool = False
    link: str = ""
    note: str = ""
    open: Callable[[], AbstractContextManager[tuple[IO[bytes], int]]] = _nothing


class AppSource(Protocol):
    """Where one App's files are."""

    @property
    def name(self) -> str:
        """The App's name."""

    @property
    def where(self) -> str:
        """What to call it in messages, e.g. ``'containers/shop'``."""

    def files(self) -> Iterator[AppFile]:
        """Yield every entry, at any depth, in any order, ignored or not.

        Raises:
            AuthoringError: they cannot be read, or there are too many.
        """

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file of at most ``limit`` bytes, None when there is none.

        Raises:
            AuthoringError: it is no regular file, too long, or cannot be read.
        """

    def image(self, text: str) -> str:
        """Return the reference to look for where the compose file says ``text``."""


def demand_portable(name: str, where: str) -> None:
    """Refuse a name that would not read the same everywhere, or leads elsewhere.

    Raises:
        AuthoringError: it does.
    """
    if not name.isascii() or not name.isprintable():
        raise AuthoringError(
            f"file name {name!r} in {where} has characters beyond printable ASCII",
            hint="rename it; signed file lists must read the same everywhere",
        )
    if {"", ".", ".."} & set(name.split("/")):
        raise AuthoringError(f"{where} has an entry {name!r}, which is no file name")


def leads_inside(name: str, link: str) -> bool:
    """Whether a link leads into its App: ``..`` come first, and not too many.

    Args:
        name: the link's own path in the App.
        link: where it leads, as written.
    """
    parts = [part for part in link.split("/") if part not in ("", ".")]
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    sound = bool(link) and not link.startswith("/") and "\0" not in link
    return sound and ".." not in parts[climbs:] and climbs <= name.count("/")


def demand_content(head: bytes, size: int, what: str) -> None:
    """Refuse what stands for a file that is elsewhere.

    Args:
        head: the first bytes of the file.
        size: its length in bytes.
        what: its name, for messages.

    Raises:
        AuthoringError: it is a pointer of Git LFS.
    """
    if size <= LFS_POINTER_LIMIT_BYTES and head.startswith(LFS_HEAD):
        raise AuthoringError(
            f"{what} is a pointer of Git LFS, not the file itself",
            hint="run 'git lfs pull' in a checkout and give its directory with --app, or keep "
            "the file in an image",
        )
