"""The service as a device runs it: a real ``usb-update watch``, real udev, real sticks.

Host commands used: mke2fs, losetup, mount, umount.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.adapters.resultfiles import DeviceResults, read_results
from agent.core.record import Record
from tests.field import ROOT, FieldDevice
from tests.loop_sticks import Stick, attach, detach
from tests.udevd import LAPTOP, settle

PATIENCE_S = 60.0
STICK_BYTES = 64 * 1024 * 1024
# The machine's clock is not ours to set: the service's own is, in its process.
WRONG_CLOCK = """\
import sys
from datetime import timedelta
from pathlib import Path
from agent.adapters.clock import SystemClock
from agent.faces.cli import usb_update
right = SystemClock.now
SystemClock.now = lambda self: right(self) + timedelta(seconds=int(Path("{}").read_text()))
sys.exit(usb_update())
"""


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; the machine may be busy."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def make_stick(
    image: Path,
    uuid: str,
    *contents: Path,
    label: str = "STICK",
    size_bytes: int = STICK_BYTES,
    **files: str,
) -> Path:
    """Make an ext4 stick with ``contents`` and small ``files`` at its root."""
    with TemporaryDirectory() as root:
        for content in contents:
            place = Path(root, content.name)
            if content.is_dir():
                shutil.copytree(content, place, symlinks=True)
            else:
                shutil.copy(content, place)
        for name, text in files.items():
            Path(root, name.replace("_", ".")).write_text(text)
        image.write_bytes(b"")
        os.truncate(image, size_bytes)
        argv = ["mke2fs", "-q", "-t", "ext4", "-L", label, "-U", uuid, "-d", root, str(image)]
        subprocess.run(argv, check=True, capture_output=True)
    return image


@contextmanager
def opened(image: Path) -> Iterator[Path]:
    """Look at a stick on the technician's laptop; the device does not see it there."""
    copy = image.with_name(image.name + LAPTOP)
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    with TemporaryDirectory() as place:
        subprocess.run(["mount", "-o", "loop", str(copy), place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def results_on(image: Path) -> tuple[Record, ...]:
    """Return the records on a stick, oldest first."""
    with opened(image) as place:
        reading = read_results(place)
        assert not reading.skipped
        assert all(path.with_suffix(".txt").exists() for path in place.rglob("2*.json"))
    return tuple(sorted(reading.records, key=lambda record: record.sequence))


@dataclass
class ServedDevice:
    """A device whose service can be started, stopped and killed.

    Attributes:
        device: the device itself.
        clock: a file with how many seconds the service's clock is wrong; None: it is right.
    """

    device: FieldDevice
    process: "subprocess.Popen[bytes] | None" = None
    clock: Path | None = None

    def __post_init__(self) -> None:
        program = self.device.directory / "reboot"
        program.write_text(f"#!/bin/sh\necho now >> {self.device.directory}/reboots\n")
        program.chmod(0o755)
        self.device.configure("bootloader", reboot_command=program)
        self.device.configure("usb_update", filesystems=["ext4"], stop_services=[])

    @property
    def reboots(self) -> int:
        """How often the service asked for a reboot."""
        asked = self.device.directory / "reboots"
        return len(asked.read_text().splitlines()) if asked.exists() else 0

    @property
    def history(self) -> tuple[Record, ...]:
        return DeviceResults(self.device.storage / "usb-update/results").history()

    @property
    def owed(self) -> tuple[Record, ...]:
        return DeviceResults(self.device.storage / "usb-update/results").owed()

    @property
    def codes(self) -> list[tuple[str, int]]:
        return [(record.kind.value, record.answer.code) for record in self.history]

    def await_records(self, count: int) -> None:
        """Wait until so many attempts are over, and delivered if they can be."""
        until(lambda: len(self.history) >= count, f"{count} records, found {self.codes}")

    def start(self) -> None:
        log = (self.device.directory / "service.log").open("ab")
        entry = ["-c", WRONG_CLOCK.format(self.clock)] if self.clock else ["-m", "agent"]
        argv = [sys.executable, *entry, "watch", "-c", str(self.device.config)]
        env = os.environ | {"OSTREE_SYSROOT_DEBUG": "mutable-deployments"}
        self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log)
        log.close()
        until(self._listens, "the service listens")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the service; return its exit status."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def restart(self, **usb_update: object) -> None:
        """Change keys of ``[usb_update]`` and start the service anew."""
        self.device.configure("usb_update", **usb_update)
        self.stop()
        self.start()

    def reboot(self) -> None:
        """Switch off and on: the service ends, the post-boot run comes first."""
        self.stop()
        self.device.reboot()
        self.device.usb_update("finish")
        self.start()

    def _listens(self) -> bool:
        assert self.process
        assert self.process.poll() is None, (self.device.directory / "service.log").read_text()
        return (
            subprocess.run(
                ["ss", "-xl", "src", "/run/usb-update/control.sock"],
                capture_output=True,
                check=True,
            ).stdout.count(b"control.sock")
            == 1
        )


@contextmanager
def serving(device: FieldDevice, *, clock: Path | None = None) -> Iterator[ServedDevice]:
    """Run the service for the duration."""
    served = ServedDevice(device, clock=clock)
    served.start()
    try:
        yield served
    finally:
        if served.process and served.process.poll() is None:
            served.stop(signal.SIGKILL)


@contextmanager
def plugged_in(image: Path, *, read_only: bool = False) -> Iterator[Stick]:
    """Keep a stick in its port; it is taken out when it is not used any more."""
    stick = attach(image, read_only=read_only)
    try:
        yield stick
    finally:
        until(lambda: not _is_mounted(stick.devnode), "the stick is unmounted")
        detach(stick)
        settle()  # no hand is so quick that udev sees a stick out and in again as nothing


def pull_out(stick: Stick, *, cut: bool = True) -> None:
    """Pull a stick without asking: its content is gone at once, then the kernel tells of it.

    What a loop device shows is cut off, so that every read that is not cached fails; the
    ``remove`` that a USB port would send is sent by its ``uevent`` file.

    Args:
        stick: which one.
        cut: whether its content is lost.
    """
    if cut:
        os.truncate(stick.image, 0)
    Path(f"/sys/class/block/{Path(stick.devnode).name}/uevent").write_text("remove")


def status() -> dict[str, object]:
    """Return what the service said last."""
    said: dict[str, object] = json.loads(Path("/run/usb-update/status.json").read_text())
    return said


def _is_mounted(devnode: str) -> bool:
    number = Path(f"/sys/class/block/{Path(devnode).name}/dev").read_text().strip()
    return f" {number} " in Path("/proc/self/mountinfo").read_text()
