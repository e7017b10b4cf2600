"""Does a stick hold as much as it says? Write all its free space, and read it back.

Sticks are sold that claim more than they have: what is written beyond is lost, or lands on
what was there before. Every block gets content of its own, so that a block that answers for
another is noticed. The files are removed whatever happens. On a stick that lies, what it held
before may be destroyed: that is the price of knowing.

Host commands used: sync.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import files, shell
from agent.adapters.authoring.commits import free_bytes
from agent.adapters.authoring.stickfiles import CHUNK_BYTES, SYNC_TIMEOUT_S, uncached
from agent.core.authoring import AuthoringError
from agent.ports import Progress

DIRECTORY = "usb-update-probe"
FILE_BLOCKS = 1024  # 1 GiB a file: every file system holds that
LEFT_BYTES = 2 * 1024 * 1024  # a full file system is no fair witness
SEED_BYTES = 16
SYNC_EVERY_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class Probed:
    """What a stick gave back.

    Attributes:
        written_bytes: how much was written.
        bad_bytes: how much of it came back otherwise, or not at all.
        first_bad: where the first bad block lies, in bytes written before it; None for none.
    """

    written_bytes: int
    bad_bytes: int
    first_bad: int | None


def probe_capacity(
    mountpoint: Path, progress: Progress, *, written: Callable[[], None] = lambda: None
) -> Probed:
    """Fill the free space of a stick and read it back past the cache.

    Args:
        mountpoint: of the stick.
        progress: told of the bytes, for each of the two passes.
        written: called between them.

    Raises:
        AuthoringError: the stick cannot be written at all; the files are removed as far as
            it lets us.
    """
    place = mountpoint / DIRECTORY
    try:
        shutil.rmtree(place, ignore_errors=True)  # of a probe that was killed
        place.mkdir()
        seed = os.urandom(SEED_BYTES)
        count = _fill(place, seed, progress)
        written()
        bad = tuple(_bad(place, seed, count, progress))
    except (OSError, shell.CommandError) as e:
        raise AuthoringError(
            f"the stick at '{mountpoint}' cannot be probed: {files.why(e, mountpoint)}",
            hint="is it write-protected, or was it pulled out?",
        ) from e
    finally:
        shutil.rmtree(place, ignore_errors=True)
        _sync(mountpoint)
    first = bad[0] * CHUNK_BYTES if bad else None
    return Probed(count * CHUNK_BYTES, len(bad) * CHUNK_BYTES, first)


def _fill(place: Path, seed: bytes, progress: Progress) -> int:
    """Write blocks until the stick is full; return how many there are."""
    total = max(0, free_bytes(place) - LEFT_BYTES) // CHUNK_BYTES
    for first in range(0, total, FILE_BLOCKS):
        numbers = range(first, min(first + FILE_BLOCKS, total))
        with _file(place, first).open("wb") as file:
            for number in numbers:
                try:
                    file.write(_block(seed, number))
                    file.flush()
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
                    return number
                if number % SYNC_EVERY_BLOCKS == 0:
                    os.fdatasync(file.fileno())
                progress("filling", (number + 1) * CHUNK_BYTES, total * CHUNK_BYTES)
    _sync(place)
    return total


def _bad(place: Path, seed: bytes, count: int, progress: Progress) -> Iterator[int]:
    """Yield the numbers of blocks that do not come back as they were written."""
    for first in range(0, count, FILE_BLOCKS):
        last = min(first + FILE_BLOCKS, count)
        blocks = _readable(_file(place, first))
        for number in range(first, last):
            if next(blocks, b"") != _block(seed, number):
                yield number
            progress("reading back", (number + 1) * CHUNK_BYTES, count * CHUNK_BYTES)


def _readable(path: Path) -> Iterator[bytes]:
    """Yield a file's blocks up to where the device stops answering."""
    try:
        for chunk in uncached(path):
            yield bytes(chunk)
    except OSError:
        return


def _block(seed: bytes, number: int) -> bytes:
    return hashlib.shake_128(seed + number.to_bytes(8, "big")).digest(CHUNK_BYTES)


def _file(place: Path, first: int) -> Path:
    return place / f"{first // FILE_BLOCKS:06}.bin"


def _sync(place: Path) -> None:
    shell.run(["sync", "--file-system", str(place)], timeout_s=SYNC_TIMEOUT_S)
