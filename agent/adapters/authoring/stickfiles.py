"""A mounted stick, as its maker writes it: content first, read back, metadata last.

What was written is read back past the kernel's cache: with ``O_DIRECT``, which takes the
bytes from the device; where a file system refuses that, the cached pages are dropped after
they were written out (``POSIX_FADV_DONTNEED``) and read anew. A stick that lies, or breaks,
is found here and not on a roof. `agent.services.stickmaker` has the order.

Whoever gave us the stick may have put links on it: nothing is written through one.

Host commands used: sync.
"""

import hashlib
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from agent.adapters import files, packfile, shell, sticktree
from agent.adapters.authoring.commits import free_bytes
from agent.core.authoring import AuthoringError
from agent.core.errors import BundleError
from agent.core.stickplan import JUNK, STICK_DIRECTORY, Room, StickFile, Tree
from agent.ports import Progress

CONTENT = ("ostree_repo", "apps")
NEW, OLD = "tuf.new", "tuf.old"
PACK = "pack"  # what a bundle in one file is called in its tree
SCRATCH = frozenset({"ostree_repo/tmp", "ostree_repo/state"})  # there, and empty
CHUNK_BYTES = 1024 * 1024  # a multiple of every block size, as O_DIRECT wants it
SYNC_EVERY_BYTES = 32 * 1024 * 1024  # so that the bar shows the stick's pace, not the cache's
READERS = 4  # small files: while one waits for the device, another is hashed
SYNC_TIMEOUT_S = 1800.0  # 32 MiB in half an hour: slower is broken
ENTRIES_LIMIT = 4_000_000  # directory entries of one bundle
DEPTH_LIMIT = 32  # images lie at apps/apps/A/D/images/HOST/REPOSITORY.../DIGEST
NOT_PLAIN = (OSError, sticktree.NotPlainError, sticktree.TooMuchError, files.NotRegularError)


def read_tree(bundle: Path) -> Tree:
    """List what of a bundle goes onto a stick; what systems leave about does not.

    Raises:
        AuthoringError: there is a link or something special among it.
    """
    if bundle.is_file():
        return Tree((), (StickFile(PACK, bundle.stat().st_size),))
    found: dict[str, int | None] = {}
    budget = sticktree.Budget(ENTRIES_LIMIT)
    try:
        for part in CONTENT:
            if (bundle / part).is_dir():
                found[part] = None
                with sticktree.open_directory(bundle / part) as fd:
                    _list(fd, part, budget, found, depth=DEPTH_LIMIT)
    except NOT_PLAIN as e:
        raise AuthoringError(f"bundle '{bundle}' cannot be read: {files.why(e, bundle)}") from e
    return Tree(
        tuple(path for path, size in found.items() if size is None),
        tuple(StickFile(path, size) for path, size in found.items() if size is not None),
    )


def _list(
    fd: int, here: str, budget: sticktree.Budget, found: dict[str, int | None], *, depth: int
) -> None:
    """Note every entry below an open directory: its size, or None for a directory."""
    if depth == 0:
        raise sticktree.TooMuchError(f"'{here}' lies deeper than directories may be nested")
    for entry in sticktree.entries(fd, budget, here):
        path = f"{here}/{entry.name}"
        if JUNK.fullmatch(entry.name) or here in SCRATCH:
            continue
        if sticktree.is_directory(entry):
            found[path] = None
            with sticktree.open_directory(entry.name, parent_fd=fd) as below:
                _list(below, path, budget, found, depth=depth - 1)
        elif sticktree.is_regular(entry):
            found[path] = entry.stat(follow_symlinks=False).st_size
        else:
            raise sticktree.NotPlainError(f"'{path}' is neither a directory nor a regular file")


@dataclass(frozen=True, slots=True)
class _OnStick:
    """What lies on a mounted stick under one name.

    Attributes:
        mountpoint: of the stick.
        name: the bundle's, below ``usb-update/``.
        fs_type: of the stick, the kernel's word.
    """

    mountpoint: Path
    name: str
    fs_type: str

    @property
    def path(self) -> Path:
        """Where the bundle lies."""
        return self.mountpoint / STICK_DIRECTORY / self.name

    def room(self) -> Room:
        """Return what the stick offers."""
        status = os.statvfs(self.mountpoint)
        return Room(self.fs_type, free_bytes(self.mountpoint), status.f_frsize)

    def _unusable(self, error: Exception) -> AuthoringError:
        return AuthoringError(
            f"'{self.path}' on the stick cannot be used: {files.why(error, self.path)}",
            hint="remove it from the stick, or name the bundle otherwise",
        )

    def _sync(self) -> None:
        # One call for the whole stick: fsync of every small file takes hours on FAT.
        shell.run(["sync", "--file-system", str(self.mountpoint)], timeout_s=SYNC_TIMEOUT_S)

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except (*NOT_PLAIN, shell.CommandError) as e:
            what = e.stderr if isinstance(e, shell.CommandError) else str(e)
            raise AuthoringError(
                f"'{self.path}' cannot be {done}: {what}",
                hint="if the stick is still in its port and not full, use another one; "
                "repeating the command goes on where it stopped",
            ) from e


class StickDirectory(_OnStick):
    """A bundle's directory on a mounted stick."""

    __slots__ = ()

    def held(self) -> dict[str, int]:
        """Return the files that lie in the bundle's directory, with their sizes.

        Raises:
            AuthoringError: something there is no directory and no regular file, so nothing
                may be written here.
        """
        steps = (self.mountpoint, STICK_DIRECTORY, self.name)
        budget = sticktree.Budget(ENTRIES_LIMIT)
        try:
            with sticktree.open_directories(*steps) as fd:
                walk = sticktree.walk_plain(fd, budget, depth=DEPTH_LIMIT)
                return {file.path.as_posix(): file.size_bytes() for file in walk}
        except FileNotFoundError:
            return {}
        except NOT_PLAIN as e:
            raise self._unusable(e) from e

    def write(
        self, source: Path, tree: Tree, wanted: Sequence[StickFile], progress: Progress
    ) -> None:
        """Copy files, and write them out to the device.

        Args:
            source: the bundle.
            tree: whose directories are made.
            wanted: which files to write.
            progress: told of the bytes.

        Raises:
            AuthoringError: the stick is full, broken or gone.
        """
        meter = _Meter(f"writing {self.name}", sum(f.size for f in wanted), progress, self._sync)
        with self._told("written"):
            for directory in tree.directories:
                (self.path / directory).mkdir(parents=True, exist_ok=True)
            for file in wanted:
                _copy(source / file.path, self.path / file.path, meter)
            self._sync()

    def differing(
        self, source: Path, wanted: Sequence[StickFile], progress: Progress
    ) -> tuple[StickFile, ...]:
        """Read files back from the device; return those that are not what ``source`` has.

        Raises:
            AuthoringError: the stick, or the source, cannot be read.
        """
        meter = _Meter(f"reading back {self.name}", sum(f.size for f in wanted), progress)
        with self._told("read"), ThreadPoolExecutor(READERS) as pool:
            answers = pool.map(lambda file: self._differs(source, file, meter), wanted)
            return tuple(file for file, wrong in zip(wanted, answers, strict=True) if wrong)

    def _differs(self, source: Path, file: StickFile, meter: "_Meter") -> bool:
        expected = _digest(_chunks(source / file.path))
        found = _digest(meter.counted(uncached(self.path / file.path)))
        return found != expected

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Let devices see the bundle: its metadata appears whole, or not at all.

        Raises:
            AuthoringError: it cannot be written, or is not what was written; devices see
                the bundle that was here before, or none.
        """
        new = self.path / NEW
        with self._told("written"):
            self._clear(new)
            new.mkdir()
            for name, data in documents.items():
                write_through(new / name, data)
            self._sync()
            for name, data in documents.items():
                if b"".join(uncached(new / name)) != data:
                    raise AuthoringError(
                        f"the stick gave back other bytes than were written to '{new / name}'",
                        hint="the stick is worn or fake: use another one",
                    )
            self._swap(new)

    def _swap(self, new: Path) -> None:
        here, old = self.path / "tuf", self.path / OLD
        self._clear(old)
        if here.exists():
            here.replace(old)  # FAT cannot exchange two directories: for a moment there is none
        new.replace(here)
        self._clear(old)
        self._sync()

    def published(self) -> dict[str, bytes]:
        """Return the metadata devices see, read past the cache; empty when there is none."""
        here = self.path / "tuf"
        with self._told("read"):
            names = sorted(here.iterdir()) if here.is_dir() else []
            return {path.name: b"".join(uncached(path)) for path in names}

    def prune(self, keep: Iterable[str]) -> int:
        """Remove what the bundle does not need any more; return how many files that were."""
        kept = set(keep)
        extra = [path for path in self.held() if path not in kept and not path.startswith("tuf/")]
        with self._told("written"):
            for path in extra:
                (self.path / path).unlink()
            self._sync()
        return len(extra)

    def _clear(self, directory: Path) -> None:
        if directory.is_symlink() or directory.exists():
            shutil.rmtree(directory)


class StickPack(_OnStick):
    """A pack on a mounted stick: it has its name when what was written was read back."""

    __slots__ = ()

    @property
    def _part(self) -> Path:
        return self.path.with_name(f".{self.name}.part")

    def held(self) -> dict[str, int]:
        """Return the pack's length by `PACK`, when it is there under its name.

        Raises:
            AuthoringError: something there is no directory and no regular file, so nothing
                may be written here.
        """
        try:
            with sticktree.open_directories(self.mountpoint, STICK_DIRECTORY) as fd:
                status = os.stat(self.name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise files.NotRegularError(f"'{self.name}' is not a regular file")
        except FileNotFoundError:
            return {}
        except NOT_PLAIN as e:
            raise self._unusable(e) from e
        return {PACK: status.st_size}

    def write(
        self, source: Path, tree: Tree, wanted: Sequence[StickFile], progress: Progress
    ) -> None:
        """Copy the pack beside its place, and write it out to the device.

        Args:
            source: the pack.
            tree: as `read_tree` has it.
            wanted: empty when the stick has it already.
            progress: told of the bytes.

        Raises:
            AuthoringError: the stick is full, broken or gone.
        """
        del tree
        meter = _Meter(f"writing {self.name}", sum(f.size for f in wanted), progress, self._sync)
        with self._told("written"):
            self.path.parent.mkdir(exist_ok=True)
            self._part.unlink(missing_ok=True)
            if wanted:
                _copy(source, self._part, meter)
            self._sync()

    def differing(
        self, source: Path, wanted: Sequence[StickFile], progress: Progress
    ) -> tuple[StickFile, ...]:
        """Read the pack back from the device; return it when it is not what ``source`` is.

        Raises:
            AuthoringError: the stick, or the source, cannot be read.
        """
        meter = _Meter(f"reading back {self.name}", sum(f.size for f in wanted), progress)
        with self._told("read"):
            here = self._part if self._part.exists() else self.path
            found = _digest(meter.counted(uncached(here)))
            return () if found == _digest(_chunks(source)) else tuple(wanted)

    def published(self) -> dict[str, bytes]:
        """Return the metadata devices see; empty while the pack has no name, or is none."""
        if self._part.exists():
            return {}
        try:
            return dict(packfile.read_header(self.path).documents)
        except BundleError:
            return {}

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Let devices see the pack.

        Raises:
            AuthoringError: the stick is broken or gone.
        """
        del documents  # they are in it
        with self._told("written"):
            self._part.replace(self.path)
            self._sync()

    def prune(self, keep: Iterable[str]) -> int:
        """Nothing lies beside a pack."""
        del keep
        return 0


class _Meter:
    """Counts bytes, tells of them, and lets the device catch up now and then."""

    def __init__(
        self,
        step: str,
        total: int,
        progress: Progress,
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._step, self._total, self._progress, self._catch_up = step, total, progress, catch_up
        self._done = self._behind = 0
        self._lock = Lock()
        progress(step, 0, total)

    def counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield ``chunks``, counting what was taken."""
        for chunk in chunks:
            yield chunk
            with self._lock:
                self._count(len(chunk))

    def _count(self, size: int) -> None:
        self._done += size
        self._behind += size
        if self._behind >= SYNC_EVERY_BYTES:
            self._behind = 0
            self._catch_up()
        self._progress(self._step, self._done, self._total)


def uncached(path: Path, *, direct: bool = True) -> Iterator[bytes]:
    """Read a file from its device, whatever the kernel remembers of it.

    Args:
        path: a regular file.
        direct: whether to try ``O_DIRECT`` before dropping the cache.

    Raises:
        OSError: the device cannot be read.
    """
    fd = _open_direct(path) if direct else _open_dropped(path)
    try:
        with mmap.mmap(-1, CHUNK_BYTES) as buffer:  # a page's alignment, as O_DIRECT wants it
            size, offset = os.fstat(fd).st_size, 0
            while offset < size:
                taken = os.preadv(fd, [buffer], offset)
                if taken == 0:
                    return  # shorter than its size says: the digest will tell
                yield buffer[:taken]
                offset += taken
    finally:
        os.close(fd)


def _open_direct(path: Path) -> int:
    try:
        return os.open(path, files.READ_FLAGS | os.O_DIRECT)
    except OSError:  # open(2): EINVAL where the file system has no such thing
        return _open_dropped(path)


def _open_dropped(path: Path) -> int:
    fd = os.open(path, files.READ_FLAGS)
    os.fsync(fd)  # a dirty page would stay in the cache
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return fd


def _copy(source: Path, place: Path, meter: _Meter) -> None:
    with place.open("wb") as file:
        for chunk in meter.counted(_chunks(source)):
            file.write(chunk)


def write_through(path: Path, data: bytes) -> None:
    """Write a file out to the device; its mode is the mount's affair, FAT has none."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _chunks(path: Path) -> Iterator[bytes]:
    with files.open_regular(path) as fd:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk


def _digest(chunks: Iterable[bytes]) -> bytes:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return sha256.digest()
