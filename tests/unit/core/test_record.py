"""The record: what leaves the device, how long it may be, how it is read back."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from agent.core.outcome import CheckExit, InstallExit, RunExit
from agent.core.record import (
    EVENTS_LIMIT,
    RECORD_LIMIT_BYTES,
    RecordError,
    clock_note,
    duration_text,
    flat_event,
    from_json,
    to_json,
    to_text,
)
from tests.factory.records import NOON, circumstances, record

SCHEMA = json.loads(
    Path(__file__).parents[3].joinpath("docs/schema/record-1.json").read_text(encoding="utf-8")
)
EVERY_EXIT = [*InstallExit, *RunExit, *CheckExit]


@pytest.mark.parametrize("exit", EVERY_EXIT, ids=str)
def test_a_record_of_every_exit_fits_the_published_schema(exit):
    made = record(exit, message="found 'x'", events=[{"event": "medium.mounted", "n": 1}])

    jsonschema.validate(json.loads(to_json(made)), SCHEMA)


def test_the_published_schema_names_exactly_the_keys_that_are_written():
    table = json.loads(to_json(record()))

    assert list(SCHEMA["properties"]) == list(table)
    for key in ("device", "from", "to", "bundle", "medium", "outcome"):
        assert list(SCHEMA["properties"][key]["properties"]) == list(table[key]), key


def test_a_record_reads_back_as_it_was():
    made = record(events=[{"event": "a.b", "n": 1, "f": 0.5, "ok": True, "none": None}])

    assert made == from_json(to_json(made))


def test_the_id_follows_the_content():
    assert record().id == record().id
    assert record().id != record(sequence=2).id


def test_ten_thousand_long_events_stay_under_one_mebibyte():
    long = {f"key{n}": "\N{PILE OF POO}" * 1000 for n in range(40)}
    made = record(events=[{**long, "number": n} for n in range(10_000)])

    assert len(to_json(made)) <= RECORD_LIMIT_BYTES
    assert made.truncated
    assert made.events
    assert len(to_text(made)) <= RECORD_LIMIT_BYTES
    jsonschema.validate(json.loads(to_json(made)), SCHEMA)


def test_the_newest_events_are_kept():
    made = record(events=[{"event": "step", "n": n} for n in range(EVENTS_LIMIT + 5)])

    assert (made.events[0]["n"], made.events[-1]["n"]) == (5, EVENTS_LIMIT + 4)
    assert made.truncated


@pytest.mark.parametrize(
    "key",
    ["password", "api_key", "Authorization", "env", "argv", "private_key", "token", "stdout"],
)
def test_an_event_leaves_keys_of_secrets_behind(key):
    assert flat_event({"event": "x", key: "hunter2"}) == {"event": "x"}


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN PRIVATE KEY----- MC4CAQ",
        "https://user:hunter2@example.com/",
        ["a", "https://user:hunter2@example.com/"],
        "-----BEGIN\x1fPRIVATE",
    ],
)
def test_an_event_leaves_values_of_secrets_behind(value):
    assert flat_event({"found": value}) == {"found": "[removed]"}


def test_an_event_leaves_nested_things_behind():
    assert flat_event({"n": (1, 2), "deep": {"a": {}}, "raw": b"x", "o": object()}) == {"n": "1, 2"}


def test_a_key_id_may_leave():
    assert flat_event({"keyid": "ab12"}) == {"keyid": "ab12"}


def test_a_label_cannot_bring_control_characters_along():
    made = record(around=circumstances(label="A\x1b[2J\nB\u202eC"))

    assert made.medium.label == "A?[2J B?C"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.update(schema=2), "schema 2 is newer"),
        (lambda t: t.update(schema=True), "'schema' is not 1"),
        (lambda t: t.update(format="x"), "'format'"),
        (lambda t: t.update(sequence=2), "does not match"),
        (lambda t: t.update(extra=1), "'extra'"),
        (lambda t: t.pop("kind"), "'kind'"),
        (lambda t: t.update(kind="party"), "'kind' is not one of"),
        (lambda t: t.update(started_utc="yesterday"), "'started_utc'"),
        (lambda t: t.update(started_utc="2026-13-45T99:99:99Z"), "'started_utc'"),
        (lambda t: t.update(duration_s="long"), "'duration_s'"),
        (lambda t: t.update(duration_s=True), "'duration_s'"),
        (lambda t: t.update(events=[{"a": {"b": 1}}]), "'events'"),
        (lambda t: t.update(events=[{}] * 501), "'events'"),
        (lambda t: t.update(events="x"), "'events'"),
        (lambda t: t["device"].update(name="x" * 1001), "'name'"),
        (lambda t: t["device"].update(name="\x1b[2J"), "'name'"),
        (lambda t: t.update(device=[]), "'device'"),
        (lambda t: t["to"].update(version=2**60), "'version'"),
    ],
)
def test_what_is_not_exactly_a_record_is_refused_by_name(change, why):
    table = json.loads(to_json(record()))
    change(table)

    with pytest.raises(RecordError, match=why):
        from_json(json.dumps(table).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b'{"a":NaN}'],
    ids=range(8),
)
def test_what_is_not_json_is_refused(data):
    with pytest.raises(RecordError):
        from_json(data)


def test_what_is_too_long_is_refused_unread():
    with pytest.raises(RecordError, match="bytes"):
        from_json(b" " * (RECORD_LIMIT_BYTES + 1))


def test_the_text_is_ascii_with_crlf_in_eighty_columns():
    made = record(
        around=circumstances(device="Лінія " * 30),
        message="word " * 190,
        hint="x" * 900,
        events=[{"event": "a.b", "path": "/very" * 50, "timestamp": "2026-01-02T12:00:00Z"}] * 600,
    )
    text = to_text(made)

    assert text.isascii()
    assert text.count(b"\n") == text.count(b"\r\n")
    assert max(map(len, text.split(b"\r\n"))) <= 80


def test_the_text_says_first_what_came_of_it_and_then_what_to_do():
    lines = to_text(record(InstallExit.BUNDLE_INVALID, hint="sign it for 'main'")).decode()

    assert lines.startswith("REFUSED: THE STICK - signature, type or tag not accepted\r\n=====")
    assert "What to do: Ask for a new bundle; this one cannot be used on this device.\r\n" in lines
    assert "Hint:       sign it for 'main'\r\n" in lines
    assert "To:         raspberrypi4-64-lmp-42 (version 42), commit bbbbbbbbbbbb\r\n" in lines


def test_the_name_of_its_files_is_usable_on_fat():
    made = record(around=circumstances(started_utc=datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=UTC)))

    assert made.stem == "20260102T030505Z-0001"


FLOOR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("started", "ended", "said"),
    [
        (NOON, NOON + timedelta(seconds=10), ""),
        (
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC),
            "1970-01-01",
        ),
        (
            datetime(2100, 1, 1, tzinfo=UTC),
            datetime(2100, 1, 1, 0, 0, 10, tzinfo=UTC),
            "2100-01-01",
        ),
        (NOON, NOON + timedelta(days=1), "was set during the attempt"),
        (NOON, NOON - timedelta(days=1), "was set during the attempt"),
    ],
)
def test_a_clock_that_cannot_be_right_is_noted(started, ended, said):
    note = clock_note(started, ended, 10.0, FLOOR)

    assert (said in note) if said else note == ""


def test_a_clock_without_a_floor_is_taken_as_it_is():
    assert clock_note(NOON, NOON, 0.0, None) == ""


def test_a_record_at_the_ends_of_time_reads_back():
    for year in (1, 1970, 2100, 9999):
        about = circumstances(started_utc=datetime(year, 6, 1, tzinfo=UTC), floor_utc=FLOOR)
        made = record(around=about)

        assert made == from_json(to_json(made))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.99, "10 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_read_like_durations(seconds, text):
    assert duration_text(seconds) == text
