"""The tar that an image goes to the engine in."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from agent.adapters.apps.images import CHUNK_BYTES, image_stream
from agent.adapters.apps.manifest import Blob, Image, ImageRef

ROOT_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(params=[1, 512, 513, CHUNK_BYTES, 2 * CHUNK_BYTES + 512], ids=str)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Image, Path]:
    """An image whose layer has that many bytes, and the directory of its blobs."""
    manifest, config, layer = (
        store(tmp_path, content) for content in (b"manifest", b"config", bytes(request.param))
    )
    name = "example.com/web"
    reference = ImageRef(f"{name}@sha256:{manifest.digest}", name, manifest.digest)
    return Image(reference, manifest, ROOT_TYPE, manifest, config, (layer,)), tmp_path


def store(directory: Path, content: bytes) -> Blob:
    digest = hashlib.sha256(content).hexdigest()
    (directory / digest).write_bytes(content)
    return Blob(digest, len(content))


def test_no_chunk_is_empty(stored: tuple[Image, Path]) -> None:
    """`requests` before 2.29 (Debian 12) sends an empty chunk, and that ends the request."""
    image, directory = stored

    assert all(image_stream(image, directory.joinpath))


def test_every_blob_arrives_whole(stored: tuple[Image, Path]) -> None:
    image, directory = stored

    data = io.BytesIO(b"".join(image_stream(image, directory.joinpath)))

    with tarfile.open(fileobj=data) as tar:
        for blob in image.blobs:
            member = tar.extractfile(f"blobs/sha256/{blob.digest}")
            assert member is not None
            assert member.read() == (directory / blob.digest).read_bytes()
