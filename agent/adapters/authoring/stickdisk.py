r"""A disk as sysfs and blkid tell of it, and a new file system on it.

What hangs on USB, is marked removable, or is an SD card counts as a stick; a disk soldered
to the board's USB does not. The same is asked of udev in ``90-usb-update.rules``.

Host commands used: blkid, wipefs, mkfs.vfat, mkfs.exfat, mke2fs, sync.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import shell
from agent.core.authoring import AuthoringError
from agent.core.feedback import printable
from agent.core.stickplan import Disk, Part

SYS = Path("/sys")
SWAPS = Path("/proc/swaps")
SECTOR_BYTES = 512  # sysfs counts in these, whatever the disk's own are
TEXT_LIMIT = 64  # characters of a model or label
PROBE_TIMEOUT_S = 30.0
FORMAT_TIMEOUT_S = 600.0  # ext4 on a large, slow stick writes its tables
LABEL = re.compile(r"[A-Z0-9_-]{1,11}", re.ASCII)  # what FAT, exFAT and ext4 have in common
HUB = "09"

PROGRAMS: Mapping[str, Callable[[str, str], list[str]]] = {
    # One FAT over all of it, without a table that only Windows wants of fixed disks.
    "vfat": lambda device, label: ["mkfs.vfat", "-I", "--mbr=no", "-n", label, device],
    "exfat": lambda device, label: ["mkfs.exfat", "-L", label, device],
    "ext4": lambda device, label: [
        *("mke2fs", "-q", "-F", "-t", "ext4"),
        *("-m", "0"),  # nothing is kept back for root
        *("-L", label, device),
    ],
}
PACKAGES = {"vfat": "dosfstools", "exfat": "exfatprogs", "ext4": "e2fsprogs"}


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of this machine.

    Attributes:
        system: kernel names of those the system runs from.
        mounted: ``major:minor`` to where it is mounted.
        probe: returns type and label of what lies on a device node; see `blkid`.
        sys: where sysfs is.
    """

    system: frozenset[str]
    mounted: Mapping[str, tuple[str, ...]]
    probe: Callable[[str], tuple[str, str]]
    sys: Path = SYS

    def named(self, path: Path) -> Disk:
        """Return the disk that a device node, or a directory on it, names.

        Raises:
            AuthoringError: it names none.
        """
        number, by_directory = _number(path)
        if not (self.sys / "dev/block" / number).exists():
            raise AuthoringError(
                f"'{path}' lies on no disk", hint="name a mounted stick or its device"
            )
        return self.numbered(number, by_directory=by_directory)

    def numbered(self, number: str, *, by_directory: bool = False) -> Disk:
        """Return the disk of the block device ``major:minor``."""
        node = (self.sys / "dev/block" / number).resolve()
        disk = node.parent if (node / "partition").exists() else node
        below = sorted(p.parent for p in node.glob("*/partition"))
        return Disk(
            name=disk.name,
            devnode=f"/dev/{node.name}",
            by_directory=by_directory,
            model=_model(disk),
            removable=self._is_removable(disk),
            system=disk.name in self.system,
            read_only=_read(node / "ro") == "1",
            parts=tuple(self._part(device) for device in (node, *below)),
        )

    def _part(self, node: Path) -> Part:
        devnode = f"/dev/{node.name}"
        fs_type, label = self.probe(devnode)
        return Part(
            devnode,
            _read(node / "dev"),
            int(_read(node / "size") or 0) * SECTOR_BYTES,
            fs_type,
            label,
            self.mounted.get(_read(node / "dev"), ()),
            (*sorted(path.name for path in node.glob("holders/*")), *_swap(devnode)),
        )

    def _is_removable(self, disk: Path) -> bool:
        if not re.fullmatch(r"sd[a-z]+|mmcblk[0-9]+|nvme[0-9]+n[0-9]+", disk.name):
            return False  # loop devices, optical drives, disks of a virtual machine
        if _read(disk / "removable") == "1":
            return True
        above = list(self._above(disk))
        if any(_subsystem(p) == "mmc" and _read(p / "type") == "SD" for p in above):
            return True
        usb = [place for place in above if _subsystem(place) == "usb"]
        return bool(usb) and not any(map(_is_fixed, usb))

    def _above(self, disk: Path) -> Iterator[Path]:
        stop = self.sys.resolve() / "devices"
        yield from (place for place in disk.parents if stop in place.parents)


def _is_fixed(usb: Path) -> bool:
    """Whether the firmware calls this device's port fixed; hubs on the way do not count."""
    return _read(usb / "removable") == "fixed" and _read(usb / "bDeviceClass") != HUB


def _subsystem(place: Path) -> str:
    link = place / "subsystem"
    return link.readlink().name if link.is_symlink() else ""


def _model(disk: Path) -> str:
    words = [_read(disk / "device" / name) for name in ("vendor", "model", "name")]
    return printable(" ".join(word for word in words if word), TEXT_LIMIT)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return ""


def _swap(devnode: str) -> tuple[str, ...]:
    lines = _read(SWAPS).splitlines()[1:]
    return ("swap",) if any(line.split()[0] == devnode for line in lines) else ()


def _number(path: Path) -> tuple[str, bool]:
    """Return the device number a path stands for, and whether it is a directory."""
    try:
        found = path.stat()
    except OSError as e:
        raise AuthoringError(f"'{path}' cannot be looked at: {e.strerror}") from e
    if stat.S_ISBLK(found.st_mode):
        device = found.st_rdev
    elif stat.S_ISDIR(found.st_mode):
        device = found.st_dev
    else:
        raise AuthoringError(
            f"'{path}' is neither a directory nor a block device",
            hint="name a mounted stick or its device",
        )
    return f"{os.major(device)}:{os.minor(device)}", stat.S_ISDIR(found.st_mode)


def blkid(devnode: str) -> tuple[str, str]:
    """Return type and label of what lies on a device; empty when nothing is recognised.

    Raises:
        AuthoringError: there is no such program.
    """
    try:
        said = shell.run(["blkid", "-p", "-o", "export", devnode], timeout_s=PROBE_TIMEOUT_S).text
    except shell.NotInstalledError as e:
        raise AuthoringError("there is no 'blkid' here", hint="it is in util-linux") from e
    except shell.CommandError:
        return "", ""  # nothing on it, or not ours to read
    told = dict(line.partition("=")[::2] for line in said.splitlines())
    table = told.get("PTTYPE", "")
    fs_type = told.get("TYPE") or (f"partition table ({table})" if table else "")
    return printable(fs_type, TEXT_LIMIT), printable(told.get("LABEL", ""), TEXT_LIMIT)


def make_file_system(devnode: str, fs_type: str, label: str) -> None:
    """Erase a device and make a file system over all of it.

    Raises:
        AuthoringError: it is in use, or cannot be made; what was on it may be lost.
    """
    if not LABEL.fullmatch(label):
        raise AuthoringError(
            f"{label!r} cannot be a stick's label",
            hint="up to 11 of A to Z, 0 to 9, '_' and '-': FAT holds no more",
        )
    program = PROGRAMS[fs_type](devnode, label)
    _demand_program(program[0], PACKAGES[fs_type])
    _demand_alone(devnode)
    try:
        # An old partition table, and its copy at the end, would hide the new file system.
        shell.run(["wipefs", "--all", "--quiet", devnode], timeout_s=FORMAT_TIMEOUT_S)
        shell.run(program, timeout_s=FORMAT_TIMEOUT_S)
        shell.run(["sync"], timeout_s=FORMAT_TIMEOUT_S)
    except shell.CommandError as e:
        raise AuthoringError(f"'{devnode}' cannot be formatted: {e}") from e
    found = blkid(devnode)[0]
    if found != fs_type:
        raise AuthoringError(
            f"'{devnode}' was formatted as {fs_type} and holds {found or 'nothing'!r} now",
            hint="the stick does not keep what is written to it: use another one",
        )


def _demand_program(program: str, package: str) -> None:
    """Look for the program before anything is erased."""
    if not shutil.which(program):
        raise AuthoringError(f"there is no '{program}' here", hint=f"install {package}")


def _demand_alone(devnode: str) -> None:
    """Ask the kernel whether anybody holds the device: it knows of what no table shows."""
    try:
        os.close(os.open(devnode, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
    except OSError as e:
        hint = "unmount it" if e.errno == errno.EBUSY else "run as root"
        raise AuthoringError(f"'{devnode}' cannot be opened: {e.strerror}", hint=hint) from e
