"""The whole device: U-Boot, the kernel, USB sticks that come and go, and a plug to be pulled.

The disk is an overlay of the image. Its cache is write-back and flushes are honoured: when QEMU is
killed, what the guest has flushed is on the disk; what it has only written may be there, or not, or
some of it, as with a disk that has a cache of its own.

Host commands used: qemu-system-x86_64, qemu-img, ostree.
"""

import os
import shutil
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.image import FIRST, DeviceImage, boot_rom
from tests.e2e.machine import AwayError, Finished
from tests.e2e.qmp import Monitor, run_in_guest
from tests.e2e.sticks import Stick, run

QEMU = "qemu-system-x86_64"
MEMORY = "1536"  # MiB
TCG = ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max")
KVM = ("-accel", "kvm", "-cpu", "host")
PATIENCE = {TCG: 12.0, KVM: 2.0}  # an emulated processor on a busy machine
PROBE_S = 20.0


def why_no_qemu() -> str | None:
    """Return why the whole device cannot run here; None when it can."""
    if not all(map(shutil.which, (QEMU, "qemu-img"))):
        return f"no {QEMU} here; scripts/setup.sh test brings it"
    return None if boot_rom() else "no U-Boot for QEMU here; scripts/setup.sh test brings it"


@cache
def accelerator(image: DeviceImage) -> tuple[str, ...]:
    """Return QEMU's options for the fastest processor that really runs Debian's kernel.

    ``/dev/kvm`` may open, and even run a boot loader, where a kernel then dies (nested PVM).
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    with TemporaryDirectory() as scratch:
        return KVM if _kernel_starts(image, Path(scratch)) else TCG


def _kernel_starts(image: DeviceImage, scratch: Path) -> bool:
    """Start the image's kernel; without a root it panics, which it can only say if it runs."""
    repo = image.factory / "repo"
    modules = run("ostree", "ls", "--repo", repo, FIRST, "/usr/lib/modules").split()[-1]
    kernel, log = scratch / "vmlinuz", scratch / "log"
    with kernel.open("wb") as file:
        argv = ["ostree", "cat", "--repo", repo, FIRST, f"{modules}/vmlinuz"]
        subprocess.run(argv, stdout=file, check=True)
    started = [QEMU, *KVM, "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
    line = ["-append", "console=ttyS0 panic=-1", "-kernel", kernel, "-serial", f"file:{log}"]
    try:
        subprocess.run([*started, *line], timeout=PROBE_S, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return False
    return log.exists() and b"Unable to mount root fs" in log.read_bytes()


def command(image: DeviceImage, disk: Path) -> list[str]:
    """Return the command line of the device, without its serial line."""
    return [
        QEMU,
        *accelerator(image),
        *("-machine", "pc", "-smp", "2", "-m", MEMORY),
        *("-nodefaults", "-nic", "none", "-display", "none", "-bios", str(boot_rom())),
        *("-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={disk}"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-device", "qemu-xhci,id=usb,p2=4,p3=4"),
    ]


def make_overlay(disk: Path, overlay: Path) -> None:
    """Make a disk that begins as another and keeps its own changes."""
    kind = "qcow2" if disk.suffix == ".qcow2" else "raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", disk.resolve(), overlay)


def _state_of(pid: int) -> str:
    """Return a process's state; ``T`` when every thread of it is stopped."""
    states = {
        (task / "stat").read_text().rpartition(")")[2].split()[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
    return states.pop() if len(states) == 1 else ""


class QemuMachine:
    """A `Machine` that is one.

    Args:
        image: its disk is laid under an overlay.
        directory: for everything of this machine. The path is short: sockets lie in it.
        disk: to begin with instead of the image's.
        clock: what the hardware clock says at power-on, ``1970-01-01``; empty: the time.
    """

    name = "qemu"
    filesystems = ("vfat", "exfat", "ext4")

    def __init__(
        self, image: DeviceImage, directory: Path, *, disk: Path | None = None, clock: str = ""
    ) -> None:
        self.patience = PATIENCE[accelerator(image)]
        self.disk = directory / "disk.qcow2"
        self._image, self._directory, self._clock = image, directory, clock
        self._log = directory / "serial.log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: Monitor | None = None
        self._sticks: dict[Path, Stick] = {}
        make_overlay(disk or image.disk, self.disk)

    # --- the switch --------------------------------------------------------------------

    def power_on(self) -> None:
        """Start QEMU halted, put the sticks in, and let it go."""
        qmp, agent = self._directory / "qmp", self._directory / "agent"
        for socket in (qmp, agent):
            socket.unlink(missing_ok=True)
        options = [
            *("-S", "-qmp", f"unix:{qmp},server=on,wait=off"),
            *("-chardev", f"file,id=line,path={self._log},append=on", "-serial", "chardev:line"),
            *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            *(("-rtc", f"base={self._clock}") if self._clock else ()),
        ]
        with (self._directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command(self._image, self.disk), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._monitor = Monitor(qmp)
        for stick in self._sticks.values():
            self._insert(stick)
        self._monitor.do("cont")

    def power_cut(self) -> None:
        """Kill QEMU, so that nothing more is written."""
        if self._monitor:
            self._monitor.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = self._monitor = None

    def copy_disk(self, copy: Path) -> None:
        """Copy the disk as killing QEMU now would leave it; QEMU goes on."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            while _state_of(self._process.pid) != "T":
                time.sleep(0.01)
            run("cp", "--sparse=always", self.disk, copy)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def tend(self) -> None:
        """See that QEMU still runs; the device itself starts again on its own."""
        if self._process and self._process.poll() is not None:
            raise AssertionError((self._directory / "qemu.log").read_text())

    # --- the USB port ------------------------------------------------------------------

    def plug(self, stick: Stick) -> None:
        """Hot-plug a USB stick."""
        self._sticks[stick.image] = stick
        if self._monitor:
            self._insert(stick)

    def _insert(self, stick: Stick) -> None:
        assert self._monitor
        name = stick.image.stem
        file = {"driver": "file", "filename": str(stick.image)}
        self._monitor.do(
            "blockdev-add", driver="raw", node_name=name, read_only=stick.read_only, file=file
        )
        self._monitor.do(
            "device_add", driver="usb-storage", id=f"{name}-usb", drive=name, bus="usb.0",
            removable=True, serial=name,
        )  # fmt: skip

    def unplug(self, stick: Stick) -> None:
        """Pull a USB stick without asking anybody."""
        name = self._sticks.pop(stick.image).image.stem
        if self._monitor:
            self._monitor.do("device_del", id=f"{name}-usb")
            self._monitor.await_deleted(f"{name}-usb")
            self._monitor.do("blockdev-del", node_name=name)

    # --- the serial line ---------------------------------------------------------------

    def run(self, *argv: str, timeout_s: float = 60.0) -> Finished:
        """Run a program through the guest agent."""
        if not self._process:
            raise AwayError
        timeout_s *= self.patience
        return run_in_guest(self._directory / "agent", argv, timeout_s=timeout_s)

    def console(self) -> str:
        """Return what the serial line said."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Switch off and remove everything."""
        self.power_cut()
        shutil.rmtree(self._directory, ignore_errors=True)
