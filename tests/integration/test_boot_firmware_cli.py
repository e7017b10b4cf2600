"""Boot counting and boot firmware through the command line, with the boot loaders' own programs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.test_bootenv import GrubLoader, Loader, ProgramLoader, UBootLoader
from tests.field import Field, FieldDevice

pytestmark = pytest.mark.needs_ostree

FIRMWARE = "usr/lib/firmware/version.txt"


def uboot(device: FieldDevice, root: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    if shutil.which("fw_setenv") is None:
        pytest.skip("needs fw_setenv (Debian: libubootenv-tool)")
    loader = UBootLoader(root)
    monkeypatch.setenv("PATH", f"{root}/bin:{os.environ['PATH']}")
    device.configure("bootloader", rollback_mode="uboot_masked")
    return loader


def grub(device: FieldDevice, root: Path, _: pytest.MonkeyPatch) -> Loader:
    if shutil.which("grub-editenv") is None:
        pytest.skip("needs grub-editenv (Debian: grub-common)")
    loader = GrubLoader(root)
    device.configure("bootloader", rollback_mode="grub", grubenv_path=loader.block)
    return loader


def fiovb(device: FieldDevice, root: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """A stand-in: Debian has no such programs."""
    loader = ProgramLoader(root, "fiovb")
    monkeypatch.setenv("PATH", f"{root}/bin:{os.environ['PATH']}")
    device.configure("bootloader", rollback_mode="fiovb")
    return loader


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture
def device(field: Field, tmp_path: Path) -> FieldDevice:
    return field.device(tmp_path / "device")


@pytest.fixture(params=[uboot, grub, fiovb], ids=lambda make: make.__name__)
def loader(
    request: pytest.FixtureRequest,
    device: FieldDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Loader:
    (tmp_path / "loader").mkdir()
    make: Callable[[FieldDevice, Path, pytest.MonkeyPatch], Loader] = request.param
    return make(device, tmp_path / "loader", monkeypatch)


def release(field: Field, version: int, firmware: str) -> Path:
    text = f"bootfirmware_version={firmware}\n".encode()
    return field.bundle(version, files={FIRMWARE: text})


def boots(device: FieldDevice, loader: Loader) -> None:
    """Do what the boot loader does while `upgrade_available` is set: count."""
    device.reboot()
    if loader.get("upgrade_available") == "1":
        loader.put("bootcount", str(int(loader.get("bootcount") or 0) + 1))


def counting(loader: Loader) -> tuple[str | None, str | None]:
    return loader.get("upgrade_available"), loader.get("bootcount")


def test_new_boot_firmware_blocks_the_next_update_until_the_boot_loader_took_it(
    field: Field, device: FieldDevice, loader: Loader
) -> None:
    loader.put("bootfirmware_version", "1")

    assert device.install(release(field, 2, "2")).code == 100
    assert counting(loader) == ("1", "0")
    assert loader.get("bootupgrade_available") == "1"
    boots(device, loader)
    assert counting(loader) == ("1", "1")
    assert device.run().code == 5
    assert counting(loader) == ("0", "0")

    newer = field.bundle(3)
    assert (device.check(newer).code, device.install(newer).code) == (90, 90)
    loader.put("bootupgrade_available", "0")
    loader.put("bootfirmware_version", "2")
    assert device.install(newer).code == 100


def test_the_same_boot_firmware_asks_for_nothing(
    field: Field, device: FieldDevice, loader: Loader
) -> None:
    loader.put("bootfirmware_version", "2")

    assert device.install(release(field, 2, "2")).code == 100
    boots(device, loader)

    assert device.run().code == 0
    assert not loader.get("bootupgrade_available")


def test_a_device_that_went_back_counts_boots_no_longer(
    field: Field, device: FieldDevice, loader: Loader
) -> None:
    assert device.install(field.bundle(2)).code == 100
    loader.put("rollback", "1")
    device.boot_rollback()

    assert device.run().code == 99
    assert counting(loader) == ("0", "0")
    assert device.run().code == 40


def test_older_boot_firmware_is_refused_where_the_boot_loader_protects(
    field: Field, device: FieldDevice, loader: Loader
) -> None:
    bundle = release(field, 2, "6")
    device.check(bundle)
    before = device.state()
    loader.put("bootfirmware_version", "7")
    loader.put("rollback_protection", "1")

    answer = device.install(bundle)

    assert answer.code == 1
    assert "Boot firmware 6 of 'board-lmp-2'" in answer.stdout
    assert "older than 7" in answer.stdout
    assert before == device.state()
    assert counting(loader) in {("0", "0"), (None, None)}
    loader.put("rollback_protection", "0")
    assert device.install(bundle).code == 100


def test_a_bad_stick_leaves_no_boot_counting_behind(
    field: Field, device: FieldDevice, loader: Loader
) -> None:
    damaged = field.bundle(2)
    for file in (damaged / "ostree_repo/objects").rglob("*.filez"):
        file.write_bytes(b"damaged")

    assert device.install(damaged).code == 50
    assert counting(loader)[0] != "1"


def test_a_boot_loader_whose_programs_are_missing_changes_nothing(
    field: Field, device: FieldDevice
) -> None:
    device.configure("bootloader", rollback_mode="fioefi")
    bundle = field.bundle(2)
    device.check(bundle)
    before = device.state()

    answer = device.install(bundle)

    assert answer.code == 1
    assert "fioefi_setenv" in answer.stdout
    assert "rollback_mode" in answer.stdout
    assert before == device.state()
    device.configure("bootloader", rollback_mode="none")
    assert device.install(bundle).code == 100
