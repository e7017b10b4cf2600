"""The App store of a bundle: planned from an App directory, then written blob by blob.

Both layouts are written: every blob by its digest in ``blobs/sha256`` and, beside it, the
per-App view that older engines read. No links: the stick may be FAT. A blob that is there
is not read again; a blob that is new is hashed while it is written and appears only whole.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Protocol

from agent.adapters import files
from agent.adapters.authoring.composefile import COMPOSE_NAME, pin_compose, read_compose
from agent.adapters.authoring.images import Image, ImageSource, RemoteSource, find_image
from agent.adapters.authoring.meter import Crew, Meter, at_once
from agent.adapters.authoring.packing import PackedFiles, index_descriptor, pack
from agent.adapters.durably import Durably
from agent.core.appfiles import AppSource
from agent.core.authoring import (
    EMPTY_CONFIG,
    MANIFEST_TYPE,
    AuthoringError,
    Descriptor,
    app_manifest,
    describe,
    image_index,
)
from agent.core.target import APP_NAME, AppRef
from agent.ports import Progress

CHUNK_BYTES = 1024 * 1024
OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
SMALL_FILES_BYTES = 64 * 1024  # allowance per App for what is not a blob
MODE = 0o644  # a bundle holds nothing secret


Opener = Callable[[int], AbstractContextManager[IO[bytes]]]
"""Opens something behind its first so many bytes."""


@dataclass(frozen=True, slots=True)
class PlannedApp:
    """An App ready to be written; nothing of it is in the bundle yet.

    Attributes:
        ref: its name and pinned URI.
        manifest: its manifest, as a blob.
        packed: its archive.
        compose: its compose file, pinned.
        images: what its services run.
        extra: more blobs that its manifest names; an App made here has none.
    """

    ref: AppRef
    manifest: bytes
    packed: PackedFiles
    compose: bytes
    images: tuple[Image, ...]
    extra: tuple["Blob", ...] = ()

    @property
    def archs(self) -> frozenset[str]:
        """Architectures of its images."""
        return frozenset(image.arch for image in self.images if image.arch)

    @property
    def view_size(self) -> int:
        """Bytes of its view, about."""
        return SMALL_FILES_BYTES + self.packed.descriptor.size

    def blobs(self) -> Iterator["Blob"]:
        """Yield all blobs of it, some perhaps twice."""
        return _blobs(self)

    def write_view(self, view: Path, blobs: Path) -> None:
        """Write what readers find it by, but for ``uri``.

        Args:
            view: its directory.
            blobs: where its blobs are already.
        """
        files.write_atomic(view / "manifest.json", self.manifest, mode=MODE)
        files.write_atomic(view / COMPOSE_NAME, self.compose, mode=MODE)
        archive = self.packed.descriptor.hex
        copy_file(blobs / archive, view / f"{archive}.tgz")
        for image in self.images:
            _write_image_view(view, image)


class StorableApp(Protocol):
    """What an `AppStore` asks of an App; `PlannedApp`, or one of another store."""

    @property
    def ref(self) -> AppRef:
        """Its name and pinned URI."""

    @property
    def view_size(self) -> int:
        """Bytes of its view, about."""

    def blobs(self) -> Iterator["Blob"]:
        """Yield all blobs of it, some perhaps twice."""

    def write_view(self, view: Path, blobs: Path) -> None:
        """Write what readers find it by, but for ``uri``."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob and where its bytes come from.

    Attributes:
        descriptor: what it must be.
        open: opens it.
        crew: how several threads may read its source; None where one must.
        open_from: opens it behind its first so many bytes; None where it is read anew.
    """

    descriptor: Descriptor
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    crew: Crew | None = None
    open_from: Opener | None = None


def plan_app(
    source: AppSource,
    sources: Sequence[ImageSource],
    scratch: Path,
    *,
    prefix: str,
    arch: str = "",
) -> PlannedApp:
    """Read an App, find its images, and decide its digest.

    Args:
        source: the App's files, ``docker-compose.yml`` among them.
        sources: where its images are.
        scratch: where the archive is kept until the App is written.
        prefix: ``<host>/<factory>`` of the App's URI.
        arch: architecture to choose where an image has several.

    Raises:
        AuthoringError: something of it cannot go into a bundle.
    """
    name = source.name
    if not APP_NAME.fullmatch(name):
        raise AuthoringError(
            f"{source.where} is called {name!r}; expected lowercase letters, digits, '_' and '-'",
            hint="the directory's name is the App's name",
        )
    images: dict[str, Image] = {}

    def pin(text: str) -> str:
        image = images.setdefault(text, find_image(source.image(text), sources, arch))
        return image.ref.pinned(image.root.digest)

    compose = pin_compose(read_compose(source), pin, f"'{COMPOSE_NAME}' of {source.where}")
    packed = pack(source, compose, scratch / f"{name}.tgz")
    manifest = app_manifest(packed.descriptor, index_descriptor(packed.index))
    digest = describe(manifest, MANIFEST_TYPE).digest
    ref = AppRef(name, f"{prefix}/{name}@{digest}")
    return PlannedApp(ref, manifest, packed, compose, tuple(images.values()))


class AppStore:
    """The ``apps`` directory of a bundle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blobs = path / "blobs" / "sha256"

    def missing(self, apps: Sequence[StorableApp]) -> tuple[Blob, ...]:
        """Return the blobs of ``apps`` that are not there, each once however many share it."""
        wanted = {blob.descriptor.hex: blob for app in apps for blob in app.blobs()}
        return tuple(blob for blob in wanted.values() if not self._has(blob.descriptor))

    def write(self, apps: Sequence[StorableApp], progress: Progress) -> None:
        """Write ``apps``; what is there stays.

        Raises:
            AuthoringError: a blob differs from its digest; nothing refers to it.
            OSError: the destination cannot be written.
        """
        blobs = self.missing(apps)
        meter = Meter(progress, "Apps", sum(blob.descriptor.size for blob in blobs))
        self._blobs.mkdir(parents=True, exist_ok=True)
        with Durably() as kept:
            for crew in dict.fromkeys(blob.crew for blob in blobs):
                theirs = [blob for blob in blobs if blob.crew == crew]
                at_once(partial(self._write_blob, meter=meter, kept=kept), theirs, meter, crew)
        files.sync_directory(self._blobs)
        for app in apps:
            self._write_view(app)

    def _has(self, blob: Descriptor) -> bool:
        file = self._blobs / blob.hex
        return file.is_file() and file.stat().st_size == blob.size

    def begun(self, blob: Blob) -> int:
        """Return how many bytes of a blob an earlier command left, and this one need not fetch."""
        part = self._part(blob)
        if blob.open_from is None or part.is_symlink() or not part.is_file():
            return 0
        return min(part.stat().st_size, blob.descriptor.size)

    def _part(self, blob: Blob) -> Path:
        return self._blobs / f".{blob.descriptor.hex}.part"

    def _write_blob(self, blob: Blob, meter: Meter, kept: Durably) -> None:
        part, begun = self._part(blob), self.begun(blob)
        # What an earlier command left may not be its beginning: a power cut leaves zeros.
        if not (begun and blob.open_from and _finished(blob, blob.open_from, begun, part, meter)):
            _written(blob, part, meter)
        kept.add(partial(_keep, part, self._blobs / blob.descriptor.hex))

    def _write_view(self, app: StorableApp) -> None:
        """Write what readers find an App by; ``uri`` last, since it says the App is there."""
        view = self.path / "apps" / app.ref.name / app.ref.digest
        view.mkdir(parents=True, exist_ok=True)
        app.write_view(view, self._blobs)
        files.write_atomic(view / "uri", app.ref.uri.encode(), mode=MODE)


def _finished(blob: Blob, open_from: Opener, begun: int, part: Path, meter: Meter) -> bool:
    """Go on where an earlier command stopped; false when that was not this blob's beginning."""
    sha256 = hashlib.sha256()
    with part.open("r+b") as file:
        for chunk in _chunks(file, begun):
            sha256.update(chunk)
            meter.add(len(chunk))
        file.truncate(begun)
        with open_from(begun) as source:
            size = begun + _copy(source, file, sha256, meter)
    if (sha256.hexdigest(), size) == (blob.descriptor.hex, blob.descriptor.size):
        return True
    meter.add(-size)
    return False


def _written(blob: Blob, part: Path, meter: Meter) -> None:
    """Copy a blob from its source.

    Raises:
        AuthoringError: it is not what it should be; nothing is left of it.
    """
    sha256 = hashlib.sha256()
    part.unlink(missing_ok=True)  # not written through, should it be a link
    with blob.open() as source, part.open("xb") as file:
        size = _copy(source, file, sha256, meter)
    if (sha256.hexdigest(), size) != (blob.descriptor.hex, blob.descriptor.size):
        part.unlink()
        raise AuthoringError(
            f"blob {blob.descriptor.digest} has other content at its source: "
            f"{size} bytes with sha256 {sha256.hexdigest()}",
            hint="save, push or copy the image again",
        )


def _copy(source: IO[bytes], file: IO[bytes], sha256: "hashlib._Hash", meter: Meter) -> int:
    size = 0
    while chunk := source.read(CHUNK_BYTES):
        sha256.update(chunk)
        file.write(chunk)
        size += len(chunk)
        meter.add(len(chunk))
    return size


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Read the first ``size`` bytes."""
    while size and (chunk := file.read(min(CHUNK_BYTES, size))):
        size -= len(chunk)
        yield chunk


def _keep(part: Path, path: Path) -> None:
    """Make a written file durable, and then give it its name."""
    part.chmod(MODE)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file so that it appears whole."""
    part = destination.with_name(f".{destination.name}.part")
    with source.open("rb") as old, part.open("wb") as new:
        while chunk := old.read(CHUNK_BYTES):
            new.write(chunk)
    _keep(part, destination)


def _blobs(app: PlannedApp) -> Iterator[Blob]:
    for data, media_type in (
        (app.manifest, MANIFEST_TYPE),
        (EMPTY_CONFIG, "application/vnd.oci.empty.v1+json"),
    ):
        yield _held(describe(data, media_type), data)
    if app.packed.index:
        yield _held(index_descriptor(app.packed.index), app.packed.index)
    yield Blob(app.packed.descriptor, lambda: app.packed.path.open("rb"))
    yield from app.extra
    for image in app.images:
        yield from _image_blobs(image)


def _held(descriptor: Descriptor, data: bytes) -> Blob:
    return Blob(descriptor, lambda: BytesIO(data))


def _image_blobs(image: Image) -> Iterator[Blob]:
    source = image.source
    for descriptor in image.blobs:
        opener = partial(source.open, descriptor.digest)
        rest = (
            partial(source.open_from, descriptor.digest)
            if isinstance(source, RemoteSource)
            else None
        )
        yield Blob(descriptor, opener, source.crew, rest)


def _write_image_view(view: Path, image: Image) -> None:
    if ":" in image.ref.domain:
        return  # FAT has no colon, and readers of this view could not name such a path either
    directory = view / "images" / image.ref.domain / image.ref.path / image.root.hex
    directory.mkdir(parents=True, exist_ok=True)
    files.write_atomic(directory / "oci-layout", OCI_LAYOUT, mode=MODE)
    files.write_atomic(directory / "index.json", image_index(image.manifest), mode=MODE)
