"""An App's files as one archive: the same files give the same bytes, whoever packs them.

Times, owners and umask are left out; names are sorted. ``.composeappignores`` (in the
syntax of ``.dockerignore``) names what stays behind. Symbolic links stay links when they
stay inside; other links and special files are refused: no device unpacks them. Whether the
files lie in a directory or in a git tree makes no difference to the archive.
"""

import gzip
import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.core.appfiles import (
    COMPOSE_NAME,
    IGNORE_NAME,
    AppFile,
    AppSource,
    Kind,
    demand_content,
    demand_portable,
    leads_inside,
)
from agent.core.authoring import AuthoringError, Descriptor, describe
from agent.core.canonical import canonical_bytes

IGNORE_LIMIT_BYTES = 64 * 1024
FILES_LIMIT = 10_000
UNPACKED_LIMIT_BYTES = 4 * 1024**3  # what devices unpack of one App
ARCHIVE_LIMIT_BYTES = 1024 * 1024 * 1024  # the reference's limit
ARCHIVE_TYPE = "application/octet-stream"
INDEX_TYPE = "application/json"
HEAD_BYTES = 64  # enough to recognize a pointer of Git LFS

Ignored = Callable[[str], bool]
"""Whether a file, by its path in the App, stays behind."""


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """An App's archive.

    Attributes:
        descriptor: of the archive.
        path: the archive, a temporary file.
        index: which file has which digest, as a blob; empty where an App came without.
    """

    descriptor: Descriptor
    path: Path
    index: bytes


def pack(source: AppSource, compose: bytes, path: Path) -> PackedFiles:
    """Pack an App's files, with ``compose`` in place of its compose file.

    Args:
        source: the App's files.
        compose: its compose file, ready for devices.
        path: where to write the archive.

    Raises:
        AuthoringError: something of the App cannot go into one.
    """
    chosen = _chosen(source)
    digests: dict[str, str] = {}
    with path.open("wb") as file:
        measured = _Measured(file)
        # No name, no time in the header; the level is fixed, or two machines would differ.
        with (
            gzip.GzipFile("", "wb", compresslevel=9, fileobj=measured, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for entry in chosen:
                _add(tar, entry, compose, digests, source)
                _demand_size(tar.offset, UNPACKED_LIMIT_BYTES, source)
    _demand_size(measured.size, ARCHIVE_LIMIT_BYTES, source)
    archive = Descriptor(ARCHIVE_TYPE, f"sha256:{measured.sha256.hexdigest()}", measured.size)
    return PackedFiles(archive, path, canonical_bytes(digests))


def index_descriptor(index: bytes) -> Descriptor:
    """Describe the list of an App's files."""
    return describe(index, INDEX_TYPE)


class _Measured:
    """Hashes and counts what is written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Write on."""
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush on."""
        self._file.flush()


def _demand_size(size: int, limit: int, source: AppSource) -> None:
    if size > limit:
        raise AuthoringError(
            f"{source.where} packs to {size} bytes or more; an App has at most {limit}",
            hint=f"put large files into an image, or list them in '{IGNORE_NAME}'",
        )


def _chosen(source: AppSource) -> list[AppFile]:
    """Return what to pack, sorted by name; parents come first.

    An ignored directory is walked all the same: a later '!' pattern may take a file back.
    """
    ignored = _ignores(source)
    found = sorted(
        (
            entry
            for entry in source.files()
            if entry.name == COMPOSE_NAME or not ignored(entry.name)
        ),
        key=lambda entry: entry.name,
    )
    for entry in found:
        _demand_packable(entry, source)
    for one, other in itertools.pairwise(found):
        if one.name == other.name:
            raise AuthoringError(f"{source.where} has two entries {one.name!r}")
    if len(found) > FILES_LIMIT:
        raise AuthoringError(f"{source.where} has more than {FILES_LIMIT} entries")
    return found


def _demand_packable(entry: AppFile, source: AppSource) -> None:
    demand_portable(entry.name, source.where)
    if entry.kind is Kind.OTHER:
        raise AuthoringError(
            f"{entry.name!r} in {source.where} is {entry.note or 'a special file'}",
            hint=f"an App holds files, directories and links; list it in '{IGNORE_NAME}'",
        )
    if entry.kind is Kind.LINK and not leads_inside(entry.name, entry.link):
        raise AuthoringError(
            f"{entry.name!r} in {source.where} is a link that leads outside of the App, "
            f"to {entry.link[:80]!r}",
            hint=f"copy what it points to, or list it in '{IGNORE_NAME}'",
        )
    if entry.name == COMPOSE_NAME and entry.kind is not Kind.FILE:
        raise AuthoringError(f"'{COMPOSE_NAME}' in {source.where} is not a regular file")


def _ignores(source: AppSource) -> Ignored:
    """Return what tells which files stay behind."""
    data = source.read(IGNORE_NAME, IGNORE_LIMIT_BYTES)
    if data is None:
        return lambda _: False
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError as e:
        raise AuthoringError(f"'{IGNORE_NAME}' in {source.where} is not UTF-8 text") from e
    # The docker SDK brings the matcher of .dockerignore; only Apps with such a file pay for it.
    from docker.utils.build import PatternMatcher  # noqa: PLC0415

    patterns = [line for line in lines if line and not line.startswith("#")]
    matcher = PatternMatcher([*patterns, IGNORE_NAME])
    # Its stub asks for a path object, its code for a string.
    return lambda name: bool(matcher.matches(name))  # type: ignore[arg-type]


def _add(
    tar: tarfile.TarFile,
    entry: AppFile,
    compose: bytes,
    digests: dict[str, str],
    source: AppSource,
) -> None:
    info = tarfile.TarInfo(entry.name)
    match entry.kind:
        case Kind.LINK:
            info.type, info.linkname = tarfile.SYMTYPE, entry.link
            tar.addfile(info)
        case Kind.DIRECTORY:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        case _ if entry.name == COMPOSE_NAME:
            _add_file(tar, info, io.BytesIO(compose), len(compose), digests)
        case _:
            info.mode = 0o755 if entry.executable else 0o644
            with entry.open() as (file, size):
                head = _add_file(tar, info, file, size, digests)
            demand_content(head, size, f"'{entry.name}' in {source.where}")


def _add_file(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    file: IO[bytes],
    size: int,
    digests: dict[str, str],
) -> bytes:
    """Add a file and note its digest; return its first bytes."""
    info.size = size
    reading = _Reading(file)
    tar.addfile(info, reading)
    digests[info.name] = f"sha256:{reading.sha256.hexdigest()}"
    return reading.head


class _Reading:
    """Hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.head = b""

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._file.read(size)
        self.sha256.update(data)
        self.head = self.head or data[:HEAD_BYTES]
        return data
