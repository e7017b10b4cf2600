"""Result records as files: written to a stick, kept on the device, read from many sticks.

Sticks are not trusted: every component is opened by directory descriptor without following
links, no file is ever replaced, and what is read is bounded in number and size.

On FAT there is no journal and there are no hard links, so a file gets its final name last:
the content is written and synced under a ``.part`` name, renamed without replacing, and the
directory is synced. A power cut leaves a whole file, a ``.part`` file that nobody reads, or
nothing; the record is owed until its directory is synced, and since its name and bytes do
not change, a second delivery finds the first.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from agent.adapters import files
from agent.core.feedback import printable
from agent.core.fleet import Reading, Skipped
from agent.core.record import (
    RECORD_LIMIT_BYTES,
    Delivery,
    Posted,
    Record,
    RecordError,
    from_json,
    numbered,
    to_json,
    to_text,
)
from agent.log import get_logger

log = get_logger()

RESULTS_DIRECTORY = "usb-update-results"
STICK_FILES_LIMIT = 10_000  # in one device's directory; FAT looks names up one by one
SAME_NAME_LIMIT = 9  # other files that may have taken a record's name
HISTORY_LIMIT = 200
HISTORY_LIMIT_BYTES = 16 * 1024 * 1024
OWED_LIMIT = 50
READ_DEPTH_LIMIT = 1  # directories below the results directory
READ_LIMIT_BYTES = 1024 * 1024 * 1024  # read from one stick by `report`
READ_ENTRIES_LIMIT = 20_000  # names looked at on one stick by `report`
SKIPPED_LIMIT = 200  # refused files that `report` names one by one

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
RENAME_NOREPLACE = 1  # linux/fs.h

_POSTED = {
    errno.EROFS: (Posted.READ_ONLY, "the stick is write-protected"),
    errno.EACCES: (Posted.READ_ONLY, "the stick may not be written"),
    errno.EPERM: (Posted.READ_ONLY, "the stick may not be written"),
    errno.ENOSPC: (Posted.FULL, "the stick is full"),
    errno.EDQUOT: (Posted.FULL, "the stick is full"),
    errno.EFBIG: (Posted.FULL, "the stick is full"),
    errno.ENOENT: (Posted.GONE, "the stick is gone"),
    errno.ENODEV: (Posted.GONE, "the stick is gone"),
    errno.ENXIO: (Posted.GONE, "the stick is gone"),
    errno.EIO: (Posted.GONE, "the stick is gone or broken"),
    errno.ESTALE: (Posted.GONE, "the stick is gone"),
    errno.ENOTCONN: (Posted.GONE, "the stick is gone"),
    errno.ESHUTDOWN: (Posted.GONE, "the stick is gone"),
    errno.ELOOP: (Posted.REFUSED, "a link stands where a directory or file is expected"),
    errno.ENOTDIR: (Posted.REFUSED, "something else stands where a directory is expected"),
    errno.EISDIR: (Posted.REFUSED, "a directory stands where a file is expected"),
    errno.EEXIST: (Posted.REFUSED, "other files have taken the record's name"),
}
_DOS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class _NotPostedError(Exception):
    """The stick is not as it must be for writing to it."""


# --- onto a stick ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StickLetterbox:
    """`Letterbox` on a mounted stick.

    Attributes:
        mountpoint: where it is mounted, for writing.
        st_dev: device number the mount must have, so that nothing is ever written into
            the empty directory of a stick that has gone; None: not checked.
    """

    mountpoint: Path
    st_dev: int | None = None

    def put(self, record: Record) -> Delivery:
        """See `ports.Letterbox`."""
        try:
            return self._put(record)
        except _NotPostedError as e:
            return Delivery(Posted.REFUSED, str(e))
        except OSError as e:
            unknown = (Posted.FAILED, "the stick cannot be written")
            posted, why = _POSTED.get(e.errno or 0, unknown)
            return Delivery(posted, f"{why} ({e.strerror})")

    def _put(self, record: Record) -> Delivery:
        with ExitStack() as stack:
            device = directory_name(record.device.name)
            directory = stack.enter_context(self._directory(device))
            stem, there = _free_stem(directory, record)
            path = f"{RESULTS_DIRECTORY}/{device}/{stem}.json"
            if there:
                return Delivery(Posted.ALREADY_THERE, path)
            _demand_room(directory)
            # The text first: the JSON is what says that a record has arrived.
            _create(directory, f"{stem}.txt", to_text(record))
            _create(directory, f"{stem}.json", to_json(record))
            os.fsync(directory)
            return Delivery(Posted.WRITTEN, path)

    @contextmanager
    def _directory(self, device: str) -> Iterator[int]:
        """Open, and where needed make, ``usb-update-results/<device>`` on the stick."""
        with ExitStack() as stack:
            fd = stack.enter_context(_opened(os.open(self.mountpoint, DIRECTORY_FLAGS)))
            mounted = os.fstat(fd).st_dev
            if self.st_dev not in (None, mounted):
                raise OSError(errno.ENODEV, "another file system is mounted there")
            for name in (RESULTS_DIRECTORY, device):
                fd = stack.enter_context(_opened(_descend(fd, name)))
                if os.fstat(fd).st_dev != mounted:
                    raise _NotPostedError(f"'{name}' on the stick is another file system")
            yield fd


def directory_name(device: str) -> str:
    """Return a device's name as a directory name that every FAT and every shell takes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", device)[:64].strip(". ")
    if not re.search(r"[A-Za-z0-9]", name):
        return "device"
    if _DOS_DEVICES.fullmatch(name):
        return f"device_{name}"
    return f"_{name[1:]}" if name.startswith("-") else name


def _descend(parent: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
        os.fsync(parent)
    return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)


def _free_stem(directory: int, record: Record) -> tuple[str, bool]:
    """Return a stem for the record, and whether its JSON is there already.

    A name is taken when another device of the same name wrote it, or someone changed it.
    """
    data = to_json(record)
    for stem in (record.stem, *(f"{record.stem}-{n}" for n in range(2, SAME_NAME_LIMIT + 1))):
        found = _content(directory, f"{stem}.json")
        if found is None and _content(directory, f"{stem}.txt") in (None, to_text(record)):
            return stem, False
        if found == data:
            return stem, True
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _content(directory: int, name: str) -> bytes | None:
    """Return a file's bytes; None when there is none, and nothing of ours otherwise."""
    try:
        return _read_at(directory, name)
    except FileNotFoundError:
        return None
    except (files.NotRegularError, files.TooLargeError):
        return b""


def _demand_room(directory: int) -> None:
    with os.scandir(directory) as entries:
        count = sum(1 for _ in islice(entries, STICK_FILES_LIMIT))
    if count >= STICK_FILES_LIMIT:
        raise _NotPostedError(
            f"the stick's results directory holds {STICK_FILES_LIMIT} files or more: move them away"
        )


def _create(directory: int, name: str, data: bytes) -> None:
    """Create a file, whole and durable, unless the name exists."""
    part = f"{name}.part"
    with suppress(FileNotFoundError):
        os.unlink(part, dir_fd=directory)  # what a power cut left of our own
    try:
        with os.fdopen(os.open(part, CREATE_FLAGS, 0o644, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            _rename_new(directory, part, name)
    finally:
        with suppress(OSError):
            os.unlink(part, dir_fd=directory)


def _rename_new(directory: int, old: str, new: str) -> None:
    """Rename without ever replacing, in the kernel where the file system can.

    Source: renameat2(2); vfat, exfat and ext4 know RENAME_NOREPLACE, some FUSE ones do not.
    """
    import ctypes  # noqa: PLC0415  3 MB that an idle daemon does without

    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        names = os.fsencode(old), os.fsencode(new)
        if rename(directory, names[0], directory, names[1], RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), new)
    if _exists(directory, new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


# --- on the device ---------------------------------------------------------------------


@dataclass(slots=True)
class DeviceResults:
    """`Results` in ``<storage>/usb-update/results``; one writer process at a time.

    Attributes:
        directory: holds ``history/`` and ``owed/``, files named by the record's number.
    """

    directory: Path
    _unsaved: list[Record] = field(default_factory=list)

    def keep(self, record: Record) -> Record:
        """See `ports.Results`."""
        kept = numbered(record, self._next_number())
        try:
            # Owed first: cut in between, a stick still gets it; the other way nobody would.
            for where in (self._owed, self._history):
                where.mkdir(parents=True, exist_ok=True)
                files.write_atomic(where / _file_name(kept), to_json(kept))
            self._rotate()
        except OSError as e:
            log.warning("result.not_kept", sequence=kept.sequence, error=str(e))
            self._unsaved.append(kept)
        return kept

    def owed(self) -> tuple[Record, ...]:
        """See `ports.Results`."""
        saved = tuple(self._records(self._owed))
        return (*saved, *(record for record in self._unsaved if record not in saved))

    def settle(self, record: Record) -> None:
        """See `ports.Results`."""
        self._unsaved = [other for other in self._unsaved if other != record]
        try:
            files.remove_durably(self._owed / _file_name(record))
        except OSError as e:
            log.warning("result.not_settled", sequence=record.sequence, error=str(e))

    def history(self) -> tuple[Record, ...]:
        """See `ports.Results`."""
        return tuple(self._records(self._history))

    @property
    def _history(self) -> Path:
        return self.directory / "history"

    @property
    def _owed(self) -> Path:
        return self.directory / "owed"

    def _next_number(self) -> int:
        names = (*_numbered_files(self._history), *_numbered_files(self._owed))
        saved = max((int(path.stem) for path in names), default=0)
        return max([saved, *(record.sequence for record in self._unsaved)]) + 1

    def _records(self, where: Path) -> Iterator[Record]:
        for path in _numbered_files(where):
            try:
                yield from_json(files.read_bounded(path, limit=RECORD_LIMIT_BYTES))
            except (RecordError, OSError, files.NotRegularError, files.TooLargeError) as e:
                log.warning("result.unreadable", path=str(path), error=str(e))

    def _rotate(self) -> None:
        _drop_oldest(self._history, HISTORY_LIMIT, HISTORY_LIMIT_BYTES)
        for dropped in _drop_oldest(self._owed, OWED_LIMIT, HISTORY_LIMIT_BYTES):
            log.warning("result.given_up", path=str(dropped))


def _file_name(record: Record) -> str:
    return f"{record.sequence:08d}.json"


def _numbered_files(where: Path) -> list[Path]:
    """Return the record files, oldest first; what a power cut left half-written is not one."""
    return sorted(path for path in where.glob("*.json") if re.fullmatch(r"[0-9]{8,}", path.stem))


def _drop_oldest(where: Path, count: int, size_bytes: int) -> list[Path]:
    """Remove the oldest files over a number and a size; return what was removed."""
    for leftover in where.glob(".*"):
        leftover.unlink()  # write_atomic's own, cut off by a power cut
    newest_first = list(reversed(_numbered_files(where)))
    total, dropped = 0, []
    for index, path in enumerate(newest_first):
        total += path.stat().st_size
        if index >= count or (index and total > size_bytes):
            path.unlink()
            dropped.append(path)
    return dropped


# --- from many sticks ------------------------------------------------------------------


def read_results(place: Path) -> Reading:
    """Read every record of a stick, a directory of records, or one record's file.

    Args:
        place: mountpoint, directory, file, or a block device that is mounted.

    Raises:
        OSError: it is not there or cannot be read.
    """
    walk = _Walk()
    root = _mountpoint_of(place)
    if root.is_dir():
        with _opened(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            walk.enter_root(fd, str(root))
    else:
        with _opened(os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            walk.take(fd, root.name, str(root))
    return Reading(str(place), tuple(walk.records), tuple(walk.skipped))


class _Walk:
    """Collects records below a directory, within bounds."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.skipped: list[Skipped] = []
        self._entries_left = READ_ENTRIES_LIMIT
        self._bytes_left = READ_LIMIT_BYTES

    def enter_root(self, fd: int, shown: str) -> None:
        """Read a stick (through its results directory) or a directory of records."""
        try:
            inner = os.open(RESULTS_DIRECTORY, DIRECTORY_FLAGS, dir_fd=fd)
        except FileNotFoundError:
            self._enter(fd, shown, depth=0)
        except OSError as e:
            self._skip(f"{shown}/{RESULTS_DIRECTORY}", f"not a directory: {e.strerror}")
        else:
            with _opened(inner):
                self._enter(inner, f"{shown}/{RESULTS_DIRECTORY}", depth=0)

    def _enter(self, fd: int, shown: str, *, depth: int) -> None:
        for name, is_directory in self._listed(fd, shown):
            path = f"{shown}/{name}"
            if is_directory and depth < READ_DEPTH_LIMIT:
                self._descend(fd, name, path, depth)
            elif name.endswith(".json") and not name.startswith("."):
                self.take(fd, name, path)

    def _descend(self, fd: int, name: str, path: str, depth: int) -> None:
        try:
            inner = os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
        except OSError as e:
            self._skip(path, f"cannot be opened: {e.strerror}")
            return
        with _opened(inner):
            self._enter(inner, path, depth=depth + 1)

    def _listed(self, fd: int, shown: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(fd) as entries:
                some = list(islice(entries, self._entries_left + 1))
        except OSError as e:
            self._skip(shown, f"cannot be listed: {e.strerror}")
            return []
        if len(some) > self._entries_left:
            self._skip(shown, f"more than {READ_ENTRIES_LIMIT} names; the rest was not read")
        some = some[: self._entries_left]
        self._entries_left -= len(some)
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in some)

    def take(self, fd: int, name: str, path: str) -> None:
        """Read one file, or say why not."""
        if self._bytes_left <= 0:
            self._skip(path, f"more than {READ_LIMIT_BYTES >> 20} MiB were read already")
            return
        try:
            data = _read_at(fd, name)
            self._bytes_left -= len(data)
            # Without events: twenty thousand records must fit into a laptop.
            self.records.append(replace(from_json(data), events=()))
        except (RecordError, OSError, files.NotRegularError, files.TooLargeError) as e:
            self._skip(path, str(e))

    def _skip(self, path: str, why: str) -> None:
        if len(self.skipped) < SKIPPED_LIMIT:
            self.skipped.append(Skipped(printable(path, 200), printable(why, 200)))


def _read_at(directory: int, name: str) -> bytes:
    """Read a small regular file of a directory, as `files.read_bounded` does by path."""
    try:
        fd = os.open(name, files.READ_FLAGS, dir_fd=directory)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            raise files.NotRegularError("it is a link or a special file") from e
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise files.NotRegularError("it is not a regular file")
        data = file.read(RECORD_LIMIT_BYTES + 1)
    if len(data) > RECORD_LIMIT_BYTES:
        raise files.TooLargeError(f"it has more than {RECORD_LIMIT_BYTES} bytes")
    return data


def _mountpoint_of(place: Path) -> Path:
    """Return where a block device is mounted; anything else as it is.

    Raises:
        FileNotFoundError: there is no such place, or the device is not mounted.
    """
    found = place.stat()
    if not stat.S_ISBLK(found.st_mode):
        return place.resolve()
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        columns = line.split()
        if columns[2] == number:
            return Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), columns[4]))
    raise FileNotFoundError(errno.ENOENT, "it is not mounted; mount it first", str(place))
