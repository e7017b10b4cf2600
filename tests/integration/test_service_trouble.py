"""What the service does when things go wrong: dying sticks, full sticks, clocks that lie."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import udevd
from tests.field import Field
from tests.service import (
    ServedDevice,
    make_stick,
    opened,
    plugged_in,
    pull_out,
    results_on,
    serving,
    status,
    until,
)

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_udev, pytest.mark.needs_ostree]

UUID = "8b2a58a0-5d35-4c6f-9d6b-0123456789a"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2)


@pytest.fixture(scope="module")
def large_bundle(field: Field) -> Path:
    """Take long enough to copy for a hand to reach the stick."""
    files = {f"usr/lib/f{n:03}": os.urandom(128 * 1024) for n in range(240)}
    return field.bundle(2, files=files)


@pytest.fixture
def served(field: Field, tmp_path: Path) -> Iterator[ServedDevice]:
    with udevd.running(), serving(field.device(tmp_path / "device")) as served:
        yield served


# --- the stick dies ---------------------------------------------------------------------


def test_a_stick_pulled_at_any_moment_leaves_the_device_as_it_was_and_works_when_it_comes_back(
    served: ServedDevice, large_bundle: Path, tmp_path: Path
) -> None:
    """Seven sticks die between the first look and the end of the copy; the eighth stays."""
    master = make_stick(tmp_path / "master.img", f"{UUID}1", large_bundle)
    before = served.device.state()["deployed"]
    moments = random.Random(7)  # noqa: S311  no secret
    for round_ in range(7):
        image = tmp_path / f"stick-{round_}.img"
        subprocess.run(["cp", "--sparse=always", master, image], check=True)
        with plugged_in(image) as stick:
            until(lambda: status()["stage"] not in ("idle", "finished"), "somebody looks")
            time.sleep(moments.uniform(0, 0.4))  # where the hand is, is what is tested
            Path("/proc/sys/vm/drop_caches").write_text("3")
            pull_out(stick)
            until(lambda: status()["stage"] in ("idle", "finished"), "an end")
        if ("install", 100) in served.codes:
            until(lambda: served.reboots, "a reboot")
            break  # quicker than the hand: the update was whole
        assert before == served.device.state()["deployed"]
    else:
        codes = {code for _, code in served.codes}
        assert codes <= {11, 14, 15, 50, 1}, served.codes
        with plugged_in(master):
            until(lambda: served.reboots, "a reboot")
    served.reboot()

    assert ("run", 0) == served.codes[-1]
    assert served.device.current()["target"] == "board-lmp-2"


def test_a_full_stick_gets_its_result_at_the_next_visit(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = fill(make_stick(tmp_path / f"stick.img{udevd.LAPTOP}", f"{UUID}2", bundle))
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
        assert len(served.owed) == 1
    assert () == results_on(image)

    served.reboot()
    other = make_stick(tmp_path / "other.img", f"{UUID}3")
    with plugged_in(other):
        until(lambda: not served.owed, "delivered")

    assert 100 in {record.answer.code for record in results_on(other)}


def fill(image: Path) -> Path:
    """Leave no block free, on the laptop."""
    place = image.with_suffix(".mnt")
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        with (place / "photos").open("wb", buffering=0) as file:
            for size in (MIB, 1024):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
    finally:
        subprocess.run(["umount", place], check=True)
    return image.rename(image.with_suffix(""))


# --- the clock lies ---------------------------------------------------------------------


@pytest.fixture
def clocked(field: Field, tmp_path: Path) -> Iterator[tuple[ServedDevice, Path]]:
    """Yield a device, and the file that says by how many seconds its clock is wrong."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    with udevd.running(), serving(field.device(tmp_path / "device"), clock=clock) as served:
        yield served, clock


def set_clock(clock: Path, year: int) -> None:
    wrong = datetime(year, 1, 1, 0, 0, 30, tzinfo=UTC) - datetime.now(UTC)
    clock.write_text(str(int(wrong.total_seconds())))


def test_a_clock_at_1970_does_not_stop_an_update(
    clocked: tuple[ServedDevice, Path], bundle: Path, tmp_path: Path
) -> None:
    served, clock = clocked
    set_clock(clock, 1970)
    image = make_stick(tmp_path / "stick.img", f"{UUID}4", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
    (record,) = results_on(image)

    assert 100 == record.answer.code
    assert 1970 == record.started_utc.year


def test_a_clock_at_2100_refuses_and_a_clock_set_right_accepts(
    clocked: tuple[ServedDevice, Path], bundle: Path, tmp_path: Path
) -> None:
    served, clock = clocked
    set_clock(clock, 2100)
    image = make_stick(tmp_path / "stick.img", f"{UUID}5", bundle)
    with plugged_in(image):
        served.await_records(1)
        until(lambda: not served.owed, "delivered")
    (record,) = results_on(image)
    assert 12 == record.answer.code
    assert "clock" in record.answer.hint

    clock.write_text("0")
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")


@pytest.mark.parametrize("year", [1970, 2100])
def test_a_clock_that_jumps_during_an_attempt_changes_nothing(
    clocked: tuple[ServedDevice, Path], large_bundle: Path, tmp_path: Path, year: int
) -> None:
    served, clock = clocked
    image = make_stick(tmp_path / "stick.img", f"{UUID}6", large_bundle)
    with plugged_in(image):
        until(lambda: status()["stage"] == "copying" or served.reboots, "the copy")
        set_clock(clock, year)
        until(lambda: served.reboots, "a reboot")
    (record,) = results_on(image)

    assert 100 == record.answer.code
    assert 0 <= record.duration_s < 120


def test_nothing_unsigned_on_a_stick_widens_what_may_happen(
    field: Field, served: ServedDevice, tmp_path: Path
) -> None:
    """Attack: configuration, keys and scripts beside a bundle of another tag."""
    bundle = field.bundle(2, tag="devel")
    stick = tmp_path / "files"
    for name, text in {
        "sota.toml": '[pacman]\ntags = "devel"\n',
        "etc/sota/conf.d/99-force.toml": "[usb_update]\nrequire_bundle_metadata = false\n",
        "usb-update/force": "",
        "usb-update/autorun.sh": f"#!/bin/sh\ntouch {tmp_path}/owned\n",
        "99-usb-update.rules": f'RUN+="/bin/touch {tmp_path}/owned"\n',
    }.items():
        (stick / name).parent.mkdir(parents=True, exist_ok=True)
        (stick / name).write_text(text)
    before = served.device.state()["deployed"]
    image = make_stick(tmp_path / "stick.img", f"{UUID}8", bundle, *sorted(stick.iterdir()))
    with plugged_in(image):
        served.await_records(1)

    assert [("install", 15)] == served.codes
    assert before == served.device.state()["deployed"]
    assert not (tmp_path / "owned").exists()


def test_what_the_stick_says_is_readable_without_the_device(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}7", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")
    with opened(image) as place:
        (text,) = [path.read_text() for path in place.rglob("2*.txt")]

    assert "board-lmp-2" in text
    assert "Reboot" in text or "reboot" in text
