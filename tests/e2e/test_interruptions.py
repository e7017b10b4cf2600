"""Sticks that cannot be written, or are pulled too soon."""

import pytest

from agent.core.record import Record
from tests.e2e.device import UPDATE_S, Device, codes_of
from tests.e2e.factory import Factory
from tests.e2e.sticks import Stick
from tests.field import SLEEPS

DONE = (("install", 100), ("run", 0))


def delivered_at_the_next_visit(device: Device, factory: Factory) -> tuple[Record, ...]:
    """Plug in an empty stick, and read what the device still owed."""
    place = device.directory / "empty"
    place.mkdir()
    stick = device.take(factory.stick(device.filesystem, place))
    device.machine.plug(stick)
    device.await_delivery()
    device.await_(device.lets_go, "the stick may be removed", UPDATE_S)
    device.machine.unplug(stick)
    return stick.records()


def test_a_read_only_stick(device: Device, factory: Factory) -> None:
    """It updates the device; the results are delivered to the stick after it."""
    master = factory.stick(device.filesystem, factory.bundle(2))
    stick = device.take(master, read_only=True)
    with device.plugged(stick):
        device.await_codes(*DONE)

    assert () == stick.records()
    records = delivered_at_the_next_visit(device, factory)
    assert list(DONE) == codes_of(records)[:2], records


def test_a_full_stick(device: Device, factory: Factory) -> None:
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2), full=True))
    with device.plugged(stick):
        device.await_codes(*DONE)

    assert () == stick.records()
    records = delivered_at_the_next_visit(device, factory)
    assert list(DONE) == codes_of(records)[:2], records


PULLS = 10


@pytest.mark.only_on(["qemu"])
def test_a_stick_pulled_at_ten_points_of_the_copy(device: Device, factory: Factory) -> None:
    """Each time the device is as it was, and in the end the stick completes the update."""
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2, app=SLEEPS)))
    before = device.state()
    for pull in range(PULLS):
        pull_out_while_copying(device, stick, pull / PULLS)
        state = device.state()
        assert (before.version, before.deployed, False) == (
            state.version,
            state.deployed,
            state.promised,
        )

    records = device.visit(stick, *DONE)

    assert list(DONE) == codes_of(records)[-2:]
    assert "2" == device.state().version


def pull_out_while_copying(device: Device, stick: Stick, part: float) -> None:
    """Put the stick in and pull it as soon as this part of a copy's usual time is over."""
    before = device.answers()
    device.machine.plug(stick)
    device.await_(lambda: device.status().get("stage") == "copying", "the copy begins", UPDATE_S)
    device.machine.run("sleep", f"{part * COPY_S:.2f}")
    device.machine.unplug(stick)
    device.await_(lambda: device.answers() > before, "an answer", UPDATE_S)
    device.await_idle()


COPY_S = 4.0  # of this update, in an emulated machine; read off its record
