"""The device's store of Apps, and how an App gets into it from a bundle.

The layout is the one aktualizr-lite and composectl keep (docs/apps.md), so that they find
what we copied and we find what they copied. A blob is believed because its digest matched
while it was copied here; afterwards metadata is hashed each time it is read, layers are
known by their size, and the engine checks them once more when it loads them.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path

from agent.adapters import files
from agent.adapters.apps import archive
from agent.adapters.apps.manifest import (
    COMPOSE_LIMIT_BYTES,
    CONFIG_LIMIT_BYTES,
    EXTRA_LIMIT_BYTES,
    IMAGE_MANIFEST_LIMIT_BYTES,
    INDEX_TYPES,
    MANIFEST_LIMIT_BYTES,
    AppManifest,
    Architecture,
    Blob,
    ComposeFile,
    Image,
    ImageRef,
    app_manifest,
    choose_platform,
    compose_file,
    demand_platform,
    image_manifest,
    layer_usage,
    media_type,
)
from agent.adapters.durably import Digest, Durably, HashedBehind
from agent.adapters.files import (
    NotRegularError,
    TooLargeError,
    open_regular,
    read_bounded,
    sync_directory,
    write_all,
    write_atomic,
)
from agent.core.errors import AgentError, NoSpaceError, PullError, StoreError
from agent.core.target import APP_URI, AppRef
from agent.log import get_logger
from agent.ports import Progress

log = get_logger()

CHUNK_BYTES = 1024 * 1024
URI_LIMIT_BYTES = 1024
BLOCK_BYTES = 4096
UNPACK_FACTOR = 5  # the reference's guess of what a layer of unknown size unpacks to
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INGEST = "ingest"
INGEST_PREFIX = "usb-update-"  # composectl keeps its own there


@dataclass(frozen=True, slots=True)
class Content:
    """An App, followed down to its layers.

    Attributes:
        app: which one.
        manifest: what its URI names.
        compose_bytes: its compose file.
        compose: the same, read.
        images: each image of its services once.
    """

    app: AppRef
    manifest: AppManifest
    compose_bytes: bytes
    compose: ComposeFile
    images: tuple[Image, ...]

    @property
    def layers(self) -> tuple[Blob, ...]:
        """The layers of all images, each once."""
        return tuple(dict.fromkeys(layer for image in self.images for layer in image.layers))

    @property
    def digests(self) -> frozenset[str]:
        """Every blob that must stay in the store for this App."""
        images = (blob for image in self.images for blob in image.blobs)
        own = (Blob(self.app.digest), self.manifest.archive, *self.manifest.extras)
        return frozenset(blob.digest for blob in (*own, *images))


class Source:
    """The App store of a bundle: untrusted, its blobs found by digest.

    Args:
        store: ``apps`` directory of the bundle.
        app: the App that is wanted of it.
    """

    def __init__(self, store: Path, app: AppRef) -> None:
        self._store = store
        self._homes = tuple(store / "apps" / name / app.digest for name in _names(app))

    def places(self, digest: str) -> tuple[Path, ...]:
        """Where a blob may lie: among the blobs, or as the older layout keeps it."""
        older = (home / name for home in self._homes for name in ("manifest.json", f"{digest}.tgz"))
        return (
            self._store / "blobs/sha256" / digest,
            *(path for path in older if path.name != "manifest.json" or digest == path.parent.name),
        )

    def find(self, digest: str) -> Path | None:
        """Return the first place where something lies under that digest."""
        return next((path for path in self.places(digest) if os.path.lexists(path)), None)


def _names(app: AppRef) -> tuple[str, ...]:
    """Directory names of an App: as the Target calls it, and as its URI does."""
    return tuple(dict.fromkeys((app.name, _directory_name(app))))


def _directory_name(app: AppRef) -> str:
    """Return the name in the App's URI: the one composectl keeps it under."""
    found = APP_URI.fullmatch(app.uri)
    name = found["app"] if found else app.name
    return app.name if name in (".", "..") else name


class AppStore:
    """``[pacman] reset_apps_root``: blobs by digest, and a directory per App and version.

    Args:
        root: the directory.
        here: what this device runs.
        watermark: percent of a volume that Apps may fill.
        engine_root: where the engine keeps images, for the space check.
    """

    def __init__(self, root: Path, here: Architecture, watermark: int, engine_root: Path) -> None:
        self.root = root
        self._here = here
        self._watermark = watermark
        self._engine_root = engine_root

    # --- what is there ---

    def blob(self, digest: str) -> Path:
        """Where a blob lies or would lie."""
        return self.root / "blobs/sha256" / digest

    def home(self, app: AppRef) -> Path:
        """Return the directory of one version of an App."""
        return self.root / "apps" / _directory_name(app) / app.digest

    def content(self, app: AppRef) -> Content:
        """Follow an App through the store, hashing all but the layers.

        Raises:
            StoreError: something is missing or damaged; another fetch mends it.
        """
        content = self._follow(app, self._stored, self._stored_archive)
        absent = [layer for layer in content.layers if not self._has(layer)]
        if absent:
            raise StoreError(f"layer sha256:{absent[0].digest} of App {app.name!r} is missing")
        if self._uri(app) != app.uri:
            raise StoreError(f"the directory of App {app.name!r} in the store is not complete")
        return content

    def is_whole(self, app: AppRef) -> bool:
        """Whether everything of an App is in the store."""
        try:
            self.content(app)
        except AgentError as e:
            log.debug("app.incomplete", app=app.name, reason=e.message)
            return False
        return True

    def has_any(self, app: AppRef) -> bool:
        """Whether anything of an App is in the store."""
        return self._has(Blob(app.digest)) or self.home(app).exists()

    def versions(self, name: str) -> tuple[AppRef, ...]:
        """Return the versions of an App that lie in the store, by their ``uri`` files."""
        found = (self._read_uri(path) for path in self.root.glob(f"apps/{name}/*/uri"))
        return tuple(AppRef(name, uri) for uri in found if APP_URI.fullmatch(uri))

    def compose_bytes(self, app: AppRef) -> bytes:
        """Return the compose file kept for an App; empty when it cannot be read."""
        try:
            path = self.home(app) / archive.COMPOSE_NAME
            return read_bounded(path, limit=COMPOSE_LIMIT_BYTES)
        except (OSError, NotRegularError, TooLargeError):
            return b""

    def drop_damaged(self, image: Image) -> tuple[str, ...]:
        """Remove blobs of an image whose content is not what their names say.

        Returns:
            The digests of those removed.
        """
        damaged = [b.digest for b in image.blobs if not _matches(self.blob(b.digest), b.digest)]
        for digest in damaged:
            self.blob(digest).unlink(missing_ok=True)
        return tuple(damaged)

    def _uri(self, app: AppRef) -> str:
        return self._read_uri(self.home(app) / "uri")

    def _read_uri(self, path: Path) -> str:
        try:
            return read_bounded(path, limit=URI_LIMIT_BYTES).decode("utf-8", "replace")
        except (OSError, NotRegularError, TooLargeError):
            return ""

    def _has(self, blob: Blob) -> bool:
        try:
            status = self.blob(blob.digest).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and blob.size in (-1, status.st_size)

    def _stored(self, blob: Blob, limit: int, what: str) -> bytes:
        data = self._peek(blob, limit)
        if data is None:
            raise StoreError(
                f"blob sha256:{blob.digest} ({what}) is missing from the store or damaged",
                hint="install the bundle again",
            )
        return data

    def _peek(self, blob: Blob, limit: int) -> bytes | None:
        """Read a blob of the store; None when it is not there or not what its name says."""
        try:
            data = read_bounded(self.blob(blob.digest), limit=limit)
        except (FileNotFoundError, NotRegularError, TooLargeError):
            return None
        except OSError as e:
            raise StoreError(f"the store cannot be read: {e}") from e
        return data if hashlib.sha256(data).hexdigest() == blob.digest else None

    def _stored_archive(self, blob: Blob, what: str) -> Path:
        path = self.blob(blob.digest)
        if not self._has(blob) or not _matches(path, blob.digest):
            raise StoreError(f"blob sha256:{blob.digest} ({what}) is missing from the store")
        return path

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend a directory on the store's volume: ``/tmp`` is memory on many devices."""
        with _writing("the App store"):
            self._prepare()
            directory = tempfile.mkdtemp(prefix=INGEST_PREFIX, dir=self.root / INGEST)
        try:
            yield Path(directory)
        finally:
            _remove_tree(Path(directory))

    # --- following an App ---

    def _follow(
        self,
        app: AppRef,
        read: Callable[[Blob, int, str], bytes],
        archive_of: Callable[[Blob, str], Path],
    ) -> Content:
        """Walk from an App's URI to its layers; ``read`` and ``archive_of`` vouch for bytes."""
        data = read(Blob(app.digest), MANIFEST_LIMIT_BYTES, f"the manifest of App {app.name!r}")
        manifest = app_manifest(data, app.name)
        path = archive_of(manifest.archive, f"the archive of App {app.name!r}")
        compose_bytes = archive.read_compose(path, app.name)
        compose = compose_file(compose_bytes, app.name)
        images = tuple(self._image(ref, read) for ref in compose.images)
        return Content(app, manifest, compose_bytes, compose, images)

    def _image(self, ref: ImageRef, read: Callable[[Blob, int, str], bytes]) -> Image:
        what = f"image '{ref.reference}'"
        root = Blob(ref.digest)
        data = read(root, IMAGE_MANIFEST_LIMIT_BYTES, what)
        root_type = media_type(data, ref)
        root = Blob(ref.digest, len(data))
        chosen = root
        if root_type in INDEX_TYPES:
            chosen = choose_platform(data, ref, self._here)
            data = read(chosen, IMAGE_MANIFEST_LIMIT_BYTES, what)
        manifest = image_manifest(data, ref)
        config = read(manifest.config, CONFIG_LIMIT_BYTES, f"the configuration of {what}")
        demand_platform(config, ref, self._here)
        return Image(ref, root, root_type, chosen, manifest.config, manifest.layers)

    # --- copying ---

    def fetch(self, bundle: Path, app: AppRef, progress: Progress) -> Content:
        """Copy what is missing of an App from a bundle's App store.

        Args:
            bundle: its ``apps`` directory.
            app: which App.
            progress: told about the bytes of layers.

        Raises:
            PullError, NoSpaceError, StoreError, ComposeInvalidError: see `ports.Apps`.
        """
        source = Source(bundle, app)
        with _writing("the App store"):
            self._prepare()

        def read(blob: Blob, limit: int, what: str) -> bytes:
            return self._take(source, blob, limit, what)

        def archive_of(blob: Blob, what: str) -> Path:
            self._demand_space(app, [blob], {})
            self._demand_archive(source, blob, what)
            return self.blob(blob.digest)

        content = self._follow(app, read, archive_of)
        self._take_extras(source, content)
        self._copy_layers(source, content, progress)
        with _writing("the App store"):
            self._publish(content)
        return content

    def _prepare(self) -> None:
        """Make the directories, and clear away what an interrupted copy left."""
        for path in (self.blob(""), self.root / INGEST):
            path.mkdir(parents=True, exist_ok=True)
        for leftover in (self.root / INGEST).glob(f"{INGEST_PREFIX}*"):
            _remove_tree(leftover)

    def _take(self, source: Source, blob: Blob, limit: int, what: str) -> bytes:
        """Return a metadata blob, copied first where the store lacks it."""
        stored = self._peek(blob, limit)
        if stored is not None:
            return stored
        path = _demand_found(source, blob, what)
        try:
            data = read_bounded(path, limit=limit)
        except (NotRegularError, TooLargeError) as e:
            raise PullError(f"{e} (blob sha256:{blob.digest}, {what})") from e
        except OSError as e:
            raise _unreadable(path, e) from e
        if hashlib.sha256(data).hexdigest() != blob.digest or blob.size not in (-1, len(data)):
            raise _mismatch(blob, path, what)
        with _writing(what):
            write_atomic(self.blob(blob.digest), data, mode=0o644)
        return data

    def _take_extras(self, source: Source, content: Content) -> None:
        """Copy what composectl looks for and we do not need, where the bundle has it."""
        for blob in content.manifest.extras:
            if source.find(blob.digest):
                self._take(source, blob, EXTRA_LIMIT_BYTES, f"a part of App {content.app.name!r}")

    def _demand_archive(self, source: Source, blob: Blob, what: str) -> None:
        if not (self._has(blob) and _matches(self.blob(blob.digest), blob.digest)):
            self._copy(source, blob, what, lambda _: None)

    def _copy_layers(self, source: Source, content: Content, progress: Progress) -> None:
        name = content.app.name
        absent = [layer for layer in content.layers if not self._has(layer)]
        self._demand_space(content.app, absent, self._usage(content))
        total = sum(layer.size for layer in absent)
        done = 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            progress(f"App {name}", done, total)

        what = f"a layer of App {name!r}"
        with Durably() as kept, HashedBehind() as hashed:
            for layer in absent:
                file = self._write(source, layer, what, told, hashed.begin())
                kept.add(partial(self._keep, file, layer, what))

    def _usage(self, content: Content) -> dict[str, int]:
        """Return what each layer takes up in the engine, as far as the App says."""
        sizes = content.manifest.layer_sizes
        data = self._peek(sizes, EXTRA_LIMIT_BYTES) if sizes else None
        return dict(layer_usage(data, self._here)) if data else {}

    def _copy(self, source: Source, blob: Blob, what: str, told: Callable[[int], None]) -> None:
        """Copy one blob; it has its name when it is durable."""
        self._keep(self._write(source, blob, what, told, hashlib.sha256()), blob, what)

    def _write(
        self, source: Source, blob: Blob, what: str, told: Callable[[int], None], digest: Digest
    ) -> FileIO:
        """Copy a blob's bytes, hashing what is written; read once, not durable yet."""
        path = _demand_found(source, blob, what)
        temporary = self.root / INGEST / f"{INGEST_PREFIX}{blob.digest}"
        size = 0
        with ExitStack() as undo, _writing(what):
            file = undo.enter_context(FileIO(temporary, "wb"))
            undo.callback(temporary.unlink, missing_ok=True)
            for chunk in _chunks(path, blob, what):
                digest.update(chunk)
                size += len(chunk)
                write_all(file.fileno(), chunk)
                told(len(chunk))
            if (digest.hexdigest(), size) != (blob.digest, blob.size):
                raise _mismatch(blob, path, what)
            os.fchmod(file.fileno(), 0o644)
            undo.pop_all()
        return file

    def _keep(self, file: FileIO, blob: Blob, what: str) -> None:
        """Make a written blob durable, and then give it its name."""
        temporary = Path(os.fsdecode(file.name))
        try:
            with _writing(what), file:
                os.fsync(file.fileno())
                temporary.replace(self.blob(blob.digest))
                sync_directory(self.blob(""))
        finally:
            temporary.unlink(missing_ok=True)
        log.debug("blob.copied", digest=blob.digest, size_bytes=blob.size)

    def _demand_space(self, app: AppRef, blobs: Sequence[Blob], usage: dict[str, int]) -> None:
        """Refuse early what would not fit: in the store, and unpacked in the engine.

        Source: composectl counts blocks of stored blobs, and for the engine the sizes the
        App lists, or five times a layer that its list omits.
        """
        stored = sum(-(-blob.size // BLOCK_BYTES) * BLOCK_BYTES for blob in blobs)
        guess = UNPACK_FACTOR if usage else 1
        unpacked = sum(usage.get(b.digest, b.size * guess) for b in blobs) if blobs else 0
        apart = _volume(self.root) != _volume(self._engine_root)
        self._demand_free(self.root, app, stored if apart else stored + unpacked)
        if apart:
            self._demand_free(self._engine_root, app, unpacked)

    def _demand_free(self, path: Path, app: AppRef, required: int) -> None:
        volume = os.statvfs(_existing(path))
        free = volume.f_bfree * volume.f_frsize
        reserved = volume.f_blocks * volume.f_frsize * (100 - self._watermark) // 100
        available = max(0, free - reserved)
        if required > available:
            raise NoSpaceError(
                f"App {app.name!r} needs {required} bytes on the volume of '{path}'; available "
                f"{available}: free {free} less {reserved} kept free by [pacman] storage_watermark "
                f"{self._watermark}",
                hint="free space on the device, or raise [pacman] storage_watermark",
            )
        if files.free_inodes(volume) == 0:
            raise NoSpaceError(
                f"no file can be made on the volume of '{path}': its inodes are used up",
                hint="remove files from it; 'df -i' shows how many it has",
            )

    # --- the directory per App ---

    def _publish(self, content: Content) -> None:
        """Write what aktualizr-lite looks for beside the blobs; ``uri`` last, it says "whole"."""
        home = self.home(content.app)
        home.mkdir(parents=True, exist_ok=True)
        for image in content.images:
            self._publish_image(image, home / "images" / image.ref.repository / image.ref.digest)
        digest = content.manifest.archive.digest
        _link(self.blob(content.app.digest), home / "manifest.json")
        _link(self.blob(digest), home / f"{digest}.tgz")
        write_atomic(home / archive.COMPOSE_NAME, content.compose_bytes, mode=0o644)
        write_atomic(home / "uri", content.app.uri.encode(), mode=0o644)

    def _publish_image(self, image: Image, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        kind = json.loads(self.blob(image.manifest.digest).read_bytes()).get("mediaType", "")
        entry = {
            "mediaType": kind or "application/vnd.oci.image.manifest.v1+json",
            "digest": f"sha256:{image.manifest.digest}",
            "size": image.manifest.size,
        }
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]})
        write_atomic(directory / "index.json", index.encode(), mode=0o644)
        write_atomic(directory / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', mode=0o644)

    # --- pruning ---

    def prune(self, keep: Iterable[Content]) -> None:
        """Remove versions and blobs that ``keep`` does not need."""
        kept = tuple(keep)
        homes = {self.home(content.app) for content in kept}
        for home in self.root.glob("apps/*/*"):
            if home not in homes:
                _remove_tree(home)
        for parent in self.root.glob("apps/*"):
            with suppress(OSError):
                parent.rmdir()
        needed = frozenset[str]().union(*(content.digests for content in kept))
        for blob in self.root.glob("blobs/sha256/*"):
            if blob.name not in needed:
                _remove_tree(blob)


# --- reading a bundle ------------------------------------------------------------------


def _demand_found(source: Source, blob: Blob, what: str) -> Path:
    path = source.find(blob.digest)
    if path is None:
        raise PullError(
            f"blob sha256:{blob.digest} ({what}) is not in the bundle; "
            f"expected '{source.places(blob.digest)[0]}'",
            hint="copy the bundle to the stick again, or ask for a new one",
        )
    return path


def _chunks(path: Path, blob: Blob, what: str) -> Iterator[bytes]:
    """Read a blob of a bundle in pieces, never more than it may have.

    Raises:
        PullError: it cannot be read, is no regular file, or has another length.
    """
    try:
        with open_regular(path) as fd:
            if os.fstat(fd).st_size != blob.size:
                raise _mismatch(blob, path, what)
            left = blob.size
            while left and (chunk := os.read(fd, min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
    except NotRegularError as e:
        raise PullError(f"{e} (blob sha256:{blob.digest}, {what})") from e
    except OSError as e:
        raise _unreadable(path, e) from e


def _mismatch(blob: Blob, path: Path, what: str) -> PullError:
    expected = f"sha256:{blob.digest}" + (f" of {blob.size} bytes" if blob.size >= 0 else "")
    return PullError(
        f"'{path}' ({what}) does not have the content its digest promises; expected {expected}",
        hint="copy the bundle to the stick again, or ask for a new one",
    )


def _unreadable(path: Path, error: OSError) -> PullError:
    return PullError(
        f"'{path}' cannot be read: {error.strerror or error}",
        hint="leave the stick in until it is done; copy the bundle again if it persists",
    )


# --- writing the store -----------------------------------------------------------------


@contextmanager
def _writing(what: str) -> Iterator[None]:
    """Tell a full volume from one that cannot be written."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            raise NoSpaceError(
                f"the volume is full while {what} is written ('{e.filename or ''}')",
                hint="free space on the device",
            ) from e
        raise StoreError(f"{what} cannot be written: {e}") from e


def _matches(path: Path, digest: str) -> bool:
    try:
        with open_regular(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except (OSError, NotRegularError):
        return False


def _link(blob: Path, path: Path) -> None:
    """Give a blob a second name, replacing what had it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.hardlink_to(blob)
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # rename(2) does nothing when both are one file already


def _volume(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    """Return the nearest directory above that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
