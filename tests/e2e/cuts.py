"""Power cuts: one update on QEMU, and the disk as it was at many of its moments.

QEMU is stopped (SIGSTOP), its disk file copied, and QEMU goes on: the copy holds, to the byte, what
killing QEMU at that moment would have left, so one slow update gives every cut. What the guest had
flushed is in it. What it had only written may be missing: the overlay's tables are written at a
flush, so the copy has lost it as a disk's own cache would.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from tests.e2e.device import UPDATE_S, Device
from tests.e2e.image import CACHE, DeviceImage
from tests.e2e.qemu import QemuMachine
from tests.e2e.sticks import Stick

WANTED = 40  # cuts, no fewer
PHASES = ("copy", "deploy", "promise", "reboot", "run")
# The newest of these lines on the console tells the phase.
LANDMARKS = {
    "medium.mounted": "copy",
    "ostree.pulled": "copy",
    "app.fetched": "deploy",
    "deployment.staged": "promise",
    '"code": 100': "reboot",
    "device: starting": "run",
}
LANDMARK = re.compile("|".join(map(re.escape, LANDMARKS)))
EVENT = re.compile(r'"event": |^device: ', re.MULTILINE)
RUN_ENDED = re.compile(r'"command": "run", "code": 0.*"attempt.finished"')
PAUSE_S = 1.5
KEPT_PER_PHASE = 14  # the short phases give fewer, and 40 are wanted


@dataclass(frozen=True, slots=True)
class Cut:
    """A disk after a power cut.

    Attributes:
        number: counted from 1, in the order of time.
        phase: what the device was doing, one of `PHASES`; empty: nothing yet.
        disk: an overlay of the image.
    """

    number: int
    phase: str
    disk: str


def cuts_of(image: DeviceImage) -> tuple[Cut, ...]:
    """Return the cuts that were taken of this image; none yet, nothing."""
    index = _place(image) / "cuts.json"
    if not index.exists():
        return ()
    return _interleaved([Cut(**cut) for cut in json.loads(index.read_text())])


def _interleaved(cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Put the first of each phase first, then the second: a short try has seen something of all."""
    seen = Counter[str]()
    order = []
    for cut in cuts:
        order.append((seen[cut.phase], cut.number, cut))
        seen[cut.phase] += 1
    return tuple(cut for *_, cut in sorted(order, key=lambda entry: entry[:2]))


def _place(image: DeviceImage) -> Path:
    return CACHE / f"cuts-{image.directory.name}"


def recovered(image: DeviceImage, cut: Cut, driver: str) -> Path:
    """Return the file that says how a cut ended, so that a long test may be taken up again."""
    return _place(image) / f"{cut.number}-{driver}"


def take_cuts(device: Device, image: DeviceImage, stick: Stick) -> tuple[Cut, ...]:
    """Update a running device with a stick and cut its power all the while."""
    place = _place(image)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    machine = device.machine
    assert isinstance(machine, QemuMachine)
    story = Story(machine)
    machine.plug(stick)
    cuts = [_cut(machine, story, place / f"{number}.qcow2") for number in _moments(machine, story)]
    machine.unplug(stick)
    kept = _spread([cut for cut in cuts if cut.phase])
    for disk in {cut.disk for cut in cuts} - {cut.disk for cut in kept}:
        Path(disk).unlink()
    (place / "cuts.json").write_text(json.dumps([asdict(cut) for cut in kept]))
    return kept


class Story:
    """What the serial line has told since the stick was put in."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine
        self._began = len(machine.console())

    @property
    def text(self) -> str:
        return self._machine.console()[self._began :]

    @property
    def events(self) -> int:
        """How much of it the agent and the boot loader have told."""
        return len(EVENT.findall(self.text))

    @property
    def phase(self) -> str:
        """Where the update is; empty before it."""
        seen = LANDMARK.findall(self.text)
        return LANDMARKS[seen[-1]] if seen else ""

    @property
    def over(self) -> bool:
        return RUN_ENDED.search(self.text) is not None


def _moments(machine: QemuMachine, story: Story) -> Iterator[int]:
    """Count moments until the update is over: at every event, and when a while has passed."""
    deadline = time.monotonic() + UPDATE_S * machine.patience
    for number in count(1):
        yield number
        if story.over:
            return
        assert time.monotonic() < deadline, story.text[-2000:]
        machine.tend()
        events, pause = story.events, time.monotonic() + PAUSE_S
        while story.events == events and time.monotonic() < pause:
            time.sleep(0.02)


def _cut(machine: QemuMachine, story: Story, disk: Path) -> Cut:
    machine.copy_disk(disk)
    return Cut(int(disk.stem), story.phase, str(disk))


def _spread(cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Keep so many cuts of each phase, evenly spread."""
    kept: list[Cut] = []
    for phase in PHASES:
        those = [cut for cut in cuts if cut.phase == phase]
        step = max(1.0, len(those) / KEPT_PER_PHASE)
        kept += [those[int(n * step)] for n in range(min(len(those), KEPT_PER_PHASE))]
    return tuple(kept)
