"""OSTree objects, read as they lie in a repository: what a commit needs, and whether it is whole.

What a program would have to be asked for file by file is read here in one pass: the trees
of a commit, without opening a single file of it, and the checksum of a file in an archive
repository, while it is copied or read. The formats are OSTree's, in GVariant.

Source: ostree-core.h (object types and their variants); GVariant specification 1.0,
"Serialisation format"; checked against ``ostree fsck`` in the tests.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Self

from agent.adapters import files
from agent.core.authoring import AuthoringError

CHUNK_BYTES = 256 * 1024
TREE_LIMIT_BYTES = 64 * 1024 * 1024  # a directory of half a million names
HEADER_LIMIT_BYTES = 512 * 1024  # owner, mode, link and extended attributes of one file
CHECKSUM_BYTES = 32
PREFIX_BYTES = 8  # the header's length and four zeros
SIZE_FIELD = 8  # an archive's header begins with the file's length, its checksum's does not
COMMIT_OFFSETS = 6  # variable members before the last of a commit's eight
NUMBERS = 16  # uid, gid, mode, rdev


@dataclass(frozen=True, slots=True)
class Tree:
    """One directory: the objects it names.

    Attributes:
        files: checksums of its files.
        directories: checksums of tree and of metadata of each directory in it.
    """

    files: tuple[str, ...]
    directories: tuple[tuple[str, str], ...]


class Objects:
    """The objects of a repository as they are stored, found from its directory held open.

    A rootfs has tens of thousands: paths put together anew for each would take longer than
    copying them. Names are ``<64 hex>.<kind>``, as `stored_name` says it.

    Attributes:
        repo: the repository.

    Raises:
        FileNotFoundError: there is no such repository.
    """

    def __init__(self, repo: Path) -> None:
        self.repo = repo
        self._fd = os.open(repo / "objects", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def size(self, name: str) -> int | None:
        """Return the length of an object, None when it is not there."""
        with suppress(FileNotFoundError):
            return os.stat(_place(name), dir_fd=self._fd, follow_symlinks=False).st_size
        return None

    def open(self, name: str) -> FileIO:
        """Open an object.

        Raises:
            FileNotFoundError: it is not there.
        """
        return FileIO(os.open(_place(name), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd))

    def take(self, names: Sequence[str], directory: int) -> None:
        """Give files of an open directory their places; each is called as the object."""
        for begin in {name[:2] for name in names}:
            with suppress(FileExistsError):
                os.mkdir(begin, dir_fd=self._fd)
        for name in names:
            os.rename(name, _place(name), src_dir_fd=directory, dst_dir_fd=self._fd)


def stored_name(name: str) -> str:
    """Return how an archive repository calls an object: its files are compressed."""
    return f"{name}z" if name.endswith(".file") else name


def _place(name: str) -> str:
    return f"{name[:2]}/{name[2:]}"


def object_path(repo: Path, name: str) -> Path:
    """Return where an object lies; ``name`` is ``<64 hex>.<kind>``."""
    return repo / "objects" / _place(name)


def is_archive(repo: Path) -> bool:
    """Whether a repository is one of compressed files, as a bundle's is."""
    try:
        text = files.read_bounded(repo / "config", limit=HEADER_LIMIT_BYTES).decode()
    except (OSError, ValueError, files.NotRegularError, files.TooLargeError):
        return False
    words = {line.replace(" ", "") for line in text.splitlines()}
    return bool(words & {"mode=archive", "mode=archive-z2"})


def reachable(repo: Path, commit: str, *, checked: bool = False) -> Iterator[str]:
    """Yield the names of all objects of a commit, each once, the files as ``<hex>.file``.

    Args:
        repo: of any mode.
        commit: 64 hex digits.
        checked: compare each commit, tree and metadata object with its name.

    Raises:
        AuthoringError: one that names others is missing or malformed, or differs from its
            name.
    """
    yield f"{commit}.commit"
    root = _commit_root(_read(repo, f"{commit}.commit", checked=checked), commit)
    waiting, seen = [root], {*root}
    yield f"{root[1]}.dirmeta"
    if checked:
        _read(repo, f"{root[1]}.dirmeta", checked=True)
    while waiting:
        name, _ = waiting.pop()
        yield f"{name}.dirtree"
        tree = read_tree(_read(repo, f"{name}.dirtree", checked=checked), name)
        for file in tree.files:
            if file not in seen:
                seen.add(file)
                yield f"{file}.file"
        for below in tree.directories:
            if below[1] not in seen:
                seen.add(below[1])
                yield f"{below[1]}.dirmeta"
                if checked:
                    _read(repo, f"{below[1]}.dirmeta", checked=True)
            if below[0] not in seen:
                seen.add(below[0])
                waiting.append(below)


def demand_intact(name: str, source: IO[bytes], copy: IO[bytes] | None = None) -> None:
    """Read an object of an archive repository and compare it with its name.

    Args:
        name: ``<hex>.<kind>``, files as ``<hex>.file``.
        source: the object, from its beginning.
        copy: where what is read is written to.

    Raises:
        ValueError: it is another object, or none.
    """
    expected, _, kind = name.partition(".")
    found = file_checksum(source, copy) if kind == "file" else _plain_checksum(source, copy)
    if found != expected:
        raise ValueError(f"its content has the name {found}")


def _plain_checksum(source: IO[bytes], copy: IO[bytes] | None) -> str:
    sha256 = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        sha256.update(chunk)
        if copy:
            files.write_all(copy.fileno(), chunk)
    return sha256.hexdigest()


def file_checksum(source: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """Return the checksum that names a file of an archive repository.

    Args:
        source: the object, from its beginning.
        copy: where what is read is written to.

    Raises:
        ValueError: it is no such object.
    """
    first = source.read(CHUNK_BYTES)
    size = int.from_bytes(first[:4], "big")
    content = PREFIX_BYTES + size
    if not SIZE_FIELD + NUMBERS < size <= HEADER_LIMIT_BYTES or len(first) < content:
        raise ValueError("no file header")
    if copy:
        files.write_all(copy.fileno(), first)
    header = _shifted(first[PREFIX_BYTES:content])
    sha256 = hashlib.sha256(len(header).to_bytes(4, "big") + bytes(4) + header)
    _inflate(first[content:], source, sha256, copy)
    return sha256.hexdigest()


def _inflate(
    chunk: bytes, source: IO[bytes], sha256: "hashlib._Hash", copy: IO[bytes] | None
) -> None:
    """Hash what a raw deflate stream holds; a link has no stream."""
    if not chunk:
        return
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    while chunk:
        try:
            sha256.update(stream.decompress(chunk, CHUNK_BYTES))
        except zlib.error as e:
            raise ValueError(f"the content cannot be unpacked: {e}") from e
        if stream.unused_data:
            raise ValueError("something follows the content")
        chunk = stream.unconsumed_tail
        if not chunk:
            chunk = source.read(CHUNK_BYTES)
            if copy:
                files.write_all(copy.fileno(), chunk)
    sha256.update(stream.flush())
    if not stream.eof:
        raise ValueError("the content is cut short")


def _shifted(header: bytes) -> bytes:
    """Take the length off a header ``(tuuuusa(ayay))``: what is checksummed has none."""
    width = _offset_width(len(header))
    link_end = int.from_bytes(header[-width:], "little") - SIZE_FIELD
    body = header[SIZE_FIELD:-width]
    if not NUMBERS < link_end <= len(body):
        raise ValueError("the file header is malformed")
    new_width = next(w for w in (1, 2, 4, 8) if len(body) + w < 1 << 8 * w)
    return body + link_end.to_bytes(new_width, "little")


# --- GVariant --------------------------------------------------------------------------


def read_tree(data: bytes, what: str) -> Tree:
    """Read a directory, ``(a(say)a(sayay))``.

    Raises:
        AuthoringError: it is malformed.
    """
    try:
        middle, end = _last_offsets(data, 1)
        named = tuple(
            _checksum(data[start + name_end : stop - width], 0)
            for start, stop, name_end, width in _members(data, 0, middle, 1)
        )
        below = tuple(
            (_checksum(rest, 0), _checksum(rest, CHECKSUM_BYTES))
            for start, stop, name_end, width in _members(data, middle, end, 2)
            if (rest := data[start + name_end : stop - 2 * width])
        )
    except (ValueError, IndexError) as e:
        raise AuthoringError(f"OSTree directory {what} is malformed: {e}") from e
    return Tree(named, below)


def _commit_root(data: bytes, what: str) -> tuple[str, str]:
    """Read root tree and its metadata from a commit, ``(a{sv}aya(say)sstayay)``."""
    try:
        *_, tree_end, end = _last_offsets(data, COMMIT_OFFSETS)
        return _checksum(data[max(tree_end - CHECKSUM_BYTES, 0) : tree_end], 0), _checksum(
            data[tree_end:end], 0
        )
    except (ValueError, IndexError) as e:
        raise AuthoringError(f"OSTree commit {what} is malformed: {e}") from e


def _last_offsets(data: bytes, count: int) -> list[int]:
    """Return the ends of a tuple's variable members in order, and where its offsets begin.

    Offsets stand at the end, the first member's last.
    """
    width = _offset_width(len(data))
    begin = len(data) - count * width
    if begin < 0:
        raise ValueError("too short")
    ends = [
        int.from_bytes(data[len(data) - (n + 1) * width : len(data) - n * width], "little")
        for n in range(count)
    ]
    if any(end > begin for end in ends):
        raise ValueError("an offset is beyond its end")
    return [*ends, begin]


def _members(
    data: bytes, start: int, stop: int, offsets: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield start, stop, length of the name and width of offsets of an array's tuples."""
    if start == stop:
        return
    width = _offset_width(stop - start)
    table = start + int.from_bytes(data[stop - width : stop], "little")
    if not start < table < stop or (stop - table) % width:
        raise ValueError("an array has no table")
    begin = start
    for place in range(table, stop, width):
        end = start + int.from_bytes(data[place : place + width], "little")
        own = _offset_width(end - begin)
        if not begin < end <= table or end - begin < offsets * own:
            raise ValueError("an array's table is not in order")
        yield begin, end, int.from_bytes(data[end - own : end], "little"), own
        begin = end


def _offset_width(size: int) -> int:
    return next(width for width in (1, 2, 4, 8) if size < 1 << 8 * width)


def _checksum(data: bytes, at: int) -> str:
    found = data[at : at + CHECKSUM_BYTES]
    if len(found) != CHECKSUM_BYTES:
        raise ValueError("a checksum is cut short")
    return found.hex()


def _read(repo: Path, name: str, *, checked: bool) -> bytes:
    try:
        data = files.read_bounded(object_path(repo, name), limit=TREE_LIMIT_BYTES)
    except FileNotFoundError as e:
        raise AuthoringError(f"'{repo}' lacks object {name}") from e
    except (OSError, files.NotRegularError, files.TooLargeError) as e:
        raise AuthoringError(f"object {name} in '{repo}' cannot be read: {e}") from e
    if checked and hashlib.sha256(data).hexdigest() != name.partition(".")[0]:
        raise AuthoringError(f"object {name} in '{repo}' is damaged: it differs from its name")
    return data
