"""Images as files for tests: archives of ``docker save``, old and new, and OCI layouts.

The images are those of `app_store`; everything is deterministic.
"""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

from tests.app_store import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image, put, sha256, tar_of


def oci_layout(path: Path, images: Mapping[str, Image]) -> Path:
    """Write an OCI layout; keys are full image names, or anything skopeo would write."""
    for name, data in oci_files(images).items():
        put(path / name, data)
    return path


def oci_archive(path: Path, images: Mapping[str, Image]) -> Path:
    """Write what ``docker save`` of Docker 25 and later writes."""
    path.write_bytes(tar_of(oci_files(images)))
    return path


def oci_files(images: Mapping[str, Image]) -> dict[str, bytes]:
    entries = [
        {
            "mediaType": media_type(image.blobs[image.root]),
            "digest": f"sha256:{image.root}",
            "size": len(image.blobs[image.root]),
            "annotations": {"io.containerd.image.name": name}
            if "/" in name
            else {"org.opencontainers.image.ref.name": name},
        }
        for name, image in images.items()
    ]
    blobs = {f"blobs/sha256/{d}": data for i in images.values() for d, data in i.blobs.items()}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return {
        **blobs,
        "index.json": json.dumps(index).encode(),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def docker_archive(
    path: Path, images: Mapping[str, Image], *, compressed_layers: bool = False
) -> Path:
    """Write what ``docker save`` of Docker 20.10 writes: layers by directory, not compressed."""
    files: dict[str, bytes] = {}
    listed = []
    for name, image in images.items():
        config = image.blobs[image.config]
        layers = []
        for digest in image.layers:
            data = (
                image.blobs[digest] if compressed_layers else gzip.decompress(image.blobs[digest])
            )
            layers.append(f"{sha256(digest.encode())}/layer.tar")
            files[layers[-1]] = data
        files[f"{image.config}.json"] = config
        listed.append({"Config": f"{image.config}.json", "RepoTags": [name], "Layers": layers})
    files["manifest.json"] = json.dumps(listed).encode()
    path.write_bytes(tar_of(files))
    return path


def media_type(data: bytes) -> str:
    found: str = json.loads(data)["mediaType"]
    assert found in (OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
    return found
