"""Media to write on: real file systems on loop devices, or through FUSE."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IS_ROOT = os.geteuid() == 0


def run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, timeout=60)


def image(path: Path, size_kib: int, *maker: str) -> Path:
    """Make a file with an empty file system in it."""
    with path.open("wb") as file:
        file.truncate(size_kib * 1024)
    run(*maker, path)
    return path


@contextmanager
def mounted(source: Path, mountpoint: Path, *options: str) -> Iterator[Path]:
    """Mount an image; lazily unmounted at the end, also when a test broke it."""
    mountpoint.mkdir(exist_ok=True)
    try:
        run("mount", "-o", ",".join(("loop", *options)), source, mountpoint)
    except subprocess.CalledProcessError as e:
        pytest.skip(f"this machine mounts no loop device: {e.stderr.decode().strip()}")
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)


@contextmanager
def ext4_stick(where: Path, *options: str, size_kib: int = 2048) -> Iterator[Path]:
    """Mount a new ext4 stick."""
    if not IS_ROOT:
        pytest.skip("mounting takes root")
    made = image(where / "stick.ext4", size_kib, "mkfs.ext4", "-q", "-m", "0")
    with mounted(made, where / "stick", *options) as stick:
        yield stick


@contextmanager
def fat_stick(where: Path) -> Iterator[Path]:
    """Mount a new FAT stick, by the kernel where it can, else by fusefat."""
    if not IS_ROOT:
        pytest.skip("mounting takes root")
    if shutil.which("mkfs.vfat") is None:
        pytest.skip("mkfs.vfat is not installed (dosfstools)")
    made = image(where / "stick.vfat", 40 * 1024, "mkfs.vfat")
    if "vfat" in Path("/proc/filesystems").read_text(encoding="ascii").split():
        with mounted(made, where / "stick", "flush") as stick:
            yield stick
        return
    with _fusefat(made, where / "stick") as stick:
        yield stick


@contextmanager
def _fusefat(source: Path, mountpoint: Path) -> Iterator[Path]:
    if shutil.which("fusefat") is None or not Path("/dev/fuse").exists():
        pytest.skip("the kernel has no vfat, and fusefat or /dev/fuse is missing")
    mountpoint.mkdir()
    run("fusefat", "-o", "rw+", source, mountpoint)
    try:
        yield mountpoint
    finally:
        run("umount", mountpoint)
