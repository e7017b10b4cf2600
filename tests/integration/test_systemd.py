"""Reboot and services, with a ``systemctl`` that is a program on PATH."""

import os
from pathlib import Path

import pytest

from agent.adapters.systemd import SystemdPower, SystemdServices
from agent.core.errors import RebootError, RebootInhibitedError, StateError
from tests.contract.test_services import fake_systemctl

UNIT = "aktualizr-lite.service"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a program on PATH that notes its arguments, complains and ends as told."""

    def make(name: str, *, status: int = 0, complaint: str = "") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        note = f'echo "$0 $@" >> {tmp_path}/calls'
        path.write_text(f"#!/bin/sh\n{note}\necho '{complaint}' >&2\nexit {status}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return path

    return make


def test_systemd_is_asked_to_reboot_and_to_honour_inhibitors(program, tmp_path: Path) -> None:
    program("systemctl")

    SystemdPower(systemd_runs=tmp_path).reboot()

    assert (tmp_path / "calls").read_text().split()[1:] == [
        "--no-ask-password",
        "--check-inhibitors=yes",
        "reboot",
    ]


def test_an_inhibitor_is_told_from_a_failure(program, tmp_path: Path) -> None:
    program("systemctl", status=1, complaint="Operation inhibited by backup (PID 7)")

    with pytest.raises(RebootInhibitedError, match="backup"):
        SystemdPower(systemd_runs=tmp_path).reboot()


def test_a_reboot_that_fails_says_so(program, tmp_path: Path) -> None:
    program("systemctl", status=1, complaint="Failed to connect to bus")

    with pytest.raises(RebootError, match="Failed to connect") as caught:
        SystemdPower(systemd_runs=tmp_path).reboot()
    assert not isinstance(caught.value, RebootInhibitedError)


def test_a_command_of_the_owners_is_run_as_it_is_and_without_a_shell(
    program, tmp_path: Path
) -> None:
    command = program("my-reboot")

    SystemdPower(f"{command} --now 'a b' ; $(id)").reboot()

    assert "--now a b ; $(id)" in (tmp_path / "calls").read_text()


def test_without_systemd_the_default_command_reboots(tmp_path: Path) -> None:
    assert SystemdPower(systemd_runs=tmp_path / "none").argv() == ["/sbin/reboot"]


def test_a_command_that_is_missing_is_an_error_of_the_device() -> None:
    with pytest.raises(RebootError, match="'/nonexistent/reboot'") as caught:
        SystemdPower("/nonexistent/reboot").reboot()
    assert "reboot_command" in caught.value.hint


class TestServices:
    def services(self, tmp_path: Path, *units: str) -> SystemdServices:
        return SystemdServices(units or [UNIT], tmp_path / "ledger", systemd_runs=tmp_path)

    def note(self, tmp_path: Path) -> Path:
        return tmp_path / "ledger/stopped-services"

    def test_what_does_not_run_is_not_started_afterwards(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        units = fake_systemctl(tmp_path, monkeypatch, "other.service")
        services = self.services(tmp_path)

        services.stop()
        services.restore()

        assert UNIT not in units.read_text()
        assert not self.note(tmp_path).exists()

    def test_the_note_is_there_before_anything_is_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_systemctl(tmp_path, monkeypatch, UNIT)
        (tmp_path / "ledger").write_text("a file where the directory should be")

        with pytest.raises(StateError):
            self.services(tmp_path).stop()
        assert "stop " not in (tmp_path / "calls").read_text()

    def test_a_new_life_starts_what_the_killed_one_had_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        units = fake_systemctl(tmp_path, monkeypatch, UNIT)
        self.services(tmp_path).stop()

        self.services(tmp_path).restore()

        assert UNIT in units.read_text()

    @pytest.mark.parametrize("note", [b"{", b"[1]", b'["--now", "x"]', b"\xff" * 20_000])
    def test_a_damaged_note_starts_what_is_configured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: bytes
    ) -> None:
        units = fake_systemctl(tmp_path, monkeypatch, "other.service")
        self.note(tmp_path).parent.mkdir()
        self.note(tmp_path).write_bytes(note)

        self.services(tmp_path).restore()

        assert UNIT in units.read_text()

    def test_a_start_that_fails_is_tried_again_in_the_next_life(
        self, tmp_path: Path, program
    ) -> None:
        program("systemctl", status=1, complaint="no")
        self.note(tmp_path).parent.mkdir()
        self.note(tmp_path).write_text(f'["{UNIT}"]')

        self.services(tmp_path).restore()

        assert self.note(tmp_path).exists()

    def test_a_word_that_is_no_unit_is_never_passed_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_systemctl(tmp_path, monkeypatch, UNIT)

        self.services(tmp_path, "--root=/", "a b").stop()

        assert not (tmp_path / "calls").exists()

    def test_without_systemd_nothing_is_stopped(self, tmp_path: Path) -> None:
        services = SystemdServices([UNIT], tmp_path, systemd_runs=tmp_path / "none")

        services.stop()

        assert not (tmp_path / "stopped-services").exists()
