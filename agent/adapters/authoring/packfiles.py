"""Packs, as their author writes them: an image by ``mksquashfs``, a tree, a header before both.

The image is the same for the same content, whoever copied it and however: order, times,
owners, modes and inode numbers are fixed, nothing is compressed (what a bundle carries is),
and nothing but files and directories goes in. A file appears under its name when it is
whole and on the disk.

Host commands used: mksquashfs, unsquashfs (squashfs-tools 4.5 or later).
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from agent.adapters import files, packfile, shell, sticktree
from agent.adapters.authoring.claims import claimed
from agent.adapters.authoring.commits import free_bytes
from agent.adapters.authoring.destination import (
    FAT_FILE_LIMIT_BYTES,
    LOCK,
    BundleDirectory,
    existing,
    is_fat,
)
from agent.core.authoring import AuthoringError
from agent.core.difference import Contents
from agent.core.errors import BundleError
from agent.core.pack import Header
from agent.core.target import Target
from agent.core.verity import GROUP_BYTES, Tree, hash_tree, tree_size
from agent.ports import Progress

PARTS = ("apps", "ostree_repo")  # what the image holds; `tuf` is in the header
ENTRIES_LIMIT = 4_000_000  # in one bundle: 2 000 000 objects in 256 directories, and Apps
DEPTH_LIMIT = 16  # directories below a part; a registry's repositories nest
IMAGE_TIMEOUT_S = 6 * 3600.0  # a slow stick and a large rootfs
PART = ".part"
PACK_HINT = "write the pack to a larger disk, then copy it to the stick"
UNPACK_HINT = "name a place on a larger disk; TMPDIR names it for what is only looked at"
SCRATCH = ".scratch"
# Everything that would tell two copies of one bundle apart, and all compression, is off.
# The kernel wants to know the compressor all the same; gzip it has whenever it has squashfs.
REPRODUCIBLE = (
    *("-noappend", "-no-progress", "-quiet", "-no-recovery", "-exit-on-error"),
    *("-comp", "gzip", "-noI", "-noId", "-noD", "-noF", "-noX"),
    *("-no-fragments", "-no-duplicates", "-no-hardlinks", "-no-sparse", "-no-exports"),
    *("-no-xattrs", "-all-root", "-root-mode", "755", "-mkfs-time", "0", "-all-time", "0"),
    *("-action", "chmod(0644)@type(f)", "-action", "chmod(0755)@type(d)"),
)

FileLimit = Callable[[Path], int | None]


def fat_limit(directory: Path) -> int | None:
    """Return how long a file in ``directory`` may be: FAT alone has a say."""
    return FAT_FILE_LIMIT_BYTES if is_fat(directory) else None


@dataclass(frozen=True, slots=True)
class PackDirectory:
    """The `PackFiles` of an author's disk.

    Attributes:
        progress: told how far copying has come.
        limit: how long a file may be where it is written.
    """

    progress: Progress
    limit: FileLimit = fat_limit

    def alone(self, path: Path, act: str) -> AbstractContextManager[None]:
        """See `services.pack.PackFiles`."""
        return claimed(path, path.parent / f".{path.name}{LOCK}", act)

    def read(self, path: Path) -> Header:
        """See `services.pack.PackFiles`."""
        return packfile.read_header(path)

    def write(
        self, bundle: Path, path: Path, salt: bytes, head: Callable[[int, Tree], bytes]
    ) -> None:
        """See `services.pack.PackFiles`."""
        content = _demand_content(bundle)
        self._demand_length(path, content)
        _demand_room(path.parent, 2 * content)  # the image alone, and the pack
        with _new_file(path) as file, _scratch(path.parent / f".{path.name}{SCRATCH}") as scratch:
            image = scratch / "image"
            _make_image(bundle, image)
            size = image.stat().st_size
            tree = hash_tree(self._read(image, size, "Hash tree"), salt)
            before = head(size, tree)
            self._demand_length(path, len(before) + size + len(tree.blocks))
            file.write(before)
            for data in self._read(image, size, packfile.STEP):
                file.write(data)
            file.write(tree.blocks)

    def rewrite(self, path: Path, header: Header, head: bytes) -> None:
        """See `services.pack.PackFiles`."""
        image = header.facts.image(header.seal.offset)
        length = len(head) + image.size + tree_size(image.size)
        self._demand_length(path, length)
        _demand_room(path.parent, length)

        def written() -> Iterator[bytes]:
            done = 0
            for data in packfile.verified_blocks(path, image):
                file.write(data)
                done += len(data)
                self.progress(packfile.STEP, done, image.size)
                yield data

        with _new_file(path) as file:
            file.write(head)
            file.write(hash_tree(written(), image.salt).blocks)

    def unpack(
        self, path: Path, header: Header, destination: Path, ready: Callable[[], object] = bool
    ) -> None:
        """See `services.pack.PackFiles`."""
        image = header.facts.image(header.seal.offset)
        _demand_room(destination, 2 * image.size, UNPACK_HINT)
        with _scratch(destination / SCRATCH) as scratch:
            packfile.copy_image(path, image, scratch / "image", self.progress)
            _extract(scratch / "image", scratch / "content")
            ready()
            for part in sorted((scratch / "content").iterdir()):
                shutil.rmtree(destination / part.name, ignore_errors=True)  # an earlier attempt's
                part.rename(destination / part.name)

    def _demand_length(self, path: Path, length: int) -> None:
        limit = self.limit(existing(path.parent))
        if limit is not None and length > limit:
            raise AuthoringError(
                f"'{path}' would have {length} bytes or more; the file system there holds files "
                f"up to {limit}",
                hint="format the stick with exFAT or ext4, or copy the bundle's directory to it",
            )

    def _read(self, image: Path, size: int, step: str) -> Iterator[bytes]:
        done = 0
        with image.open("rb") as file:
            while data := file.read(GROUP_BYTES):
                done += len(data)
                self.progress(step, done, size)
                yield data


@dataclass(frozen=True, slots=True)
class PackedBundle:
    """The `BundleFiles` of a bundle in one file: looked at, never added to.

    Attributes:
        path: the pack.
    """

    path: Path

    def occupied(self) -> NoReturn:
        """Refuse: a pack is made anew, not added to."""
        if not packfile.is_pack_name(self.path.name):
            raise AuthoringError(
                f"'{self.path}' is a file and no directory", hint="name a new directory"
            )
        raise AuthoringError(
            f"'{self.path}' is a pack, which cannot be added to or renewed",
            hint="change the bundle's directory ('bundle unpack' makes it), and pack that",
        )

    def alone(self, act: str) -> NoReturn:
        """See `occupied`."""
        del act
        self.occupied()

    def documents(self) -> dict[str, bytes]:
        """See `services.desk.BundleFiles`."""
        return dict(packfile.read_header(self.path).documents)

    def unfinished(self) -> str:
        """See `services.desk.BundleFiles`; none is packed."""
        return ""

    def begin(self, target: str) -> NoReturn:
        """See `occupied`."""
        del target
        self.occupied()

    def demand_room(self, *_: object) -> NoReturn:
        """See `occupied`."""
        self.occupied()

    def add_commit(self, *_: object) -> NoReturn:
        """See `occupied`."""
        self.occupied()

    def add_apps(self, *_: object) -> NoReturn:
        """See `occupied`."""
        self.occupied()

    def publish(self, documents: Mapping[str, bytes]) -> NoReturn:
        """See `occupied`."""
        del documents
        self.occupied()

    def strays(self) -> tuple[str, ...]:
        """See `services.desk.BundleFiles`; none was packed."""
        return ()

    @contextmanager
    def opened(self, progress: Progress) -> Iterator[BundleDirectory]:
        """See `services.desk.BundleFiles`. Unpacks the whole image into ``TMPDIR``."""
        with tempfile.TemporaryDirectory(prefix="usb-update-") as scratch:
            place = Path(scratch, "bundle")
            header = packfile.read_header(self.path)
            PackDirectory(progress).unpack(self.path, header, place)
            yield BundleDirectory(place)

    def contents(self, target: Target) -> Contents:
        """See `services.desk.BundleFiles`."""
        with self.opened(lambda *_: None) as bundle:
            return bundle.contents(target)

    def damaged(self, targets: Sequence[Target], progress: Progress) -> tuple[str, ...]:
        """See `services.desk.BundleFiles`."""
        try:
            with self.opened(progress) as bundle:
                return bundle.damaged(targets, progress)
        except BundleError as e:
            return (e.message,)


def _demand_content(bundle: Path) -> int:
    """Walk all that is to be packed; return its length in bytes.

    Raises:
        AuthoringError: there is none, or something is neither a directory nor a file.
    """
    parts = _parts(bundle)
    if not parts:
        raise AuthoringError(f"'{bundle}' carries neither {' nor '.join(PARTS)}: nothing to pack")
    budget = sticktree.Budget(ENTRIES_LIMIT)
    total = 0
    try:
        for part in parts:
            with sticktree.open_directory(bundle / part) as fd:
                walk = sticktree.walk_plain(fd, budget, depth=DEPTH_LIMIT, where=bundle / part)
                total += sum(file.size_bytes() for file in walk)
    except (sticktree.NotPlainError, sticktree.TooMuchError, OSError) as e:
        raise AuthoringError(
            f"'{bundle}' cannot be packed: {files.why(e, bundle)}",
            hint="a bundle holds directories and files alone",
        ) from e
    return total


def _parts(bundle: Path) -> tuple[str, ...]:
    return tuple(part for part in PARTS if (bundle / part).is_dir())


def _demand_room(place: Path, needed: int, hint: str = PACK_HINT) -> None:
    free = free_bytes(existing(place))
    if needed > free:
        raise AuthoringError(
            f"'{place}' has {free} bytes free; {needed} are needed for a while", hint=hint
        )


def _make_image(bundle: Path, image: Path) -> None:
    parts = _parts(bundle)
    alone = ["-keep-as-directory"] if len(parts) == 1 else []
    argv = ["mksquashfs", *parts, str(image.absolute()), *alone, *REPRODUCIBLE]
    _run(argv, cwd=bundle)


def _extract(image: Path, content: Path) -> None:
    _run(["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-d", str(content), str(image)])
    if strange := {entry.name for entry in content.iterdir()} - set(PARTS):
        raise AuthoringError(f"the pack's image holds more than a bundle: {min(strange)!r}")


def _run(argv: list[str], cwd: Path | None = None) -> None:
    try:
        shell.run(argv, timeout_s=IMAGE_TIMEOUT_S, cwd=cwd)
    except shell.NotInstalledError as e:
        raise AuthoringError(
            f"there is no '{argv[0]}' here", hint="install squashfs-tools 4.5 or later"
        ) from e
    except shell.CommandError as e:
        raise AuthoringError(str(e)) from e


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """Make a directory where what is ready can be moved from and need not be copied.

    Whoever writes there is alone: what lies there is of a command that was killed.
    """
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
    except OSError as e:
        raise AuthoringError(f"'{place.parent}' cannot be written: {e.strerror}") from e
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name when it is whole and on the disk."""
    part = path.with_name(f".{path.name}{PART}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        files.sync_directory(path.parent)
    except OSError as e:
        raise AuthoringError(f"'{path}' cannot be written: {e.strerror}") from e
    finally:
        part.unlink(missing_ok=True)
