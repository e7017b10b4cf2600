"""GRUB's and U-Boot's programs as they come, beyond what the contract asks of them."""

import os
import shutil
from pathlib import Path

import pytest

from agent.adapters import shell
from agent.adapters.bootenv import boot_env
from agent.core.config import Bootloader
from agent.core.errors import BootEnvError


def write_program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="needs grub-editenv")
class TestGrub:
    def test_grub_itself_reads_what_was_written(self, tmp_path: Path) -> None:
        block = tmp_path / "grubenv"

        boot_env(Bootloader("grub", grubenv_path=str(block))).expect_new_rootfs()

        listed = shell.run(["grub-editenv", str(block), "list"], timeout_s=9).text.splitlines()
        assert sorted(listed) == ["bootcount=0", "rollback=0", "upgrade_available=1"]

    def test_a_directory_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(BootEnvError, match="could not be set"):
            boot_env(
                Bootloader("grub", grubenv_path=str(tmp_path / "none" / "grubenv"))
            ).confirm_boot()


@pytest.mark.skipif(shutil.which("fw_setenv") is None, reason="needs fw_setenv")
def test_a_wrong_location_of_the_environment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "fw_env.config"
    config.write_text(f"{tmp_path}/none 0x0 0x4000\n")
    for name in ("fw_printenv", "fw_setenv"):
        body = f'exec {shutil.which(name)} -c {config} "$@"'
        write_program(tmp_path / "bin" / name, body)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    env = boot_env(Bootloader("uboot_masked"))

    assert not env.firmware_update_pending()
    with pytest.raises(BootEnvError):
        env.expect_new_rootfs()


def test_counting_starts_last_and_ends_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between two variables must not leave a count nobody started."""
    calls = tmp_path / "calls"
    write_program(tmp_path / "bin" / "fw_printenv", f'cat "{tmp_path}/$2"')
    body = f'echo "$1=$2" >> {calls}; echo "$2" > "{tmp_path}/$1"'
    write_program(tmp_path / "bin" / "fw_setenv", body)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    env = boot_env(Bootloader("uboot_masked"))

    env.expect_new_rootfs()
    (tmp_path / "bootcount").write_text("1")
    env.confirm_boot()

    assert calls.read_text().split() == [
        "bootcount=0",
        "rollback=0",
        "upgrade_available=1",
        "upgrade_available=0",
        "bootcount=0",
    ]
