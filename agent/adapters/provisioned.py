"""Root documents that came with the image: ``<dir>/{ci,prod}/N.root.json``.

In: the directory and the device's type. Out: the chain from version 1 on, as bytes. A
missing file ends the chain; one that is there but cannot be read is a `StateError`, for a
device that has roots must never fall back to trust on first use.

Source: reference-behaviour §2.5.
"""

from collections.abc import Iterator
from pathlib import Path

from agent.adapters import files
from agent.core.bundletype import BundleType
from agent.core.errors import StateError

ROOT_LIMIT_BYTES = 512_000  # python-tuf's bound; the largest root known has 9 kB
CHAIN_LIMIT = 1000  # more rotations than any factory makes in its life
COMMON_VERSIONS = 2  # CI and production chains part after version 2


def provisioned_roots(
    directory: Path, device_type: BundleType | None
) -> tuple[tuple[int, bytes], ...]:
    """Read the roots a device of this type was made with.

    Args:
        directory: holds ``ci`` and ``prod``; it need not exist.
        device_type: None reads only what both chains have in common.

    Raises:
        StateError: a root is there but cannot be read.
    """
    chain = directory / (device_type or BundleType.CI)
    last = COMMON_VERSIONS if device_type is None else CHAIN_LIMIT
    return tuple(_chain(chain, last))


def _chain(directory: Path, last: int) -> Iterator[tuple[int, bytes]]:
    for version in range(1, last + 1):
        root = _read(directory / f"{version}.root.json")
        if root is None:
            return
        yield version, root


def _read(path: Path) -> bytes | None:
    try:
        return files.read_bounded(path, limit=ROOT_LIMIT_BYTES)
    except FileNotFoundError:
        return None
    except (files.NotRegularError, files.TooLargeError, OSError) as e:
        raise StateError(
            f"the provisioned root '{path}' cannot be read: {e}",
            hint="reinstall the image's trusted roots",
        ) from e
