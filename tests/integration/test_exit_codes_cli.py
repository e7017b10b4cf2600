"""Every exit status of ``aklite-offline``, reached as a person reaches it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import wiring
from agent.adapters import files
from agent.core.config import Storage
from agent.core.errors import BundleError
from tests.contract.test_bootenv import ProgramLoader
from tests.docker_engine import Engine
from tests.field import CANNOT_START, SLEEPS, Field, FieldDevice, no_engine
from tests.ostree_device import content_objects, object_path, ostree

pytestmark = pytest.mark.needs_ostree

BALLAST_BYTES = 8 * 1024 * 1024
SMALL_DISK = "size=5M"
LARGER_DISK = "size=64M"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    """Version 2 of the rootfs. Shared: copy what you damage."""
    return field.bundle(2)


@pytest.fixture(scope="module")
def app_bundle(field: Field) -> Path:
    """Version 2 with an App. Shared: copy what you damage."""
    return field.bundle(2, apps=[field.app("web")], images=[field.image()])


@pytest.fixture
def device(field: Field, tmp_path: Path) -> FieldDevice:
    """A device that has no Apps and knows nothing but its roots."""
    return field.device(tmp_path / "device")


@pytest.fixture
def app_device(field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FieldDevice:
    """A device with a compose program, whose engine does not answer."""
    for name, value in no_engine().items():
        monkeypatch.setenv(name, value)
    return field.device(tmp_path / "device", apps=True)


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: FieldDevice) -> ProgramLoader:
    """``fw_printenv`` and ``fw_setenv`` on PATH, for ``device``."""
    (tmp_path / "loader").mkdir()
    made = ProgramLoader(tmp_path / "loader", "fw")
    monkeypatch.setenv("PATH", f"{tmp_path / 'loader/bin'}:{os.environ['PATH']}")
    device.configure("bootloader", rollback_mode="uboot_masked")
    return made


# --- what check and install refuse alike -----------------------------------------------------


@dataclass
class Case:
    """What a test arranges, and where."""

    field: Field
    device: FieldDevice
    good: Path
    scratch: Path

    def copy(self) -> Path:
        return self.field.copy(self.good, self.scratch / "copy")

    def edited(self, name: str, edit: Callable[[bytes], bytes]) -> Path:
        """Return a copy of the bundle with one file of ``tuf`` edited."""
        copy = self.copy()
        file = copy / "tuf" / name
        file.write_bytes(edit(file.read_bytes()))
        return copy

    def without(self, name: str) -> Path:
        """Return a copy of the bundle that lacks one file or directory."""
        copy = self.copy()
        gone = copy / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        return copy


def other_signature(document: bytes) -> bytes:
    """Replace the first signature by a well-formed one of something else."""
    signed = json.loads(document)
    first = signed["signatures"][0]
    first["sig"] = ("A" if first["sig"][0] != "A" else "B") + first["sig"][1:]
    return json.dumps(signed).encode()


def commit_of(bundle: Path) -> str:
    targets = json.loads((bundle / "tuf/targets.json").read_bytes())["signed"]["targets"]
    (entry,) = targets.values()
    return str(entry["hashes"]["sha256"])


def a_forged_role(case: Case) -> Path:
    return case.edited("timestamp.json", other_signature)


def another_board(case: Case) -> Path:
    return case.field.bundle(2, hardware_id="other-board")


def no_commit(case: Case) -> Path:
    commit = commit_of(case.good)
    return case.without(f"ostree_repo/objects/{commit[:2]}/{commit[2:]}.commit")


def no_rootfs_at_all(case: Case) -> Path:
    return case.without("ostree_repo")


def garbled_metadata(case: Case) -> Path:
    return case.edited("timestamp.json", lambda _: b"{")


def older_metadata(case: Case) -> Path:
    assert case.device.check(case.field.bundle(3)).code == 16
    return case.good


def an_expired_bundle(case: Case) -> Path:
    shop = case.field.workshop
    shop.now = datetime.now(UTC) - timedelta(days=60)
    try:
        return case.field.bundle(2, expires_in_days=1)
    finally:
        shop.now = datetime.now(UTC)


def no_tuf(case: Case) -> Path:
    return case.without("tuf")


def no_timestamp(case: Case) -> Path:
    return case.without("tuf/timestamp.json")


def no_list_of_targets(case: Case) -> Path:
    return case.without("tuf/bundle-targets.json")


def a_forged_list_of_targets(case: Case) -> Path:
    return case.edited("bundle-targets.json", other_signature)


def a_garbled_list_of_targets(case: Case) -> Path:
    return case.edited("bundle-targets.json", lambda _: b"\xff\xfe")


def another_tag(case: Case) -> Path:
    case.device.configure("pacman", tags="devel")
    return case.good


def a_ci_bundle_on_a_production_device(case: Case) -> Path:
    case.device.configure("usb_update", device_type="prod")
    return case.good


def an_unfinished_installation(case: Case) -> Path:
    assert case.device.install(case.good).code == 100
    return case.good


def an_older_version(case: Case) -> Path:
    case.device.update(case.good)
    return case.field.bundle(1)


def what_already_runs(case: Case) -> Path:
    case.device.update(case.good)
    return case.good


REFUSED: tuple[tuple[Callable[[Case], Path], int, str], ...] = (
    (what_already_runs, 0, "already_installed"),
    (a_forged_role, 4, "metadata_update"),
    (another_board, 6, "hardware_id_mismatch"),
    (no_commit, 8, "commit_missing"),
    (no_rootfs_at_all, 8, "commit_missing"),
    (garbled_metadata, 11, "metadata_invalid"),
    (older_metadata, 11, "metadata_rollback"),
    (an_expired_bundle, 12, "metadata_expired"),
    (no_tuf, 14, "metadata_not_found"),
    (no_timestamp, 14, "metadata_not_found"),
    (no_list_of_targets, 15, "bundle_metadata_missing"),
    (a_garbled_list_of_targets, 15, "bundle_metadata_invalid"),
    (a_forged_list_of_targets, 15, "bundle_signature"),
    (another_tag, 15, "bundle_tag"),
    (a_ci_bundle_on_a_production_device, 15, "bundle_type"),
    (an_unfinished_installation, 30, "installation_in_progress"),
    (an_older_version, 102, "downgrade"),
)


@pytest.mark.parametrize(
    ("arrange", "code", "reason"), REFUSED, ids=[f"{a.__name__}-{c}" for a, c, _ in REFUSED]
)
def test_check_and_install_refuse(  # noqa: PLR0917  fixtures and parameters, by name
    arrange: Callable[[Case], Path],
    code: int,
    reason: str,
    field: Field,
    device: FieldDevice,
    bundle: Path,
    tmp_path: Path,
) -> None:
    device.check(bundle)
    offered = arrange(Case(field, device, bundle, tmp_path))
    # Metadata that is good is remembered, whatever comes of the content.
    device.check(offered)
    before = device.state()

    checked, installed = device.check(offered, "--json"), device.install(offered, "--json")

    assert (checked.code, installed.code) == (code, code)
    assert (checked.json["reason"], installed.json["reason"]) == (reason, reason)
    assert installed.json["message"]
    assert before == device.state()


def test_a_name_the_bundle_does_not_list(device: FieldDevice, bundle: Path) -> None:
    assert device.check(bundle, "--target", "board-lmp-9").code == 6
    assert device.install(bundle, "--target", "board-lmp-9").code == 6


@pytest.mark.usefixtures("loader")
def test_boot_firmware_of_the_update_before_waits_for_its_reboot(
    device: FieldDevice, bundle: Path, loader: ProgramLoader
) -> None:
    loader.put("bootupgrade_available", "1")

    assert device.check(bundle).code == 90
    assert device.install(bundle).code == 90

    loader.put("bootupgrade_available", "0")
    assert device.install(bundle).code == 100


def test_an_app_that_is_not_on_the_stick(
    app_device: FieldDevice, app_bundle: Path, field: Field, tmp_path: Path
) -> None:
    copy = field.copy(app_bundle, tmp_path / "copy")
    (uri,) = copy.glob("apps/apps/web/*/uri")
    uri.unlink()

    assert app_device.check(copy).code == 8
    answer = app_device.install(copy)

    assert answer.code == 8
    assert "App 'web'" in answer.stdout


# --- install: failures -----------------------------------------------------------------------


class TestUsage:
    def test_no_command(self, device: FieldDevice) -> None:
        assert device.process("").code == 1

    def test_an_unknown_option_is_answered_with_the_usage_line(self, device: FieldDevice) -> None:
        answer = device.offline("install", "--src-dir", "x", "--fast")

        assert answer.code == 1
        assert answer.stderr.startswith("usage: aklite-offline")
        assert "--fast" in answer.stderr

    def test_no_source(self, device: FieldDevice) -> None:
        answer = device.offline("install")

        assert answer.code == 1
        assert answer.stderr.startswith("usage: aklite-offline install")

    def test_the_next_step_names_the_program_that_was_called(
        self, device: FieldDevice, bundle: Path
    ) -> None:
        """Where only one of the two is installed, the other's name helps nobody."""
        for call, name in ((device.offline, "aklite-offline"), (device.usb_update, "usb-update")):
            answer = call("check", "-s", bundle)

            assert answer.code == 16
            assert f"Run '{name} install' with the same source." in answer.stdout

    def test_a_source_that_is_not_there(self, device: FieldDevice, tmp_path: Path) -> None:
        for command in ("check", "install"):
            answer = device.offline(command, "-s", tmp_path / "nowhere")
            assert answer.code == 1
            told = f"'{tmp_path / 'nowhere'}' is neither a directory nor a file"
            assert told in answer.stdout.lower()

    @pytest.mark.parametrize("command", ["install", "run", "check", "current"])
    def test_a_configuration_that_is_not_toml(
        self, device: FieldDevice, bundle: Path, command: str
    ) -> None:
        device.config.write_text("[pacman\n", encoding="utf-8")
        source = ("-s", bundle) if command in ("install", "check") else ()

        answer = device.offline(command, *source)

        assert answer.code == 1
        assert str(device.config) in answer.stdout + answer.stderr

    def test_a_value_that_does_not_fit(self, device: FieldDevice, bundle: Path) -> None:
        device.configure("pacman", storage_watermark=300)

        answer = device.install(bundle)

        assert answer.code == 1
        assert "storage_watermark" in answer.stdout

    def test_another_agent_at_work(self, device: FieldDevice, bundle: Path) -> None:
        with files.locked(device.lock):
            answers = [device.install(bundle), device.check(bundle), device.run()]
            assert device.offline("current").code == 0

        assert [1, 1, 1] == [answer.code for answer in answers]
        assert "another update agent" in answers[0].stdout.lower()
        assert device.install(bundle).code == 100

    def test_a_database_that_is_none(self, device: FieldDevice, bundle: Path) -> None:
        device.database.write_bytes(b"not a database at all" * 100)

        answer = device.install(bundle)

        assert answer.code == 1
        assert str(device.database) in answer.stdout

    def test_a_sysroot_that_is_none(self, device: FieldDevice, bundle: Path) -> None:
        device.configure("pacman", sysroot="/nonexistent/sysroot")

        answer = device.install(bundle)

        assert answer.code == 1
        assert "/nonexistent/sysroot" in answer.stdout


class TestContentThatCannotBeCopied:
    def refused(self, device: FieldDevice, damaged: Path, good: Path) -> str:
        """Install the damaged bundle: 50, nothing changed, and the good one goes in."""
        device.check(good)
        before = device.state()

        answer = device.install(damaged)

        assert answer.code == 50
        assert before == device.state()
        assert device.install(good).code == 100
        return answer.stdout

    def test_a_damaged_file_of_the_rootfs(
        self, device: FieldDevice, bundle: Path, field: Field, tmp_path: Path
    ) -> None:
        copy = field.copy(bundle, tmp_path / "copy")
        for one, another in zip(
            objects := content_objects(copy / "ostree_repo"), objects[1:], strict=False
        ):
            shutil.copy(another, one)

        assert commit_of(bundle) in self.refused(device, copy, bundle)

    def test_a_missing_file_of_the_rootfs(
        self, device: FieldDevice, bundle: Path, field: Field, tmp_path: Path
    ) -> None:
        copy = field.copy(bundle, tmp_path / "copy")
        for file in content_objects(copy / "ostree_repo"):
            file.unlink()

        self.refused(device, copy, bundle)

    def test_a_damaged_commit(
        self, device: FieldDevice, bundle: Path, field: Field, tmp_path: Path
    ) -> None:
        copy = field.copy(bundle, tmp_path / "copy")
        commit = object_path(copy / "ostree_repo", commit_of(bundle), "commit")
        commit.write_bytes(commit.read_bytes()[::-1])

        self.refused(device, copy, bundle)

    @pytest.mark.parametrize("damage", [Path.unlink, lambda blob: blob.write_bytes(b"damaged")])
    def test_a_blob_of_an_app(
        self,
        damage: Callable[[Path], object],
        app_device: FieldDevice,
        app_bundle: Path,
        field: Field,
        tmp_path: Path,
    ) -> None:
        copy = field.copy(app_bundle, tmp_path / "copy")
        largest = max((copy / "apps/blobs/sha256").iterdir(), key=lambda file: file.stat().st_size)
        damage(largest)

        assert largest.name in self.refused(app_device, copy, app_bundle)

    @pytest.mark.needs_root
    def test_a_full_disk(self, field: Field, small_disk: Path) -> None:
        device = field.device(small_disk / "device")
        bundle = field.bundle(5, files={"usr/share/ballast": os.urandom(BALLAST_BYTES)})
        device.check(bundle)
        before = device.state()

        answer = device.install(bundle)

        assert answer.code == 50
        assert "no space" in answer.stdout.lower() or "does not fit" in answer.stdout
        assert before == device.state()
        remount(small_disk, LARGER_DISK)
        assert device.install(bundle).code == 100

    @pytest.mark.needs_root
    def test_a_disk_without_inodes(self, field: Field, small_disk: Path) -> None:
        remount(small_disk, LARGER_DISK)
        device = field.device(small_disk / "device")
        bundle = field.bundle(6, files={f"usr/share/f{n}": b"%d" % n for n in range(300)})
        device.check(bundle)
        before = device.state()
        volume = os.statvfs(small_disk)
        remount(small_disk, f"nr_inodes={volume.f_files - volume.f_ffree + 100}")

        answer = device.install(bundle)

        assert answer.code == 50
        assert "free inodes: " in answer.stdout
        assert before == device.state()
        remount(small_disk, "nr_inodes=0")
        assert device.install(bundle).code == 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def test_a_compose_file_that_compose_refuses(app_device: FieldDevice, field: Field) -> None:
    app = field.app("web", tail="    networks: [nowhere]\n", compose=COMPOSE_WITH_NETWORK)
    broken = field.bundle(2, apps=[app], images=[field.image()])
    app_device.check(broken)
    before = app_device.state()

    answer = app_device.install(broken)

    assert answer.code == 70
    assert "nowhere" in answer.stdout
    assert before == app_device.state()


COMPOSE_WITH_NETWORK = """\
services:
  web:
    image: {image}
    command: {command}
"""


def test_an_older_version_on_purpose(device: FieldDevice, bundle: Path, field: Field) -> None:
    device.update(bundle)
    older = field.bundle(1)
    assert device.install(older).code == 102

    answer = device.install(older, "--force")

    assert answer.code == 100
    device.reboot()
    assert device.run().code == 0
    assert device.current()["target"] == "board-lmp-1"


# --- run -------------------------------------------------------------------------------------


def test_a_whole_update(device: FieldDevice, bundle: Path) -> None:
    assert device.run().code == 40
    assert device.check(bundle).code == 16
    assert device.install(bundle).code == 100
    assert device.run().code == 100, "before the reboot"
    device.reboot()
    assert device.run().code == 0
    assert device.run().code == 40

    assert device.current() == {
        "target": "board-lmp-2",
        "version": 2,
        "commit": commit_of(bundle),
        "apps": {},
    }
    assert device.install(bundle).code == 0


def test_current_before_any_update(device: FieldDevice, field: Field) -> None:
    answer = device.offline("current")

    assert answer.code == 0
    assert field.origin.commits[0] in answer.stdout


def test_a_new_version_of_the_same_rootfs_needs_no_reboot(
    device: FieldDevice, bundle: Path, field: Field
) -> None:
    device.update(bundle)
    same = field.bundle(3, commit=commit_of(bundle))

    assert device.install(same).code == 10
    assert device.run().code == 0
    assert device.current()["target"] == "board-lmp-3"


def test_the_boot_loader_went_back(device: FieldDevice, bundle: Path, field: Field) -> None:
    assert device.install(bundle).code == 100
    device.boot_rollback()

    answer = device.run()

    assert answer.code == 99
    assert "board-lmp-2" in answer.stdout
    assert device.current()["commit"] == field.origin.commits[0]
    assert device.run().code == 40


def test_the_boot_loader_landed_on_a_rootfs_nobody_recorded(
    device: FieldDevice, bundle: Path, field: Field
) -> None:
    assert device.install(bundle).code == 100
    device.boots_another(field.origin.new_commit())

    assert device.run().code == 110
    assert device.run().code == 40


@pytest.mark.parametrize(("configured", "code"), [(5, 5), (90, 90)])
def test_boot_firmware_that_waits_for_one_more_reboot(
    device: FieldDevice, field: Field, loader: ProgramLoader, configured: int, code: int
) -> None:
    device.configure("usb_update", run_boot_firmware_exit=configured)
    loader.put("bootfirmware_version", "1")
    firmware = {"usr/lib/firmware/version.txt": b"bootfirmware_version=2\n"}
    newer = field.bundle(4, files=firmware)

    assert device.install(newer).code == 100
    assert loader.get("bootupgrade_available") == "1"
    assert loader.get("upgrade_available") == "1"
    device.reboot()
    assert device.run().code == code
    assert loader.get("upgrade_available") == "0"
    assert device.install(field.bundle(6)).code == 90


# --- run, with Apps and a real engine --------------------------------------------------------


@pytest.fixture
def fleet_device(field: Field, tmp_path: Path, docker_engine: Engine) -> FieldDevice:
    """A device whose engine answers, running version 2 with an App."""
    device = field.device(tmp_path / "device", apps=True)
    device.update(app_release(field, 2, SLEEPS))
    return device


def app_release(field: Field, version: int, command: tuple[str, ...], commit: str = "") -> Path:
    app = field.app("web", command)
    return field.bundle(version, commit=commit, apps=[app], images=[field.image()])


def commands(engine: Engine) -> list[str]:
    """Return what the running containers run."""
    return [
        line.strip('"')
        for line in engine.run("ps", "--no-trunc", "--format", "{{.Command}}").splitlines()
    ]


class TestApps:
    def test_a_new_app_needs_no_reboot(
        self, fleet_device: FieldDevice, field: Field, docker_engine: Engine
    ) -> None:
        booted = fleet_device.current()["commit"]
        other = ("/bin/sleep", "7200")

        assert fleet_device.install(app_release(field, 3, other, booted)).code == 10
        assert commands(docker_engine) == ["/bin/sleep 3600"], "the old one until run"
        assert fleet_device.run().code == 0
        assert commands(docker_engine) == ["/bin/sleep 7200"]

    def test_the_same_version_again(self, fleet_device: FieldDevice, field: Field) -> None:
        booted = fleet_device.current()["commit"]
        same = app_release(field, 2, SLEEPS, booted)

        assert fleet_device.install(same).code == 0

    def test_an_app_that_does_not_start_goes_back_by_a_reboot(
        self, fleet_device: FieldDevice, field: Field, docker_engine: Engine
    ) -> None:
        before = fleet_device.current()
        broken = app_release(field, 3, CANNOT_START)
        assert fleet_device.install(broken).code == 100
        fleet_device.reboot()

        answer = fleet_device.run()

        assert answer.code == 100
        assert "board-lmp-2" in answer.stdout
        fleet_device.reboot()
        assert fleet_device.run().code == 0
        assert before == fleet_device.current()
        assert commands(docker_engine) == ["/bin/sleep 3600"]

    def test_an_app_that_does_not_start_on_the_same_rootfs_goes_back_at_once(
        self, fleet_device: FieldDevice, field: Field, docker_engine: Engine
    ) -> None:
        before = fleet_device.current()
        broken = app_release(field, 3, CANNOT_START, before["commit"])
        assert fleet_device.install(broken).code == 10

        assert fleet_device.run().code == 99
        assert before == fleet_device.current()
        assert commands(docker_engine) == ["/bin/sleep 3600"]

    def test_the_first_app_ever_does_not_start_and_the_rootfs_goes_back(
        self, field: Field, tmp_path: Path, docker_engine: Engine
    ) -> None:
        device = field.device(tmp_path / "device", apps=True)
        assert device.install(app_release(field, 2, CANNOT_START)).code == 100
        device.reboot()

        assert device.run().code == 100
        device.reboot()
        assert device.run().code == 0
        assert device.current()["commit"] == field.origin.commits[0]
        assert docker_engine.containers(running=True) == []

    def test_an_app_that_does_not_start_where_no_version_before_is_recorded(
        self, field: Field, tmp_path: Path, docker_engine: Engine
    ) -> None:
        device = field.device(tmp_path / "device", apps=True)
        assert device.install(app_release(field, 2, CANNOT_START)).code == 100
        device.sql("DELETE FROM installed_versions WHERE is_pending = 0")
        device.reboot()

        answer = device.run()

        assert answer.code == 120
        assert "no earlier version" in answer.stdout
        assert device.run().code == 40

    def test_the_version_before_is_gone_from_the_disk(
        self, fleet_device: FieldDevice, field: Field, docker_engine: Engine
    ) -> None:
        before = fleet_device.current()["commit"]
        assert fleet_device.install(app_release(field, 3, CANNOT_START)).code == 100
        fleet_device.reboot()
        sysroot = fleet_device.device.sysroot
        ostree("admin", "undeploy", "--sysroot", sysroot, "1")
        assert before not in fleet_device.device.deployed()

        assert fleet_device.run().code == 120


# --- a look changes nothing ------------------------------------------------------------

LOOKS = ("current", "plan", "config", "history")


def look(device: FieldDevice, command: str, bundle: Path) -> int:
    return device.usb_update(command, *([bundle.parent] if command == "plan" else [])).code


def everything(device: FieldDevice) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and content of all that the device keeps."""
    paths = [path for top in (device.storage, device.session) for path in (top, *top.rglob("*"))]
    found = {str(path): (path, path.lstat()) for path in paths}
    return {
        name: (status.st_ino, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for name, (path, status) in found.items()
    }


@pytest.mark.parametrize("command", LOOKS)
def test_a_look_leaves_no_trace_on_a_device_that_was_never_updated(
    device: FieldDevice, bundle: Path, command: str
) -> None:
    before = everything(device)

    assert look(device, command, bundle) == 0
    assert everything(device) == before


@pytest.mark.parametrize("command", LOOKS)
def test_a_look_leaves_no_trace_on_a_device_that_waits_for_its_reboot(
    device: FieldDevice, bundle: Path, command: str
) -> None:
    assert device.install(bundle).code == 100
    before = everything(device)

    assert look(device, command, bundle) == 0
    assert everything(device) == before


def test_a_look_is_possible_while_another_agent_works(device: FieldDevice, bundle: Path) -> None:
    with files.locked(device.lock):
        assert device.usb_update("plan", bundle.parent).code == 0
        assert device.usb_update("current").code == 0
        assert device.run().code == 1


def test_a_look_names_the_database_that_is_damaged(device: FieldDevice, bundle: Path) -> None:
    device.check(bundle)
    device.database.write_bytes(b"")

    answer = device.usb_update("plan", bundle.parent)

    assert answer.code == 1
    assert f"'{device.database}' is empty" in answer.stderr


# --- paths that cannot be ----------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "install"])
def test_a_source_that_cannot_be_looked_at(device: FieldDevice, command: str) -> None:
    answer = device.offline(command, "-s", "x" * 300)  # as long a name is an error to any look

    assert answer.code == 1
    assert "neither a directory nor a file" in answer.stdout
    assert "Traceback" not in answer.stderr


def test_a_plan_of_what_cannot_be_looked_at(device: FieldDevice) -> None:
    answer = device.usb_update("plan", "x" * 300)

    assert answer.code == 1
    assert "is not a directory" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_configuration_that_cannot_be_looked_at(device: FieldDevice) -> None:
    answer = device.usb_update("config", "-c", "x" * 300)

    assert answer.code == 1
    assert "cannot be used: File name too long" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_bundle_that_went_away_is_told_when_it_is_read(tmp_path: Path) -> None:
    for gone in (tmp_path / "gone", tmp_path / ("x" * 300)):
        with pytest.raises(BundleError, match=r"there is no directory|cannot be read"):
            wiring.found_medium(gone, Storage()).read()
