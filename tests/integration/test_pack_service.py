"""Plug in a stick with a pack and walk away: the service, with real udev and real sticks."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters import packfile
from tests import udevd
from tests.field import Field
from tests.integration.test_pack import flip
from tests.integration.test_pack_device import CONTENT, assert_closed, packed
from tests.integration.test_service import status
from tests.service import (
    ServedDevice,
    make_stick,
    plugged_in,
    results_on,
    serving,
    until,
)

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_udev,
    pytest.mark.needs_ostree,
    pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="no mksquashfs here"),
]

UUID = "6b2a58a0-5d35-4c6f-9d6b-0123456789b"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2, files=CONTENT)


@pytest.fixture(scope="module")
def file(field: Field, bundle: Path) -> Path:
    return packed(field, bundle)


@pytest.fixture
def served(field: Field, tmp_path: Path) -> Iterator[ServedDevice]:
    with udevd.running(), serving(field.device(tmp_path / "device")) as served:
        yield served


def directory_with(place: Path, *files: Path) -> Path:
    """Make the directory ``usb-update`` that goes onto a stick."""
    made = place / "usb-update"
    made.mkdir()
    for file in files:
        shutil.copy(file, made)
    return made


def test_a_stick_with_a_pack_updates_the_device_and_carries_both_results(
    served: ServedDevice, file: Path, tmp_path: Path
) -> None:
    content = directory_with(tmp_path, file)
    image = make_stick(tmp_path / "stick.img", f"{UUID}1", content)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        assert_closed(served.device)
        served.reboot()
        until(lambda: not served.owed and len(served.history) == 2, "the run's record")
    served.stop()
    install, run = results_on(image)

    assert [("install", 100), ("run", 0)] == served.codes
    assert (install.after.target, run.after.target) != ("", "")
    assert served.device.current()["target"] == "board-lmp-2"


def test_the_highest_version_wins_however_it_is_wrapped(
    served: ServedDevice, field: Field, bundle: Path, file: Path, tmp_path: Path
) -> None:
    newer = packed(field, field.bundle(3, files=CONTENT))
    content = directory_with(tmp_path, file, newer)
    image = make_stick(tmp_path / "stick.img", f"{UUID}2", content, bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        served.reboot()
        until(lambda: not served.owed and len(served.history) == 2, "the run's record")

    assert served.device.current()["target"] == "board-lmp-3"


def test_a_damaged_pack_is_told_on_the_stick_and_mended_by_another_copy(
    served: ServedDevice, file: Path, tmp_path: Path
) -> None:
    content = directory_with(tmp_path, file)
    position = packfile.read_header(file).seal.offset + 1_000_000
    flip(content / file.name, position)
    image = make_stick(tmp_path / "stick.img", f"{UUID}3", content)
    with plugged_in(image):
        until(lambda: served.history and status()["stage"] == "finished", "an end")
        assert not served.owed
    served.stop()  # else it would look at the stick that we look at
    (told,) = results_on(image)
    assert (told.answer.code, told.answer.reason) == (50, "pull")
    assert "not the one that was signed" in told.answer.message
    assert_closed(served.device)

    shutil.copy(file, content)
    mended = make_stick(tmp_path / "mended.img", f"{UUID}5", content)
    served.start()
    with plugged_in(mended):
        until(lambda: served.reboots, "a reboot")


def test_what_is_no_pack_is_told_on_the_stick(served: ServedDevice, tmp_path: Path) -> None:
    content = directory_with(tmp_path)
    (content / "update.usbu").write_bytes(b"USBUPACK" + bytes(100))
    image = make_stick(tmp_path / "stick.img", f"{UUID}4", content)
    with plugged_in(image):
        until(lambda: served.history and status()["stage"] == "finished", "an end")
        assert not served.owed
    served.stop()
    (told,) = results_on(image)

    assert (told.answer.code, told.answer.reason) == (15, "pack_invalid")


def test_a_service_that_was_killed_over_a_pack_starts_clean(
    served: ServedDevice, file: Path, tmp_path: Path
) -> None:
    """The copy lies in the device's storage; the next life removes it."""
    served.stop(signal.SIGKILL)
    left = served.device.storage / "usb-update/pack-image"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(file.read_bytes())
    served.start()

    assert not left.exists()
