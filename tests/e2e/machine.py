"""The virtual device as a person meets it: a switch, a USB port, a serial line.

Two drivers start the same disk image: `nspawn` its deployments in a container, `qemu` all of
it. What a scenario needs of either is here, and nothing else.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.e2e.sticks import Stick

POLL_S = 0.2


class AwayError(Exception):
    """The device does not answer now: it is off, or on its way down or up."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program on the device ended.

    Attributes:
        code: its exit status.
        output: what it printed, errors last.
    """

    code: int
    output: str


class Machine(Protocol):
    """One virtual device.

    Attributes:
        name: of the driver.
        filesystems: what it can mount from a stick.
        patience: how much longer than on a real device everything may take.
    """

    name: str
    filesystems: tuple[str, ...]
    patience: float

    def power_on(self) -> None:
        """Press the switch; returns at once."""

    def power_cut(self) -> None:
        """Pull the plug; what was not written is lost."""

    def tend(self) -> None:
        """Give the driver a moment; `until` calls it while it waits."""

    def plug(self, stick: Stick) -> None:
        """Put a stick into a port; the device may be off."""

    def unplug(self, stick: Stick) -> None:
        """Pull a stick, whatever the device is doing with it."""

    def run(self, *argv: str, timeout_s: float = 60.0) -> Finished:
        """Run a program on the device as root.

        Raises:
            AwayError: the device does not answer.
        """

    def console(self) -> str:
        """Return what the serial line said since the machine was made."""

    def close(self) -> None:
        """Switch off and give everything back."""


def until(machine: Machine, holds: Callable[[], object], what: str, *, timeout_s: float) -> None:
    """Wait until something holds on a device that may be away for a while."""
    deadline = time.monotonic() + timeout_s * machine.patience
    while not _now(machine, holds):
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}; the console ends\n{machine.console()[-3000:]}")
        time.sleep(POLL_S)


def _now(machine: Machine, holds: Callable[[], object]) -> bool:
    machine.tend()
    try:
        return bool(holds())
    except AwayError:
        return False
