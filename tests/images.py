"""One small image that runs, as a file: an archive of ``docker save``, or an OCI layout.

For tests that need *an* image; those that care how it is built use `app_store` and `image_files`.
"""

from pathlib import Path
from typing import Literal

from tests import app_store, image_files

Layout = Literal["docker-archive", "oci-archive", "oci-layout"]


def busybox_image(
    directory: Path,
    name: str,
    *,
    marker: str = "",
    size_bytes: int = 0,
    layout: Layout = "docker-archive",
) -> Path:
    """Write an image with a static shell; the same call gives the same bytes.

    Args:
        directory: to write into.
        name: full name with tag, ``example.com/factory/web:1``.
        marker: what ``/marker`` holds, so that versions differ.
        size_bytes: length of ``/ballast``, which does not compress away.
        layout: kind of file; ``oci-layout`` is a directory, which Docker 20.10 and 26 with
            the classic store do not load.
    """
    files = {"marker": marker.encode(), "ballast": _ballast(size_bytes)}
    layers = [app_store.busybox_layer(), app_store.tar_of(files)]
    images = {name: app_store.make_image(layers)}
    path = directory / f"{name.replace('/', '_').replace(':', '_')}.{layout}"
    if layout == "docker-archive":
        return image_files.docker_archive(path, images)
    if layout == "oci-archive":
        return image_files.oci_archive(path, images)
    return image_files.oci_layout(path, images)


def _ballast(size_bytes: int) -> bytes:
    """Return bytes without repetition, the same every time."""
    block = 32
    count = -(-size_bytes // block)
    digests = (bytes.fromhex(app_store.sha256(str(n).encode())) for n in range(count))
    return b"".join(digests)[:size_bytes]
