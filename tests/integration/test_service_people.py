"""What a person may tell the service, and what it tells a person; real udev, real sticks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.faces.cli import usb_update
from tests import udevd
from tests.field import Field, typed
from tests.service import (
    ROOT,
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

UUID = "7b2a58a0-5d35-4c6f-9d6b-0123456789a"


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


def asks() -> bool:
    return status()["stage"] in ("countdown", "waiting-for-confirmation")


def test_a_confirmed_update_waits_for_a_yes(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    served.restart(consent="confirm")
    image = make_stick(tmp_path / "stick.img", f"{UUID}1", bundle)
    early = typed(usb_update, "confirm")
    with plugged_in(image):
        until(asks, "the question")
        assert served.reboots == 0
        yes = typed(usb_update, "confirm")
        until(lambda: served.reboots, "a reboot")

    assert (1, 0) == (early.code, yes.code)
    assert [("install", 100)] == served.codes


@pytest.mark.parametrize("consent", ["confirm", "countdown"])
def test_pulling_the_stick_is_a_no(
    served: ServedDevice, bundle: Path, tmp_path: Path, consent: str
) -> None:
    served.restart(consent=consent, countdown_s=600)
    image = make_stick(tmp_path / "stick.img", f"{UUID}2", bundle)
    before = served.device.state()["deployed"]
    with plugged_in(image) as stick:
        until(asks, "the question")
        pull_out(stick)
        served.await_records(1)

    assert "not_confirmed" == served.history[0].answer.reason
    assert before == served.device.state()["deployed"]
    assert served.reboots == 0


def test_a_countdown_that_nobody_cancels_installs(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    served.restart(consent="countdown", countdown_s=1)
    image = make_stick(tmp_path / "stick.img", f"{UUID}3", bundle)
    with plugged_in(image):
        until(lambda: served.reboots, "a reboot")

    assert [("install", 100)] == served.codes


def test_with_auto_off_a_stick_is_only_read(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    served.restart(auto=False)
    image = make_stick(tmp_path / "stick.img", f"{UUID}4", bundle)
    with plugged_in(image):
        served.await_records(1)
        until(lambda: not served.owed, "delivered")
    (record,) = results_on(image)

    assert ("plan", 16) == (record.kind.value, record.answer.code)
    assert "auto = false" in record.answer.message
    assert served.reboots == 0


def test_outside_its_window_the_device_is_staged_at_once_and_rebooted_later(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    day = f"{datetime.now(UTC) + timedelta(days=2):%a}"
    served.restart(reboot="window", windows=[f"{day} 03:00-03:05"], timezone="UTC")
    image = make_stick(tmp_path / "stick.img", f"{UUID}5", bundle)
    with plugged_in(image):
        until(lambda: "window" in str(status()["stage"]), "it waits for its window")
        until(lambda: not served.owed, "delivered")
    assert [("install", 100)] == served.codes
    assert served.reboots == 0

    served.restart(windows=["Mon-Sun 00:00-24:00"])
    until(lambda: served.reboots, "a reboot: it was owed across a restart of the service")


def test_a_device_that_never_reboots_by_itself_says_what_to_do(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    served.restart(reboot="never")
    image = make_stick(tmp_path / "stick.img", f"{UUID}6", bundle)
    with plugged_in(image):
        until(lambda: status()["stage"] == "finished", "an answer")
    (record,) = results_on(image)
    with opened(image) as place:
        (text,) = [path.read_text() for path in place.rglob("2*.txt")]

    assert served.reboots == 0
    assert record.answer.next_step == "reboot-then-run"
    assert "eboot" in text


def test_a_device_is_ready_again_when_the_stick_has_left(
    served: ServedDevice, tmp_path: Path
) -> None:
    assert status()["stage"] == "idle"
    image = make_stick(tmp_path / "stick.img", f"{UUID}8")
    with plugged_in(image):
        served.await_records(1)
        until(lambda: status()["stage"] == "finished", "an answer")
    until(lambda: status()["stage"] == "idle", "ready again")


def test_who_follows_is_first_told_the_outcome_that_stands(
    served: ServedDevice, tmp_path: Path
) -> None:
    with plugged_in(make_stick(tmp_path / "stick.img", f"{UUID}9")):
        served.await_records(1)
        until(lambda: status()["stage"] == "finished", "an answer")
        served.stop()
    served.start()
    with following() as told:
        first = next(told)

    assert ("finished", 14) == (first["stage"], first["code"])


def test_a_program_follows_from_looking_to_safe_to_remove(
    served: ServedDevice, bundle: Path, tmp_path: Path
) -> None:
    image = make_stick(tmp_path / "stick.img", f"{UUID}7", bundle)
    with following() as told:
        lines = [next(told)]
        with plugged_in(image):
            until(lambda: served.reboots, "a reboot")
        served.stop()
        lines += told
    lines = lines[1:]  # the first one is what stood before
    stages = [line["stage"] for line in lines]
    moods = list(dict.fromkeys(line["mood"] for line in lines))

    assert stages.index("looking") < stages.index("copying") < stages.index("finished")
    assert lines[stages.index("copying")]["remove_stick"] is False
    assert lines[stages.index("finished")]["remove_stick"] is True
    assert moods.index("looking") < moods.index("working") < len(moods) - moods[::-1].index("done")


@contextmanager
def following() -> Iterator[Iterator[dict[str, Any]]]:
    """Type ``status --follow --json`` for the duration."""
    argv = [sys.executable, "-m", "agent", "status", "--follow", "--json"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout
        try:
            yield map(json.loads, follower.stdout)
        finally:
            follower.terminate()
