"""The units, judged by systemd's own tools."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
WATCH, RUN = SYSTEMD / "usb-update.service", SYSTEMD / "usb-update-run.service"
EXPOSURE_LIMIT = 4.0

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)


def settings_of(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@needs_analyze
@pytest.mark.parametrize("unit", [WATCH, RUN], ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_the_units(unit: Path, tmp_path: Path) -> None:
    """The program is not installed here, so a true one stands for it; the rest is as shipped."""
    for shipped in (WATCH, RUN):
        text = shipped.read_text().replace("/usr/bin/usb-update", shutil.which("true") or "")
        (tmp_path / shipped.name).write_text(text)

    argv = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    ours = [line for line in done.stderr.splitlines() if "usb-update" in line]
    assert ours == []


@needs_analyze
def test_the_exposure_of_the_daemon_stays_under_4() -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(WATCH)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")

    match = re.search(r"exposure level for usb-update.service: ([0-9.]+)", done.stdout)
    assert match, done.stdout
    assert float(match[1]) < EXPOSURE_LIMIT


def test_systemd_itself_skips_the_post_boot_unit_when_nothing_is_promised() -> None:
    assert settings_of(RUN)["ConditionPathExists"] == ["/var/sota/usb-update/pending"]


def test_the_post_boot_unit_follows_docker_and_success_with_firmware_is_success() -> None:
    run = settings_of(RUN)

    assert {"docker.service", "local-fs.target"} <= set(run["After"][0].split())
    assert {"5", "90"} <= set(run["SuccessExitStatus"][0].split())


def test_the_daemon_comes_after_the_post_boot_unit() -> None:
    """Its stick may still be in: the promise must be kept before anybody looks at it."""
    assert "usb-update-run.service" in settings_of(WATCH)["After"][0].split()


def test_the_daemon_mounts_where_nobody_else_sees_it() -> None:
    assert settings_of(WATCH)["PrivateMounts"] == ["yes"]


def test_the_first_stick_may_be_opened_although_its_driver_was_not_loaded_before() -> None:
    """systemd looks names up in /proc/devices when the daemon starts; numbers need no driver.

    Source: Linux, Documentation/admin-guide/devices.txt: sd 8 and 65, mmc 179, blkext 259.
    """
    allowed = settings_of(WATCH)["DeviceAllow"]

    assert {f"block-{major} rw" for major in (8, 65, 179, 259)} <= set(allowed)


@pytest.mark.needs_root
def test_the_daemon_may_see_the_mount_namespace_of_a_process_with_all_rights() -> None:
    """``ostree admin deploy`` reads that of process 1 first, and fails where it cannot."""
    bounds = settings_of(WATCH)["CapabilityBoundingSet"][0].lower().replace("cap_", "+")
    argv = ["setpriv", "--bounding-set", f"-all,{','.join(bounds.split())}", "readlink"]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        link = f"/proc/{process.pid}/ns/mnt"
        done = subprocess.run([*argv, link], capture_output=True, check=False)
        process.communicate()

    assert done.returncode == 0


def test_the_daemon_may_mount_a_bundle_in_one_file() -> None:
    """By a loop device, and by dm-verity; see adapters/packs."""
    allowed = set(settings_of(WATCH)["DeviceAllow"])

    assert {
        "/dev/loop-control rw",
        "block-7 rw",
        "/dev/mapper/control rw",
        "block-device-mapper rw",
    } <= allowed


def test_what_an_attempt_had_stopped_is_started_whatever_ended_the_daemon() -> None:
    assert settings_of(WATCH)["ExecStopPost"] == ["-/usr/bin/usb-update service resume"]


def test_the_watchdog_lets_the_daemon_sleep_for_more_than_a_minute() -> None:
    (minutes,) = settings_of(WATCH)["WatchdogSec"]

    assert int(minutes.removesuffix("min")) / 2 > 1
