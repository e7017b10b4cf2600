"""Bundle App stores for tests: small real images, Apps, and the store they lie in.

Everything is deterministic: the same call gives the same digests.
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent.core.target import AppRef

HOST = "registry.example.com"
FACTORY = "factory"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EMPTY_CONFIG = b"{}"
Kind = Literal["oci", "docker", "index"]


@dataclass(frozen=True)
class Image:
    """An image as blobs.

    Attributes:
        root: digest that references are pinned to: a manifest, or an index.
        manifest: digest of the image manifest.
        config: digest of the configuration; its image ID on the classic store.
        layers: digests of the layers.
        blobs: digest to bytes.
    """

    root: str
    manifest: str
    config: str
    layers: tuple[str, ...]
    blobs: Mapping[str, bytes] = field(repr=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_of(files: Mapping[str, bytes], *, mode: int = 0o644) -> bytes:
    """Make an uncompressed tar of regular files; directories come of themselves."""
    return tar_of_members([regular(name, data, mode=mode) for name, data in files.items()])


Member = tuple[tarfile.TarInfo, bytes]


def regular(name: str, data: bytes = b"", *, mode: int = 0o644) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = mode
    return info, data


def special(name: str, kind: bytes, *, target: str = "", mode: int = 0o644) -> Member:
    """A link, device, FIFO or directory."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    info.mode = mode
    return info, b""


def tar_of_members(members: Sequence[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tgz(tar: bytes) -> bytes:
    return gzip.compress(tar, 6, mtime=0)


def busybox_layer() -> bytes:
    """An uncompressed layer with a static shell."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    links = [special(f"bin/{name}", tarfile.SYMTYPE, target="busybox") for name in APPLETS]
    return tar_of_members([regular("bin/busybox", busybox, mode=0o755), *links])


APPLETS = ("sh", "sleep", "cat", "echo", "test", "touch", "true", "false")


def make_image(
    layers: Sequence[bytes],
    *,
    kind: Kind = "oci",
    architecture: str = "amd64",
    cmd: Sequence[str] = ("/bin/sleep", "3600"),
    labels: Mapping[str, str] | None = None,
) -> Image:
    """Make an image of uncompressed layer tars.

    Args:
        layers: tars, the lowest first.
        kind: OCI manifest, Docker v2s2 manifest, or an OCI index that also lists a
            platform whose blobs are not there.
        architecture: of the configuration and the index entry.
        cmd: what a container runs.
        labels: of the image.
    """
    packed = [tgz(layer) for layer in layers]
    config = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": list(cmd), "Env": ["PATH=/bin"], "Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(t)}" for t in layers]},
        }
    )
    docker = kind == "docker"
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": describe(DOCKER_CONFIG if docker else OCI_CONFIG, config),
            "layers": [describe(DOCKER_LAYER if docker else OCI_LAYER, layer) for layer in packed],
        }
    )
    blobs = {sha256(data): data for data in (config, manifest, *packed)}
    root = manifest
    if kind == "index":
        root = _index(manifest, architecture)
        blobs[sha256(root)] = root
    return Image(sha256(root), sha256(manifest), sha256(config), tuple(map(sha256, packed)), blobs)


def _index(manifest: bytes, architecture: str) -> bytes:
    absent = describe(OCI_MANIFEST, b"not in the store")
    here = describe(OCI_MANIFEST, manifest)
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                absent | {"platform": {"architecture": "s390x", "os": "linux"}},
                here | {"platform": {"architecture": architecture, "os": "linux"}},
            ],
        }
    )


def reference(name: str, image: Image) -> str:
    return f"{HOST}/{FACTORY}/{name}@sha256:{image.root}"


def make_app(
    store: Path,
    name: str,
    compose: str,
    images: Mapping[str, Image],
    *,
    layout: Literal["both", "old"] = "both",
    files: Mapping[str, bytes] | None = None,
    members: Sequence[Member] = (),
    extra_layers: Sequence[tuple[str, bytes, Mapping[str, str]]] = (),
) -> AppRef:
    """Put an App and its images into a bundle's App store.

    Args:
        store: the ``apps`` directory of a bundle.
        name: the App's name.
        compose: text of ``docker-compose.yml``; ``{image}`` becomes the pinned reference
            of that image.
        images: image name to image.
        layout: everything, or without what the older layout lacks in ``blobs``.
        files: more files of the archive.
        members: more members of the archive, of any kind.
        extra_layers: more layers of the App manifest: media type, bytes, annotations.

    Returns:
        The App, pinned to what was written.
    """
    for label, image in images.items():
        compose = compose.replace("{" + label + "}", reference(label, image))
    archive = tgz(
        tar_of_members(
            [
                regular("docker-compose.yml", compose.encode()),
                *(regular(path, data) for path, data in (files or {}).items()),
                *members,
            ]
        )
    )
    return put_app(store, name, compose, archive, images, layout=layout, extra_layers=extra_layers)


def put_app(
    store: Path,
    name: str,
    compose: str,
    archive: bytes,
    images: Mapping[str, Image],
    *,
    layout: Literal["both", "old"] = "both",
    extra_layers: Sequence[tuple[str, bytes, Mapping[str, str]]] = (),
) -> AppRef:
    """As `make_app`, with an archive of one's own."""
    extras = [describe(kind, data) | {"annotations": dict(n)} for kind, data, n in extra_layers]
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe("application/vnd.oci.empty.v1+json", EMPTY_CONFIG),
            "layers": [describe("application/octet-stream", archive), *extras],
            "annotations": {"compose-app": "v1"},
        }
    )
    app = AppRef(name, f"{HOST}/{FACTORY}/{name}@sha256:{sha256(manifest)}")
    home = store / "apps" / name / app.digest
    put(home / "uri", app.uri.encode())
    put(home / "manifest.json", manifest)
    put(home / f"{sha256(archive)}.tgz", archive)
    put(home / "docker-compose.yml", compose.encode())
    blobs = store / "blobs/sha256"
    for label, image in images.items():
        directory = home / "images" / HOST / FACTORY / label / image.root
        entry = describe(OCI_MANIFEST, image.blobs[image.manifest])
        put(directory / "index.json", encode({"schemaVersion": 2, "manifests": [entry]}))
        put(directory / "oci-layout", encode({"imageLayoutVersion": "1.0.0"}))
        for digest, data in image.blobs.items():
            put(blobs / digest, data)
    if layout == "both":
        for data in (manifest, archive, EMPTY_CONFIG, *(data for _, data, _ in extra_layers)):
            put(blobs / sha256(data), data)
    return app


def describe(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data)}


def encode(value: object) -> bytes:
    return json.dumps(value, indent=3).encode()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
