"""A maker's desk for tests: real adapters, and a loop device that stands for the stick.

The kernel rightly calls a loop device no removable medium, so that one answer is replaced
here; the real one is tested on sysfs trees in ``tests/integration/test_stick_disk.py``.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.core.stickplan import Disk
from agent.services.desk import Desk
from agent.services.stickmaker import StickDesk
from agent.wiring_stick import stick_desk
from tests.loop_sticks import Stick, make_ext4, plugged

STICK_BYTES = 32 * 1024 * 1024


def maker(desk: Desk) -> StickDesk:
    """Return a desk that takes every loop device for a stick."""
    real = stick_desk()

    def disk(path: Path) -> Disk:
        return replace(real.disk(path), removable=True)

    return replace(real, desk=desk, disk=disk)


@contextmanager
def stick_in_port(directory: Path, *, size: int = STICK_BYTES) -> Iterator[Stick]:
    """Plug in a new, empty ext4 stick."""
    with plugged(make_ext4(directory / "stick.img", size=size)) as stick:
        yield stick


@contextmanager
def mounted(stick: Stick) -> Iterator[Path]:
    """Keep a stick mounted, as a desktop does."""
    with TemporaryDirectory() as place:
        subprocess.run(["mount", stick.devnode, place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def at(step: str, act: Callable[[], None]) -> Callable[[str, int, int], None]:
    """Return a progress that acts when ``step`` begins."""
    seen: list[str] = []

    def progress(name: str, done: int, total: int) -> None:
        if name.startswith(step) and name not in seen:
            seen.append(name)
            act()

    return progress


def overwrite(image: Path, old: bytes, new: bytes) -> None:
    """Change what lies on a stick, behind the kernel's back."""
    assert len(old) == len(new)
    place = image.read_bytes().find(old)
    assert place >= 0
    with image.open("r+b") as file:
        file.seek(place)
        file.write(new)
