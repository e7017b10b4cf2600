"""What every `Services` and `Confirmations` does."""

import os
import threading
from pathlib import Path

import pytest

from agent.adapters import control, keypress
from agent.adapters.systemd import SystemdServices
from tests.fakes.power import MemoryConfirmations, MemoryServices

UNIT = "aktualizr-lite.service"


class ServicesContract:
    """Subclasses provide ``services`` and ``running``: a set of units, or a way to read it."""

    def test_what_runs_is_stopped_and_started_again(self, services, running) -> None:
        services.stop()
        stopped = UNIT not in running()
        services.restore()

        assert stopped
        assert UNIT in running()

    def test_what_was_stopped_before_a_crash_is_started_after_it(self, services, running) -> None:
        services.stop()
        services.stop()  # the next attempt finds it stopped and must not forget it
        services.restore()

        assert UNIT in running()

    def test_restoring_twice_does_no_harm(self, services, running) -> None:
        services.restore()
        services.restore()

        assert UNIT in running()


class TestMemoryServices(ServicesContract):
    @pytest.fixture
    def services(self) -> MemoryServices:
        return MemoryServices({UNIT})

    @pytest.fixture
    def running(self, services: MemoryServices):
        return lambda: services.running


class TestSystemdServices(ServicesContract):
    @pytest.fixture
    def services(self, systemctl: Path, tmp_path: Path) -> SystemdServices:
        return SystemdServices([UNIT], tmp_path / "ledger", systemd_runs=tmp_path)

    @pytest.fixture
    def running(self, systemctl: Path):
        return lambda: set(systemctl.read_text().split())

    @pytest.fixture
    def systemctl(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Put a ``systemctl`` on PATH that keeps the running units in a file."""
        return fake_systemctl(tmp_path, monkeypatch, UNIT)


def fake_systemctl(directory: Path, monkeypatch: pytest.MonkeyPatch, *units: str) -> Path:
    state = directory / "units"
    state.write_text("\n".join(units) + "\n")
    program = directory / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {directory}/calls
[ "$1" = --no-block ] && shift
case "$1" in
is-active) grep -qx "$3" {state} || exit 3 ;;
stop) sed -i "/^$2$/d" {state} ;;
start) grep -qx "$2" {state} || echo "$2" >> {state} ;;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return state


class ConfirmationsContract:
    """Subclasses provide ``way`` and ``say_yes``."""

    def test_a_yes_after_the_question_counts(self, way, say_yes) -> None:
        way.ask()
        say_yes()

        assert way.given()

    def test_silence_is_no_yes(self, way) -> None:
        way.ask()

        assert not way.given()

    def test_a_yes_before_the_question_does_not_count(self, way, say_yes) -> None:
        say_yes()
        way.ask()

        assert not way.given()

    def test_a_yes_to_the_question_before_does_not_count(self, way, say_yes) -> None:
        way.ask()
        say_yes()
        way.close()
        way.ask()

        assert not way.given()


class TestMemoryConfirmations(ConfirmationsContract):
    @pytest.fixture
    def way(self) -> MemoryConfirmations:
        return MemoryConfirmations()

    @pytest.fixture
    def say_yes(self, way: MemoryConfirmations):
        return way.say_yes


class TestControlSocket(ConfirmationsContract):
    @pytest.fixture
    def way(self, tmp_path: Path):
        socket = control.ControlSocket(tmp_path / "control.sock")
        yield socket
        socket.end()

    @pytest.fixture
    def say_yes(self, way: control.ControlSocket, tmp_path: Path):
        def say() -> None:
            person = threading.Thread(target=control.confirm, args=[tmp_path / "control.sock"])
            person.start()
            while person.is_alive():
                way.answer()
            way.answer()
            person.join()

        return say

    def test_a_person_hears_whether_anybody_had_asked(self, way, tmp_path: Path) -> None:
        heard: list[bool] = []

        def person() -> None:
            heard.append(control.confirm(tmp_path / "control.sock"))

        for asked in (False, True):
            if asked:
                way.ask()
            thread = threading.Thread(target=person)
            thread.start()
            while thread.is_alive():
                way.answer()
            thread.join()

        assert [False, True] == heard

    def test_only_root_may_say_yes(self, way, tmp_path: Path) -> None:
        assert 0o600 == (tmp_path / "control.sock").stat().st_mode & 0o777


class TestKey(ConfirmationsContract):
    """A FIFO stands for the input device: the same reads, the same bytes."""

    @pytest.fixture
    def device(self, tmp_path: Path) -> Path:
        path = tmp_path / "event0"
        os.mkfifo(path)
        return path

    @pytest.fixture
    def way(self, device: Path):
        key = keypress.open_key(f"{device}#28")
        assert key is not None
        self.writer = os.open(device, os.O_WRONLY | os.O_NONBLOCK)
        yield key
        os.close(self.writer)
        key.end()

    @pytest.fixture
    def say_yes(self, way: keypress.Key):
        return lambda: self.send(way, event(code=28, value=1))

    def send(self, way: keypress.Key, data: bytes) -> None:
        os.write(self.writer, data)
        way.read()

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(lambda: event(code=29, value=1), id="another key"),
            pytest.param(lambda: event(code=28, value=0), id="released"),
            pytest.param(lambda: event(code=28, value=2), id="held"),
            pytest.param(lambda: event(code=28, value=1)[:-1], id="torn"),
            pytest.param(lambda: event(kind=3, code=28, value=1), id="not a key"),
        ],
    )
    def test_nothing_else_is_a_yes(self, way, data) -> None:
        way.ask()
        self.send(way, data())

        assert not way.given()


def event(*, code: int, value: int, kind: int = keypress.EV_KEY) -> bytes:
    return keypress.INPUT_EVENT.pack(0, 0, kind, code, value)
