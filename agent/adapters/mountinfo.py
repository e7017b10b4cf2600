"""The mount table: find a stick's mount, or make one that can do no harm.

Law, for every mount of ours: its type is named and on the allow-list, never ``auto``; it is
``nosuid,nodev,noexec,nosymfollow,noatime``; it lies in a root-owned 0700 directory; what is
mounted is compared with the device udev told of. A mount made by udisks or systemd is used
through a bind mount of our own with the same flags. Reading and writing are two mounts, one
after the other. In the service all of this happens in a mount namespace of its own.

Host commands used: mount, umount.
"""

import os
import re
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import shell
from agent.core.errors import FileSystemRefusedError, MountError
from agent.core.stick import BlockEvent
from agent.log import get_logger

log = get_logger()

MOUNTINFO = Path("/proc/self/mountinfo")
RUN_DIRECTORY = Path("/run/usb-update")
PREFIX = "mnt-"
MOUNT_TIMEOUT_S = 30.0  # a worn stick answers its first reads late; a journal is not replayed
UNMOUNT_TIMEOUT_S = 60.0  # what was written to a slow stick is written out here
SAFE = "nosuid,nodev,noexec,noatime"
NO_LINKS = "nosymfollow"  # Linux 5.10
# What a file system needs beside that. ext4 replays its journal even when read-only.
READ_OPTIONS = {"ext4": "noload"}
WRITE_OPTIONS = {"vfat": "flush"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        number: ``major:minor`` of the device.
        root: directory of the file system that is mounted; ``/`` for all of it.
        mountpoint: where.
        options: of this mount, for example ``ro``.
        fs_type: the kernel's word.
        super_options: of the file system.
    """

    number: str
    root: str
    mountpoint: Path
    options: frozenset[str]
    fs_type: str
    super_options: frozenset[str]


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Read a mount table; lines of another shape are left out.

    Source: proc(5), "/proc/[pid]/mountinfo".
    """
    return tuple(mount for line in text.splitlines() if (mount := _parse_line(line)))


def _parse_line(line: str) -> Mount | None:
    head, separator, tail = line.partition(" - ")
    fields, kind = head.split(" "), tail.split(" ")
    if not separator or len(fields) < 6 or len(kind) < 3:  # noqa: PLR2004  proc(5)
        return None
    return Mount(
        number=fields[2],
        root=_unescape(fields[3]),
        mountpoint=Path(_unescape(fields[4])),
        options=frozenset(fields[5].split(",")),
        fs_type=kind[0],
        super_options=frozenset(kind[2].split(",")),
    )


def _unescape(text: str) -> str:
    r"""Undo the kernel's ``\040`` for blank, tab, newline and backslash."""
    raw = re.sub(
        rb"\\([0-3][0-7]{2})",
        lambda m: bytes([int(m[1], 8)]),
        text.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")


class MountTable:
    """The kernel's mount table, and a descriptor that tells when it changes (POLLPRI)."""

    def __init__(self) -> None:
        self._fd = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLPRI."""
        return self._fd

    def close(self) -> None:
        """Look no longer."""
        os.close(self._fd)


def mounts() -> tuple[Mount, ...]:
    """Return what is mounted in this namespace, in the order of mounting."""
    return parse_mountinfo(MOUNTINFO.read_text("utf-8", "surrogateescape"))


class StickMounts:
    """`Mounts`: by an automounter, or by ourselves.

    Args:
        filesystems: the allow-list.
        wait_s: how long to wait for an automounter's mount; None when we mount ourselves.
        directory: ours, 0700, below a tmpfs.
    """

    def __init__(
        self,
        filesystems: Sequence[str],
        *,
        wait_s: float | None = None,
        directory: Path = RUN_DIRECTORY,
    ) -> None:
        self._filesystems = tuple(filesystems)
        self._wait_s = wait_s
        self._directory = directory

    def ready(self, event: BlockEvent) -> bool:
        """See `ports.Mounts`."""
        if self._wait_s is None or event.fs_type not in self._filesystems:
            return True
        return self._foreign(event) is not None

    @contextmanager
    def mounted_ro(self, event: BlockEvent) -> Iterator[Path]:
        """See `ports.Mounts`."""
        self._check_type(event)
        with self._mounted(event, write=False) as path:
            yield path

    @contextmanager
    def mounted_rw(self, event: BlockEvent) -> Iterator[Path]:
        """See `ports.Mounts`."""
        self._check_type(event)
        with self._mounted(event, write=True) as path:
            yield path

    def clean(self) -> None:
        """See `ports.Mounts`."""
        for mount in reversed(mounts()):
            if self._is_ours(mount.mountpoint):
                log.warning("medium.phantom_unmounted", mountpoint=str(mount.mountpoint))
                _unmount(mount.mountpoint)
        for left in self._directory.glob(f"{PREFIX}*"):
            _remove_empty(left)

    def _is_ours(self, mountpoint: Path) -> bool:
        return mountpoint.parent == self._directory and mountpoint.name.startswith(PREFIX)

    def _check_type(self, event: BlockEvent) -> None:
        """Refuse before the kernel reads one block of it as a file system."""
        if event.fs_type in self._filesystems:
            return
        allowed = ", ".join(self._filesystems)
        if not event.fs_type:
            raise FileSystemRefusedError(
                f"'{event.devnode}' holds no file system",
                hint=f"format the stick as one of {allowed}",
            )
        raise FileSystemRefusedError(
            f"'{event.devnode}' holds a {event.fs_type!r} file system, expected one of {allowed}",
            hint=f"format the stick as one of {allowed}, or set [usb_update] filesystems",
        )

    def _foreign(self, event: BlockEvent) -> Mount | None:
        """Return the automounter's mount of the whole file system: the newest one."""
        found = [
            mount
            for mount in mounts()
            if mount.number == event.number
            and mount.root == "/"
            and not self._is_ours(mount.mountpoint)
        ]
        return found[-1] if found else None

    def _await_foreign(self, event: BlockEvent) -> Mount | None:
        """Wait for the automounter where there is one; the wait loop has usually done so."""
        deadline = time.monotonic() + (self._wait_s or 0)
        table = MountTable()
        try:
            poll = select.poll()
            poll.register(table, select.POLLPRI)
            while (found := self._foreign(event)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not Path(event.devnode).exists():
                    return None
                poll.poll(min(left, 1.0) * 1000)
            return found
        finally:
            table.close()

    @contextmanager
    def _mounted(self, event: BlockEvent, *, write: bool) -> Iterator[Path]:
        foreign = self._await_foreign(event)
        if foreign is None and self._wait_s is not None:
            raise MountError(
                f"no automounter mounted '{event.devnode}' within {self._wait_s:g} s",
                hint='set [usb_update] mount = "self", or look at the automounter',
            )
        mountpoint = self._make_mountpoint(event, write=write)
        try:
            if foreign is None:
                _mount_device(event, mountpoint, write=write)
            else:
                _bind(foreign, event, mountpoint, write=write)
            yield self._verified(event, mountpoint)
        finally:
            _unmount(mountpoint)
            _remove_empty(mountpoint)

    def _make_mountpoint(self, event: BlockEvent, *, write: bool) -> Path:
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = "rw" if write else "ro"
        mountpoint = self._directory / f"{PREFIX}{Path(event.devnode).name}-{mode}"
        if os.path.ismount(mountpoint):
            _unmount(mountpoint)
        mountpoint.mkdir(mode=0o700, exist_ok=True)
        return mountpoint

    def _verified(self, event: BlockEvent, mountpoint: Path) -> Path:
        """Be sure that what was mounted is what udev told of, not its successor."""
        device = mountpoint.stat().st_dev
        found = f"{os.major(device)}:{os.minor(device)}"
        if found != event.number:
            raise MountError(
                f"'{event.devnode}' is device {found}, expected {event.number}: another medium",
                hint="plug the stick in again",
            )
        log.info("medium.mounted", devnode=event.devnode, fs_type=event.fs_type, label=event.label)
        return mountpoint


def _mount_device(event: BlockEvent, mountpoint: Path, *, write: bool) -> None:
    mode = "rw" if write else "ro"
    extra = (WRITE_OPTIONS if write else READ_OPTIONS).get(event.fs_type, "")
    options = ",".join(option for option in (mode, SAFE, extra) if option)
    argv = ["mount", "-t", event.fs_type, "--source", event.devnode, "--target", str(mountpoint)]
    _mount_without_links(lambda links: _mount([*argv, "-o", options + links], event), mountpoint)
    if write:
        _check_writable(mountpoint, event)


def _bind(foreign: Mount, event: BlockEvent, mountpoint: Path, *, write: bool) -> None:
    """Look at an automounter's mount through one of our own: our flags, our directory."""
    if write and "ro" in foreign.super_options | foreign.options:
        raise MountError(f"'{event.devnode}' is mounted read-only at '{foreign.mountpoint}'")
    mode = "rw" if write else "ro"
    places = [str(foreign.mountpoint), str(mountpoint)]  # both, so that fstab has no say
    _mount(["mount", "--bind", *places], event)
    flags = f"remount,bind,{mode},{SAFE}"
    _mount_without_links(
        lambda links: _mount(["mount", "-o", flags + links, *places], event), mountpoint
    )


def _mount_without_links(mount: Callable[[str], None], mountpoint: Path) -> None:
    """Mount with ``nosymfollow``; a kernel or program that lacks it goes without.

    Readers of the stick refuse links by themselves, so nothing rests on the flag alone.
    """
    try:
        mount(f",{NO_LINKS}")
    except MountError as first:
        try:
            mount("")
        except MountError:
            raise first from None
        log.warning("medium.links_allowed", mountpoint=str(mountpoint))


def _mount(argv: list[str], event: BlockEvent) -> None:
    try:
        shell.run(argv, timeout_s=MOUNT_TIMEOUT_S)
    except shell.CommandError as e:
        raise MountError(
            f"'{event.devnode}' ({event.fs_type}) cannot be mounted: {e.stderr}",
            hint="plug it in again; if it stays so, format the stick anew",
        ) from e


def _check_writable(mountpoint: Path, event: BlockEvent) -> None:
    """Ask whether the kernel gave less than was asked for: mount(8) falls back to read-only."""
    if os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        raise MountError(f"'{event.devnode}' is write-protected")


def _unmount(mountpoint: Path) -> None:
    """Unmount, or at least take it out of sight: a pulled stick never answers again."""
    if not os.path.ismount(mountpoint):
        return
    try:
        shell.run(["umount", "--no-canonicalize", str(mountpoint)], timeout_s=UNMOUNT_TIMEOUT_S)
    except shell.CommandError as e:
        log.warning("medium.unmounted_lazily", mountpoint=str(mountpoint), error=e.stderr)
        shell.run(["umount", "--lazy", str(mountpoint)], timeout_s=UNMOUNT_TIMEOUT_S)


def _remove_empty(mountpoint: Path) -> None:
    try:
        mountpoint.rmdir()
    except OSError as e:
        log.warning("medium.mountpoint_kept", mountpoint=str(mountpoint), error=e.strerror)
