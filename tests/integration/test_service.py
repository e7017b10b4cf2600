"""Plug in a stick and walk away: what the service does, with real udev and real sticks."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from agent.core.record import to_json
from tests import loop_sticks, udevd
from tests.field import Field
from tests.service import (
    ROOT,
    ServedDevice,
    make_stick,
    opened,
    plugged_in,
    results_on,
    serving,
    status,
    until,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_udev, pytest.mark.needs_ostree]

UUID = "6b2a58a0-5d35-4c6f-9d6b-0123456789a"
SCHEMA = json.loads((ROOT / "docs/schema/record-1.json").read_text())


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2)


@pytest.fixture
def served(field: Field, tmp_path: Path) -> Iterator[ServedDevice]:
    with udevd.running(), serving(field.device(tmp_path / "device")) as served:
        yield served


def test_a_stick_updates_the_device_and_carries_both_results(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}1", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        assert not served.owed
        served.reboot()
        until(lambda: not served.owed and len(served.history) == 2, "the run's record")
    install, run = results_on(image)

    assert [("install", 100), ("run", 0)] == served.codes
    assert (install.attempt, "board-lmp-2") == (run.attempt, run.after.target)
    assert served.device.current()["target"] == "board-lmp-2"
    assert served.reboots == 1
    for record in (install, run):
        jsonschema.validate(json.loads(to_json(record)), SCHEMA)


def test_a_stick_left_in_its_port_does_not_loop(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}2", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        for _ in range(5):
            served.reboot()
            until(lambda: status()["stage"] == "finished", "an end")
    records = results_on(image)

    assert served.reboots == 1
    assert [("install", 100), ("run", 0)] == [(r.kind.value, r.answer.code) for r in records]


def test_a_version_that_does_not_boot_is_tried_once_and_may_be_forgiven(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}3", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        served.stop()
        served.device.boot_rollback()
        finished = served.device.usb_update("finish")
        served.start()
        until(lambda: status()["code"] == 6, "the stick is looked at again")
    assert finished.code == 99
    assert [("install", 100), ("run", 99)] == served.codes
    assert served.reboots == 1

    with plugged_in(image):
        served.await_records(3)
    assert served.history[-1].answer.reason == "quarantined"

    served.device.usb_update("forgive")
    with plugged_in(image):
        until(lambda: served.reboots == 2, "another try")


@pytest.mark.parametrize("how", ["tampered", "wrong tag", "no bundle"])
def test_what_is_refused_is_told_on_the_stick(
    field: Field, served: ServedDevice, bundle: Path, tmp_path: Path, how: str
) -> None:
    code = {"tampered": 15, "wrong tag": 15, "no bundle": 14}[how]
    bad = field.bundle(2, tag="devel") if how == "wrong tag" else bundle
    if how == "tampered":
        bad = field.copy(bundle, tmp_path / "copy")
        file = bad / "tuf/bundle-targets.json"
        file.write_text(file.read_text().replace("board-lmp-2", "board-lmp-3"))
    contents = () if how == "no bundle" else (bad,)
    image = make_stick(tmp_path / "stick.img", f"{UUID}4", *contents)
    with plugged_in(image):
        served.await_records(1)
        until(lambda: not served.owed, "delivered")
    (record,) = results_on(image)

    assert ("refused", code) == (record.answer.verdict.value, record.answer.code)
    assert record.answer.message
    assert served.reboots == 0


def test_a_stick_that_asks_to_be_held_is_only_looked_at(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}5", bundle, **{"usb-update_hold": ""})
    with plugged_in(image):
        served.await_records(1)

    assert [("plan", 16)] == served.codes
    assert served.device.device.deployed() == served.device.device.deployed()[:1]


def test_a_read_only_stick_gets_its_result_at_the_next_visit(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}6", bundle)
    with plugged_in(image, read_only=True):
        until(lambda: served.reboots, "a reboot")
        assert len(served.owed) == 1
    assert () == results_on(image)

    served.reboot()
    with plugged_in(image):
        until(lambda: not served.owed, "delivered")

    said = [(record.kind.value, record.answer.code) for record in results_on(image)]
    assert said[:2] == [("install", 100), ("run", 0)]


def test_of_two_bundles_the_one_that_fits_is_chosen(
    field: Field, served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    other = field.bundle(9, hardware_id="another-board", target="another-lmp-9")
    image = make_stick(tmp_path / "stick.img", f"{UUID}7", other, bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")

    assert served.history[0].after.target == "board-lmp-2"


@pytest.mark.parametrize("kind", ["squashfs", "erofs", "blank"])
def test_a_medium_without_a_usable_file_system_is_told(
    served: ServedDevice, bundle: Path, tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "medium.img"
    loop_sticks.make_blank(image) if kind == "blank" else loop_sticks.make_refused(image, kind)
    good = make_stick(tmp_path / "good.img", f"{UUID}8", bundle)
    with plugged_in(image), plugged_in(good):
        until(lambda: served.reboots, "the good stick is served all the same")

    assert {14, 100} == {code for _, code in served.codes}


def test_twenty_sticks_at_once_are_attended_to_in_order(
    served: ServedDevice, tmp_path: Path
) -> None:
    uuids = [f"{UUID[:-1]}{n:02}" for n in range(20)]
    images = [make_stick(tmp_path / f"{uuid}.img", uuid) for uuid in uuids]
    sticks = [loop_sticks.attach(image) for image in images]
    try:
        served.await_records(20)
        until(lambda: not served.owed, "delivered")
    finally:
        for stick in sticks:
            loop_sticks.detach(stick)

    assert set(uuids) == {record.medium.fs_uuid for record in served.history}
    assert list(range(1, 21)) == [record.sequence for record in served.history]


def test_the_service_ends_when_asked(served: ServedDevice) -> None:
    assert served.stop(signal.SIGTERM) == 0


def test_a_killed_service_goes_on_where_it_was(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}9", bundle)
    with plugged_in(image):
        until((served.device.storage / "usb-update/pending").exists, "a promise")
        served.stop(signal.SIGKILL)
        served.start()
        until(lambda: served.reboots, "a reboot")
        served.reboot()
        until(lambda: ("run", 0) in served.codes, "the run")
    with opened(image) as place:
        assert list(place.rglob("*.txt"))

    assert served.device.current()["target"] == "board-lmp-2"
