"""Sticks without a stick: file system images on loop devices, always cleaned up.

Host commands used: losetup, mke2fs, mkfs.vfat, mksquashfs, mkfs.erofs.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

SIZE = 8 * 1024 * 1024
UUID = "6b2a58a0-5d35-4c6f-9d6b-0123456789ab"


def _run(*argv: str | Path) -> str:
    done = subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _fill(root: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_ext4(
    image: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    label: str = "STICK",
    uuid: str = UUID,
    size: int = SIZE,
) -> Path:
    """Make an ext4 image that holds ``files``."""
    with TemporaryDirectory() as root:
        _fill(Path(root), files or {})
        image.write_bytes(b"")
        with image.open("r+b") as file:
            file.truncate(size)
        _run("mke2fs", "-q", "-t", "ext4", "-L", label, "-U", uuid, "-d", root, image)
    return image


def make_refused(image: Path, kind: str) -> Path:
    """Make an image of a file system that is never mounted: squashfs or erofs."""
    with TemporaryDirectory() as root:
        _fill(Path(root), {"file": b"x" * 5000})
        if kind == "squashfs":
            _run("mksquashfs", root, image, "-quiet", "-no-progress", "-noappend")
        else:
            _run("mkfs.erofs", "--quiet", image, root)
    with image.open("r+b") as file:  # blkid wants to see a device of some size
        file.truncate(max(image.stat().st_size, 1 << 20))
    return image


def make_blank(image: Path, *, size: int = SIZE) -> Path:
    """Make a medium that holds no file system."""
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(size)
    return image


@dataclass(frozen=True, slots=True)
class Stick:
    """An image in its port.

    Attributes:
        devnode: the loop device.
        image: what it shows.
    """

    devnode: str
    image: Path

    @property
    def number(self) -> str:
        """``major:minor``, as mountinfo writes it."""
        return Path(f"/sys/class/block/{Path(self.devnode).name}/dev").read_text().strip()


def attach(image: Path, *, read_only: bool = False) -> Stick:
    """Plug an image in; the caller detaches it."""
    options = ["--read-only"] if read_only else []
    return Stick(_run("losetup", *options, "--find", "--show", image), image)


def detach(stick: Stick) -> None:
    """Pull a stick out, whatever is mounted. Idempotent."""
    if str(stick.image) in _run("losetup", "--list", "--noheadings", "-O", "BACK-FILE,NAME"):
        _run("losetup", "--detach", stick.devnode)


@contextmanager
def plugged(image: Path, *, read_only: bool = False) -> Iterator[Stick]:
    """Keep an image plugged in for the duration."""
    stick = attach(image, read_only=read_only)
    try:
        yield stick
    finally:
        detach(stick)
