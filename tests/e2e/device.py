"""What a technician does to a device and what can be seen of it, whichever driver runs it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from agent.core.record import Record, from_json
from tests.e2e.machine import AwayError, Machine, until
from tests.e2e.sticks import Stick

BOOT_S = 60.0
UPDATE_S = 120.0  # copy, stage, reboot, run; without patience
STORAGE = "/var/sota/usb-update"

Codes = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class State:
    """What must not change when a stick is refused.

    Attributes:
        version: what the running root file system says it is.
        deployed: commits of the boot entries, the next boot's first.
        target: what `current` answers.
        apps: containers that run, and the image of each.
        bootenv: the boot loader's variables.
        promised: whether an update is under way.
    """

    version: str
    deployed: tuple[str, ...]
    target: str
    apps: tuple[str, ...]
    bootenv: tuple[str, ...]
    promised: bool


@dataclass
class Device:
    """One virtual device.

    Attributes:
        machine: what it runs in.
        directory: for its sticks.
    """

    machine: Machine
    directory: Path
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def filesystem(self) -> str:
        """The first this device can mount; FAT where it may be had."""
        return self.machine.filesystems[0]

    # --- the technician's hands -----------------------------------------------------------

    def switch_on(self) -> None:
        """Press the switch and wait until the device is up."""
        self.machine.power_on()
        self.await_up()

    def await_up(self) -> None:
        """Wait until every service has started."""
        up = ["systemctl", "is-active", "multi-user.target"]
        self.await_(lambda: self.machine.run(*up).code == 0, "the device is up", BOOT_S)

    def restart(self) -> None:
        """Pull the plug, and switch on again."""
        self.machine.power_cut()
        self.switch_on()

    def take(self, stick: Stick, *, read_only: bool = False) -> Stick:
        """Return a stick of one's own, to be put into this device."""
        image = self.directory / f"stick-{next(self._numbers)}.img"
        return stick.copy(image, read_only=read_only)

    @contextmanager
    def plugged(self, stick: Stick) -> Iterator[None]:
        """Keep a stick in the port, and pull it when the device says that it may be pulled."""
        self.machine.plug(stick)
        try:
            yield
            self.await_(self.lets_go, "the stick may be removed", UPDATE_S)
        finally:
            self.machine.unplug(stick)

    def visit(self, stick: Stick, *codes: tuple[str, int]) -> tuple[Record, ...]:
        """Put a stick in, wait for these answers, pull it, and read it at home.

        Returns:
            The records of this visit that are on the stick.
        """
        before = len(self.history())
        with self.plugged(stick):
            self.await_codes(*codes, after=before)
            self.await_delivery()
        return tuple(record for record in stick.records() if record.sequence > before)

    # --- waiting for events ----------------------------------------------------------------

    def await_(self, holds, what: str, timeout_s: float) -> None:
        until(self.machine, holds, what, timeout_s=timeout_s)

    def await_codes(self, *codes: tuple[str, int], after: int = 0) -> None:
        """Wait until the device has answered so, after so many earlier answers."""
        wanted = after + len(codes)
        self.await_(lambda: self.answers() >= wanted, f"the answers {codes}", UPDATE_S)
        answers = self.history()[after:]
        assert list(codes) == codes_of(answers), answers

    def await_answers(self, number: int) -> None:
        """Wait until the device has answered so often, whatever it said."""
        self.await_(lambda: self.answers() >= number, f"{number} answers", UPDATE_S)

    def await_idle(self) -> None:
        """Wait until the agent has looked at what is plugged in and is done with it."""
        seen = ("idle", "finished")
        self.await_(lambda: self.status().get("stage") in seen, "the agent rests", UPDATE_S)

    def await_delivery(self) -> None:
        """Wait until no result waits for a stick any more."""
        self.await_(lambda: not self._names("results/owed"), "results are delivered", UPDATE_S)

    def lets_go(self) -> bool:
        """Whether the device says that the stick may be removed."""
        return bool(self.status().get("remove_stick"))

    def status(self) -> dict[str, object]:
        """Return what the device tells by its lamps now; empty when it tells nothing."""
        found: dict[str, object] = json.loads(self.read("/run/usb-update/status.json") or "{}")
        return found

    # --- what can be seen --------------------------------------------------------------------

    def read(self, path: str) -> str:
        """Return a file's text, empty when it is not there."""
        done = self.machine.run("cat", path)
        return done.output if done.code == 0 else ""

    def answers(self) -> int:
        """Return how many records there are."""
        return len(self._names("results/history"))

    def history(self) -> tuple[Record, ...]:
        """Return the device's own records, oldest first."""
        place = f"{STORAGE}/results/history"
        script = f"for file in {place}/*.json; do cat $file && echo; done 2>/dev/null"
        lines = self.machine.run("sh", "-c", script).output.split("\n\n")
        records = [from_json(line.encode()) for line in lines if line.strip().startswith("{")]
        return tuple(sorted(records, key=lambda record: record.sequence))

    def _names(self, directory: str) -> list[str]:
        listed = self.machine.run("ls", f"{STORAGE}/{directory}")
        return listed.output.split() if listed.code == 0 else []

    def state(self) -> State:
        """Look at everything that an update changes."""
        return State(
            version=self.version(),
            deployed=self.deployed(),
            target=self.current()["target"],
            apps=self.apps(),
            bootenv=self.bootenv(),
            promised=self.promised(),
        )

    def version(self) -> str:
        return self.read("/usr/lib/device-version").strip() or "1"

    def promised(self) -> bool:
        return "pending" in self._names(".")

    def boot_id(self) -> str:
        return self.read("/proc/sys/kernel/random/boot_id").strip()

    def deployed(self) -> tuple[str, ...]:
        status = self.machine.run("ostree", "admin", "status").output
        return tuple(re.findall(r"\S+ ([0-9a-f]{64})\.[0-9]+", status))

    def current(self) -> dict[str, str]:
        answer = self.machine.run("usb-update", "current", "--json").output
        if "{" not in answer:
            raise AwayError(answer)  # an attempt holds the lock
        found: dict[str, str] = json.loads(answer[answer.index("{") :])
        return found

    def apps(self) -> tuple[str, ...]:
        """Return the containers that run, each with its image's tag."""
        listed = self.machine.run("docker", "ps", "--format", "{{.Names}} {{.Image}}").output
        return tuple(sorted(listed.splitlines()))

    def bootenv(self) -> tuple[str, ...]:
        return tuple(sorted(self.machine.run("fw_printenv").output.splitlines()))


def codes_of(records: tuple[Record, ...]) -> Codes:
    return [(record.kind.value, record.answer.code) for record in records]
