"""Updates that go wrong: the boot loader or the agent goes back, and remembers."""

import pytest

from tests.e2e.device import Device
from tests.e2e.factory import Factory
from tests.e2e.image import FIRMWARE, FIRST, GOOD, NEW_FIRMWARE, UNBOOTABLE
from tests.field import CANNOT_START, SLEEPS

DONE = (("install", 100), ("run", 0))


@pytest.mark.with_every_change
def test_a_version_that_does_not_boot(device: Device, factory: Factory) -> None:
    """The boot loader tries it three times and goes back; the entry goes, and it is not retried."""
    stick = device.take(factory.stick(device.filesystem, factory.bundle(3, UNBOOTABLE)))
    before = device.state()

    _, run = device.visit(stick, ("install", 100), ("run", 99))

    assert "board-lmp-3" in run.answer.message
    state = device.state()
    assert ("1", before.deployed, False) == (state.version, state.deployed, state.promised)
    assert before.bootenv == state.bootenv
    assert device.machine.console().count("this version does not boot") == BOOT_LIMIT
    assert_quarantined(device, stick, state)


BOOT_LIMIT = 3  # of device/disk.sh


def test_an_app_that_does_not_start(device: Device, factory: Factory) -> None:
    good = device.take(factory.stick(device.filesystem, factory.bundle(2, app=SLEEPS)))
    device.visit(good, *DONE)
    before = device.state()
    bad = factory.bundle(4, FIRMWARE_FREE, app=CANNOT_START)
    stick = device.take(factory.stick(device.filesystem, bad))

    device.visit(stick, ("install", 100), ("run", 100), ("run", 0))

    state = device.state()
    assert (before.version, before.target, before.apps) == (
        state.version,
        state.target,
        state.apps,
    )
    assert not state.promised
    assert_quarantined(device, stick, state)


FIRMWARE_FREE = FIRST  # from GOOD a reboot lies between


def assert_quarantined(device: Device, stick, state) -> None:
    """Put the same stick in again: it is refused, and nothing happens."""
    (again,) = device.visit(stick, ("install", 6))

    assert "rolled back" in again.answer.message
    assert state == device.state()


def test_new_boot_firmware_holds_the_next_update_until_a_reboot(
    device: Device, factory: Factory
) -> None:
    """5 and a reboot of its own accord; until the boot loader confirms it, 90 for every stick."""
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2, FIRMWARE)))
    device.visit(stick, ("install", 100), ("run", 5))
    device.await_up()
    assert "bootupgrade_available=1" in device.bootenv()
    newer = device.take(factory.stick(device.filesystem, factory.bundle(3, GOOD)))
    device.visit(newer, ("install", 90))

    # What boot firmware does when it has taken the new one for good.
    for name, value in (("bootfirmware_version", NEW_FIRMWARE), ("bootupgrade_available", "0")):
        assert device.machine.run("fw_setenv", name, value).code == 0
    device.visit(newer, *DONE)

    assert "board-lmp-3" == device.state().target
