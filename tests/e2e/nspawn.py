"""The device's deployments in a container: the same files, systemd and Docker, in seconds.

What is not real here: this module plays the boot loader (the policy of ``device/boot.cmd``), the
kernel is the host's, and a stick is a loop device that a udev rule tags in place of the USB bus.
So sticks have a file system the host's kernel knows and no partitions, they cannot be pulled
while they are mounted, and the clock is the host's.

Host commands used: systemd-nspawn, nsenter, losetup, mount, umount, fw_printenv, fw_setenv.
"""

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.e2e.machine import AwayError, Finished
from tests.e2e.sticks import Stick, run

ENVIRONMENT = (1 << 20, 4096)  # where device/disk.sh puts it: offset, size
SYSROOT_OFFSET = 4 << 20
REBOOT = 133  # systemd-nspawn's exit status when the container asked for one
LOOP_MAJOR = 7

# The product's rule leaves loop devices alone; this one stands for the USB bus, and knows only
# our own sticks: events of a block device reach everybody on the machine.
STICK_RULE = """\
SUBSYSTEM!="block", GOTO="end"
ACTION=="remove", GOTO="end"
KERNEL!="loop*", GOTO="end"
ATTR{{size}}=="0", GOTO="end"
ENV{{ID_FS_USAGE}}!="filesystem", GOTO="end"
ATTR{{loop/backing_file}}!="{sticks}/stick-*", GOTO="end"
TAG+="usb-update"
LABEL="end"
"""
MAY_OPEN_LOOPS = "[Service]\nDeviceAllow=block-loop rw\n"


def why_no_nspawn() -> str | None:
    """Return why no container can be started here; None when one can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("systemd-nspawn", "nsenter", "losetup") if not shutil.which(name)]
    return f"no {', '.join(absent)} here; scripts/setup.sh test brings them" if absent else None


def machine_name(directory: Path) -> str:
    """Return a name systemd-nspawn takes: that of a host, so no underscore and no hyphen last."""
    return re.sub("[^a-z0-9]+", "-", directory.name).strip("-")


class NspawnMachine:
    """A `Machine` in a container.

    Args:
        image: disk that `device/disk.sh` made; it is copied.
        directory: for everything of this machine; sticks must lie below it.
        disk: to begin with instead.
    """

    name = "nspawn"
    patience = 1.0

    def __init__(self, image: Path, directory: Path, *, disk: Path | None = None) -> None:
        self.filesystems = _known_filesystems()
        self._directory = directory
        self._log = directory / "console.log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._sticks: dict[Path, str] = {}
        self._sysroot = directory / "sysroot"
        self._sysroot.mkdir()
        self._disk = directory / "disk.img"
        run("cp", "--sparse=always", disk or image, self._disk)
        self._write_host_files()
        self._loop = run(
            "losetup", "--find", "--show", "--offset", SYSROOT_OFFSET, self._disk
        ).strip()
        run("mount", self._loop, self._sysroot)

    def _write_host_files(self) -> None:
        offset, size = ENVIRONMENT
        self._bootenv = self._directory / "bootenv"
        with self._disk.open("rb") as disk:
            disk.seek(offset)
            self._bootenv.write_bytes(disk.read(size))
        self._bootenv_config = self._directory / "fw_env.config"
        self._bootenv_config.write_text(f"{self._bootenv} 0x0 {size:#x}\n")
        (self._directory / "stick.rules").write_text(STICK_RULE.format(sticks=self._directory))
        (self._directory / "loops.conf").write_text(MAY_OPEN_LOOPS)
        (self._directory / "ostree-booted").touch()

    # --- the switch --------------------------------------------------------------------

    def power_on(self) -> None:
        """Be the boot loader, then start what it chose."""
        deployment = self._chosen_deployment()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["systemd-nspawn", *self._options(deployment), "--boot"],
                env={**os.environ, **NSPAWN_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _options(self, deployment: Path) -> list[str]:
        inside = f"/{deployment.relative_to(self._sysroot)}"
        here = self._directory
        return [
            "--quiet",
            "--register=no",
            f"--machine={machine_name(here)}",
            "--keep-unit",
            "--private-network",
            "--capability=all",
            "--system-call-filter=@keyring bpf",  # Docker's
            f"--directory={self._sysroot}",
            f"--pivot-root={inside}:/sysroot",
            "--bind=+/sysroot/ostree/deploy/debian/var:/var",
            "--bind=+/sysroot/boot:/boot",
            f"--bind={self._bootenv}:/dev/bootenv",
            f"--bind-ro={here}/ostree-booted:/run/ostree-booted",
            f"--bind-ro={here}/stick.rules:/run/udev/rules.d/91-stick.rules",
            f"--bind-ro={here}/loops.conf:/run/systemd/system/usb-update.service.d/loops.conf",
            *(f"--bind={loop}" for loop in self._sticks.values()),
        ]

    def _chosen_deployment(self) -> Path:
        if self._variable("upgrade_available") == "1":
            count = int(self._variable("bootcount")) + 1
            self._set("bootcount", str(count))
            if count > int(self._variable("bootlimit")):
                self._set("rollback", "1")
        entry = dict(
            line.split("=", 1)
            for line in (self._sysroot / "boot/loader/uEnv.txt").read_text().splitlines()
            if "=" in line
        )
        back = self._variable("rollback") == "1" and "bootargs2" in entry
        arguments = entry["bootargs2" if back else "bootargs"]
        found = re.search(r"ostree=/(\S+)", arguments)
        assert found, arguments
        return (self._sysroot / found[1]).resolve()

    def _variable(self, name: str) -> str:
        return run("fw_printenv", "-c", self._bootenv_config, "-n", name).strip()

    def _set(self, name: str, value: str) -> None:
        run("fw_setenv", "-c", self._bootenv_config, name, value)

    def tend(self) -> None:
        """Start again after a reboot, or after the first process died: ``panic=5``."""
        if self._process and self._process.poll() is not None:
            self._say(f"machine: ended with {self._process.returncode}, starting again\n")
            self.power_on()

    def power_cut(self) -> None:
        """Kill every process of the container at once."""
        if self._process and (leader := self._leader()):
            os.kill(leader, 9)
            self._process.wait(30)
        self._process = None

    def _leader(self) -> int | None:
        """Return the container's first process."""
        if not self._process or self._process.poll() is not None:
            return None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    # --- the USB port ------------------------------------------------------------------

    def plug(self, stick: Stick) -> None:
        """Attach a loop device and give the container its node."""
        options = ["--read-only"] if stick.read_only else []
        loop = run("losetup", *options, "--find", "--show", stick.image).strip()
        self._sticks[stick.image] = loop
        with suppress(AwayError):  # it is off: the node is there when it starts
            self._show(loop)

    def _show(self, loop: str) -> None:
        """Let udev in the container see a stick."""
        number = Path(loop).name.removeprefix("loop")
        self.run("mknod", loop, "b", str(LOOP_MAJOR), number)
        Path(f"/sys/class/block/{Path(loop).name}/uevent").write_text("change")

    def unplug(self, stick: Stick) -> None:
        """Detach the loop device."""
        run("losetup", "--detach", self._sticks.pop(stick.image))

    # --- the serial line ---------------------------------------------------------------

    def run(self, *argv: str, timeout_s: float = 60.0) -> Finished:
        """Run a program in the container."""
        leader = self._leader()
        if leader is None:
            raise AwayError
        command = ["nsenter", "--target", str(leader), "--all", *argv]
        try:
            done = subprocess.run(
                command,
                env=GUEST_ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise AwayError from e
        return Finished(done.returncode, done.stdout)

    def console(self) -> str:
        """Return what the container printed."""
        return self._log.read_text(errors="replace")

    def _say(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(line)

    def close(self) -> None:
        """Switch off; the mount is let go a moment after the last process."""
        if not self._directory.exists():
            return
        self.power_cut()
        for loop in self._sticks.values():
            run("losetup", "--detach", loop)
        for _ in range(100):
            if subprocess.run(["umount", self._sysroot], check=False).returncode == 0:
                break
            time.sleep(0.1)
        run("losetup", "--detach", self._loop)
        shutil.rmtree(self._directory)


NSPAWN_ENVIRONMENT = {
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes",  # udevd wants to write /sys
}
GUEST_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _known_filesystems() -> tuple[str, ...]:
    known = Path("/proc/filesystems").read_text().split()
    return tuple(name for name in ("vfat", "exfat", "ext4") if name in known)
