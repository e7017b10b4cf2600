"""A tiny, real OSTree device and real repositories, in a fraction of a second.

`make_device` gives a sysroot directory with one deployment; `make_commit` puts a bootable
rootfs into a repository; `archive_repo` makes a repository as a stick carries it. The
`ostree` program does the work, so what the tests see is what a device sees.

Host commands used: ostree.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

OS = "lmp"
KERNEL_ARGUMENTS = ("root=LABEL=otaroot", "quiet")
BUILT_UTC = "2026-01-02T03:04:05Z"  # timestamp of every commit unless a test says otherwise

PROGRAM = shutil.which("ostree") or "ostree"  # found once: tests put another one on PATH

# Deployments stay mutable, so that a temporary directory can be removed again.
os.environ.setdefault("OSTREE_SYSROOT_DEBUG", "mutable-deployments")


@dataclass(slots=True)
class Device:
    """A sysroot directory that is not booted, and where its commits come from.

    Attributes:
        sysroot: what `[pacman] sysroot` names.
        os: name of the operating system.
        origin: archive repository that holds every commit made for this device.
        commits: commits made so far; the first one is deployed.
        awaiting_reboot: what `reboot_awaited` of an `OstreeSysroot` should answer.
    """

    sysroot: Path
    os: str
    origin: Path
    commits: list[str] = field(default_factory=list)
    awaiting_reboot: bool = False

    @property
    def repo(self) -> Path:
        """The device's own repository."""
        return self.sysroot / "ostree/repo"

    def new_commit(self, files: Mapping[str, bytes] | None = None, **options: str) -> str:
        """Make the next version of the rootfs in ``origin``; return its commit."""
        version = str(len(self.commits) + 1)
        commit = make_commit(self.origin, rootfs(version, files), **options)
        self.commits.append(commit)
        return commit

    def bundle_repo(self, path: Path, *commits: str) -> Path:
        """Make an archive repository at ``path`` with ``commits`` alone, as a stick has.

        Copied, since ``pull-local`` makes hard links: what a test does to the stick must
        not happen to ``origin``.
        """
        with tempfile.TemporaryDirectory(dir=self.origin.parent) as scratch:
            linked = archive_repo(Path(scratch, "repo"))
            ostree("pull-local", "--repo", linked, self.origin, *commits)
            shutil.copytree(linked, path)
        return path

    def deployed(self) -> list[str]:
        """Return the commits of all deployments, the one that boots next first."""
        lines = ostree("admin", "status", "--sysroot", self.sysroot).splitlines()
        return [line.split()[-1].partition(".")[0] for line in lines if line[2:3].strip()]


def make_device(
    directory: Path,
    *,
    os: str = OS,
    mode: str = "bare",
    files: Mapping[str, bytes] | None = None,
) -> Device:
    """Make a device whose first commit is deployed, below ``directory``."""
    device = Device(directory / "sysroot", os, archive_repo(directory / "origin"))
    device.sysroot.mkdir(parents=True)
    ostree("admin", "init-fs", device.sysroot)
    ostree("admin", "os-init", "--sysroot", device.sysroot, os)
    if mode != "bare":
        ostree("config", "--repo", device.repo, "set", "core.mode", mode)
    commit = device.new_commit(files)
    ostree("pull-local", "--repo", device.repo, device.origin, commit)
    arguments = [f"--karg={argument}" for argument in KERNEL_ARGUMENTS]
    ostree("admin", "deploy", "--sysroot", device.sysroot, "--os", os, *arguments, commit)
    return device


def archive_repo(path: Path) -> Path:
    """Make an empty archive repository, the only mode a FAT stick can hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ostree("init", "--mode=archive", "--repo", path)
    return path


def rootfs(version: str, files: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the files of the smallest rootfs that ``ostree admin deploy`` accepts."""
    return {
        "usr/lib/modules/6.1.0/vmlinuz": b"kernel\n",
        "usr/lib/modules/6.1.0/initramfs.img": b"initramfs\n",
        "usr/lib/os-release": f'ID=lmp\nNAME=LmP\nPRETTY_NAME="LmP {version}"\n'.encode(),
        "usr/etc/hostname": b"device\n",
        "usr/share/version": f"{version}\n".encode(),
        **(files or {}),
    }


def make_commit(
    repo: Path, files: Mapping[str, bytes], *, timestamp: str = BUILT_UTC, subject: str = "test"
) -> str:
    """Commit ``files`` (path to content) to ``repo``; return the commit, 64 hex digits."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            file = Path(scratch, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return ostree(
            "commit",
            "--repo", repo,
            "--orphan",
            "--canonical-permissions",
            "--timestamp", timestamp,
            "--subject", subject,
            f"--tree=dir={scratch}",
        ).strip()  # fmt: skip


def simulate_reboot(device: Device) -> None:
    """Let the first deployment be the booted one, as after a good boot."""
    device.awaiting_reboot = False


def simulate_boot_rollback(device: Device) -> None:
    """Let the deployment before be the booted one, as after a boot that failed.

    In a sysroot that is not booted only the order of deployments tells, so the one that
    did not boot is removed.
    """
    ostree("admin", "undeploy", "--sysroot", device.sysroot, "0")
    device.awaiting_reboot = False


def object_path(repo: Path, checksum: str, kind: str) -> Path:
    """Return where an object lies; ``kind`` is commit, dirtree, dirmeta, filez or file."""
    return repo / "objects" / checksum[:2] / f"{checksum[2:]}.{kind}"


def content_objects(repo: Path) -> list[Path]:
    """Return the file objects of an archive repository, in a fixed order."""
    return sorted((repo / "objects").glob("*/*.filez"))


def ostree(*arguments: str | Path) -> str:
    """Run ``ostree`` and return what it printed; its complaint is in the error."""
    return run(PROGRAM, *arguments)


def run(*argv: str | Path) -> str:
    """Run a program and return what it printed; its complaint is in the error."""
    command = [str(word) for word in argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


BOOTED_OSTREE = r"""#!/bin/sh
# Run the real ostree as on a device whose root directory is the deployment BOOTED names.
sysroot={sysroot} root=$(readlink -f {booted}) left=$#
while [ "$left" -gt 0 ]; do
    word=$1 left=$((left - 1))
    shift
    case $word in
        "$sysroot") word=/ ;;
        "$sysroot"/*) word=${{word#"$sysroot"}} ;;
    esac
    set -- "$@" "$word"
done
export sysroot root
exec unshare --mount --propagation private sh -ec '
    cd "$root"
    mkdir -p sysroot proc dev run tmp boot var
    for name in bin lib lib64 sbin; do [ -L $name ] || ln -s usr/$name $name; done
    [ -L ostree ] || ln -s sysroot/ostree ostree
    mount --bind "$root" "$root"
    cd "$root"
    mount --bind "$sysroot" sysroot
    mount --bind "$sysroot/boot" boot
    mount --bind "$sysroot/ostree/deploy/{os}/var" var
    for name in usr proc dev tmp; do mount --rbind /$name $name; done
    mount -t tmpfs tmpfs run
    touch run/ostree-booted
    # ostree looks whether it shares the namespace of pid 1, which containers hide.
    mount -t tmpfs tmpfs proc/1
    mkdir proc/1/ns
    ln -s "mnt:[1]" proc/1/ns/mnt
    exec chroot . {ostree} "$@"' sh "$@"
"""


class BootedDevice:
    """Make ``ostree`` believe the machine runs from this device's sysroot.

    A program named ``ostree`` is put into ``programs``; on PATH it runs the real one in a
    mount namespace whose root is the booted deployment, with ``/run/ostree-booted``, as the
    initramfs arranges it. Needs root, and the device below ``/tmp``.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.programs = device.sysroot.parent / "booted-programs"
        self._booted = device.sysroot.parent / "booted"
        self.programs.mkdir()
        program = self.programs / "ostree"
        program.write_text(
            BOOTED_OSTREE.format(
                sysroot=device.sysroot, os=device.os, booted=self._booted, ostree=PROGRAM
            )
        )
        program.chmod(0o755)
        self.boot(0)

    def boot(self, index: int) -> None:
        """Boot the deployment of this index, as the boot loader does."""
        lines = ostree("admin", "status", "--sysroot", self.device.sysroot).splitlines()
        names = [line.split()[1] for line in lines if line.startswith(f"  {self.device.os} ")]
        self._booted.unlink(missing_ok=True)
        deployments = self.device.sysroot / f"ostree/deploy/{self.device.os}/deploy"
        self._booted.symlink_to(deployments / names[index])
