"""What the log says, to whom, and what it never lets through."""

import io
import json
import os
from collections.abc import Iterator

import pytest
import structlog

from agent.adapters import journal


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


@pytest.mark.usefixtures("terminal")
def test_a_person_reads_facts(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up(2)
    structlog.contextvars.bind_contextvars(attempt="a-1")
    structlog.get_logger().info("app.started", app="web", why="it is new", count=3)

    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith('info     app.started app=web why="it is new" count=3 attempt=a-1\n')


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ["debug", "info", "warning", "error", "critical"]),
        (1, ["debug", "info", "warning", "error", "critical"]),
        (2, ["info", "warning", "error", "critical"]),
        (3, ["warning", "error", "critical"]),
        (4, ["error", "critical"]),
        (5, ["critical"]),
    ],
)
def test_levels_are_the_references(level: int, expected: list[str]) -> None:
    recorder = journal.Recorder()
    journal.set_up(level, recorder=recorder)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(log, name)("a.happened")

    assert expected == [event["level"] for event in recorder.take()]


def test_systemd_gets_a_priority_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    journal.set_up(2)
    structlog.get_logger().warning("stick.gone", medium="sda1\nforged")

    err = capsys.readouterr().err
    assert err.startswith("<4>{")
    assert err.count("\n") == 1
    assert json.loads(err[3:])["medium"] == "sda1\\x0aforged"


@pytest.mark.usefixtures("terminal")
def test_nothing_from_a_stick_moves_the_cursor_or_forges_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal.set_up(2)
    evil = "\x1b[2J\r\n2026 info ok\u202e\u2028\x9b\ud800"
    structlog.get_logger().info("bundle.found", label=evil, names=[evil], table={evil: evil})

    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.isascii()
    assert "\x1b" not in err


@pytest.mark.usefixtures("terminal")
def test_a_value_has_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up(2)
    structlog.get_logger().info("bundle.found", label="x" * 10_000_000)

    assert len(capsys.readouterr().err) < 3000


@pytest.mark.usefixtures("terminal")
def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up(2)
    try:
        int("evil\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("bug.met")

    err = capsys.readouterr().err
    assert "\nTraceback (most recent call last):\n" in err
    assert "ValueError: invalid literal" in err
    assert "\x1b" not in err


@pytest.mark.usefixtures("terminal")
def test_the_recorder_keeps_the_newest_of_one_attempt() -> None:
    recorder = journal.Recorder(limit=3)
    journal.set_up(2, recorder=recorder)
    for number in range(5):
        structlog.get_logger().info("step.done", number=number)

    assert [event["number"] for event in recorder.take()] == [2, 3, 4]
    assert recorder.take() == ()


@pytest.mark.usefixtures("terminal")
def test_a_log_nobody_reads_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = journal.Recorder()
    journal.set_up(2, recorder=recorder)
    read_end, write_end = os.pipe()
    os.close(read_end)
    pipe = io.TextIOWrapper(io.FileIO(write_end, "w"), write_through=True)
    monkeypatch.setattr("sys.stderr", pipe)
    structlog.get_logger().info("step.done")
    monkeypatch.undo()
    pipe.close()

    assert [event["event"] for event in recorder.events] == ["step.done"]
