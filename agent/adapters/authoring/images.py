"""Where images come from: OCI layouts, ``docker save`` archives, the local engine, registries.

Each source answers two questions: which manifest is this reference, and what are the bytes
of this digest. Manifests are kept as they are wherever the source has them, so that a digest
somebody pinned stays right. Layers are streamed, never held in memory.

Uses the docker SDK for the local engine only.
"""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from agent.adapters import files
from agent.adapters.authoring.meter import Crew
from agent.adapters.authoring.references import DOMAIN, ImageRef, parse_reference
from agent.core.authoring import INDEX_TYPE, MANIFEST_TYPE, AuthoringError, Descriptor, describe
from agent.core.canonical import canonical_bytes

if TYPE_CHECKING:
    from agent.adapters.authoring.registry import RegistryImages

MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024  # registries refuse larger manifests
CONFIG_LIMIT_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
ENGINE_TIMEOUT_S = 600  # the engine says nothing while it prepares a large image

DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"
INDEX_TYPES = frozenset({INDEX_TYPE, DOCKER_LIST_TYPE})
MANIFEST_TYPES = frozenset({MANIFEST_TYPE, DOCKER_MANIFEST_TYPE})
GZIP_MAGIC = b"\x1f\x8b"

NAME_NOTES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
ENGINE = "docker:"
REGISTRY = "registry:"
PLAIN_REGISTRY = "registry+http:"  # without encryption, because somebody asked for it


class ImageSource(Protocol):
    """Something that holds images."""

    @property
    def label(self) -> str:
        """What to call it in messages."""

    @property
    def crew(self) -> Crew | None:
        """How several threads may read it; None where one must."""

    def resolve(self, ref: ImageRef) -> Descriptor | None:
        """Return the manifest or index that ``ref`` means, None when it is not here."""

    def size(self, digest: str) -> int | None:
        """Return the length of a blob in bytes, None when it is not here."""

    def open(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """Open a blob that `size` knows."""

    def names(self) -> Sequence[str]:
        """Return the references it holds, for messages."""


@runtime_checkable
class RemoteSource(Protocol):
    """One that is far away: what of a blob came once is not asked for again."""

    def open_from(self, digest: str, start: int) -> AbstractContextManager[IO[bytes]]:
        """Open a blob that `ImageSource.size` knows behind its first ``start`` bytes."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image found, down to its blobs.

    Attributes:
        ref: as the compose file means it.
        root: the manifest or index that its digest names.
        manifest: the platform's image manifest; the same as ``root`` without an index.
        blobs: everything it needs: root, manifest, config, layers.
        source: where the blobs are.
        arch: ``architecture`` of its configuration.
    """

    ref: ImageRef
    root: Descriptor
    manifest: Descriptor
    blobs: tuple[Descriptor, ...]
    source: ImageSource
    arch: str


def find_image(text: str, sources: Sequence[ImageSource], arch: str = "") -> Image:
    """Find an image and list its blobs.

    Args:
        text: reference as the compose file has it.
        sources: asked in order; the first that has it answers.
        arch: ``architecture[/variant]`` to choose from an index; empty when there is no
            choice to make.

    Raises:
        AuthoringError: no source has it, or it is not whole there.
    """
    ref = parse_reference(text)
    for source in sources:
        if root := source.resolve(ref):
            return _explore(ref, root, source, arch)
    held = "; ".join(f"{s.label}: {', '.join(s.names()) or 'nothing named'}" for s in sources)
    raise AuthoringError(
        f"image {text!r} is in none of the image sources ({held or 'none given'})",
        hint="add --image docker:, an archive of 'docker save', or an OCI layout; "
        "NAME=SOURCE gives an image without a name one",
    )


@contextmanager
def image_sources(specs: Sequence[str]) -> Iterator[tuple[ImageSource, ...]]:
    """Open image sources as the command line names them, and close them afterwards.

    Args:
        specs: each ``docker:``, a path of an archive or OCI layout, ``oci:<path>``,
            ``registry:``, ``registry:<host>``, or one of these after ``<image name>=``.

    Raises:
        AuthoringError: one of them is nothing of the kind.
    """
    with ExitStack() as stack:
        yield tuple(_image_source(spec, stack) for spec in specs)


def _image_source(spec: str, stack: ExitStack) -> ImageSource:
    name, equals, rest = spec.partition("=")
    if not equals or Path(spec).exists():
        name, rest = "", spec
    alias = parse_reference(name) if name else None
    if rest == ENGINE:
        engine = EngineImages()
        stack.callback(engine.close)
        return engine
    if rest.startswith((REGISTRY, PLAIN_REGISTRY)):
        registry = _registry_images(rest, alias)
        stack.callback(registry.close)
        return registry
    path = Path(rest.removeprefix("oci:").removeprefix("docker-archive:"))
    if path.is_dir():
        return StoredImages(OciDirectory(path), str(path), alias)
    if path.is_file():
        archive = SavedArchive(path)
        stack.callback(archive.close)
        return StoredImages(archive, str(path), alias)
    raise AuthoringError(
        f"image source {spec!r} is neither 'docker:' nor 'registry:' nor an OCI layout directory "
        "nor an archive",
        hint="'docker save IMAGE -o FILE' makes an archive",
    )


def _registry_images(spec: str, alias: ImageRef | None) -> "RegistryImages":
    """Open ``registry:[<host>]``, or ``registry:<reference>`` for one image under another name."""
    # Only who names a registry pays for HTTP.
    from agent.adapters.authoring.registry import RegistryImages  # noqa: PLC0415
    from agent.adapters.authoring.transport import Transport  # noqa: PLC0415

    scheme, _, rest = spec.partition(":")
    plain = f"{scheme}:" == PLAIN_REGISTRY
    ref = parse_reference(rest) if alias else None
    host = ref.domain if ref else rest
    if (host or plain) and not DOMAIN.fullmatch(host):
        raise AuthoringError(
            f"{host!r} is not a registry's host",
            hint="'registry:HOST[:PORT]'; 'NAME=registry:REFERENCE' gives one image a name",
        )
    transport = Transport()
    if plain:
        transport.allow_plain(host)
    pair = (alias, ref) if alias and ref else None
    return RegistryImages(transport, "" if pair else host, alias=pair)


# --- from a manifest to its blobs ------------------------------------------------------


def _explore(ref: ImageRef, root: Descriptor, source: ImageSource, arch: str) -> Image:
    manifest = root if root.media_type in MANIFEST_TYPES else _choose(ref, root, source, arch)
    table = _read_json(source, manifest)
    try:
        config = _descriptor(table["config"])
        layers = tuple(_descriptor(layer) for layer in table["layers"])
    except (KeyError, TypeError, ValueError) as e:
        raise AuthoringError(f"manifest {manifest.digest} in '{source.label}' is malformed") from e
    blobs = tuple(dict.fromkeys((root, manifest, config, *layers)))
    for blob in blobs:
        _demand_whole(blob, source, ref)
    platform = _platform(_read_json(source, config, CONFIG_LIMIT_BYTES))
    if arch and platform[0] != arch.partition("/")[0]:
        raise AuthoringError(
            f"image {ref.repository!r} in '{source.label}' is for {platform[0]!r}, not {arch!r}"
        )
    with_platform = replace(
        manifest, platform=(("architecture", platform[0]), ("os", platform[1])), annotations=()
    )
    return Image(ref, root, with_platform, blobs, source, platform[0])


def _choose(ref: ImageRef, root: Descriptor, source: ImageSource, arch: str) -> Descriptor:
    """Choose the one manifest of an index that is for ``arch`` and is really there."""
    if root.media_type not in INDEX_TYPES:
        raise AuthoringError(
            f"image {ref.repository!r} in '{source.label}' has type {root.media_type!r}; "
            "expected an image manifest or index"
        )
    entries = _read_json(source, root).get("manifests", [])
    present = [e for e in entries if source.size(str(e.get("digest"))) is not None]
    real = [e for e in present if e.get("platform", {}).get("architecture") != "unknown"]
    fitting = [e for e in real if not arch or _fits(e.get("platform", {}), arch)]
    if len(fitting) != 1:
        offered = ", ".join(_spell(e.get("platform", {})) for e in real) or "none"
        raise AuthoringError(
            f"image {ref.repository!r} in '{source.label}' has {len(fitting)} manifests that fit; "
            f"expected one; platforms there: {offered}",
            hint="name the device's with --arch",
        )
    return _descriptor(fitting[0])


def _fits(platform: Mapping[str, Any], arch: str) -> bool:
    architecture, _, variant = arch.partition("/")
    return (
        platform.get("architecture") == architecture
        and platform.get("os", "linux") == "linux"
        and (not variant or platform.get("variant") == variant)
    )


def _spell(platform: Mapping[str, Any]) -> str:
    return "/".join(str(platform[k]) for k in ("architecture", "variant") if platform.get(k))


def _platform(config: Mapping[str, Any]) -> tuple[str, str]:
    return str(config.get("architecture", "")), str(config.get("os", "linux"))


def _demand_whole(blob: Descriptor, source: ImageSource, ref: ImageRef) -> None:
    size = source.size(blob.digest)
    if size != blob.size:
        found = "missing" if size is None else f"{size} bytes long"
        raise AuthoringError(
            f"blob {blob.digest} of image {ref.repository!r} is {found} in '{source.label}'; "
            f"expected {blob.size} bytes",
            hint="save or copy the image again; a layer the engine never pulled is not there",
        )


def _descriptor(value: Mapping[str, Any]) -> Descriptor:
    return Descriptor(str(value["mediaType"]), str(value["digest"]), int(value["size"]))


def _read_json(
    source: ImageSource, blob: Descriptor, limit: int = MANIFEST_LIMIT_BYTES
) -> Mapping[str, Any]:
    if (source.size(blob.digest) or 0) > limit:
        raise AuthoringError(f"{blob.digest} in '{source.label}' is larger than {limit} bytes")
    if source.size(blob.digest) is None:
        raise AuthoringError(f"{blob.digest} is missing in '{source.label}'")
    with source.open(blob.digest) as stream:
        data = stream.read(limit)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != blob.digest:
        raise AuthoringError(f"{blob.digest} in '{source.label}' has other content")
    return _table(data, f"{blob.digest} in '{source.label}'")


def _table(data: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise AuthoringError(f"{what} is not JSON") from e
    if not isinstance(value, dict):
        raise AuthoringError(f"{what} is not a JSON object")
    return value


# --- stored images ---------------------------------------------------------------------


class BlobTree(Protocol):
    """Files by name: an OCI layout, unpacked or inside an archive."""

    def size(self, name: str) -> int | None:
        """Return the length of a regular file, None when there is none."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file that `size` knows."""


class OciDirectory:
    """An OCI layout on a disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self, name: str) -> int | None:
        """See `BlobTree.size`."""
        file = self.path / name
        return file.stat().st_size if file.is_file() else None

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """See `BlobTree.open`."""
        return (self.path / name).open("rb")


class SavedArchive:
    """A tar of ``docker save``, of ``skopeo`` or of an OCI layout; compressed or not."""

    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115  open as long as the source is
            self._members = {_plain(member.name): member for member in self._tar.getmembers()}
        except (tarfile.TarError, OSError, EOFError) as e:
            raise AuthoringError(
                f"'{path}' cannot be read as a tar archive: {files.why(e, path).partition(':')[0]}",
                hint="'docker save IMAGE -o FILE' makes one",
            ) from e

    def size(self, name: str) -> int | None:
        """See `BlobTree.size`; links to other members are followed."""
        member = self._regular(name)
        return member.size if member else None

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """See `BlobTree.open`."""
        member = self._regular(name)
        stream = self._tar.extractfile(member) if member else None
        if stream is None:
            raise AuthoringError(f"the archive has no file '{name}'")
        with stream:
            yield stream

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()

    def _regular(self, name: str) -> tarfile.TarInfo | None:
        member = self._members.get(_plain(name))
        if member and member.issym():  # old engines store a layer once and link to it
            member = self._members.get(_plain(f"{Path(name).parent}/{member.linkname}"))
        return member if member and member.isreg() else None


def _plain(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class StoredImages:
    """Images of an OCI layout, or of an archive in Docker's own layout."""

    crew = None

    def __init__(self, tree: BlobTree, label: str, alias: ImageRef | None = None) -> None:
        self.label = label
        self._tree = tree
        self._alias = alias
        self._made: dict[str, bytes] = {}
        self._files: dict[str, str] = {}
        self._named: list[tuple[str, Descriptor]] = []
        if tree.size("index.json") is not None:
            self._read_layout()
        elif tree.size("manifest.json") is not None:
            self._read_docker()
        else:
            raise AuthoringError(
                f"'{label}' has neither 'index.json' nor 'manifest.json'",
                hint="expected an OCI layout or an archive of 'docker save'",
            )

    def resolve(self, ref: ImageRef) -> Descriptor | None:
        """See `ImageSource.resolve`."""
        if ref.digest:
            return self._by_digest(ref.digest)
        if self._alias is not None:
            return self._by_alias(ref)
        return next((blob for name, blob in self._named if name == ref.tagged), None)

    def size(self, digest: str) -> int | None:
        """See `ImageSource.size`."""
        if digest in self._made:
            return len(self._made[digest])
        return self._tree.size(self._file(digest))

    def open(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """See `ImageSource.open`."""
        if digest in self._made:
            return BytesIO(self._made[digest])
        return self._tree.open(self._file(digest))

    def names(self) -> Sequence[str]:
        """See `ImageSource.names`."""
        return [self._alias.tagged] if self._alias else [name for name, _ in self._named if name]

    def _file(self, digest: str) -> str:
        return self._files.get(digest, "blobs/" + digest.replace(":", "/", 1))

    def _by_digest(self, digest: str) -> Descriptor | None:
        for _, blob in self._named:
            if blob.digest == digest:
                return blob
        size = self.size(digest)
        if size is None or size > MANIFEST_LIMIT_BYTES:
            return None
        with self.open(digest) as stream:
            media_type = _media_type(stream.read(MANIFEST_LIMIT_BYTES))
        return Descriptor(media_type, digest, size) if media_type else None

    def _by_alias(self, ref: ImageRef) -> Descriptor | None:
        if self._alias is None or ref.tagged != self._alias.tagged:
            return None
        distinct = {blob.digest: blob for _, blob in self._named}
        if len(distinct) != 1:
            raise AuthoringError(
                f"'{self.label}' holds {len(distinct)} images; a name can be given to one",
                hint="make a layout of this image alone",
            )
        return next(iter(distinct.values()))

    def _read_layout(self) -> None:
        index = _table(self._small("index.json"), f"'index.json' of '{self.label}'")
        try:
            for entry in index["manifests"]:
                notes = entry.get("annotations") or {}
                names = [_full_name(str(notes[note])) for note in NAME_NOTES if note in notes]
                self._named.append((next(filter(None, names), ""), _descriptor(entry)))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise AuthoringError(f"'index.json' of '{self.label}' is malformed") from e

    def _read_docker(self) -> None:
        try:
            for entry in json.loads(self._small("manifest.json")):
                manifest = self._convert(entry)
                for name in entry.get("RepoTags") or [""]:
                    self._named.append((_full_name(name), manifest))
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise AuthoringError(f"'manifest.json' of '{self.label}' is malformed") from e

    def _convert(self, entry: Mapping[str, Any]) -> Descriptor:
        """Make the Docker v2s2 manifest that this layout does not carry."""
        data = self._small(str(entry["Config"]), CONFIG_LIMIT_BYTES)
        config = describe(data, DOCKER_CONFIG_TYPE)
        self._files[config.digest] = str(entry["Config"])
        diff_ids = json.loads(data)["rootfs"]["diff_ids"]
        layers = [
            self._layer(str(name), str(diff_id))
            for name, diff_id in zip(entry["Layers"], diff_ids, strict=True)
        ]
        made = canonical_bytes(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST_TYPE,
                "config": config.to_json(),
                "layers": [layer.to_json() for layer in layers],
            }
        )
        manifest = describe(made, DOCKER_MANIFEST_TYPE)
        self._made[manifest.digest] = made
        return manifest

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        """Describe a layer; one that is not compressed is named by its diff id."""
        size = self._tree.size(name)
        if size is None:
            raise AuthoringError(f"'{self.label}' lacks the layer '{name}'")
        with self._tree.open(name) as stream:
            head = stream.read(len(GZIP_MAGIC))
            digest = diff_id if head != GZIP_MAGIC else _digest(stream, head)
        suffix = ".gzip" if head == GZIP_MAGIC else ""
        self._files[digest] = name
        return Descriptor(DOCKER_LAYER_TYPE + suffix, digest, size)

    def _small(self, name: str, limit: int = MANIFEST_LIMIT_BYTES) -> bytes:
        size = self._tree.size(name)
        if size is None or size > limit:
            found = "missing" if size is None else f"{size} bytes long"
            raise AuthoringError(f"'{name}' of '{self.label}' is {found}")
        with self._tree.open(name) as stream:
            return stream.read(limit)


def _full_name(text: str) -> str:
    """Complete a stored name; a bare tag names no image."""
    if not text or ("/" not in text and ":" not in text):
        return ""
    try:
        return parse_reference(text).tagged
    except AuthoringError:
        return ""


def _media_type(data: bytes) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    media_type = value.get("mediaType", "") if isinstance(value, dict) else ""
    if isinstance(value, dict) and not media_type:  # optional in OCI
        media_type = INDEX_TYPE if "manifests" in value else MANIFEST_TYPE
    return media_type if media_type in MANIFEST_TYPES | INDEX_TYPES else ""


def _digest(stream: IO[bytes], head: bytes) -> str:
    sha256 = hashlib.sha256(head)
    while chunk := stream.read(CHUNK_BYTES):
        sha256.update(chunk)
    return f"sha256:{sha256.hexdigest()}"


# --- the local engine ------------------------------------------------------------------


class EngineImages:
    """Images of the local Docker engine, saved one by one when they are asked for.

    Each is spooled to a temporary archive (``TMPDIR``): what the engine sends comes in an
    order in which names are known last.
    """

    label = "the local Docker engine"
    crew = None

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._saved: list[StoredImages] = []

    def resolve(self, ref: ImageRef) -> Descriptor | None:
        """See `ImageSource.resolve`.

        Raises:
            AuthoringError: the engine does not answer, or has the image without the
                manifest that ``ref`` pins.
        """
        name = ref.pinned(ref.digest) if ref.digest else ref.tagged
        saved = self._save(name)
        if saved is None:
            return None
        found = saved.resolve(ref)
        if found is None:
            raise AuthoringError(
                f"{self.label} has {name!r} but not the manifest of that digest: its image store "
                "keeps no registry manifests",
                hint="name a tag instead, or give an OCI layout made with "
                "'skopeo copy --preserve-digests'",
            )
        self._saved.insert(0, saved)
        return found

    def size(self, digest: str) -> int | None:
        """See `ImageSource.size`."""
        return next((s for saved in self._saved if (s := saved.size(digest)) is not None), None)

    def open(self, digest: str) -> AbstractContextManager[IO[bytes]]:
        """See `ImageSource.open`."""
        return next(s for s in self._saved if s.size(digest) is not None).open(digest)

    def names(self) -> Sequence[str]:
        """See `ImageSource.names`."""
        return ["whatever 'docker images' lists"]

    def close(self) -> None:
        """Remove what was spooled."""
        self._stack.close()

    def _save(self, name: str) -> StoredImages | None:
        import docker  # noqa: PLC0415  only who names 'docker:' pays for it
        from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415

        file = self._stack.enter_context(tempfile.NamedTemporaryFile(suffix=".tar"))  # noqa: SIM115
        try:
            client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
            self._stack.callback(client.close)
            # Asking for the archive of an unknown image is a plain 404; this says which.
            client.images.get(name)
            for chunk in client.api.get_image(name):
                file.write(chunk)
        except ImageNotFound:
            return None
        except (DockerException, OSError) as e:
            raise AuthoringError(
                f"{self.label} cannot be asked for {name!r}: {_reason(e)}",
                hint="start it, or give an archive of 'docker save' instead; DOCKER_HOST names "
                "another engine",
            ) from e
        file.flush()
        archive = SavedArchive(Path(file.name))
        self._stack.callback(archive.close)
        return StoredImages(archive, f"{self.label}, {name}")


def _reason(error: BaseException) -> str:
    """Return the innermost reason: the SDK wraps what the system says several times."""
    while error.__context__ is not None:
        error = error.__context__
    cause = next((part for part in error.args if isinstance(part, OSError)), error)
    return files.why(cause) if isinstance(cause, Exception) else str(cause)
