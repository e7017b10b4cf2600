"""Bundles onto a stick: judged, planned, written, read back, and only then made visible.

In: a `StickDesk`, a mounted stick and bundles. The order in `make_stick` is the law of this
module: every bundle is judged as a device would judge it, then everything is planned and must
fit, then content is written and read back from the device, and last the metadata appears, in
one step. Whoever pulls the stick out earlier has no bundle on it, or the one from before;
repeating the command goes on where it stopped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

from agent.core import stickplan
from agent.core.authoring import ROOT_FILE, AuthoringError
from agent.core.bundletype import BundleType
from agent.core.stickplan import Disk, Room, StickFile, Tree
from agent.log import get_logger
from agent.ports import Progress
from agent.services import author
from agent.services.author import BundleInfo, DeviceGuess, Verdict
from agent.services.desk import Desk

log = get_logger()

SOON = timedelta(days=14)  # a stick travels by post, and waits in a drawer


class Access(Enum):
    """What is to be done with a stick."""

    READ = "read"
    WRITE = "write"


class StickFiles(Protocol):
    """A bundle's directory on a mounted stick."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def room(self) -> Room:
        """Return what the stick offers."""

    def held(self) -> dict[str, int]:
        """Return the files that lie there, with their sizes."""

    def write(
        self, source: Path, tree: Tree, wanted: Sequence[StickFile], progress: Progress
    ) -> None:
        """Copy files, and write them out to the device."""

    def differing(
        self, source: Path, wanted: Sequence[StickFile], progress: Progress
    ) -> tuple[StickFile, ...]:
        """Read files back from the device; return those that are not what ``source`` has."""

    def published(self) -> dict[str, bytes]:
        """Return the metadata that devices see."""

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Let devices see the bundle: its metadata appears whole, or not at all."""

    def prune(self, keep: Iterable[str]) -> int:
        """Remove what the bundle does not need any more."""


class Probed(Protocol):
    """What a stick gave back of what filled it."""

    @property
    def written_bytes(self) -> int:
        """How much was written."""

    @property
    def bad_bytes(self) -> int:
        """How much of it came back otherwise, or not at all."""

    @property
    def first_bad(self) -> int | None:
        """How much was written before the first bad block; None for none."""


@dataclass(frozen=True, slots=True)
class StickDesk:
    """Every port of a maker, and examiner, of sticks.

    Attributes:
        desk: the author's.
        disk: which disk a directory or device node lies on.
        opened: a stick in the file tree, for the duration; a directory is there already.
        fs_type: of what is mounted there.
        make_file_system: device node, type, label.
        tree: what of a bundle goes onto a stick.
        alone: keeps everybody else from writing a mounted stick.
        stick: a mounted stick, and the name of a bundle's directory on it.
        pack: likewise, of a bundle in one file.
        find_bundles: the bundles that a device finds.
        deep_bundles: those that lie anywhere.
        mend: does what is harmless to a bundle, and says what.
        probe: fills a stick and reads it back.
        is_there: whether a path exists.
        is_directory: whether it is one.
    """

    desk: Desk
    disk: Callable[[Path], Disk]
    opened: Callable[[Disk | None, Path, Access], AbstractContextManager[Path]]
    fs_type: Callable[[Path], str]
    make_file_system: Callable[[str, str, str], None]
    tree: Callable[[Path], Tree]
    alone: Callable[[Path], AbstractContextManager[None]]
    stick: Callable[[Path, str], StickFiles]
    pack: Callable[[Path, str], StickFiles]
    find_bundles: Callable[[Path], tuple[Path, ...]]
    deep_bundles: Callable[[Path], tuple[Path, ...]]
    mend: Callable[[Path], tuple[str, ...]]
    probe: Callable[[Path, Progress], Probed]
    is_there: Callable[[Path], bool]
    is_directory: Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle that is on the stick, whole.

    Attributes:
        name: below ``usb-update/``.
        path: where it lies.
        targets: names of its Targets.
        ends: when devices stop accepting it.
        files, size_bytes: its content, without metadata.
        written_bytes: what this call had to write.
        removed: files of an earlier bundle that are gone.
        warnings: what the person should know.
    """

    name: str
    path: Path
    targets: tuple[str, ...]
    ends: datetime
    files: int
    size_bytes: int
    written_bytes: int
    removed: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """One bundle, and what must be written for it."""

    source: Path
    name: str
    info: BundleInfo
    tree: Tree
    stick: StickFiles
    wanted: tuple[StickFile, ...]


# --- a file system ---------------------------------------------------------------------


def demand_formattable(desk: StickDesk, device: Path) -> Disk:
    """Return the disk that may be formatted.

    Raises:
        AuthoringError: it is no stick, write-protected, or in use; nothing was touched.
    """
    disk = desk.disk(device)
    stickplan.demand_stick(disk)
    stickplan.demand_writable(disk)
    stickplan.demand_unused(disk)
    return disk


def format_stick(desk: StickDesk, device: Path, fs_type: str, label: str) -> None:
    """Erase a stick and make a file system on it.

    Raises:
        AuthoringError: it must not or cannot be formatted.
    """
    disk = demand_formattable(desk, device)
    desk.make_file_system(disk.devnode, fs_type, label)
    log.info("stick.formatted", devnode=disk.devnode, fs_type=fs_type)


# --- bundles ---------------------------------------------------------------------------


def make_stick(
    desk: StickDesk, device: Path, bundles: Sequence[tuple[str, Path]], *, roots: Path | None = None
) -> tuple[Written, ...]:
    """Write bundles to a stick, side by side.

    Args:
        desk: the maker's.
        device: a mounted stick, or its device.
        bundles: name on the stick, and where the bundle is.
        roots: of the devices; without them a bundle is judged by the roots it carries.

    Raises:
        AuthoringError, MountError, FileSystemRefusedError: it cannot be done. What devices
            see on the stick is what was there before, bundles already written included.
    """
    stickplan.demand_names([name for name, _ in bundles])
    disk = desk.disk(device)
    stickplan.demand_stick(disk)
    stickplan.demand_writable(disk)
    with ExitStack() as stack:
        mountpoint = stack.enter_context(desk.opened(disk, device, Access.WRITE))
        _demand_mountpoint(desk, mountpoint)
        stack.enter_context(desk.alone(mountpoint))
        plans = tuple(_plan(desk, mountpoint, name, path, roots) for name, path in bundles)
        _demand_room(plans)
        return tuple(_write(desk, mountpoint, plan) for plan in plans)


def _demand_mountpoint(desk: StickDesk, place: Path) -> None:
    if not desk.fs_type(place):
        raise AuthoringError(
            f"'{place}' is not where a stick is mounted",
            hint="name the stick's mount point, or its device; 'lsblk' lists both",
        )


def _plan(desk: StickDesk, mountpoint: Path, name: str, path: Path, roots: Path | None) -> _Plan:
    is_pack = not desk.is_directory(path)
    if desk.is_there(path):
        stickplan.demand_suffix(name, is_pack=is_pack)
    info = _demand_acceptable(desk.desk, path, roots)
    tree = desk.tree(path)
    stickplan.demand_portable(name, tree)
    stick = (desk.pack if is_pack else desk.stick)(mountpoint, name)
    return _Plan(path, name, info, tree, stick, stickplan.missing(tree, stick.held()))


def _demand_acceptable(desk: Desk, path: Path, roots: Path | None) -> BundleInfo:
    """Refuse a bundle that no device would install: finding out here is cheaper."""
    info = author.show_bundle(desk, path)
    guess = DeviceGuess(roots=roots, bundle_type=info.bundle_type)
    verdict = judge(desk, path, guess, deep=True)
    if not verdict.accepted:
        outcome = verdict.outcome
        raise AuthoringError(
            f"a device would refuse the bundle in '{path}' with {int(outcome.exit)}: "
            f"{outcome.message or outcome.exit.meaning}",
            hint=outcome.hint,
        )
    return info


def judge(desk: Desk, path: Path, guess: DeviceGuess, *, deep: bool) -> Verdict:
    """Answer as a device would; one whose roots are not known trusts those of the bundle."""
    if guess.roots is None:
        desk = replace(desk, roots=lambda where, _type: _own_roots(desk, where))
        guess = replace(guess, roots=path)
    return author.check_bundle(desk, path, guess, deep=deep)


def _own_roots(desk: Desk, path: Path) -> tuple[tuple[int, bytes], ...]:
    found = (
        (ROOT_FILE.fullmatch(name), data) for name, data in desk.bundle(path).documents().items()
    )
    return tuple(sorted((int(match[1]), data) for match, data in found if match))


def _demand_room(plans: Sequence[_Plan]) -> None:
    """All bundles must fit together, before the first is written."""
    wanted = [file for plan in plans for file in plan.wanted]
    directories = sum(len(plan.tree.directories) for plan in plans)
    if plans:
        stickplan.demand_room(wanted, plans[0].stick.room(), directories=directories)


def _write(desk: StickDesk, mountpoint: Path, plan: _Plan) -> Written:
    _write_content(desk, plan)
    _publish(plan, desk.desk.bundle(plan.source).documents())
    removed = plan.stick.prune(file.path for file in plan.tree.files)
    _demand_found(desk, mountpoint, plan)
    log.info("bundle.written", path=str(plan.stick.path), size_bytes=_total(plan.wanted))
    return Written(
        plan.name,
        plan.stick.path,
        plan.info.listed,
        plan.info.ends,
        len(plan.tree.files),
        _total(plan.tree.files),
        _total(plan.wanted),
        removed,
        tuple(filter(None, _warnings(desk, plan))),
    )


def _write_content(desk: StickDesk, plan: _Plan) -> None:
    """Write what is missing; read everything back; write anew what an earlier run left broken."""
    progress = desk.desk.progress
    plan.stick.write(plan.source, plan.tree, plan.wanted, progress)
    wrong = plan.stick.differing(plan.source, plan.tree.files, progress)
    left = tuple(file for file in wrong if file not in frozenset(plan.wanted))
    if left and len(left) == len(wrong):
        plan.stick.write(plan.source, plan.tree, left, progress)
        wrong = plan.stick.differing(plan.source, left, progress)
    if wrong:
        raise AuthoringError(
            f"the stick gave back other bytes than were written to '{wrong[0].path}' and "
            f"{len(wrong) - 1} more files of {plan.name!r}",
            hint="the stick is worn or fake: use another; 'stick doctor --probe-capacity' tells",
        )


def _publish(plan: _Plan, documents: Mapping[str, bytes]) -> None:
    """Show the bundle to devices, and look whether that is what they see."""
    if plan.stick.published() == documents:
        return
    plan.stick.publish(documents)
    if plan.stick.published() != documents:
        raise AuthoringError(
            f"metadata that was written to '{plan.stick.path}' was not kept by the stick",
            hint="its file system is damaged, or its driver is: format it, or use another machine",
        )


def _demand_found(desk: StickDesk, mountpoint: Path, plan: _Plan) -> None:
    """Look for the bundle as a device does."""
    if plan.stick.path.resolve() not in desk.find_bundles(mountpoint):
        raise AuthoringError(
            f"the bundle is at '{plan.stick.path}', but a device would not find it",
            hint="the stick holds too many files, or a bundle that hides it; use an empty one",
        )


def _warnings(desk: StickDesk, plan: _Plan) -> tuple[str, ...]:
    return (
        stickplan.long_paths(plan.name, plan.tree),
        expiry_warning(plan.info.ends, desk.desk.now()),
    )


def expiry_warning(ends: datetime, now: datetime) -> str:
    """Warn of a bundle that devices accept for a short time only."""
    if ends - now > SOON:
        return ""
    return f"devices accept it for {max((ends - now).days, 0)} more days"


def _total(files: Iterable[StickFile]) -> int:
    return sum(file.size for file in files)


def default_type(guess: DeviceGuess, bundle_type: BundleType) -> DeviceGuess:
    """Let a device whose type is not known be of the bundle's."""
    return replace(guess, bundle_type=guess.bundle_type or bundle_type)
