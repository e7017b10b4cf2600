"""The service's files in an image's root, and the examination of a device."""

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.adapters import doctor
from agent.adapters.installation import SHIPPED, Installation
from agent.core.config import Bootloader, Pacman, Provision, Settings, Storage, UsbUpdate
from agent.core.errors import StateError
from agent.core.finding import Finding, Level
from agent.faces.cli import usb_update

ROOT = Path(__file__).parents[2]
RULE = "etc/udev/rules.d/90-usb-update.rules"
UNITS = "etc/systemd/system"
NOW = datetime.now(UTC)


def test_the_service_is_put_in_place_and_starts_at_boot(tmp_path: Path) -> None:
    installation = Installation(tmp_path)

    changed = installation.install()

    assert {path.relative_to(tmp_path).name for path in changed} == {
        "90-usb-update.rules",
        "usb-update.service",
        "usb-update-run.service",
    }
    assert all(part.current for part in installation.parts())
    assert installation.enabled()
    link = tmp_path / UNITS / "multi-user.target.wants/usb-update.service"
    assert str(link.readlink()) == "/etc/systemd/system/usb-update.service"


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    Installation(tmp_path).install()

    assert Installation(tmp_path).install() == ()


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    Installation(tmp_path).install()
    (tmp_path / RULE).write_text("# of an older version\n")

    assert Installation(tmp_path).install() == (tmp_path / RULE,)


def test_uninstalling_leaves_nothing_of_ours_and_all_of_the_owners(tmp_path: Path) -> None:
    Installation(tmp_path, program="/opt/bin/usb-update").install()
    owners = tmp_path / UNITS / "usb-update.service.d/99-owner.conf"
    owners.write_text("[Service]\nMemoryMax=1G\n")

    Installation(tmp_path).uninstall()

    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [owners]
    assert Installation(tmp_path).uninstall() == ()


def test_a_device_with_its_own_storage_waits_for_its_own_promise(tmp_path: Path) -> None:
    Installation(tmp_path, storage="/data/sota/").install()

    drop_in = tmp_path / UNITS / "usb-update-run.service.d/50-this-device.conf"
    assert "ConditionPathExists=/data/sota/usb-update/pending\n" in drop_in.read_text()


def test_a_program_elsewhere_is_called_there(tmp_path: Path) -> None:
    Installation(tmp_path, program="/opt/venv/bin/usb-update").install()

    watch = tmp_path / UNITS / "usb-update.service.d/50-this-device.conf"
    assert "ExecStart=\nExecStart=/opt/venv/bin/usb-update watch\n" in watch.read_text()


def test_a_drop_in_that_is_not_needed_any_more_goes(tmp_path: Path) -> None:
    Installation(tmp_path, storage="/data/sota").install()
    Installation(tmp_path).install()

    assert not (tmp_path / UNITS / "usb-update-run.service.d/50-this-device.conf").exists()


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")

    with pytest.raises(StateError, match="etc"):
        Installation(tmp_path).install()


# --- beside a package -------------------------------------------------------------------


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    """A root into which a package has put the files of this version."""
    for file in SHIPPED:
        place = tmp_path / file.packaged / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / file.source / file.name).read_bytes())
    return tmp_path


def test_what_a_package_brought_is_not_copied(packaged: Path) -> None:
    """A copy in /etc would hide what the package's next version brings."""
    installation = Installation(packaged)

    assert (installation.install(), installation.enabled()) == ((), True)
    assert not (packaged / RULE).exists()
    link = packaged / UNITS / "multi-user.target.wants/usb-update.service"
    assert str(link.readlink()) == "/usr/lib/systemd/system/usb-update.service"


def test_a_packaged_device_with_its_own_storage_gets_its_drop_in(packaged: Path) -> None:
    changed = Installation(packaged, storage="/data/sota").install()

    assert changed == (packaged / UNITS / "usb-update-run.service.d/50-this-device.conf",)


def test_a_package_of_another_version_is_overruled(packaged: Path) -> None:
    (packaged / "usr/lib/udev/rules.d/90-usb-update.rules").write_text("# another version\n")

    assert Installation(packaged).install() == (packaged / RULE,)


def test_a_copy_beside_the_package_is_the_one_in_effect(packaged: Path) -> None:
    (packaged / RULE).parent.mkdir(parents=True)
    (packaged / RULE).write_text("# of an older version\n")

    (rule, *_) = Installation(packaged).parts()

    assert (rule.place, rule.current) == (packaged / RULE, False)


def test_uninstalling_leaves_the_package_alone(packaged: Path) -> None:
    installation = Installation(packaged)
    installation.install()

    installation.uninstall()

    assert (installation.enabled(), installation.packaged) == (False, True)
    assert all((packaged / file.packaged / file.name).exists() for file in SHIPPED)


# --- the command ------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "sota.toml"
    (tmp_path / "sota").mkdir()
    path.write_text(f'[storage]\npath = "{tmp_path}/sota"\n')
    return ["--config", str(path)]


def test_install_and_uninstall_from_the_command_line(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").mkdir()
    root = ["--root", str(tmp_path / "image"), *config]

    installed = usb_update(["service", "install", "--json", *root])
    said = json.loads(capsys.readouterr().out)
    removed = usb_update(["service", "uninstall", *root])

    assert (installed, removed) == (0, 0)
    assert str(tmp_path / "image" / RULE) in said["installed"]
    assert f"removed {tmp_path / 'image' / RULE}" in capsys.readouterr().out


def test_a_root_that_is_not_there_is_not_made(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tmp_path / "imgae"

    assert usb_update(["service", "install", "--root", str(lost), *config]) == 1
    assert (lost.exists(), "--root" in capsys.readouterr().err) == (False, True)


def test_an_image_is_installed_by_its_own_configuration(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/sota/conf.d/10-place.toml", '[storage]\npath = "/data/sota"\n')

    usb_update(["service", "install", "--root", str(tmp_path)])

    drop_in = tmp_path / UNITS / "usb-update-run.service.d/50-this-device.conf"
    assert "ConditionPathExists=/data/sota/usb-update/pending\n" in drop_in.read_text()


def test_an_image_is_examined_for_what_it_holds_and_not_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "usr/lib/sota/conf.d/10.toml", '[provision]\nprimary_ecu_hardware_id = "b"\n')
    write(tmp_path / "usr/lib/sota/tuf/ci/1.root.json", "{}")
    for program in ("mount", "umount", "udevadm", "ostree"):
        write(tmp_path / "usr/bin" / program, "#!/bin/sh\n").chmod(0o755)
    usb_update(["service", "install", "--root", str(tmp_path)])
    capsys.readouterr()

    code = usb_update(["service", "doctor", "--json", "--root", str(tmp_path)])

    findings = json.loads(capsys.readouterr().out)["findings"]
    problems = [f["topic"] for f in findings if f["level"] != "ok"]
    assert (code, problems) == (0, ["boot loader"])
    assert not {"permissions", "clock", "database"} & {f["topic"] for f in findings}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_doctor_exits_1_when_something_is_missing_and_says_how_to_mend_it(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").mkdir()
    code = usb_update(["service", "doctor", "--json", "--root", str(tmp_path / "image"), *config])

    said = json.loads(capsys.readouterr().out)
    assert (code, said["level"]) == (1, "fail")
    (rule,) = [f for f in said["findings"] if "90-usb-update.rules" in f["message"]]
    assert "usb-update service install" in rule["hint"]


def test_doctor_speaks_to_people(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").mkdir()
    usb_update(["service", "doctor", "--root", str(tmp_path / "image"), *config])

    assert "  -> run 'usb-update service install'" in capsys.readouterr().out


# --- the examination --------------------------------------------------------------------


def settings(tmp_path: Path, **parts: object) -> Settings:
    storage = tmp_path / "sota"
    storage.mkdir(exist_ok=True)
    return Settings(storage=Storage(path=str(storage)), **parts)  # type: ignore[arg-type]


def found(settings: Settings, topic: str, *, now: datetime = NOW) -> list[Finding]:
    findings = doctor.examine(settings, (), enabled=True, wants_apps=False, now=now)
    return [finding for finding in findings if finding.topic == topic]


def test_every_problem_comes_with_a_hint(tmp_path: Path) -> None:
    findings = doctor.examine(
        settings(tmp_path), Installation(tmp_path).parts(), enabled=False, wants_apps=True
    )

    assert all(finding.hint for finding in findings if finding.level is not Level.OK)
    assert not any(finding.hint for finding in findings if finding.level is Level.OK)


@pytest.mark.parametrize("year", [1970, 2100])
def test_an_implausible_clock_is_found(tmp_path: Path, year: int) -> None:
    (clock,) = found(settings(tmp_path), "clock", now=datetime(year, 1, 1, tzinfo=UTC))

    assert clock.level is Level.WARN


def test_the_programs_of_the_boot_loader_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    findings = found(settings(tmp_path, bootloader=Bootloader(rollback_mode="fiovb")), "program")

    assert "no 'fiovb_setenv' on PATH" in [finding.message for finding in findings]
    assert {finding.level for finding in findings} == {Level.FAIL}


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    device = settings(tmp_path)
    Path(device.storage.database).write_bytes(b"not a database, but long enough to be one" * 99)

    (database,) = found(device, "database")

    assert database.level is Level.FAIL


def test_a_database_is_read_and_not_changed(tmp_path: Path) -> None:
    device = settings(tmp_path)
    with sqlite3.connect(device.storage.database) as db:
        db.execute("CREATE TABLE version(version INTEGER)")
        db.execute("INSERT INTO version VALUES(25)")
    db.close()
    before = Path(device.storage.database).read_bytes()

    (database,) = found(device, "database")

    assert (database.level, "schema 25" in database.message) == (Level.OK, True)
    assert Path(device.storage.database).read_bytes() == before


def test_a_reboot_mark_that_outlives_the_reboot_is_found(tmp_path: Path) -> None:
    lasting = Bootloader(reboot_sentinel_dir="/usr/lib/session")
    volatile = Bootloader(reboot_sentinel_dir="/dev/shm/session/deep")

    (first,) = found(settings(tmp_path, bootloader=lasting), "reboot mark")
    (second,) = found(settings(tmp_path, bootloader=volatile), "reboot mark")

    assert (first.level, second.level) == (Level.FAIL, Level.OK)


def test_without_proc_the_reboot_mark_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a chroot, where an image is made."""
    monkeypatch.setattr(doctor, "MOUNTS", tmp_path / "none")
    monkeypatch.setattr(doctor, "FILE_SYSTEMS", tmp_path / "none")

    (mark,) = found(settings(tmp_path), "reboot mark")

    assert mark.level is Level.WARN


def test_reboots_that_wait_for_a_window_that_never_opens_are_found(tmp_path: Path) -> None:
    (reboot,) = found(settings(tmp_path, usb_update=UsbUpdate(reboot="window")), "reboot")

    assert reboot.level is Level.FAIL


def test_a_device_without_roots_or_hardware_id_is_warned(tmp_path: Path) -> None:
    bare = settings(tmp_path)
    ready = settings(tmp_path, provision=Provision(primary_ecu_hardware_id="board"))

    assert found(bare, "hardware ID")[0].level is Level.WARN
    assert found(bare, "trust")[0].level is Level.WARN
    assert found(ready, "hardware ID")[0].level is Level.OK


def test_a_missing_sysroot_is_found(tmp_path: Path) -> None:
    lost = settings(tmp_path, pacman=Pacman(sysroot=str(tmp_path / "none")))

    assert Level.FAIL in {finding.level for finding in found(lost, "storage")}


@pytest.mark.skipif(
    "squashfs" not in Path("/proc/filesystems").read_text().split(), reason="no squashfs here"
)
def test_the_doctor_says_how_a_bundle_in_one_file_would_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    (told,) = found(Settings(), "packs")

    assert told.level is Level.OK
    assert told.message.startswith("copied and verified")
