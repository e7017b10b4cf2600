"""A pack as a file: its header read once, its image read block by block against the tree.

In: a file somebody else made, which may change while we read it. Out: bytes of a header
that nobody vouches for yet; and, once its seal was verified, an image of which every block
was compared with the signed tree before it was written anywhere. Shared by the device and
the author's desk.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.adapters import files
from agent.core import pack
from agent.core.bundle import SealedImage
from agent.core.errors import (
    MetadataNotFoundError,
    NoSpaceError,
    PackInvalidError,
    PullError,
    StoreError,
)
from agent.core.pack import PREAMBLE, Header
from agent.core.verify import limit_of
from agent.core.verity import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    BlockMismatchError,
    demand_blocks,
    vouched,
)
from agent.ports import Progress

SPARE_BYTES = 4 * 1024 * 1024  # left free beside a copied image: records, the log
STEP = "Pack"
AGAIN = "copy the file to the stick again; if it stays so, use another stick"


def is_pack_name(name: str) -> bool:
    """Whether a file of that name is taken for a pack. FAT may show it in capitals."""
    return name.lower().endswith(pack.SUFFIX) and not name.startswith(".")


def read_header(path: Path) -> Header:
    """Read a pack's header once, bounded, links and special files refused.

    Raises:
        MetadataNotFoundError: there is no such file.
        PackInvalidError: it is no pack, or not as long as it says.
    """
    try:
        with files.open_regular(path) as fd:
            size = os.fstat(fd).st_size
            header = _header(fd)
    except FileNotFoundError as e:
        raise MetadataNotFoundError(f"there is no file '{path}'") from e
    except files.NotRegularError as e:
        raise PackInvalidError(str(e)) from e
    except PackInvalidError as e:
        raise PackInvalidError(f"'{path}': {e.message}", hint=e.hint) from e
    except OSError as e:
        raise PackInvalidError(f"'{path}' cannot be read: {e.strerror}", hint=AGAIN) from e
    if size != header.file_size:
        raise PackInvalidError(
            f"'{path}' has {size} bytes, expected {header.file_size}",
            hint="copying it was cut short, or something was appended; copy it again",
        )
    _demand_documents(header, path)
    return header


def copy_image(path: Path, image: SealedImage, copy: Path, progress: Progress) -> None:
    """Copy the image of a pack, each block compared with the signed tree first.

    Args:
        path: the pack.
        image: verified.
        copy: where to; replaced, and removed again when anything fails.
        progress: told how far it has come.

    Raises:
        PullError: a block is not the one that was signed, or cannot be read.
        NoSpaceError: it does not fit.
        StoreError: it cannot be written.
    """
    copy.unlink(missing_ok=True)
    _demand_room(copy.parent, image.size)
    done = 0
    try:
        with _created(copy) as fd:
            for data in verified_blocks(path, image):
                _write(fd, data, copy)
                done += len(data)
                progress(STEP, done, image.size)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def verified_blocks(path: Path, image: SealedImage) -> Iterator[bytes]:
    """Yield the image of a pack in order, some 512 KiB at a time.

    Raises:
        PullError: a block is not the one that was signed, or cannot be read.
    """
    try:
        with files.open_regular(path) as fd:
            yield from _verified(fd, image)
    except BlockMismatchError as e:
        raise PullError(f"'{path}': {e}", hint=AGAIN) from e
    except (files.NotRegularError, FileNotFoundError) as e:
        raise PullError(f"'{path}' is gone", hint="leave the stick in until it may go") from e
    except OSError as e:
        raise PullError(f"'{path}' cannot be read: {e.strerror}", hint=AGAIN) from e


def _header(fd: int) -> Header:
    length = pack.header_length(_read(fd, PREAMBLE.size, 0))
    left = pack.image_offset(length) - PREAMBLE.size
    return pack.read_header(_read(fd, left, PREAMBLE.size), length)


def _demand_documents(header: Header, path: Path) -> None:
    """Hold a pack's metadata to the names and bounds of a directory's."""
    for name, data in header.documents.items():
        limit = limit_of(name)
        if limit is None:
            raise PackInvalidError(f"'{path}' holds {name[:80]!r}, which is no bundle metadata")
        if len(data) > limit:
            raise PackInvalidError(f"'{name}' in '{path}' has more than {limit} bytes")


def _verified(fd: int, image: SealedImage) -> Iterator[bytes]:
    blocks = image.size // BLOCK_BYTES
    tree = image.offset + image.size

    def read_block(index: int) -> bytes:
        return _read(fd, BLOCK_BYTES, tree + index * BLOCK_BYTES)

    first = 0
    for digests in vouched(read_block, blocks, root_hash=image.root_hash, salt=image.salt):
        count = len(digests) // DIGEST_BYTES
        data = _read(fd, count * BLOCK_BYTES, image.offset + first * BLOCK_BYTES)
        demand_blocks(data, digests, image.salt, what="block", first=first)
        yield data
        first += count


def _read(fd: int, count: int, offset: int) -> bytes:
    """Read so many bytes, or up to the file's end."""
    data = bytearray()
    while len(data) < count and (piece := os.pread(fd, count - len(data), offset + len(data))):
        data += piece
    return bytes(data)


def _demand_room(directory: Path, size: int) -> None:
    try:
        found = os.statvfs(directory)
    except OSError as e:
        raise StoreError(f"'{directory}' cannot be used: {e.strerror}") from e
    free = found.f_bavail * found.f_frsize
    if free < size + SPARE_BYTES:
        raise NoSpaceError(
            f"'{directory}' has {free} bytes free; the pack's image needs {size + SPARE_BYTES}",
            hint="free some space, let the kernel do dm-verity, or use the bundle's directory",
        )


@contextmanager
def _created(copy: Path) -> Iterator[int]:
    try:
        fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StoreError(f"'{copy}' cannot be made: {e.strerror}") from e
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, copy: Path) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"'{copy.parent}' is full", hint="free some space") from e
        raise StoreError(f"'{copy}' cannot be written: {e.strerror}") from e
