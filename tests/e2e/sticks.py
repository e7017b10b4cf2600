"""Sticks: made on one laptop, read back on another, never mounted by the device's own hands.

A stick is an image file. FAT is written and read with mtools and exFAT through FUSE, so that the
host's kernel need not know them; ext4 is made with ``mke2fs -d`` and read through a loop device.

Host commands used: mkfs.vfat, mcopy, mke2fs, mkfs.exfat, mount.exfat-fuse, mount, sfdisk, dd.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.adapters.resultfiles import RESULTS_DIRECTORY, read_results
from agent.core.record import Record

LABEL = "STICK"
ROOM_BYTES = 48 << 20  # beside what the stick holds, for results and the file system itself
PARTITION_OFFSET = 1 << 20
TABLES = {"mbr": "label: dos\nstart=2048, type=c\n", "gpt": "label: gpt\nstart=2048\n"}


@dataclass(frozen=True, slots=True)
class Stick:
    """A USB stick.

    Attributes:
        image: what is on it.
        filesystem: ``vfat``, ``exfat`` or ``ext4``.
        table: ``mbr``, ``gpt``, or empty for a file system on the whole stick.
        read_only: whether its switch is set.
    """

    image: Path
    filesystem: str
    table: str = ""
    read_only: bool = False

    @property
    def offset(self) -> int:
        return PARTITION_OFFSET if self.table else 0

    def copy(self, image: Path, *, read_only: bool = False) -> "Stick":
        """Return another stick with the same content."""
        run("cp", "--sparse=always", self.image, image)
        return replace(self, image=image, read_only=read_only)

    def records(self) -> tuple[Record, ...]:
        """Read the results off the stick, oldest first."""
        with self._results() as place:
            reading = read_results(place)
            assert not reading.skipped, reading.skipped
            assert all(path.with_suffix(".txt").exists() for path in place.rglob("2*.json"))
        return tuple(sorted(reading.records, key=lambda record: record.sequence))

    @contextmanager
    def _results(self) -> Iterator[Path]:
        with TemporaryDirectory() as place:
            if self.filesystem == "vfat":
                source = f"::{RESULTS_DIRECTORY}"
                subprocess.run(
                    ["mcopy", "-s", "-i", f"{self.image}@@{self.offset}", source, place],
                    env=MTOOLS,
                    capture_output=True,
                    check=False,  # no results, no directory
                )
                yield Path(place)
                return
            with mounted(self, Path(place)):
                yield Path(place)


MTOOLS = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}


def make_stick(
    image: Path, filesystem: str, contents: Sequence[Path], *, table: str = "", full: bool = False
) -> Stick:
    """Make a stick that holds directories at its root.

    Args:
        image: the file to make.
        filesystem: see `Stick`.
        contents: directories; each keeps its name.
        table: see `Stick`.
        full: whether no byte is left on it.
    """
    stick = Stick(image, filesystem, table)
    size = sum(_size(content) for content in contents) + ROOM_BYTES
    file_system = image.with_suffix(".fs") if table else image
    file_system.unlink(missing_ok=True)
    file_system.touch()
    os.truncate(file_system, size)
    MAKERS[filesystem](file_system, contents)
    if table:
        _wrap(file_system, image, TABLES[table])
    if full:
        _fill_up(stick)
    return stick


def _size(directory: Path) -> int:
    """Return the room a tree takes with clusters of 4 KiB."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in directory.rglob("*"))


def _make_vfat(image: Path, contents: Sequence[Path]) -> None:
    run("mkfs.vfat", "-F", "32", "-s", "8", "-n", LABEL, image)
    for content in contents:
        run("mcopy", "-s", "-Q", "-i", image, content, "::", env=MTOOLS)


def _make_ext4(image: Path, contents: Sequence[Path]) -> None:
    with TemporaryDirectory(dir=image.parent) as root:
        for content in contents:
            shutil.copytree(content, Path(root, content.name), copy_function=os.link)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "65536", "-L", LABEL, "-d", root, image)


def _make_exfat(image: Path, contents: Sequence[Path]) -> None:
    run("mkfs.exfat", "-L", LABEL, image)
    with TemporaryDirectory() as place, mounted(Stick(image, "exfat"), Path(place)):
        for content in contents:
            run("cp", "-r", content, place)


MAKERS: dict[str, Callable[[Path, Sequence[Path]], None]] = {
    "vfat": _make_vfat,
    "ext4": _make_ext4,
    "exfat": _make_exfat,
}


def _wrap(file_system: Path, image: Path, table: str) -> None:
    """Put a file system into the only partition of a stick."""
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, PARTITION_OFFSET + file_system.stat().st_size + (1 << 20))
    run("sfdisk", "--quiet", image, stdin=table)
    run("dd", f"if={file_system}", f"of={image}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    file_system.unlink()


def _fill_up(stick: Stick) -> None:
    """Leave no cluster free."""
    with TemporaryDirectory() as place, mounted(stick, Path(place)):
        film = os.open(Path(place, "holiday.mov"), os.O_WRONLY | os.O_CREAT)
        block = 1 << 20
        while block:
            try:
                os.write(film, b"\xff" * block)
            except OSError:
                block //= 2
        os.close(film)


@contextmanager
def mounted(stick: Stick, place: Path) -> Iterator[None]:
    """Open a stick on the laptop: exFAT through FUSE, what else by the kernel."""
    loop = run("losetup", "--find", "--show", "--offset", stick.offset, stick.image).strip()
    try:
        if stick.filesystem == "exfat":
            run("mount.exfat-fuse", loop, place)
        else:
            run("mount", "-t", stick.filesystem, loop, place)
        try:
            yield
        finally:
            run("umount", place)
    finally:
        run("losetup", "--detach", loop)


def run(*argv: object, stdin: str = "", env: dict[str, str] | None = None) -> str:
    """Run a program of the host; its complaint is in the error."""
    command = [str(word) for word in argv]
    done = subprocess.run(
        command, input=stdin, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
