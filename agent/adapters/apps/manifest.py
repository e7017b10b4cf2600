"""What an App consists of: its manifest, its compose file, its images' manifests.

In: bytes whose digest already matched. Out: values. A digest vouches for who made the
bytes, not for their sense, so every shape, number and name is checked all the same.
"""

import json
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from agent.core.errors import ComposeInvalidError, PullError

if TYPE_CHECKING:
    import yaml

MANIFEST_LIMIT_BYTES = 64 * 1024  # composectl's bound is 50 KiB
COMPOSE_LIMIT_BYTES = 1024 * 1024  # composectl's bound
ARCHIVE_LIMIT_BYTES = 1024**3  # composectl's bound
EXTRA_LIMIT_BYTES = 4 * 1024 * 1024  # layer sizes, bundle index
IMAGE_MANIFEST_LIMIT_BYTES = 4 * 1024 * 1024  # registries refuse larger ones
CONFIG_LIMIT_BYTES = 8 * 1024 * 1024
LAYER_LIMIT_BYTES = 64 * 1024**3
LAYERS_LIMIT = 512  # overlay2 mounts at most 128
SERVICES_LIMIT = 256
COMPOSE_TAGS = ("!reset", "!override")
NODES_LIMIT = 100_000  # values in a compose file once its aliases are followed

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)

DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
PINNED = re.compile(
    r"(?P<repository>"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?@sha256:(?P<digest>[0-9a-f]{64})",
    re.ASCII,
)
SHORT_DIGITS = 7  # of the digest, in the tag that composectl gives an image as well

# What a kernel runs beside its own architecture.
ALSO_RUNS = {"amd64": ("386",), "arm64": ("arm",)}
MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
}


@dataclass(frozen=True, slots=True)
class Blob:
    """Content by its digest.

    Attributes:
        digest: SHA-256, 64 lowercase hex digits.
        size: length in bytes; -1 when only the digest is known.
    """

    digest: str
    size: int = -1


@dataclass(frozen=True, slots=True)
class AppManifest:
    """The manifest an App's URI names.

    Attributes:
        archive: its files, a gzip-compressed tar.
        extras: its configuration, layer sizes, indices; kept for other programs.
        layer_sizes: among ``extras``, the sizes its layers take up once unpacked.
    """

    archive: Blob
    extras: tuple[Blob, ...] = ()
    layer_sizes: Blob | None = None


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image, pinned.

    Attributes:
        reference: as the compose file has it.
        repository: name without tag and digest.
        digest: of its manifest or index, 64 hex digits.
    """

    reference: str
    repository: str
    digest: str

    @property
    def short_tag(self) -> str:
        """Tag of the loaded image: what the digest is known by on the classic store."""
        return f"{self.repository}:{self.digest[:SHORT_DIGITS]}"


@dataclass(frozen=True, slots=True)
class Service:
    """One service of a compose file.

    Attributes:
        name: its key.
        image: what it runs.
        config_hash: label ``io.compose-spec.config-hash``, empty without one.
        started: whether ``up`` makes a container of it: no profile, not scaled to none.
        has_health_check: whether the compose file defines one.
    """

    name: str
    image: ImageRef
    config_hash: str = ""
    started: bool = True
    has_health_check: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image, followed down to its layers.

    Attributes:
        ref: as the compose file has it.
        root: what ``ref`` names: the manifest itself or an index.
        root_type: media type of ``root``.
        manifest: the platform's manifest.
        config: its configuration; its digest is the image ID on the classic store.
        layers: the lowest first.
    """

    ref: ImageRef
    root: Blob
    root_type: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def ids(self) -> frozenset[str]:
        """The engine's IDs that can only be this image: each is a digest of its bytes."""
        return frozenset(f"sha256:{b.digest}" for b in (self.root, self.manifest, self.config))

    @property
    def metadata(self) -> tuple[Blob, ...]:
        """Everything but the layers, each once."""
        return tuple(dict.fromkeys((self.root, self.manifest, self.config)))

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """Everything, each once."""
        return tuple(dict.fromkeys((*self.metadata, *self.layers)))


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """An image manifest: configuration and layers."""

    config: Blob
    layers: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What this device runs.

    Attributes:
        name: as in Go: ``amd64``, ``arm64``, ``arm``.
        variant: ``v7`` and the like, empty where there is none.
    """

    name: str
    variant: str = ""

    def runs(self, name: str, variant: str = "") -> bool:
        """Whether a program for that platform runs here."""
        if name == self.name:
            return not variant or not self.variant or variant <= self.variant
        return name in ALSO_RUNS.get(self.name, ())

    def __str__(self) -> str:
        """Spell it ``arm/v7``."""
        return f"{self.name}/{self.variant}" if self.variant else self.name


def architecture(text: str = "") -> Architecture:
    """Return the architecture ``text`` spells; without one, this machine's."""
    if text:
        name, _, variant = text.partition("/")
        return Architecture(name, variant)
    machine = platform.machine()
    return Architecture(*MACHINES.get(machine, (machine, "")))


# --- manifests -------------------------------------------------------------------------


def app_manifest(data: bytes, app: str) -> AppManifest:
    """Read an App's manifest.

    Raises:
        PullError: it is not the manifest of a Compose App.
    """
    what = f"the manifest of App {app!r}"
    table = _json(data, what)
    layers = [_table(layer, f"a layer in {what}") for layer in _list(table.get("layers"), what)]
    if not layers:
        raise PullError(f"{what} has no layers; expected the App's archive first")
    archive = _blob(layers[0], what, ARCHIVE_LIMIT_BYTES)
    extras = tuple(_blob(layer, what, EXTRA_LIMIT_BYTES) for layer in layers[1:])
    sizes = next(
        (blob for blob, layer in zip(extras, layers[1:], strict=True) if _lists_sizes(layer)), None
    )
    notes = tuple(_further_blobs(table, layers[0], what))
    return AppManifest(archive, tuple(dict.fromkeys((*extras, *notes))), sizes)


def _lists_sizes(layer: Mapping[str, Any]) -> bool:
    return "layers-meta" in _table(layer.get("annotations", {}), "'annotations' of a layer")


def _further_blobs(
    table: Mapping[str, Any], archive: Mapping[str, Any], what: str
) -> Iterator[Blob]:
    """Name what composectl looks for beside the archive: config, index, per-platform lists."""
    if "config" in table:
        yield _blob(table["config"], what, EXTRA_LIMIT_BYTES)
    for entry in _list(table.get("manifests", []), what):
        yield _blob(entry, what, EXTRA_LIMIT_BYTES)
    notes = _table(archive.get("annotations", {}), f"'annotations' in {what}")
    if index := notes.get("org.foundries.app.bundle.index.digest"):
        yield Blob(_digest(index, what))


def image_manifest(data: bytes, ref: ImageRef) -> ImageManifest:
    """Read an image manifest, OCI or Docker v2s2.

    Raises:
        PullError: it is neither.
    """
    what = f"the manifest of image '{ref.reference}'"
    table = _json(data, what)
    layers = _list(table.get("layers"), what)
    if len(layers) > LAYERS_LIMIT:
        raise PullError(f"{what} lists {len(layers)} layers, more than {LAYERS_LIMIT}")
    return ImageManifest(
        _blob(table.get("config"), what, CONFIG_LIMIT_BYTES),
        tuple(_blob(layer, what, LAYER_LIMIT_BYTES) for layer in layers),
    )


def media_type(data: bytes, ref: ImageRef) -> str:
    """Tell an index from a manifest, by what it says or else by what it holds.

    Raises:
        PullError: it is neither, or claims one and holds the other.
    """
    what = f"image '{ref.reference}'"
    table = _json(data, what)
    lists = "manifests" in table
    if lists == ("layers" in table):
        raise PullError(f"{what} names neither an image manifest nor an image index")
    known = INDEX_TYPES if lists else MANIFEST_TYPES
    said = table.get("mediaType", next(t for t in known if ".oci." in t))
    if said not in known:
        raise PullError(f"{what} has type {str(said)[:80]!r}; expected one of {sorted(known)}")
    return str(said)


def choose_platform(data: bytes, ref: ImageRef, here: Architecture) -> Blob:
    """Choose the manifest of an index that runs on this device.

    Raises:
        PullError: there is none.
    """
    what = f"the index of image '{ref.reference}'"
    entries = [_table(e, what) for e in _list(_json(data, what).get("manifests"), what)]
    platforms = [_table(e.get("platform", {}), what) for e in entries]
    fitting = [
        (_fitness(p, here), entry)
        for p, entry in zip(platforms, entries, strict=True)
        if p.get("os", "linux") == "linux" and here.runs(*_spelled(p))
    ]
    if not fitting:
        offered = ", ".join("/".join(filter(None, _spelled(p))) for p in platforms[:16])
        raise PullError(
            f"image '{ref.reference}' is not made for this device: "
            f"expected {here}, found {offered or 'nothing'}",
            hint="make the bundle for this device's architecture",
        )
    best = max(fitting, key=lambda item: item[0])
    return _blob(best[1], what, IMAGE_MANIFEST_LIMIT_BYTES)


def _fitness(found: Mapping[str, Any], here: Architecture) -> tuple[bool, str]:
    """Rank platforms that run here: this very architecture, then the highest variant."""
    name, variant = _spelled(found)
    return name == here.name, variant


def _spelled(found: Mapping[str, Any]) -> tuple[str, str]:
    return str(found.get("architecture", ""))[:32], str(found.get("variant", ""))[:32]


def demand_platform(config: bytes, ref: ImageRef, here: Architecture) -> None:
    """Refuse an image whose configuration is for another architecture.

    The engine loads it without a word, and its programs fail with "exec format error".
    One that names no architecture cannot be judged and is taken, as by the reference.

    Raises:
        PullError: the image does not run here.
    """
    found = _spelled(_json(config, f"the configuration of image '{ref.reference}'"))
    if found[0] and not here.runs(*found):
        raise PullError(
            f"image '{ref.reference}' is not made for this device: "
            f"expected {here}, found {'/'.join(filter(None, found))}",
            hint="make the bundle for this device's architecture",
        )


def layer_usage(data: bytes, here: Architecture) -> Mapping[str, int]:
    """Read how many bytes each layer takes up once unpacked; empty when it does not say."""
    table = _json(data, "the list of layer sizes").get(here.name, {})
    layers = table.get("layers", {}) if isinstance(table, dict) else {}
    if not isinstance(layers, dict):
        return {}
    return {
        digest.removeprefix("sha256:"): entry["usage"]
        for digest, entry in layers.items()
        if isinstance(entry, dict) and type(entry.get("usage")) is int and entry["usage"] >= 0
    }


# --- the compose file ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """The services of an App, by name."""

    services: tuple[Service, ...] = field(default=())

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Each image once."""
        return tuple(dict.fromkeys(service.image for service in self.services))


def compose_file(data: bytes, app: str) -> ComposeFile:
    """Read a compose file as far as this agent needs it.

    Raises:
        ComposeInvalidError: it is not YAML, too large or nested, has no services, or an
            image is not pinned by digest.
    """
    table = _yaml(data, app)
    services = table.get("services")
    if not isinstance(services, dict) or not services:
        raise ComposeInvalidError(f"the compose file of App {app!r} has no services")
    if len(services) > SERVICES_LIMIT:
        raise ComposeInvalidError(
            f"the compose file of App {app!r} has {len(services)} services, "
            f"more than {SERVICES_LIMIT}"
        )
    return ComposeFile(tuple(_service(name, entry, app) for name, entry in services.items()))


def _yaml(data: bytes, app: str) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415  only Apps need it

    what = f"the compose file of App {app!r}"
    if len(data) > COMPOSE_LIMIT_BYTES:
        raise ComposeInvalidError(f"{what} is larger than {COMPOSE_LIMIT_BYTES} bytes")
    try:
        value = yaml.load(data, Loader=_compose_loader())  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as e:
        raise ComposeInvalidError(f"{what} is not YAML: {_first_line(e)}") from e
    _demand_bounded(value, what)
    if not isinstance(value, dict):
        raise ComposeInvalidError(f"{what} is not a mapping")
    return value


@cache
def _compose_loader() -> type["yaml.SafeLoader"]:
    """Return a SafeLoader (the C one where PyYAML has it) that knows compose's own tags.

    ``!reset`` and ``!override`` say how files are merged. An App has one file: its values are
    read as they stand.

    Source: Compose specification, "Merge Compose files".
    """
    import yaml  # noqa: PLC0415  only Apps need it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def as_it_stands(loader: "yaml.SafeLoader", node: "yaml.Node") -> object:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        plain = loader.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(plain, node.value), deep=True)

    for tag in COMPOSE_TAGS:
        Loader.add_constructor(tag, as_it_stands)
    return Loader


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _demand_bounded(value: object, what: str) -> None:
    """Count values as whoever follows the aliases would: a few bytes can stand for billions."""
    left = NODES_LIMIT
    waiting = [value]
    while waiting:
        left -= 1
        if left < 0:
            raise ComposeInvalidError(f"{what} has more than {NODES_LIMIT} values, or a loop")
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _service(name: object, entry: object, app: str) -> Service:
    what = f"service {str(name)[:80]!r} of App {app!r}"
    if not isinstance(name, str) or not SERVICE_NAME.fullmatch(name):
        raise ComposeInvalidError(f"{what} has a name that cannot be used")
    if not isinstance(entry, dict):
        raise ComposeInvalidError(f"{what} is not a mapping")
    return Service(
        name=name,
        image=pinned(entry.get("image"), what),
        config_hash=_labels(entry.get("labels")).get("io.compose-spec.config-hash", ""),
        started=_is_started(entry),
        has_health_check=_has_health_check(entry.get("healthcheck")),
    )


def pinned(value: object, what: str) -> ImageRef:
    """Read an image reference that must be pinned.

    Raises:
        ComposeInvalidError: it has no ``@sha256:`` digest.
    """
    found = PINNED.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ComposeInvalidError(
            f"{what} has image {str(value)[:160]!r}; expected <name>@sha256:<64 hex digits>",
            hint="publish the App with its images pinned by digest",
        )
    return ImageRef(found.group(), found["repository"], found["digest"])


def _labels(value: object) -> Mapping[str, str]:
    """Read labels, which compose files write as a mapping or as a list of ``name=value``."""
    if isinstance(value, dict):
        return {str(key): str(text) for key, text in value.items()}
    items = value if isinstance(value, list) else []
    pairs = (str(item).partition("=") for item in items)
    return {key: text for key, _, text in pairs}


def _is_started(entry: Mapping[str, Any]) -> bool:
    deploy = entry.get("deploy")
    replicas = deploy.get("replicas") if isinstance(deploy, dict) else None
    return not entry.get("profiles") and 0 not in (entry.get("scale"), replicas)


def _has_health_check(value: object) -> bool:
    if not isinstance(value, dict) or value.get("disable") is True:
        return False
    return value.get("test") not in (None, "NONE", ["NONE"])


# --- shapes ----------------------------------------------------------------------------


def _json(data: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise PullError(f"{what} is not JSON") from e
    return _table(value, what)


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PullError(f"{what} is not a JSON object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise PullError(f"{what} lacks a list where one is expected")
    return value


def _blob(value: object, what: str, limit: int) -> Blob:
    table = _table(value, f"a descriptor in {what}")
    size = table.get("size")
    if type(size) is not int or not 0 <= size <= limit:
        raise PullError(f"{what} has size {str(size)[:40]!r}; expected 0..{limit} bytes")
    return Blob(_digest(table.get("digest"), what), size)


def _digest(value: object, what: str) -> str:
    found = DIGEST.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise PullError(f"{what} has digest {str(value)[:80]!r}; expected sha256:<64 hex digits>")
    return found[1]
