"""``usb-update demo``: a stranger's first look, so it must not depend on the machine."""

import re
from pathlib import Path

import pytest

from agent.adapters import files
from agent.faces.cli import usb_update
from tests.docker_engine import Engine
from tests.field import Answer, no_engine, typed

pytestmark = pytest.mark.needs_ostree
MACHINE_LOCK = Path("/var/lock/aklite.lock")


def exits(answer: Answer) -> list[int]:
    """Return the exit status of every command the demonstration typed."""
    return [int(code) for code in re.findall(r"^\[exit (\d+)\]$", answer.stdout, re.MULTILINE)]


@pytest.fixture
def engineless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in no_engine().items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("engineless")
def test_without_docker_it_shows_a_boot_rollback_and_says_so() -> None:
    answer = typed(usb_update, "demo")

    assert answer.code == 0, answer.stdout
    assert exits(answer) == [0, 0, 0, 16, 100, 0, 0, 0, 15, 0, 100, 99, 0, 0]
    assert "No Docker engine" in answer.stdout
    assert "Not real:" in answer.stdout
    assert "Next:" in answer.stdout
    assert "[debug" not in answer.stdout + answer.stderr


def test_with_docker_it_shows_an_app_rollback(docker_engine: Engine) -> None:
    answer = typed(usb_update, "demo")

    assert answer.code == 0, answer.stdout
    assert exits(answer) == [0, 0, 0, 16, 100, 0, 0, 0, 15, 0, 100, 100, 0, 0, 0]
    assert docker_engine.containers(running=False) == []


@pytest.mark.needs_root
@pytest.mark.usefixtures("engineless")
def test_an_agent_at_work_on_this_machine_does_not_stop_it() -> None:
    """Its device is not this machine."""
    try:
        with files.locked(MACHINE_LOCK):
            answer = typed(usb_update, "demo")
    except BlockingIOError:
        # Somebody holds it already: that is the case this test is about.
        answer = typed(usb_update, "demo")

    assert answer.code == 0, answer.stdout
