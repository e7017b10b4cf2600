"""What every Boots must do; the kernel's and those in memory."""

import stat
from pathlib import Path
from typing import Protocol

import pytest

from agent.adapters.boots import BOOT_ID, SentinelBoots
from agent.core.errors import StateError
from agent.ports import Boots
from tests.fakes.boots import MemoryBoots


class Machine(Protocol):
    boots: Boots

    def reboot(self) -> None: ...


def waits(machine: Machine) -> bool:
    return machine.boots.awaited()


class MemoryMachine:
    def __init__(self) -> None:
        self.boots = MemoryBoots()

    def reboot(self) -> None:
        self.boots.reboot()


class FileMachine:
    """A boot id in a file, and a directory that a reboot empties."""

    def __init__(self, root: Path) -> None:
        self.run = root / "run"
        self.run.mkdir()
        self.sentinel = self.run / "aktualizr-session" / "need_reboot"
        self.note = root / "var" / "awaited-boot"
        self.boot_id = root / "boot_id"
        self.boot_id.write_text("boot-1\n")
        self.boots = SentinelBoots(self.sentinel, self.note, boot_id=self.boot_id)

    def reboot(self) -> None:
        self.boot_id.write_text("boot-2\n")
        for path in sorted(self.run.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


class BootsContract:
    """Subclasses provide ``machine``."""

    def test_nothing_is_awaited_at_first(self, machine: Machine) -> None:
        assert not waits(machine)

    def test_a_reboot_is_awaited_until_it_happens(self, machine: Machine) -> None:
        machine.boots.await_reboot()
        machine.boots.await_reboot()
        assert waits(machine)

        machine.reboot()

        assert not waits(machine)

    def test_waiting_ends(self, machine: Machine) -> None:
        machine.boots.await_reboot()
        machine.boots.stop_waiting()
        machine.boots.stop_waiting()

        assert not waits(machine)

    def test_every_boot_has_its_id(self, machine: Machine) -> None:
        before = machine.boots.boot_id()
        assert before == machine.boots.boot_id()

        machine.reboot()

        assert before != machine.boots.boot_id()

    def test_one_can_wait_again_after_a_reboot(self, machine: Machine) -> None:
        machine.boots.await_reboot()
        machine.reboot()
        machine.boots.await_reboot()

        assert waits(machine)


class TestMemoryBoots(BootsContract):
    @pytest.fixture
    def machine(self) -> Machine:
        return MemoryMachine()


class TestSentinelBoots(BootsContract):
    @pytest.fixture
    def machine(self, tmp_path: Path) -> FileMachine:
        return FileMachine(tmp_path)

    def test_the_running_kernel_tells_an_id(self, tmp_path: Path) -> None:
        boots = SentinelBoots(tmp_path / "s", tmp_path / "n")

        assert boots.boot_id() == BOOT_ID.read_text().strip()

    def test_aktualizr_lite_finds_its_sentinel(self, machine: FileMachine) -> None:
        machine.boots.await_reboot()

        assert machine.sentinel.is_file()
        assert stat.S_IMODE(machine.sentinel.parent.stat().st_mode) == 0o700

    def test_aktualizr_lites_own_sentinel_is_understood(self, machine: FileMachine) -> None:
        machine.sentinel.parent.mkdir(mode=0o700)
        machine.sentinel.write_text("")
        assert waits(machine)

        machine.reboot()

        assert not waits(machine)

    def test_its_sentinel_counts_although_an_old_note_of_ours_is_left(
        self, machine: FileMachine
    ) -> None:
        machine.boots.await_reboot()
        machine.reboot()
        machine.sentinel.parent.mkdir(mode=0o700)
        machine.sentinel.write_text("")

        assert waits(machine)

    def test_a_directory_open_to_others_gets_no_sentinel(self, machine: FileMachine) -> None:
        machine.sentinel.parent.mkdir()
        machine.sentinel.parent.chmod(0o777)

        machine.boots.await_reboot()

        assert not machine.sentinel.exists()
        assert waits(machine)
        machine.reboot()
        assert not waits(machine)

    def test_a_file_where_the_directory_should_be_is_no_failure(self, machine: FileMachine) -> None:
        machine.sentinel.parent.write_text("")

        machine.boots.await_reboot()
        assert waits(machine)

        machine.boots.stop_waiting()

        assert not waits(machine)

    def test_a_sentinel_that_outlives_the_boot_is_not_believed(self, machine: FileMachine) -> None:
        machine.boots.await_reboot()
        machine.boot_id.write_text("boot-2\n")

        assert not waits(machine)

    def test_no_proc_is_told(self, tmp_path: Path) -> None:
        boots = SentinelBoots(tmp_path / "s", tmp_path / "n", boot_id=tmp_path / "none")

        with pytest.raises(StateError, match="boot id"):
            boots.boot_id()

    def test_a_note_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        boots = SentinelBoots(tmp_path / "s", tmp_path / "file" / "n")

        with pytest.raises(StateError, match="cannot be written"):
            boots.await_reboot()

    def test_the_reboot_of_a_sysroot_that_only_lies_there_is_simulated(
        self, tmp_path: Path
    ) -> None:
        sentinel = tmp_path / "run" / "need_reboot"
        boots = SentinelBoots(sentinel, tmp_path / "n", this_machine=False)
        boots.await_reboot()
        marks = [boots.awaited()]

        sentinel.unlink()
        marks.append(boots.awaited())

        assert marks == [True, False]

    def test_a_directory_in_place_of_the_sentinel_is_told(self, machine: FileMachine) -> None:
        machine.sentinel.mkdir(parents=True)
        machine.sentinel.parent.chmod(0o700)

        machine.boots.await_reboot()

        with pytest.raises(StateError, match="need_reboot"):
            waits(machine)
        with pytest.raises(StateError, match="cannot be removed"):
            machine.boots.stop_waiting()
