"""Power cuts at every moment of an update: always whole, and the next visit completes it.

The cuts are taken once from an update on QEMU (`cuts`) and kept beside the image. Recovery is tried
from each of them, in a container and with the real boot loader; what has been tried is
remembered, so that ``make e2e`` goes on where it was stopped. ``E2E_MINUTES`` ends a try in time.
"""

import os
import time
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.e2e.conftest import Make
from tests.e2e.cuts import PHASES, WANTED, Cut, cuts_of, recovered, take_cuts
from tests.e2e.device import UPDATE_S, Device
from tests.e2e.factory import APP, Factory
from tests.e2e.image import FIRST, GOOD, DeviceImage
from tests.e2e.qemu import QemuMachine, why_no_qemu
from tests.e2e.sticks import run
from tests.field import SLEEPS

MINUTES = float(os.environ.get("E2E_MINUTES", "600"))


@pytest.fixture(scope="module")
def cuts(image: DeviceImage, factory: Factory) -> tuple[Cut, ...]:
    """The power cuts of this image; an update on QEMU gives them, once."""
    if reason := why_no_qemu():
        pytest.skip(reason)
    if not cuts_of(image):
        place = Path(mkdtemp(prefix="device-"))
        device = Device(QemuMachine(image, place), place)
        try:
            device.switch_on()
            stick = device.take(factory.stick("ext4", factory.bundle(2, app=SLEEPS)))
            take_cuts(device, image, stick)
        finally:
            device.machine.close()
    return cuts_of(image)


@pytest.mark.cuts
@pytest.mark.only_on(["qemu"])
def test_power_cuts_fall_into_every_phase(cuts: tuple[Cut, ...], driver: str) -> None:
    phases = Counter(cut.phase for cut in cuts)

    assert phases.total() >= WANTED, phases
    assert set(PHASES) == set(phases)


@pytest.mark.timeout(MINUTES * 60 + 3600)
@pytest.mark.cuts
def test_a_device_recovers_from_every_power_cut(
    driver: str,
    make_device: Make,
    image: DeviceImage,
    factory: Factory,
    cuts: tuple[Cut, ...],
) -> None:
    deadline = time.monotonic() + MINUTES * 60
    for cut in cuts:
        if time.monotonic() < deadline and not recovered(image, cut, driver).exists():
            disk = raw(cut, factory.directory) if driver == "nspawn" else Path(cut.disk)
            device = make_device(disk=disk)
            end = recover(device, factory, image)
            device.machine.close()
            recovered(image, cut, driver).write_text(f"{cut.phase} {end}")
    ends = [recovered(image, cut, driver) for cut in cuts]
    tried = Counter(path.read_text() for path in ends if path.exists())
    print(f"{driver}: {tried.total()} of {len(cuts)} power cuts: {dict(tried)}")  # noqa: T201

    assert tried.total() == len(cuts), f"{tried.total()} of {len(cuts)} in {MINUTES} minutes"


def raw(cut: Cut, directory: Path) -> Path:
    """Return the disk of a cut as a container takes it."""
    disk = directory / "cut.img"
    run("qemu-img", "convert", "-O", "raw", cut.disk, disk)
    return disk


def recover(device: Device, factory: Factory, image: DeviceImage) -> str:
    """Switch on after a cut, look, and put the stick in; return what the cut had left."""
    device.switch_on()
    device.await_idle()
    left = whole(device, image)
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2, app=SLEEPS)))
    with device.plugged(stick):
        device.await_(lambda: runs_the_new_version(device), "the new version runs", UPDATE_S)
        device.await_delivery()
    assert "new" == whole(device, image)
    return left


def runs_the_new_version(device: Device) -> bool:
    """Ask nothing that itself would hold up a reboot."""
    return device.version() == "2" and bool(device.apps()) and not device.promised()


def whole(device: Device, image: DeviceImage) -> str:
    """Say which version a device is, and see that it is nothing in between."""
    state = device.state()
    assert not state.promised, state
    old = ("1", commit(image, FIRST), False, ())
    new = ("2", commit(image, GOOD), True, (f"{APP}-web-1",))
    found = (
        state.version,
        state.deployed[0],
        state.target == "board-lmp-2",
        tuple(app.split()[0] for app in state.apps),
    )
    assert found in (old, new), state
    return "old" if found == old else "new"


def commit(image: DeviceImage, ref: str) -> str:
    return run("ostree", "rev-parse", "--repo", image.factory / "repo", ref).strip()
