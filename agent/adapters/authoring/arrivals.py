"""What a factory's server sends, taken apart: archives that somebody else made.

In: a tar of an OSTree repository, a tar of an App store. Out: a repository of our own with
those objects, and Apps ready to be written to a bundle. No name in an archive becomes a path:
only names of a known form are taken, and the rest of them is ours. Anything but directories and
regular files, and a name that leads outside, refuses the archive. What is taken is compared with
its digest: objects by ``ostree fsck``, everything else here or on its way to the bundle.

Host commands used: ostree.
"""

import bz2
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

from agent.adapters.authoring.commits import OstreeCommits, damaged_objects, ensure_archive
from agent.adapters.authoring.composefile import COMPOSE_LIMIT_BYTES, COMPOSE_NAME
from agent.adapters.authoring.images import MANIFEST_LIMIT_BYTES, find_image
from agent.adapters.authoring.packing import ARCHIVE_LIMIT_BYTES, PackedFiles
from agent.adapters.authoring.references import ImageRef, parse_reference
from agent.adapters.authoring.store import Blob, PlannedApp
from agent.core.authoring import AuthoringError, Descriptor
from agent.core.target import AppRef
from agent.ports import Progress

ENTRIES_LIMIT = 2_000_000  # objects of twenty large rootfs
HEADERS_LIMIT_BYTES = 1024 * 1024  # of one entry: tarfile reads extended ones whole
UNPACKED_LIMIT_BYTES = 64 * 1024**3
CHUNK_BYTES = 1024 * 1024
STEP = "unpacking"
ROOTFS_ARCHIVE = "the server's archive of the rootfs"
APPS_ARCHIVE = "the server's archive of Apps"
INDEX_NOTE = "org.foundries.app.bundle.index.digest"

MALFORMED = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError)

_OBJECT = re.compile(
    r"ostree_repo/objects/([0-9a-f]{2})/([0-9a-f]{62}\.(?:commit|commitmeta|dirtree|dirmeta|filez))",
    re.ASCII,
)
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{64}", re.ASCII)
_VIEW = re.compile(r"apps/[^/]+/[0-9a-f]{64}/(?:manifest\.json|[0-9a-f]{64}\.tgz)", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


# --- the rootfs ------------------------------------------------------------------------


def unpack_commit(archive: Path, commit: str, scratch: Path, progress: Progress) -> Path:
    """Make a repository of the objects in a ``tar.bz2``, and check every one.

    The archive's own configuration, refs and summary stay behind: a configuration could name
    a parent repository that hides what is missing.

    Args:
        archive: from the server.
        commit: what must be in it.
        scratch: an empty directory.
        progress: told how much of ``archive`` was read.

    Raises:
        AuthoringError: the archive or an object is damaged, or the commit is not in it.
        OSError, CommandError: ``scratch`` cannot be written.
    """
    repo = scratch / "repo"
    ensure_archive(repo)
    total = archive.stat().st_size
    with archive.open("rb") as compressed, bz2.BZ2File(compressed) as stream:
        for name, _, content in _regular_files(stream, ROOTFS_ARCHIVE):
            if found := _OBJECT.fullmatch(name):
                _write_object(repo / "objects" / found[1] / found[2], content)
            progress(STEP, min(compressed.tell(), total), total)
    OstreeCommits(repo).resolve(commit)
    if damaged := damaged_objects(repo, [commit], progress):
        more = f", and {len(damaged) - 1} more like it" if len(damaged) > 1 else ""
        raise AuthoringError(f"'{archive.name}' is damaged: {damaged[0]}{more}")
    return repo


def _write_object(path: Path, content: "_Content") -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        while chunk := content.read():
            file.write(chunk)


# --- Apps ------------------------------------------------------------------------------


class StoreArchive:
    """An App store inside a plain tar: what is where, found in one pass."""

    crew = None

    def __init__(self, path: Path) -> None:
        """Look through the archive.

        Raises:
            AuthoringError: it is damaged, or holds what no App store does.
        """
        self.label = APPS_ARCHIVE
        self._path = path
        with path.open("rb") as stream:
            self._files = {
                name: (offset, content.size)
                for name, offset, content in _regular_files(stream, APPS_ARCHIVE)
                if _BLOB.fullmatch(name) or _VIEW.fullmatch(name)
            }

    def resolve(self, ref: ImageRef) -> Descriptor | None:
        """See `ImageSource.resolve`; everything in a store is pinned."""
        size = self.size(ref.digest)
        if size is None or size > MANIFEST_LIMIT_BYTES:
            return None
        with self.open(ref.digest) as stream:
            table = _object(stream.read(MANIFEST_LIMIT_BYTES), ref.repository)
        return Descriptor(str(table.get("mediaType", "")), ref.digest, size)

    def size(self, digest: str) -> int | None:
        """See `ImageSource.size`."""
        return self.length(_blob_name(digest))

    def open(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """See `ImageSource.open`."""
        return self.read(_blob_name(digest))

    def names(self) -> Sequence[str]:
        """See `ImageSource.names`."""
        return ["what its Apps run"]

    def length(self, name: str) -> int | None:
        """Return how long a file is, None when there is none."""
        return self._files[name][1] if name in self._files else None

    @contextmanager
    def read(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that `length` knows."""
        offset, size = self._files[name]
        with self._path.open("rb") as file:
            file.seek(offset)
            yield io.BufferedReader(_Slice(file, size))


def adopt_app(ref: AppRef, store: StoreArchive, scratch: Path, *, arch: str = "") -> PlannedApp:
    """Find an App in a store, down to its images, ready to be written to a bundle.

    Older stores have the App's manifest and archive beside its ``uri`` only; the bundle gets
    them as blobs, too.

    Args:
        ref: of the App, as its Target has it.
        store: where it is.
        scratch: an empty directory, for the App's archive.
        arch: which platform, where the store has several of one image.

    Raises:
        AuthoringError: something of it is missing or has other content than its digest.
        OSError: ``scratch`` cannot be written.
    """
    view = f"apps/{ref.name}/{ref.digest}"
    place = _first(store, ref.digest, f"{view}/manifest.json", ref)
    manifest = _small(store, place, ref.digest, ref)
    table = _object(manifest, f"manifest of App {ref.name!r}")
    archive, *others = _descriptors(table.get("layers"), ref)
    index = _index(table, store, ref)
    packed = scratch / f"{ref.name}.tgz"
    _copy(store, _first(store, archive.hex, f"{view}/{archive.hex}.tgz", ref), archive, packed, ref)
    compose = _compose_of(packed, ref)
    images = tuple(find_image(text, [store], arch) for text in _images(compose, ref))
    return PlannedApp(
        ref,
        manifest,
        PackedFiles(archive, packed, index),
        compose,
        images,
        tuple(_extra(others, table, store, ref)),
    )


def _extra(
    layers: Sequence[Descriptor], table: Mapping[str, Any], store: StoreArchive, ref: AppRef
) -> Iterator[Blob]:
    """Yield what else an App's manifest names: sizes of layers; lists of them, if they came."""
    for blob in layers:
        _first(store, blob.hex, "", ref)
        yield Blob(blob, lambda digest=blob.digest: store.open(digest))  # type: ignore[misc]
    for blob in _descriptors(table.get("manifests") or [], ref):
        if store.size(blob.digest) is not None:
            yield Blob(blob, lambda digest=blob.digest: store.open(digest))  # type: ignore[misc]


def _first(store: StoreArchive, hexes: str, view: str, ref: AppRef) -> str:
    """Return where the store has a blob."""
    for name in (f"blobs/sha256/{hexes}", view):
        if store.length(name) is not None:
            return name
    raise AuthoringError(
        f"{store.label} lacks sha256:{hexes} of App {ref.name!r}",
        hint="the factory may not fetch this App for bundles: see 'app_shortlist' in its "
        "configuration; --no-apps makes a bundle of the rootfs alone",
    )


def _small(store: StoreArchive, name: str, hexes: str, ref: AppRef) -> bytes:
    with store.read(name) as stream:
        data = stream.read(MANIFEST_LIMIT_BYTES)
    if hashlib.sha256(data).hexdigest() != hexes:
        raise AuthoringError(f"'{name}' of App {ref.name!r} has other content than its digest")
    return data


def _index(table: Mapping[str, Any], store: StoreArchive, ref: AppRef) -> bytes:
    """Return the list of an App's files; not every store has one."""
    layers = table.get("layers")
    notes = layers[0].get("annotations") if isinstance(layers, list) else None
    digest = str((notes or {}).get(INDEX_NOTE, ""))
    if not _DIGEST.fullmatch(digest) or store.size(digest) is None:
        return b""
    return _small(store, _blob_name(digest), digest.removeprefix("sha256:"), ref)


def _copy(store: StoreArchive, name: str, blob: Descriptor, path: Path, ref: AppRef) -> None:
    if blob.size > ARCHIVE_LIMIT_BYTES:
        raise AuthoringError(f"the archive of App {ref.name!r} has {blob.size} bytes")
    sha256 = hashlib.sha256()
    with store.read(name) as source, path.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            sha256.update(chunk)
            file.write(chunk)
    if (sha256.hexdigest(), path.stat().st_size) != (blob.hex, blob.size):
        raise AuthoringError(f"the archive of App {ref.name!r} has other content than its digest")


def _compose_of(archive: Path, ref: AppRef) -> bytes:
    with archive.open("rb") as compressed, gzip.open(compressed) as stream:
        for name, _, _, content in _entries(stream, f"the archive of App {ref.name!r}"):
            if name == COMPOSE_NAME and content is not None:
                return content.read(COMPOSE_LIMIT_BYTES)
    raise AuthoringError(f"the archive of App {ref.name!r} has no '{COMPOSE_NAME}'")


def _images(compose: bytes, ref: AppRef) -> tuple[str, ...]:
    try:
        services = yaml.safe_load(compose)["services"].values()
        found = tuple(dict.fromkeys(str(service["image"]) for service in services))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AuthoringError(f"the compose file of App {ref.name!r} names no images") from e
    for text in found:
        if not parse_reference(text).digest:
            raise AuthoringError(f"App {ref.name!r} runs {text!r}, which is not pinned")
    return found


def _descriptors(entries: object, ref: AppRef) -> tuple[Descriptor, ...]:
    try:
        found = tuple(
            Descriptor(str(e["mediaType"]), str(e["digest"]), int(e["size"]))
            for e in entries  # type: ignore[attr-defined]
        )
    except (KeyError, TypeError, ValueError) as e:
        raise AuthoringError(f"the manifest of App {ref.name!r} is malformed") from e
    if not all(_DIGEST.fullmatch(blob.digest) for blob in found):
        raise AuthoringError(f"the manifest of App {ref.name!r} names a blob without SHA-256")
    return found


def _object(data: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise AuthoringError(f"{what} is not JSON") from e
    if not isinstance(value, dict):
        raise AuthoringError(f"{what} is not a JSON object")
    return value


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


# --- tar -------------------------------------------------------------------------------


class Readable(Protocol):
    """Bytes that come one after the other."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, none at the end."""


class _Slice(io.RawIOBase):
    """Part of an open file, read from where it stands."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        """See `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  as the base class has it
        """See `io.RawIOBase.readinto`."""
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class _Content:
    """What one file of an archive holds, read as it comes."""

    def __init__(self, stream: IO[bytes], size: int, what: str) -> None:
        self._stream = stream
        self.size = size
        self._what = what

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Read on.

        Raises:
            AuthoringError: the archive ends here, or is damaged.
        """
        try:
            return self._stream.read(size)
        except MALFORMED as e:
            raise _damaged(self._what, e) from e

    def skip(self) -> None:
        """Read what nobody wanted."""
        while self.read():
            pass


class _Guarded:
    """The archive as tarfile reads it: between two files it may not ask for much."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.left: int | None = HEADERS_LIMIT_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise tarfile.ReadError(f"a header has more than {HEADERS_LIMIT_BYTES} bytes")
        return data


def _regular_files(stream: Readable, what: str) -> Iterator[tuple[str, int, _Content]]:
    """Yield the files of an archive that holds nothing but directories and files.

    Raises:
        AuthoringError: it holds something else, a name that leads outside, or is damaged.
    """
    for name, offset, kind, content in _entries(stream, what):
        if name.startswith("/") or ".." in name.split("/"):
            raise AuthoringError(f"{what} holds {name[:200]!r}, which leads outside")
        if content is not None:
            yield name, offset, content
        elif kind != tarfile.DIRTYPE:
            raise AuthoringError(f"{what} holds {name[:200]!r}, which is no file and no directory")


def _entries(stream: Readable, what: str) -> Iterator[tuple[str, int, bytes, _Content | None]]:
    """Yield name, offset, kind and, of a regular file, its content, which need not be read."""
    guard, unpacked = _Guarded(stream), 0
    try:
        with tarfile.open(fileobj=guard, mode="r|") as tar:  # type: ignore[call-overload]
            for _ in range(ENTRIES_LIMIT):
                guard.left = HEADERS_LIMIT_BYTES
                member = tar.next()
                if member is None:
                    return
                tar.members = []  # tarfile keeps every one
                guard.left = None
                unpacked += member.size
                if not 0 <= member.size <= unpacked <= UNPACKED_LIMIT_BYTES:
                    raise tarfile.ReadError("it unpacks to more than may be")
                content = _content(tar, member, what)
                name = member.name.removeprefix("./")
                yield name, member.offset_data, member.type, content
                if content is not None:
                    content.skip()
    except MALFORMED as e:
        raise _damaged(what, e) from e
    raise AuthoringError(f"{what} holds more than {ENTRIES_LIMIT} entries")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, what: str) -> _Content | None:
    if not member.isreg() or member.issparse():
        return None
    file = tar.extractfile(member)
    return _Content(file, member.size, what) if file else None


def _damaged(what: str, error: Exception) -> AuthoringError:
    return AuthoringError(
        f"{what} is damaged or no such archive: {error}", hint="fetch it once more"
    )
