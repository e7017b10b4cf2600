"""What would make a device refuse a stick, found at the desk and not on a roof.

In: a `StickDesk`, a mounted stick and the device it is for. Out: findings, each with what to do
about it. Nothing is changed, unless `mend_stick` or `probe_stick` is asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import AgentError
from agent.core.finding import Finding, Level
from agent.core.stickplan import FILE_SYSTEMS, MIB, STICK_DIRECTORY, demand_stick
from agent.services import author
from agent.services.attend import HOLD
from agent.services.author import DeviceGuess, Verdict
from agent.services.stickmaker import Access, StickDesk, default_type, expiry_warning, judge

STICK = "stick"


@dataclass(frozen=True, slots=True)
class Profile:
    """The device that the stick is for.

    Attributes:
        guess: what is known of it.
        filesystems: those it mounts.
    """

    guess: DeviceGuess
    filesystems: tuple[str, ...]


def visit(  # noqa: PLR0913  what is asked for, by name
    desk: StickDesk, device: Path, profile: Profile, *, deep: bool, fix: bool, probe: bool
) -> tuple[Finding, ...]:
    """Examine a stick, mounting it when its device is named.

    Args:
        desk: the examiner's.
        device: a mounted stick, a directory that will be copied onto one, or a device.
        profile: the device the stick is for.
        deep: read all content, too.
        fix: do what is harmless, before looking.
        probe: fill the free space and read it back, after looking.

    Raises:
        AuthoringError, MountError: it cannot be examined, mended or probed.
    """
    disk = None if desk.is_directory(device) and not probe else desk.disk(device)
    if disk:
        demand_stick(disk)
    access = Access.WRITE if fix or probe else Access.READ
    with desk.opened(disk, device, access) as place:
        mended = mend_stick(desk, place) if fix else ()
        found = examine_stick(desk, place, profile, deep=deep)
        return (*mended, *found, *((probe_stick(desk, place),) if probe else ()))


def examine_stick(
    desk: StickDesk, mountpoint: Path, profile: Profile, *, deep: bool
) -> tuple[Finding, ...]:
    """Look at a stick as the device of ``profile`` would.

    Args:
        desk: the examiner's.
        mountpoint: of the stick, or a directory that will be copied onto one.
        profile: the device.
        deep: read all content, too.
    """
    bundles = desk.find_bundles(mountpoint)
    return (
        *_file_system(desk.fs_type(mountpoint), profile),
        *_hold(desk, mountpoint),
        *_search(desk, mountpoint, bundles),
        *(
            finding
            for path in bundles
            for finding in _bundle(desk, path, _topic(mountpoint, path), profile, deep=deep)
        ),
    )


def mend_stick(desk: StickDesk, mountpoint: Path) -> tuple[Finding, ...]:
    """Do what is harmless, on every bundle, and say what was done.

    Raises:
        AuthoringError: the stick cannot be written.
    """
    return tuple(
        Finding(Level.OK, "mended", done)
        for path in desk.find_bundles(mountpoint)
        for done in desk.mend(path)
    )


def probe_stick(desk: StickDesk, mountpoint: Path) -> Finding:
    """Fill the stick and read it back; a stick that has less than it says is found out.

    Raises:
        AuthoringError: it cannot be written.
    """
    probed = desk.probe(mountpoint, desk.desk.progress)
    if probed.first_bad is None:
        said = f"all of {probed.written_bytes // MIB} MiB of free space came back as written"
        return Finding(Level.OK, "capacity", said)
    return Finding(
        Level.FAIL,
        "capacity",
        f"{probed.bad_bytes // MIB} of {probed.written_bytes // MIB} MiB came back otherwise, the "
        f"first after {probed.first_bad // MIB} MiB",
        "the stick is fake or worn out: use another one, and trust nothing that is on it",
    )


# --- the stick -------------------------------------------------------------------------


def _file_system(fs_type: str, profile: Profile) -> Iterator[Finding]:
    if not fs_type:
        message = "this is a directory and no mounted stick; its file system is not judged"
        yield Finding(Level.WARN, STICK, message)
    elif fs_type in profile.filesystems:
        yield Finding(Level.OK, STICK, f"{fs_type}, which the device mounts")
    elif fs_type in FILE_SYSTEMS:
        yield Finding(
            Level.FAIL,
            STICK,
            f"{fs_type}, and the device mounts {', '.join(profile.filesystems)}",
            "set [usb_update] filesystems on the device, or make the stick with --format vfat",
        )
    else:
        hint = "make the stick anew with 'usb-update stick make DEVICE --format vfat'"
        yield Finding(Level.FAIL, STICK, f"{fs_type}, which no device mounts", hint)


def _hold(desk: StickDesk, mountpoint: Path) -> Iterator[Finding]:
    if desk.is_there(mountpoint / HOLD):
        message = f"'{HOLD}' is there: devices look and install nothing"
        yield Finding(Level.FAIL, STICK, message, f"remove '{mountpoint / HOLD}'")


def _search(desk: StickDesk, mountpoint: Path, bundles: Sequence[Path]) -> Iterator[Finding]:
    for path in desk.deep_bundles(mountpoint):
        if path not in bundles and not any(found in path.parents for found in bundles):
            yield Finding(
                Level.FAIL,
                STICK,
                f"'{path}' lies too deep: devices look two directories down",
                f"move it to '{mountpoint / STICK_DIRECTORY / path.name}'",
            )
    if not bundles:
        yield Finding(
            Level.FAIL,
            STICK,
            "there is no bundle: no directory with 'tuf' in it, no '.usbu' file",
            "write one with 'usb-update stick make'; one that was being copied is not whole",
        )


# --- a bundle --------------------------------------------------------------------------


def _topic(mountpoint: Path, path: Path) -> str:
    """Name a bundle by its place on the stick."""
    inner = path.relative_to(mountpoint.resolve()).as_posix()
    return STICK if inner == "." else inner


def _bundle(
    desk: StickDesk, path: Path, topic: str, profile: Profile, *, deep: bool
) -> Iterator[Finding]:
    try:
        info = author.show_bundle(desk.desk, path)
        guess = default_type(profile.guess, info.bundle_type)
        verdict = judge(desk.desk, path, guess, deep=deep)
    except AgentError as e:
        yield Finding(Level.FAIL, topic, e.message, e.hint)
        return
    yield from _verdict(verdict, topic)
    for warning in verdict.warnings:
        yield Finding(Level.FAIL, topic, warning, "--fix removes it where that is harmless")
    soon = expiry_warning(info.ends, desk.desk.now())
    if verdict.accepted and soon:
        hint = "renew it with 'bundle create --tuf-only', then make the stick again"
        yield Finding(Level.WARN, topic, soon, hint)
    if profile.guess.roots is None:
        message = "judged by the roots it carries: whether the device trusts them is not known"
        yield Finding(Level.WARN, topic, message, "name the device's with --roots or --profile")


def _verdict(verdict: Verdict, topic: str) -> Iterator[Finding]:
    outcome = verdict.outcome
    if verdict.accepted:
        yield Finding(Level.OK, topic, f"the device would install {outcome.target}")
        return
    reason = outcome.message or outcome.exit.meaning
    message = f"the device would answer {int(outcome.exit)}: {reason}"
    yield Finding(Level.FAIL, topic, message, outcome.hint)
    for problem in verdict.damaged:
        yield Finding(Level.FAIL, topic, problem, "make the stick again")
