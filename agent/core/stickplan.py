"""What may become a stick, and what may lie on one: decided with paper and pencil.

In: facts of a disk, names and sizes of files. Out: a plan that fits FAT and every device, or
an `AuthoringError` that says what does not fit, before anything is written. FAT is the target
whatever the file system is, because the stick is copied, and the next one is FAT.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.core.authoring import AuthoringError
from agent.core.pack import SUFFIX

STICK_DIRECTORY = "usb-update"  # where agents look besides the root of a stick
FILE_SYSTEMS = ("vfat", "exfat", "ext4")
FAT_TYPES = frozenset({"vfat", "msdos"})
FAT_FILE_LIMIT_BYTES = 2**32 - 1
PATH_LIMIT = 255  # characters below the stick's root; with "E:\\", Windows shows no longer ones
NAME_LIMIT = 255  # UTF-16 units of one name; VFAT's and exFAT's own
ENTRY_BYTES = 128  # in a directory: a short name and three long ones of 13 characters
SPARE_BYTES = 1024 * 1024  # directories that grow, a record of the result
MIB = 1024 * 1024

BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", re.ASCII)
# The parts of a bundle, and what agents pass over when they look for bundles.
TAKEN_NAMES = frozenset(
    {"tuf", "apps", "ostree_repo", "recycler", "usb-update-results", "lost+found"}
)
JUNK = re.compile(
    r"\._.*|\.DS_Store|\.Trashes|\.fseventsd|\.Spotlight-V100|Thumbs\.db|desktop\.ini"
)
_FORBIDDEN = re.compile(r'["*/:<>?\\|\x00-\x1f\x7f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE | re.DOTALL)


# --- disks -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A block device with something on it: a partition, or a disk without any.

    Attributes:
        devnode: ``/dev/sdb1``.
        number: ``major:minor``.
        size_bytes: of the device.
        fs_type: blkid's word; empty when nothing was recognised.
        label: of the file system, printable.
        mounted_at: where it is mounted.
        users: other block devices that lie on it, and swap.
    """

    devnode: str
    number: str
    size_bytes: int
    fs_type: str = ""
    label: str = ""
    mounted_at: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """What was named as a stick.

    Attributes:
        name: kernel name of the whole disk, ``sdb``.
        devnode: what was named, ``/dev/sdb`` or ``/dev/sdb1``.
        by_directory: whether it was named by a directory on it.
        model: vendor and model, printable; may be empty.
        removable: the kernel says so, or it hangs on USB, or it is an SD card.
        system: the system runs from this disk.
        read_only: it is write-protected.
        parts: what was named and the partitions on it.
    """

    name: str
    devnode: str
    by_directory: bool
    model: str
    removable: bool
    system: bool
    read_only: bool
    parts: tuple[Part, ...]

    @property
    def named(self) -> Part:
        """The device that was named."""
        return self.parts[0]


def demand_stick(disk: Disk) -> None:
    """Refuse a disk that no person would call a stick.

    Raises:
        AuthoringError: the system runs from it, or it cannot be pulled out.
    """
    if disk.system:
        raise AuthoringError(
            f"'{disk.devnode}' lies on '{disk.name}', the disk this system runs from",
            hint="name the stick; 'lsblk' lists what is plugged in",
        )
    if not disk.removable:
        raise AuthoringError(
            f"'{disk.name}' is no removable medium: not marked removable, not on USB, no SD card",
            hint="name the stick; 'lsblk -o NAME,RM,TRAN,SIZE,MODEL' lists what is plugged in",
        )


def demand_writable(disk: Disk) -> None:
    """Refuse a stick whose switch says no.

    Raises:
        AuthoringError: it is write-protected.
    """
    if disk.read_only:
        raise AuthoringError(
            f"'{disk.devnode}' is write-protected", hint="look for a switch on the stick"
        )


def demand_unused(disk: Disk) -> None:
    """Refuse to format what is in use.

    Raises:
        AuthoringError: something of it is mounted or otherwise held, it has no size, or a
            directory was named and no device.
    """
    if disk.by_directory:
        raise AuthoringError(
            "a directory was named; a file system is made on a device",
            hint=f"unmount the stick and name its device, '{disk.devnode}'",
        )
    if not disk.named.size_bytes:
        raise AuthoringError(f"'{disk.devnode}' has no medium in it")
    for part in disk.parts:
        if part.mounted_at:
            places = ", ".join(f"'{place}'" for place in part.mounted_at)
            raise AuthoringError(
                f"'{part.devnode}' is mounted at {places}",
                hint=f"unmount it: umount {part.devnode}",
            )
        if part.users:
            raise AuthoringError(f"'{part.devnode}' is used by {', '.join(part.users)}")


def bearer(disk: Disk) -> Part:
    """Return the one device of a stick that bears a file system devices mount.

    Raises:
        AuthoringError: there is none, or there are several.
    """
    bearers = [part for part in disk.parts if part.fs_type in FILE_SYSTEMS]
    if len(bearers) == 1:
        return bearers[0]
    found = ", ".join(f"'{part.devnode}' {part.fs_type or 'unknown'}" for part in disk.parts)
    raise AuthoringError(
        f"'{disk.devnode}' has {len(bearers)} file systems that devices mount: {found}",
        hint="name the partition" if bearers else "--format vfat makes one and erases the stick",
    )


def losses(disk: Disk) -> tuple[str, ...]:
    """Say what formatting destroys, a line for each device with something on it."""
    head = f"{disk.devnode}: {disk.model or 'unknown model'}, {_size(disk.named.size_bytes)}"
    return (head, *(f"  {_part(part)}" for part in disk.parts))


def _part(part: Part) -> str:
    if not part.fs_type:
        return f"{part.devnode}: {_size(part.size_bytes)}, nothing that is recognised"
    label = f" {part.label!r}" if part.label else ""
    return f"{part.devnode}: {part.fs_type}{label}, {_size(part.size_bytes)}"


# --- files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StickFile:
    """A file of a bundle.

    Attributes:
        path: below the bundle's directory, with slashes.
        size: in bytes.
    """

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """What of a bundle goes onto a stick.

    Attributes:
        directories: every directory, parents first; some are empty and must be there.
        files: every file but ``tuf``'s.
    """

    directories: tuple[str, ...]
    files: tuple[StickFile, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What a mounted stick offers.

    Attributes:
        fs_type: the kernel's word.
        free_bytes: that an ordinary user may write.
        block_bytes: the least a file takes.
    """

    fs_type: str
    free_bytes: int
    block_bytes: int


def demand_names(names: Sequence[str]) -> None:
    """Refuse names of bundles that would not be found, or that FAT takes for the same.

    Raises:
        AuthoringError: with the first that does not do.
    """
    for name in names:
        taken = name.lower() in TAKEN_NAMES
        if taken or not BUNDLE_NAME.fullmatch(name) or _name_problem(name):
            raise AuthoringError(
                f"{name[:80]!r} cannot be a bundle's name on a stick",
                hint="give another one as NAME=BUNDLE: up to 48 letters, digits, '.', '_' and '-', "
                "no '.' at its end, and none that a bundle or Windows uses itself",
            )
    if clash := next(_clashes(names), None):
        raise AuthoringError(
            f"two bundles would lie in '{STICK_DIRECTORY}/{clash[1]}'",
            hint="give them names: NAME=BUNDLE",
        )


def demand_suffix(name: str, *, is_pack: bool) -> None:
    """Refuse a name under which devices would look for another kind of bundle.

    Raises:
        AuthoringError: it is a pack's and the bundle is a directory, or the other way round.
    """
    if name.lower().endswith(SUFFIX) is not is_pack:
        wanted = f"a name that ends in '{SUFFIX}'" if is_pack else f"one without '{SUFFIX}'"
        raise AuthoringError(
            f"{name!r} does not do for a {'pack' if is_pack else 'directory'}; expected {wanted}",
            hint="give another one as NAME=BUNDLE",
        )


def demand_portable(name: str, tree: Tree) -> None:
    """Refuse what FAT, or a laptop that copies the stick, cannot hold.

    Args:
        name: of the bundle on the stick.
        tree: what it consists of.

    Raises:
        AuthoringError: with the first problem and how many more there are.
    """
    paths = [*tree.directories, *(file.path for file in tree.files)]
    problems = list(path_problems(paths))
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise AuthoringError(
            f"bundle {name!r}: {problems[0]}{more}",
            hint="this bundle cannot lie on a FAT stick as it is; make it with 'bundle create'",
        )


def path_problems(paths: Sequence[str]) -> Iterator[str]:
    """Yield what FAT cannot hold among the paths of one bundle."""
    for path in paths:
        if problem := _name_problem(path.rpartition("/")[2]):
            yield f"{path!r} {problem}"
    for one, other in _clashes(paths):
        yield f"{one!r} and {other!r} are one name on FAT"


def long_paths(name: str, tree: Tree) -> str:
    """Warn of what a device reads and a Windows laptop neither shows nor copies."""
    lengths = [len(f"{STICK_DIRECTORY}/{name}/{file.path}") for file in tree.files]
    beyond = sum(length > PATH_LIMIT for length in lengths)
    if not beyond:
        return ""
    return (
        f"{beyond} files of {name!r} have paths of more than {PATH_LIMIT} characters: devices read "
        "them, Windows does not copy them; a shorter NAME=BUNDLE may help"
    )


def _name_problem(name: str) -> str:
    if found := _FORBIDDEN.search(name):
        return f"has a character that FAT cannot spell: {found.group()!r}"
    if name.endswith((".", " ")) or name.startswith(" "):
        return "begins or ends with a blank, or ends with a dot, which FAT drops"
    if _DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    if len(name.encode("utf-16-le", "surrogatepass")) // 2 > NAME_LIMIT:
        return f"has more than {NAME_LIMIT} characters"
    return ""


def _clashes(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for path in paths:
        if (other := seen.get(path.casefold())) is not None:
            yield other, path
        seen.setdefault(path.casefold(), path)


def missing(tree: Tree, held: Mapping[str, int]) -> tuple[StickFile, ...]:
    """Return the files that are not on the stick in their size."""
    return tuple(file for file in tree.files if held.get(file.path) != file.size)


def demand_room(wanted: Sequence[StickFile], room: Room, *, directories: int) -> None:
    """Make sure that everything fits.

    Args:
        wanted: what must still be written.
        room: what the stick offers.
        directories: how many may be made.

    Raises:
        AuthoringError: a device does not mount this file system, a file is too large for it,
            or the stick is too small.
    """
    if room.fs_type not in FILE_SYSTEMS:
        raise AuthoringError(
            f"the stick holds {room.fs_type!r}, which no device mounts",
            hint="give the device and --format vfat or --format exfat; that erases the stick",
        )
    largest = max(wanted, key=lambda file: file.size, default=None)
    if room.fs_type in FAT_TYPES and largest and largest.size > FAT_FILE_LIMIT_BYTES:
        raise AuthoringError(
            f"{largest.path!r} has {largest.size} bytes; FAT holds files up to "
            f"{FAT_FILE_LIMIT_BYTES}",
            hint="format the stick with exFAT or ext4",
        )
    needed = _needed(wanted, room, directories)
    if needed > room.free_bytes:
        raise AuthoringError(
            f"{_size(needed)} are needed and {_size(room.free_bytes)} are free on the stick",
            hint="use a larger stick, or remove what else is on it",
        )


def _needed(wanted: Sequence[StickFile], room: Room, directories: int) -> int:
    block = room.block_bytes
    content = sum(-(-file.size // block) * block for file in wanted)
    return content + directories * block + len(wanted) * ENTRY_BYTES + SPARE_BYTES


def _size(size: int) -> str:
    return f"{-(-size // MIB)} MiB" if size < 10 * 1024 * MIB else f"{size / 1024 / MIB:.0f} GiB"
