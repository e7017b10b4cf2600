"""The power fails at any moment of a real update: real processes, real files, a real disk.

`test_power_cuts` cuts before and after every effect of a device in memory. Here nobody
chooses the moments. `Pulled` also loses what was never written to the disk: the device lies
on an ext4 file system that is shut down in full flight and mounted again.

The moments are drawn from a seed, and a failure names it. ``USB_UPDATE_CUTS`` seconds of
cuts are made (default 10 for each kind of cut).
"""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.field import ROOT, Field, FieldDevice
from tests.loop_sticks import attach, detach
from tests.ostree_device import ostree

pytestmark = pytest.mark.needs_ostree

SEED = int(os.environ.get("USB_UPDATE_SEED", "20260102"))
BUDGET_S = float(os.environ.get("USB_UPDATE_CUTS", "10"))
DISK_BYTES = 96 * 1024 * 1024
BALLAST_BYTES = 2 * 1024 * 1024
STEPS_LIMIT = 4
STATE, PARENT = 0, 1  # of /proc/PID/stat
EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
WITHOUT_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
CUTS_AT_LEAST = 2
SECOND_CUTS = 1 / 4  # how often the power fails again while the device recovers


class Mains(Protocol):
    """What a device gets its power from."""

    def cut(self, process: "subprocess.Popen[bytes]") -> None:
        """Let the power fail while ``process`` works; afterwards it is back."""


class Killed:
    """Every process is gone at once; the kernel still writes what they had written."""

    def cut(self, process: "subprocess.Popen[bytes]") -> None:
        _kill(process, _stopped(process.pid))


@dataclass
class Pulled:
    """The disk stands still at that moment: what was not synced is lost.

    Attributes:
        image: the disk.
        mount_point: where the device sees it.
    """

    image: Path
    mount_point: Path

    def cut(self, process: "subprocess.Popen[bytes]") -> None:
        root = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(root)
        _kill(process, _stopped(process.pid))
        self.unmount()
        self.mount()

    def mount(self) -> None:
        # A loop device of its own: whoever copied our mounts keeps the dead one alive.
        stick = attach(self.image)
        _run("mount", stick.devnode, self.mount_point)
        detach(stick)  # when it is unmounted

    def unmount(self) -> None:
        _run("umount", self.mount_point)


@dataclass
class Story:
    """One device on its way from one version to the next, with a cut.

    Attributes:
        old, new: what `FieldDevice.current` says before and after.
    """

    device: FieldDevice
    mains: Mains
    bundle: Path
    old: dict[str, object]
    new: dict[str, object]

    def cut_after(self, words: Sequence[str | Path], delay_s: float) -> bool:
        """Start a command and cut the power; return whether it was still at work."""
        process = _started(self.device.argv(*map(str, words)))
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        at_work = process.poll() is None
        self.mains.cut(process)
        return at_work

    def settle(self) -> None:
        """Do what the device does by itself when the power is back."""
        for _ in range(STEPS_LIMIT):
            self.device.reboot()
            answer = self.device.run()
            if answer.code != 100:
                break
        assert answer.code in (0, 40, 99), answer

    def assert_whole(self, *allowed: dict[str, object]) -> None:
        device = self.device
        current = device.current()
        # Not the name: before anything is recorded, `current` has none for what runs.
        assert _facts(current) in [_facts(one) for one in allowed]
        assert current["commit"] == device.device.deployed()[0]
        assert not _waits(device)
        assert not (device.storage / "usb-update/pending").exists()
        ostree("fsck", "--repo", device.device.repo)
        _assert_bootable(device)

    def retry(self) -> None:
        """Put the same stick in again; it must work."""
        answer = self.device.install(self.bundle)
        if answer.code == 100:
            self.device.reboot()
        assert answer.code in (0, 10, 100), answer
        assert self.device.run().code in (0, 40)


def _facts(current: dict[str, object]) -> tuple[object, object]:
    return current["commit"], current["apps"]


def _waits(device: FieldDevice) -> bool:
    """Whether the database still waits for something."""
    query = (
        "SELECT id FROM installed_versions WHERE is_pending=1 UNION SELECT flag FROM need_reboot"
    )
    with contextlib.closing(sqlite3.connect(device.database)) as database:
        return database.execute(query).fetchone() is not None


def _assert_bootable(device: FieldDevice) -> None:
    """Whatever the boot loader starts is there, whole."""
    boot = device.device.sysroot / "boot"
    entries = sorted((boot / "loader/entries").glob("*.conf"))
    assert entries
    for entry in entries:
        lines = dict(line.split(maxsplit=1) for line in entry.read_text().splitlines() if line)
        for key in ("linux", "initrd"):
            assert (boot / lines[key].removeprefix("/boot").lstrip("/")).stat().st_size > 0


def _started(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        argv,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stopped(pid: int) -> list[int]:
    """Stop a process and all it started; return them. Programs it runs have their own session."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    children = [int(stat.parent.name) for stat in _stats() if _field(stat, PARENT) == str(pid)]
    return [pid, *(one for child in children for one in _stopped(child))]


def _stats() -> list[Path]:
    return list(Path("/proc").glob("[0-9]*/stat"))


def _field(stat: Path, index: int) -> str:
    """Return a field of /proc/PID/stat, counted from behind the name; empty when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return stat.read_text().rpartition(")")[2].split()[index]
    return ""


def _kill(process: "subprocess.Popen[bytes]", family: Sequence[int]) -> None:
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(_is_alive(pid) for pid in family):
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """Whether a process may still hold files; who is dead but not buried holds none."""
    return _field(Path(f"/proc/{pid}/stat"), STATE) not in {"Z", ""}


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def duration_s(argv: Sequence[str]) -> float:
    started = time.monotonic()
    _started(argv).wait()
    return time.monotonic() - started


# --- the rootfs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    ballast = {f"usr/share/ballast/{n}": os.urandom(BALLAST_BYTES // 8) for n in range(8)}
    return field.bundle(2, files=ballast)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Pulled]:
    """A disk with an ext4 file system."""
    made = Pulled(tmp_path / "disk.img", tmp_path / "disk")
    made.mount_point.mkdir()
    made.image.touch()
    os.truncate(made.image, DISK_BYTES)
    _run("mke2fs", "-q", "-t", "ext4", made.image)
    made.mount()
    yield made
    made.unmount()


def told_story(field: Field, bundle: Path, directory: Path, mains: Mains) -> Story:
    device = field.device(directory / "device")
    old = device.current()
    return Story(device, mains, bundle, old, {**old, "commit": commit_of(bundle)})


def commit_of(bundle: Path) -> str:
    (found,) = (bundle / "ostree_repo/objects").rglob("*.commit")
    return found.parent.name + found.stem


def cut_again_and_again(story: Story, base: Path) -> int:
    """Cut until the time is up, each time from the beginning; return how many cuts hit."""
    draw = random.Random(SEED)  # noqa: S311  no secret
    device = story.device
    _run("cp", "-a", device.directory, base)  # keeps hard links, unlike `copytree`
    whole_s = duration_s(device.argv("install", "-s", str(story.bundle)))
    deadline = time.monotonic() + BUDGET_S
    cuts = hits = 0
    while time.monotonic() < deadline or cuts < CUTS_AT_LEAST:
        _start_over(device, base)
        cuts += 1
        delay_s = draw.uniform(0, whole_s)
        try:
            hits += _one_cut(story, draw, delay_s, in_run=cuts % 3 == 0)
        except AssertionError as e:
            raise AssertionError(f"seed {SEED}, cut {cuts}, after {delay_s:.3f} s") from e
    return hits


def _one_cut(story: Story, draw: random.Random, delay_s: float, *, in_run: bool) -> bool:
    if in_run:
        assert story.device.install(story.bundle).code == 100
        story.device.reboot()
        hit = story.cut_after(["run"], delay_s)
    else:
        hit = story.cut_after(["install", "-s", story.bundle], delay_s)
    if draw.random() < SECOND_CUTS:
        story.device.reboot()
        story.cut_after(["run"], draw.uniform(0, delay_s))
    story.settle()
    story.assert_whole(story.old, story.new)
    story.retry()
    story.assert_whole(story.new)
    return hit


def _start_over(device: FieldDevice, base: Path) -> None:
    """Put the device back as it was, on the same file system."""
    shutil.rmtree(device.directory)
    _run("cp", "-a", base, device.directory)
    os.sync()


def test_a_killed_update_ends_in_one_version_or_the_other(
    field: Field, bundle: Path, tmp_path: Path
) -> None:
    story = told_story(field, bundle, tmp_path, Killed())

    assert cut_again_and_again(story, tmp_path / "base") > 0


@pytest.mark.needs_root
def test_a_disk_whose_power_failed_holds_one_version_or_the_other(
    field: Field, bundle: Path, tmp_path: Path, disk: Pulled
) -> None:
    story = told_story(field, bundle, disk.mount_point, disk)

    assert cut_again_and_again(story, tmp_path / "base") > 0
