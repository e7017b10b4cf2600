"""An App's archive: looked through before anything is written, then unpacked in place.

In: a gzip-compressed tar of the App store. Out: its list of files, its compose file, or
the same files in a project directory. Only regular files, directories and symbolic links
that stay inside come out; everything else refuses the whole archive.

Why a link cannot lead outside, now or when the project runs: every directory above an
entry is made by us and opened without following links, so an entry named ``a/b/c`` really
lies two directories below the project. A link's target may begin with ``..`` as often as
there are such directories, and never afterwards; so the ``..`` walk real directories up
to the project at most, and the rest only descends. It descends through directories, which
stay inside, and through other links of the archive, of which the same holds: by induction
over the links passed, every walk stays inside.
"""

import errno
import gzip
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from agent.adapters.apps.manifest import COMPOSE_LIMIT_BYTES
from agent.adapters.files import READ_FLAGS, open_regular
from agent.core.errors import ComposeInvalidError, NoSpaceError, StoreError

ENTRIES_LIMIT = 50_000
UNPACKED_LIMIT_BYTES = 4 * 1024**3  # a signed archive is at most 1 GiB compressed
READ_LIMIT_BYTES = 1024 * 1024  # of one header: tarfile reads extended ones whole
DEPTH_LIMIT = 64
PATH_LIMIT = 4096
CHUNK_BYTES = 1 << 16
COMPOSE_NAME = "docker-compose.yml"
TEMPORARY = ".usb-update-unpacking"

NAMES_LIMIT_BYTES = 8 * 1024 * 1024  # of all entries together
MODE_KEPT = 0o755  # no set-id, no sticky bit, nobody but the owner writes
FILE_MODE_LEAST = 0o600
DIRECTORY_MODE_LEAST = 0o700
DIRECTORY_MODE = 0o755
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MALFORMED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError,
             RecursionError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, found harmless.

    Attributes:
        path: its components; never empty, none is ``.`` or ``..``.
        kind: ``file``, ``directory`` or ``link``.
        size: of a file, in bytes.
        mode: permission bits, those dropped that reach beyond the App.
        target: of a link.
    """

    path: tuple[str, ...]
    kind: str
    size: int = 0
    mode: int = DIRECTORY_MODE
    target: str = ""

    @property
    def name(self) -> str:
        """The path as text."""
        return "/".join(self.path)


Content = Callable[[int], bytes]
"""Reads the next bytes of the current file entry."""


def read_compose(archive: Path, app: str) -> bytes:
    """Look through a whole archive and return its compose file.

    Raises:
        ComposeInvalidError: an entry could reach outside, a bound is passed, or there is
            no ``docker-compose.yml``.
    """
    compose: bytes | None = None
    for entry, content in entries(archive, app):
        if entry.name == COMPOSE_NAME and entry.kind == "file":
            compose = _read_compose(entry, content, app)
    if compose is None:
        raise ComposeInvalidError(f"the archive of App {app!r} has no '{COMPOSE_NAME}'")
    return compose


def _read_compose(entry: Entry, content: Content, app: str) -> bytes:
    if entry.size > COMPOSE_LIMIT_BYTES:
        raise ComposeInvalidError(
            f"the compose file of App {app!r} has {entry.size} bytes, "
            f"more than {COMPOSE_LIMIT_BYTES}"
        )
    return b"".join(iter(lambda: content(CHUNK_BYTES), b""))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an unpacking did.

    Attributes:
        names: of all files and links of the archive, sorted.
        changed: of those, the ones that were not there in the same form before.
    """

    names: tuple[str, ...]
    changed: frozenset[str]


def unpack(archive: Path, directory: Path, app: str, *, durable: bool = True) -> Unpacked:
    """Unpack an archive over what a project directory holds.

    Each file is written beside its place and renamed into it, so that whoever reads the
    project sees an old file or a new one, whole. Files the App made itself stay. A file
    that is already there as it should be keeps its inode: a container that has it mounted
    goes on seeing the file that people see.

    Args:
        archive: of the App store.
        directory: of the project; it exists.
        app: the App's name, for messages.
        durable: whether the files must survive a power cut.

    Raises:
        ComposeInvalidError: as `read_compose`.
        NoSpaceError, StoreError: the directory cannot be written.
    """
    tree = _Tree(directory, durable=durable)
    names = {}
    try:
        for entry, content in entries(archive, app):
            changed = tree.put(entry, content)
            if entry.kind != "directory":
                names[entry.name] = changed
        tree.sync()
    except OSError as e:
        error = NoSpaceError if e.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise error(
            f"the files of App {app!r} cannot be written to '{directory}': {e.strerror or e}"
        ) from e
    return Unpacked(tuple(sorted(names)), frozenset(n for n, changed in names.items() if changed))


def remove_files(directory: Path, names: Iterable[str]) -> None:
    """Remove files an earlier archive brought, and directories that are empty without them."""
    tree = _Tree(directory, durable=False)
    for name in names:
        if path := _components(name):
            tree.remove(path)


# --- reading ---------------------------------------------------------------------------


def entries(archive: Path, app: str) -> Iterator[tuple[Entry, Content]]:
    """Yield the entries of an archive in order, each checked; bounded in number and bytes.

    Raises:
        ComposeInvalidError: the archive is malformed, too large, or an entry is refused.
    """
    what = f"the archive of App {app!r}"
    seen: dict[tuple[str, ...], str] = {}
    named = 0
    with _opened(archive, what) as (tar, stream):
        for count, member in enumerate(_members(tar, what)):
            named += len(member.name)
            if count >= ENTRIES_LIMIT or named > NAMES_LIMIT_BYTES:
                raise ComposeInvalidError(
                    f"{what} has more than {ENTRIES_LIMIT} entries, "
                    f"or names of more than {NAMES_LIMIT_BYTES} bytes"
                )
            entry = _entry(member, what)
            if entry is None:
                continue
            _demand_consistent(entry, seen, what)
            yield entry, _content(tar, member, what)
        _drain(stream, what)


@contextmanager
def _opened(archive: Path, what: str) -> Iterator[tuple[tarfile.TarFile, "_Forward"]]:
    with open_regular(archive) as fd, os.fdopen(os.dup(fd), "rb") as file:
        stream = _Forward(gzip.GzipFile(fileobj=file), what)
        try:
            tar = tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        except MALFORMED as e:
            raise ComposeInvalidError(f"{what} is not a gzip-compressed tar: {e}") from e
        yield tar, stream


class _Forward:
    """A decompressed stream that only goes forward, within bounds.

    `tarfile` reads an extended header in one piece of whatever length it claims, and a few
    kilobytes of gzip can stand for gigabytes; here both end in a refusal.
    """

    def __init__(self, stream: gzip.GzipFile, what: str) -> None:
        self._stream = stream
        self._what = what
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= READ_LIMIT_BYTES:
            raise ComposeInvalidError(f"{self._what} has a header of {size} bytes")
        data = self._stream.read(size)
        self._at += len(data)
        if self._at > UNPACKED_LIMIT_BYTES:
            raise ComposeInvalidError(
                f"{self._what} unpacks to more than {UNPACKED_LIMIT_BYTES} bytes"
            )
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise ComposeInvalidError(f"{self._what} has overlapping entries")
        while self._at < position:
            if not self.read(min(CHUNK_BYTES, position - self._at)):
                raise ComposeInvalidError(f"{self._what} ends in the middle of an entry")
        return self._at


def _members(tar: tarfile.TarFile, what: str) -> Iterator[tarfile.TarInfo]:
    while True:
        try:
            member = tar.next()
        except MALFORMED as e:
            raise ComposeInvalidError(f"{what} is malformed: {e}") from e
        except OSError as e:
            raise StoreError(f"{what} cannot be read: {e.strerror or e}") from e
        if member is None:
            return
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # a large archive must not gather in memory


def _drain(stream: "_Forward", what: str) -> None:
    """Read to the end, where gzip keeps the checksum of it all."""
    try:
        while stream.read(CHUNK_BYTES):
            pass
    except MALFORMED as e:
        raise ComposeInvalidError(f"{what} is malformed: {e}") from e


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> Content:
    """Return a reader of the member's bytes that ends exactly at its size."""
    stream: IO[bytes] | None = None

    def read(size: int) -> bytes:
        nonlocal stream
        try:
            stream = stream or tar.extractfile(member)
            return stream.read(size) if stream else b""
        except MALFORMED as e:
            raise ComposeInvalidError(f"{what} is malformed: {e}") from e

    return read


def _entry(member: tarfile.TarInfo, what: str) -> Entry | None:
    """Judge one entry; None for the archive's own top directory."""
    path = _path(member.name, what)
    shown = member.name[:160]
    if member.issym():
        _demand_inside(member.linkname, path, what)
        return Entry(path, "link", target=member.linkname)
    if member.isdir():
        mode = member.mode & MODE_KEPT | DIRECTORY_MODE_LEAST
        return Entry(path, "directory", mode=mode) if path else None
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise ComposeInvalidError(
            f"{what} has {shown!r} of type {member.type!r}; "
            "expected only files, directories and symbolic links"
        )
    if not path:
        raise ComposeInvalidError(f"{what} has a file without a name")
    return Entry(path, "file", member.size, member.mode & MODE_KEPT | FILE_MODE_LEAST)


def _path(name: str, what: str) -> tuple[str, ...]:
    path = _components(name)
    if path is None:
        raise ComposeInvalidError(
            f"{what} has an entry named {name[:160]!r}; "
            "expected a relative path without '..' and control characters"
        )
    return path


def _components(name: str) -> tuple[str, ...] | None:
    """Split a relative path; None when it could lead anywhere else."""
    if name.startswith("/") or "\\" in name or not name.isprintable() or len(name) > PATH_LIMIT:
        return None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    unusable = ".." in parts or len(parts) > DEPTH_LIMIT or TEMPORARY in parts
    return None if unusable or any(len(p.encode()) > 255 for p in parts) else parts  # noqa: PLR2004


def _demand_inside(target: str, path: tuple[str, ...], what: str) -> None:
    """Hold a link's target to the rule of this module's first lines."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
    inside = (
        bool(path)
        and bool(target)
        and not PurePosixPath(target).is_absolute()
        and target.isprintable()
        and ups <= len(path) - 1
        and ".." not in parts[ups:]
    )
    if not inside:
        raise ComposeInvalidError(
            f"{what} has a link {'/'.join(path)[:160]!r} to {target[:160]!r}; "
            "expected a target inside the App's own directory"
        )


def _demand_consistent(entry: Entry, seen: dict[tuple[str, ...], str], what: str) -> None:
    """Refuse an archive that names one path twice or puts entries below a file or link."""
    for depth in range(1, len(entry.path)):
        if seen.setdefault(entry.path[:depth], "directory") != "directory":
            raise ComposeInvalidError(
                f"{what} has {entry.name[:160]!r} below something that is not a directory"
            )
    before = seen.setdefault(entry.path, entry.kind)
    if before != entry.kind:
        raise ComposeInvalidError(f"{what} names {entry.name[:160]!r} as {before} and {entry.kind}")


# --- writing ---------------------------------------------------------------------------


class _Tree:
    """A project directory, changed only through directory handles that follow no link."""

    def __init__(self, root: Path, *, durable: bool) -> None:
        self._root = root
        self._durable = durable
        self._touched: set[tuple[str, ...]] = set()

    def put(self, entry: Entry, content: Content) -> bool:
        """Write one entry in its place; whether anything had to change."""
        if entry.kind == "directory":
            os.close(self._open(entry.path, mode=entry.mode))
            return False
        with self._directory(entry.path[:-1]) as parent:
            with suppress(FileNotFoundError):
                os.unlink(TEMPORARY, dir_fd=parent)
            if entry.kind == "link":
                os.symlink(entry.target, TEMPORARY, dir_fd=parent)
            else:
                _write(entry, content, parent, durable=self._durable)
            if _same(TEMPORARY, entry.path[-1], parent):
                os.unlink(TEMPORARY, dir_fd=parent)
                return False
            _move(entry.path[-1], parent)
        self._touched.add(entry.path[:-1])
        return True

    def remove(self, path: tuple[str, ...]) -> None:
        """Remove a file, and the directories above it that are empty then."""
        with suppress(OSError), self._directory(path[:-1], make=False) as parent:
            os.unlink(path[-1], dir_fd=parent)
        for depth in range(len(path) - 1, 0, -1):
            with suppress(OSError), self._directory(path[: depth - 1], make=False) as parent:
                os.rmdir(path[depth - 1], dir_fd=parent)

    def sync(self) -> None:
        """Make every rename durable."""
        for path in self._touched if self._durable else ():
            with self._directory(path, make=False) as fd:
                os.fsync(fd)

    @contextmanager
    def _directory(self, path: tuple[str, ...], *, make: bool = True) -> Iterator[int]:
        fd = self._open(path, mode=DIRECTORY_MODE if make else None)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, path: tuple[str, ...], *, mode: int | None) -> int:
        """Open a directory below the project, one component at a time, following no link.

        Args:
            path: its components.
            mode: of directories that are made on the way; None makes none.
        """
        fd = os.open(self._root, OPEN_DIRECTORY)
        try:
            for name in path:
                if mode is not None:
                    _make_directory(name, mode, fd)
                above, fd = fd, os.open(name, OPEN_DIRECTORY, dir_fd=fd)
                os.close(above)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _write(entry: Entry, content: Content, parent: int, *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(TEMPORARY, flags, 0o600, dir_fd=parent), "wb") as file:
        while data := content(CHUNK_BYTES):
            file.write(data)
        file.flush()
        os.fchmod(file.fileno(), entry.mode)
        if durable:
            os.fsync(file.fileno())


def _same(new: str, old: str, parent: int) -> bool:
    """Whether two names in a directory are files, or links, of the same content and mode."""
    try:
        ours, theirs = (os.stat(n, dir_fd=parent, follow_symlinks=False) for n in (new, old))
    except FileNotFoundError:
        return False
    if (ours.st_mode, ours.st_size) != (theirs.st_mode, theirs.st_size):
        return False
    if stat.S_ISLNK(ours.st_mode):
        return os.readlink(new, dir_fd=parent) == os.readlink(old, dir_fd=parent)
    with _reading(new, parent) as first, _reading(old, parent) as second:
        while (data := first.read(CHUNK_BYTES)) == second.read(CHUNK_BYTES):
            if not data:
                return True
    return False


def _reading(name: str, parent: int) -> io.BufferedReader:
    return os.fdopen(os.open(name, READ_FLAGS, dir_fd=parent), "rb")


def _move(name: str, parent: int) -> None:
    try:
        os.rename(TEMPORARY, name, src_dir_fd=parent, dst_dir_fd=parent)
    except IsADirectoryError:
        # Docker makes an empty directory of a bind mount's missing source.
        os.rmdir(name, dir_fd=parent)
        os.rename(TEMPORARY, name, src_dir_fd=parent, dst_dir_fd=parent)


def _make_directory(name: str, mode: int, parent: int) -> None:
    """Make a directory; a file or link in its place gives way, what it pointed to stays."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return
        os.unlink(name, dir_fd=parent)
    os.mkdir(name, mode, dir_fd=parent)
    os.chmod(name, mode, dir_fd=parent)
