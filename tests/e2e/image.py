"""The device image: built once from packages and this source tree, kept until either changes.

Host commands used: mmdebstrap, ostree, and those of ``device/*.sh`` and ``scripts/deb.sh``.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.authoring_desk import Workshop, workshop
from tests.e2e.sticks import run

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "device"
CACHE = ROOT / ".cache/e2e"
BOOT_ROMS = (
    Path("/usr/lib/u-boot/qemu-x86/u-boot.rom"),
    ROOT / ".cache/u-boot/usr/lib/u-boot/qemu-x86/u-boot.rom",
)
UNUSED_S = 6 * 3600.0  # another run may still use what this one replaces
SHIPPED = ("agent", "debian", "packaging", "systemd", "udev-rules", "scripts/deb.sh")

FIRST, GOOD, UNBOOTABLE, FIRMWARE = "device/1", "device/2", "device/unbootable", "device/firmware"
NEW_FIRMWARE = "2"  # the first image's environment says 1
CHANGES: Mapping[str, Mapping[str, str]] = {
    GOOD: {"usr/lib/device-version": "2\n"},
    # The kernel panics when its first process ends, and `panic=5` starts the machine again.
    UNBOOTABLE: {
        "usr/lib/device-version": "unbootable\n",
        "usr/lib/systemd/systemd": "#!/bin/sh\necho 'device: this version does not boot'\n",
    },
    FIRMWARE: {
        "usr/lib/device-version": "firmware\n",
        "usr/lib/firmware/version.txt": f"bootfirmware_version={NEW_FIRMWARE}\n",
    },
}
PROGRAMS = (
    "mmdebstrap", "ostree", "dpkg-buildpackage", "dh_python3", "sfdisk", "mkimage", "mkenvimage",
    "mkfs.ext4", "fw_setenv",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """A disk with the first version on it, and the factory that makes the next ones.

    Attributes:
        directory: holds the disk, the factory's keys and its repository with every version.
    """

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def factory(self) -> Path:
        return self.directory / "factory"


def why_no_image() -> str | None:
    """Return why the image cannot be built here; None when it can."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"no {', '.join(absent)} here; scripts/setup.sh test brings them" if absent else None


def boot_rom() -> Path | None:
    """Return U-Boot for QEMU's PC, None when there is none."""
    return next((path for path in BOOT_ROMS if path.exists()), None)


def device_image() -> DeviceImage:
    """Return the image of this source tree; built when anything it is made from has changed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rootfs_key = _digest([HERE / "rootfs.sh"])
        rootfs = _kept(f"rootfs-{rootfs_key}", lambda path: run(HERE / "rootfs.sh", path / "root"))
        inputs = [HERE, *(ROOT / name for name in SHIPPED)]
        key = _digest(inputs, rootfs_key, repr(CHANGES))
        return DeviceImage(_kept(f"device-{key}", lambda path: _build(path, rootfs / "root")))


def _digest(inputs: Iterable[Path], *words: str) -> str:
    """Name the content of files and directories."""
    digest = hashlib.sha256(" ".join(words).encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(
                    f"{file.relative_to(ROOT)} {file.stat().st_mode:o}\n".encode()
                    + file.read_bytes()
                )
    return digest.hexdigest()[:16]


def _kept(name: str, make: Callable[[Path], object]) -> Path:
    """Make a directory of the cache unless it is there; those unused for long go."""
    place = CACHE / name
    if place.exists():
        os.utime(place)
        return place
    kind = name.partition("-")[0]
    for old in CACHE.glob(f"{kind}-*"):
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old)
    with _unfinished(CACHE / f"unfinished-{kind}") as scratch:
        make(scratch)
        scratch.rename(place)
    return place


@contextmanager
def _unfinished(scratch: Path) -> Iterator[Path]:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(directory: Path, rootfs: Path) -> None:
    factory = workshop(directory / "factory")
    run("ostree", "config", "--repo", factory.repo, "set", "archive.zlib-level", "1")
    with TemporaryDirectory(dir=directory) as scratch:
        tree = Path(scratch, "tree")
        run("cp", "-a", rootfs, tree)
        run(ROOT / "scripts/deb.sh", scratch)
        run(HERE / "deployable.sh", tree, factory.keys / "roots", *Path(scratch).glob("*.deb"))
        _commit(factory, FIRST, "--no-xattrs", f"--tree=dir={tree}")
        for ref, files in CHANGES.items():
            changes = _written(Path(scratch, ref), files)
            _commit(factory, ref, f"--tree=ref={FIRST}", f"--tree=dir={changes}")
    run(HERE / "disk.sh", directory / "disk.img", factory.repo, FIRST)


def _commit(factory: Workshop, ref: str, *arguments: str) -> None:
    options = ["--repo", factory.repo, "--branch", ref, "--bootable"]
    run("ostree", "commit", *options, f"--add-metadata-string=version={ref}", *arguments)


def _written(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    return directory
