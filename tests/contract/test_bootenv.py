"""What every BootEnv must do: in memory, by programs on PATH, and by the real programs."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from agent.adapters import shell
from agent.adapters.bootenv import GrubVariables, NoBootEnv, boot_env
from agent.core.config import Bootloader
from agent.core.errors import BootEnvError
from agent.ports import BootEnv
from tests.fakes.bootenv import MemoryBootEnv


class Loader(Protocol):
    """A boot loader whose environment a test can look into."""

    env: BootEnv

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, value: str) -> None: ...


class MemoryLoader:
    def __init__(self) -> None:
        self.env = MemoryBootEnv()

    def get(self, name: str) -> str | None:
        return self.env.variables.get(name)

    def put(self, name: str, value: str) -> None:
        self.env.variables[name] = value


class ProgramLoader:
    """Programs that keep variables in files of a directory and note how they were called."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.store = root / "variables"
        self.store.mkdir()
        self.calls = root / "calls"
        self.calls.write_text("")
        note = f'echo "$(basename "$0") $*|${{FIO_OSTREE_TARGET_SYSROOT-}}" >> {self.calls}\n'
        only_value = "[ $1 = -n ] && shift\n" if prefix == "fw" else ""
        self.program(root, f"{prefix}_printenv", f'{note}{only_value}cat "{self.store}/$1"')
        self.program(root, f"{prefix}_setenv", f'{note}echo "$2" > "{self.store}/$1"')

    def program(self, root: Path, name: str, body: str) -> None:
        path = root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def get(self, name: str) -> str | None:
        path = self.store / name
        return path.read_text().strip() if path.exists() else None

    def put(self, name: str, value: str) -> None:
        (self.store / name).write_text(f" {value} \n")

    def writes(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if "_setenv" in line]


class BootEnvContract:
    """Subclasses provide ``loader``, of a kind that knows about boot firmware."""

    def test_it_knows_about_boot_firmware(self, loader: Loader) -> None:
        assert loader.env.counts_boots
        assert loader.env.updates_firmware

    def test_a_new_rootfs_is_tried_with_boots_counted(self, loader: Loader) -> None:
        loader.put("bootcount", "3")
        loader.put("rollback", "1")

        loader.env.expect_new_rootfs()
        loader.env.expect_new_rootfs()

        assert loader.get("upgrade_available") == "1"
        assert loader.get("bootcount") == "0"
        assert loader.get("rollback") == "0"

    def test_a_good_boot_ends_the_counting(self, loader: Loader) -> None:
        loader.env.expect_new_rootfs()
        loader.put("bootcount", "1")

        loader.env.confirm_boot()
        loader.env.confirm_boot()

        assert loader.get("upgrade_available") == "0"
        assert loader.get("bootcount") == "0"

    def test_what_is_not_set_reads_as_no(self, loader: Loader) -> None:
        assert not loader.env.firmware_update_pending()
        assert not loader.env.rollback_protected()
        assert loader.env.firmware_version() is None

    def test_boot_firmware_is_flagged_until_the_boot_loader_took_it(self, loader: Loader) -> None:
        loader.env.flag_firmware_update()
        assert loader.env.firmware_update_pending()

        loader.put("bootupgrade_available", "0")

        assert not loader.env.firmware_update_pending()

    def test_version_and_protection_are_read(self, loader: Loader) -> None:
        loader.put("bootfirmware_version", "7.2")
        loader.put("rollback_protection", "1")

        assert loader.env.firmware_version() == "7.2"
        assert loader.env.rollback_protected()


class TestMemoryBootEnv(BootEnvContract):
    @pytest.fixture
    def loader(self) -> Loader:
        return MemoryLoader()


class TestProgramBootEnv(BootEnvContract):
    @pytest.fixture(params=["uboot_masked", "fiovb", "fioefi"])
    def loader(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Loader:
        prefix = "fw" if request.param == "uboot_masked" else request.param
        loader = ProgramLoader(tmp_path, prefix)
        loader.env = boot_env(Bootloader(request.param), new_deployment=lambda: Path("/ostree/new"))
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        return loader

    def test_flash_is_not_written_when_nothing_changes(self, loader: ProgramLoader) -> None:
        loader.env.confirm_boot()
        once = loader.writes()
        loader.env.confirm_boot()

        assert once == loader.writes()

    def test_only_fioefi_is_told_the_deployment(self, loader: ProgramLoader) -> None:
        loader.env.flag_firmware_update()

        [call] = loader.writes()
        told = "/ostree/new" if call.startswith("fioefi") else ""
        assert call.endswith(f"_setenv bootupgrade_available 1|{told}")


class GrubLoader:
    """``grub-editenv`` on a block in a file."""

    def __init__(self, root: Path) -> None:
        self.block = root / "grubenv"
        self.env = boot_env(Bootloader("grub", grubenv_path=str(self.block)))
        self._variables = GrubVariables(self.block)

    def get(self, name: str) -> str | None:
        return self._variables.get(name)

    def put(self, name: str, value: str) -> None:
        self._variables.put(name, value)


class TestGrubBootEnv(BootEnvContract):
    """GRUB's own ``grub-editenv``."""

    @pytest.fixture
    def loader(self, tmp_path: Path) -> Loader:
        if shutil.which("grub-editenv") is None:
            pytest.skip("needs grub-editenv (Debian: grub-common)")
        return GrubLoader(tmp_path)

    def test_the_block_keeps_its_size_and_what_else_is_in_it(
        self, loader: Loader, tmp_path: Path
    ) -> None:
        loader.put("saved_entry", "ostree-1")
        loader.env.expect_new_rootfs()

        assert (tmp_path / "grubenv").stat().st_size == 1024
        assert loader.get("saved_entry") == "ostree-1"

    def test_a_block_that_is_no_block_is_told(self, loader: Loader, tmp_path: Path) -> None:
        (tmp_path / "grubenv").write_text("hello")

        with pytest.raises(BootEnvError, match="could not be set"):
            loader.env.expect_new_rootfs()


class TestUBootBootEnv(BootEnvContract):
    """libubootenv's ``fw_setenv`` on an environment in a file."""

    @pytest.fixture
    def loader(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
        if shutil.which("fw_setenv") is None:
            pytest.skip("needs fw_setenv (Debian: libubootenv-tool)")
        loader = UBootLoader(tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        return loader


def _uboot_config(root: Path) -> Path:
    """Make an empty environment and the file that says where it is."""
    storage = root / "uboot.env"
    storage.write_bytes(b"\xff" * 0x4000)
    config = root / "fw_env.config"
    config.write_text(f"{storage} 0x0 0x4000\n")
    (root / "defaults").write_text("board=test\n")
    return config


class UBootLoader:
    """The real ``fw_setenv``.

    Its configuration lies in /etc, so it is run through a program of the same name, in
    ``bin``, that names another one.
    """

    def __init__(self, root: Path) -> None:
        config = _uboot_config(root)
        real = Path(shutil.which("fw_setenv") or "").parent
        self.env = boot_env(Bootloader("uboot_masked"))
        self._bin = root / "bin"
        self._bin.mkdir()
        for name in ("fw_printenv", "fw_setenv"):
            program = self._bin / name
            options = f"-c {config} -f {root}/defaults"
            program.write_text(f'#!/bin/sh\nexec {real}/{name} {options} "$@"\n')
            program.chmod(0o755)

    def get(self, name: str) -> str | None:
        try:
            return shell.run([str(self._bin / "fw_printenv"), "-n", name], timeout_s=9).text.strip()
        except shell.CommandError:
            return None

    def put(self, name: str, value: str) -> None:
        shell.run([str(self._bin / "fw_setenv"), name, value], timeout_s=9)


def test_without_a_boot_loader_there_is_nobody_to_tell() -> None:
    env = boot_env(Bootloader("none"))
    env.confirm_boot()
    env.expect_new_rootfs()
    env.flag_firmware_update()

    assert isinstance(env, NoBootEnv)
    assert not env.counts_boots
    assert not env.updates_firmware
    assert not env.firmware_update_pending()
    assert not env.rollback_protected()
    assert env.firmware_version() is None


class TestGeneric:
    """``uboot_generic``: a count, and nothing about upgrades or boot firmware."""

    @pytest.fixture
    def loader(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgramLoader:
        loader = ProgramLoader(tmp_path, "fw")
        loader.env = boot_env(Bootloader("uboot_generic"))
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        return loader

    def test_only_the_count_is_kept(self, loader: ProgramLoader) -> None:
        loader.env.expect_new_rootfs()
        loader.env.flag_firmware_update()
        loader.env.confirm_boot()

        assert sorted(path.name for path in loader.store.iterdir()) == ["bootcount", "rollback"]

    def test_boot_firmware_is_not_its_business(self, loader: ProgramLoader) -> None:
        loader.put("bootupgrade_available", "1")
        loader.put("rollback_protection", "1")
        loader.put("bootfirmware_version", "7")

        assert not loader.env.updates_firmware
        assert not loader.env.firmware_update_pending()
        assert not loader.env.rollback_protected()
        assert loader.env.firmware_version() is None


class TestTrouble:
    @pytest.fixture
    def setenv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BootEnv]:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

        def replaced(body: str) -> BootEnv:
            loader = ProgramLoader(tmp_path, "fw")
            loader.program(tmp_path, "fw_setenv", body)
            return boot_env(Bootloader("uboot_masked"))

        return replaced

    def test_a_program_that_writes_nothing_and_says_so_to_nobody_is_found_out(
        self, setenv: Callable[[str], BootEnv]
    ) -> None:
        env = setenv("exit 0")

        with pytest.raises(BootEnvError, match="'bootcount' was set to '0', but is None"):
            env.expect_new_rootfs()

    def test_a_program_that_fails_is_quoted(self, setenv: Callable[[str], BootEnv]) -> None:
        env = setenv("echo Cannot access MTD device >&2; exit 1")

        with pytest.raises(BootEnvError, match="Cannot access MTD device"):
            env.confirm_boot()

    def test_a_program_that_is_not_there_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

        with pytest.raises(BootEnvError, match="fiovb_setenv") as caught:
            boot_env(Bootloader("fiovb")).confirm_boot()

        assert "rollback_mode" in caught.value.hint

    def test_reading_without_the_program_is_no(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        env = boot_env(Bootloader("uboot_masked"))

        assert not env.firmware_update_pending()
        assert not env.rollback_protected()
