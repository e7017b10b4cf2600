"""What every `Devices` does: in memory, and udev's with real events of loop devices."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.udev import UdevDevices
from agent.core.stick import Action, BlockEvent
from agent.services.watch import StickQueue
from tests import loop_sticks as sticks
from tests import udevd
from tests.fakes.devices import MemoryDevices, stick


class DevicesContract:
    """Subclasses provide ``port``: devices, and a way to plug and pull a stick."""

    def test_a_stick_plugged_in_before_is_present(self, port) -> None:
        port.plug()

        assert [Action.ADD] == [event.action for event in port.devices.present()]

    def test_present_and_read_tell_of_the_same_stick(self, port) -> None:
        port.plug()
        queue = StickQueue()
        queue.feed(port.devices.present())
        queue.feed(port.read())

        assert queue.take() is not None
        assert queue.take() is None

    def test_what_was_pulled_is_gone(self, port) -> None:
        port.plug()
        (there,) = port.devices.present()
        queue = StickQueue()
        queue.feed(port.read())
        port.pull()
        queue.feed(port.read())

        assert not queue.holds(there)
        assert () == port.devices.present()

    def test_a_stick_names_its_file_system(self, port) -> None:
        port.plug()
        (event,) = port.devices.present()

        assert (port.fs_type, "STICK") == (event.fs_type, event.label)
        assert event.fs_uuid

    def test_read_does_not_wait(self, port) -> None:
        assert () == port.devices.read()


class MemoryPort:
    fs_type = "vfat"

    def __init__(self) -> None:
        self.devices = MemoryDevices()

    def plug(self) -> None:
        self.devices.plug(stick())

    def pull(self) -> None:
        self.devices.pull(stick())

    def read(self) -> tuple[BlockEvent, ...]:
        return self.devices.read()


class TestMemoryDevices(DevicesContract):
    @pytest.fixture
    def port(self) -> MemoryPort:
        return MemoryPort()


class UdevPort:
    fs_type = "ext4"

    def __init__(self, image: Path) -> None:
        self.image = image
        self.devices = UdevDevices()
        self.stick: sticks.Stick | None = None

    def plug(self) -> None:
        self.stick = sticks.attach(self.image)
        udevd.settle()

    def pull(self) -> None:
        assert self.stick is not None
        sticks.detach(self.stick)
        self.stick = None
        udevd.settle()

    def read(self) -> tuple[BlockEvent, ...]:
        select.select([self.devices], [], [], 5)
        return self.devices.read()

    def end(self) -> None:
        if self.stick is not None:
            self.pull()


@pytest.fixture(scope="module")
def udev() -> Iterator[None]:
    with udevd.running():
        yield


@pytest.mark.needs_udev
class TestUdevDevices(DevicesContract):
    @pytest.fixture
    def port(self, udev: None, tmp_path: Path) -> Iterator[UdevPort]:
        port = UdevPort(sticks.make_ext4(tmp_path / "stick.img"))
        yield port
        port.end()
