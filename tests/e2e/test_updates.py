"""Put a stick in and walk away: updates that succeed, on a whole device."""

import pytest

from tests.e2e.conftest import Make
from tests.e2e.device import UPDATE_S, Device, codes_of
from tests.e2e.factory import APP, Factory
from tests.e2e.image import FIRST
from tests.field import SLEEPS

DONE = (("install", 100), ("run", 0))


@pytest.mark.with_every_change
def test_a_stick_brings_a_new_rootfs_and_its_app(device: Device, factory: Factory) -> None:
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2, app=SLEEPS)))

    install, run = device.visit(stick, *DONE)

    assert (install.attempt, "board-lmp-2") == (run.attempt, run.after.target)
    state = device.state()
    assert ("2", "board-lmp-2", False) == (state.version, state.target, state.promised)
    assert [f"{APP}-web-1"] == [app.split()[0] for app in state.apps]
    assert {"upgrade_available=0", "bootcount=0", "rollback=0"} <= set(state.bootenv)


def test_a_rootfs_without_apps(device: Device, factory: Factory) -> None:
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2)))

    device.visit(stick, *DONE)

    state = device.state()
    assert ("2", "board-lmp-2", ()) == (state.version, state.target, state.apps)


def test_apps_alone_need_no_reboot(device: Device, factory: Factory) -> None:
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2, FIRST, app=SLEEPS)))
    boot = device.boot_id()

    device.visit(stick, ("install", 10), ("run", 0))

    state = device.state()
    assert ("1", "board-lmp-2", 1) == (state.version, state.target, len(state.apps))
    assert boot == device.boot_id()


def test_a_stick_that_was_there_when_the_device_was_switched_on(
    make_device: Make, factory: Factory
) -> None:
    device = make_device()
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2)))
    device.machine.plug(stick)
    device.switch_on()
    device.await_codes(*DONE)
    device.await_delivery()
    device.machine.unplug(stick)

    assert list(DONE) == codes_of(stick.records())
    assert "2" == device.state().version


def test_a_stick_left_in_its_port_does_not_loop(device: Device, factory: Factory) -> None:
    """Two more power cycles with the stick in: nothing happens, and nothing is written."""
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2)))
    with device.plugged(stick):
        device.await_codes(*DONE)
        device.await_delivery()
        boots = set()
        for _ in range(2):
            device.restart()
            boots.add(device.boot_id())
            device.await_idle()
            assert device.boot_id() in boots

    assert list(DONE) == codes_of(device.history()), device.history()[-1]
    assert list(DONE) == codes_of(stick.records())


def test_two_sticks_are_served_one_after_the_other(device: Device, factory: Factory) -> None:
    """The second stick waits for the reboot of the first, and brings the newer version then."""
    first = device.take(factory.stick(device.filesystem, factory.bundle(2)))
    second = device.take(factory.stick(device.filesystem, factory.bundle(3, FIRST)))
    device.machine.plug(first)
    device.await_answers(1)
    device.machine.plug(second)
    device.await_(lambda: finished(device, "board-lmp-3"), "the newer version", 2 * UPDATE_S)
    device.await_delivery()

    assert list(DONE) == codes_of(device.history())[:2]
    assert ("board-lmp-3", False) == (device.state().target, device.state().promised)


def test_a_stick_for_a_mixed_fleet(device: Device, factory: Factory) -> None:
    """Bundles of another hardware lie beside ours; each device takes its own."""
    theirs = factory.bundle(7, hardware_id="other-board")
    ours = factory.bundle(2)
    stick = device.take(factory.stick(device.filesystem, theirs, ours))

    device.visit(stick, *DONE)

    assert "board-lmp-2" == device.state().target


def finished(device: Device, target: str) -> bool:
    """Whether the newest record says that the device has come to ``target``."""
    runs = [("run", 0, target)]
    return runs == [
        (record.kind.value, record.answer.code, record.after.target)
        for record in device.history()[-1:]
    ]


SHAPES = [("vfat", "mbr"), ("vfat", "gpt"), ("exfat", ""), ("exfat", "mbr"), ("ext4", "gpt")]


@pytest.mark.only_on(["qemu"])
@pytest.mark.parametrize(("filesystem", "table"), SHAPES, ids=[" ".join(s) for s in SHAPES])
def test_a_stick_formatted_as(
    device: Device, factory: Factory, filesystem: str, table: str
) -> None:
    stick = device.take(factory.stick(filesystem, factory.bundle(2), table=table))

    records = device.visit(stick, *DONE)

    assert list(DONE) == codes_of(records)
    assert "2" == device.state().version


@pytest.mark.only_on(["qemu"])
def test_a_clock_at_1970(make_device: Make, factory: Factory) -> None:
    """A device without a battery for its clock updates, and says that its times mean nothing."""
    device = make_device(clock="1970-01-01")
    device.switch_on()
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2)))

    records = device.visit(stick, *DONE)

    assert "2" == device.state().version
    assert all(record.clock_note for record in records)


HANDED_OVER = """\
import sqlite3, sys
row = {
    "sha256": sys.argv[1], "name": "board-lmp-1", "hashes": f"sha256:{sys.argv[1].upper()}",
    "correlation_id": "1-a-b", "is_current": 1, "was_installed": 1,
    "custom_meta": '{"hardwareIds": ["board"], "targetFormat": "OSTREE", "version": "1"}',
}
with sqlite3.connect("/var/sota/sql.db") as database:
    (row["ecu_serial"],) = database.execute("SELECT serial FROM ecus").fetchone()
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    database.execute(
        f"INSERT INTO installed_versions ({names}) VALUES ({marks})", list(row.values())
    )
"""


def test_a_device_that_aktualizr_lite_has_updated_before(device: Device, factory: Factory) -> None:
    """The row is as that agent leaves it; the stick goes on from there."""
    (commit,) = device.deployed()
    device.machine.run("aklite-offline", "run")  # makes the database, and finishes nothing
    told = device.machine.run("python3", "-c", HANDED_OVER, commit)
    assert told.code == 0, told.output
    assert "board-lmp-1" == device.current()["target"]
    stick = device.take(factory.stick(device.filesystem, factory.bundle(2)))

    install, run = device.visit(stick, *DONE)

    assert ("board-lmp-1", "board-lmp-2") == (install.before.target, run.after.target)
