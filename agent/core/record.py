"""The result record: what the device tells of one attempt, one ``run`` or one ``plan``.

In: an outcome and the facts around it. Out: a `Record`, its JSON (docs/results.md,
docs/schema/record-1.json) and the text a technician reads. A record leaves the device, so
it holds names, numbers and sentences only: no environment, no file contents, no keys. It
is never longer than `RECORD_LIMIT_BYTES`, whatever went into it.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn, TypeVar, get_origin

from agent.core.feedback import headline, printable, verdict_from_outcome
from agent.core.outcome import Outcome
from agent.core.target import Target

FORMAT = "usb-update-record"
SCHEMA = 1
RECORD_LIMIT_BYTES = 1024 * 1024
EVENTS_LIMIT = 500  # newest events kept; as many as the journal's recorder keeps
EVENT_KEYS_LIMIT = 24
NAME_LIMIT = 200  # characters of a name; a Target's own limit is 128
TEXT_LIMIT = 1000  # characters of a sentence
EVENT_TEXT_LIMIT = 300  # characters of one value of an event
SEARCH_LIMIT = 10_000  # characters of a text that are searched for secrets
NUMBER_LIMIT = 2**53  # what every JSON reader keeps exact
TEXT_WIDTH = 78
TEXT_EVENTS_LIMIT = 100  # in the text; a person reads no further back

CLOCK_SLACK = timedelta(seconds=60)  # how far wall clock and duration may disagree
CLOCK_AHEAD = timedelta(days=20 * 366)  # no image is in use for so long

# Keys an event never takes along. The first are fields of the logger that say nothing here
# or may hold a program's output, the second are words of secrets.
_DROPPED_KEY = re.compile(
    r"argv|contents?|data|document|env(iron(ment)?)?|exc_info|exception|keys?|stack(_info)?"
    r"|std(in|out|err)|traceback|"
    r".*(passw|passphrase|secret|token|credential|private|api_?key|cookie|auth).*",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"-----BEGIN |(?<=://)[^/\s@]*:[^/\s@]*@")


class RecordError(ValueError):
    """Bytes that are not a record of a schema this program knows."""


class RecordKind(StrEnum):
    """What a record tells of."""

    INSTALL = "install"
    RUN = "run"
    PLAN = "plan"


class Verdict(StrEnum):
    """Whom the outcome concerns: nobody, who made the stick, who keeps the device."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeviceNames:
    """Which device it was.

    Attributes:
        name: as people call it; also the directory on the stick.
        serial: empty when it has none.
        hardware_id: what Targets are matched against.
    """

    name: str
    serial: str = ""
    hardware_id: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """What ran, or was to run.

    Attributes:
        target: the Target's name; empty when none was chosen.
        version: -1 when unknown.
        commit: 64 lowercase hex digits; empty when unknown.
    """

    target: str = ""
    version: int = -1
    commit: str = ""


@dataclass(frozen=True, slots=True)
class BundleNames:
    """Which bundle it was: tag, and ``ci`` or ``prod``; empty when none was read."""

    tag: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class MediumNames:
    """Which stick it was: label and UUID of its file system. Display data, not believed."""

    label: str = ""
    fs_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it, in words that need no table beside them.

    Attributes:
        code: exit status.
        name: its name in the command's enum.
        verdict: whom it concerns.
        headline: at most six words.
        meaning: the exit status's sentence.
        next_step: stable word, see `outcome.NextStep`.
        next_sentence: the same as a sentence.
        reason: stable ``snake_case`` word, empty when the code says it all.
        message: expected, found, where.
        hint: what to do about it.
    """

    code: int
    name: str
    verdict: Verdict
    headline: str
    meaning: str
    next_step: str
    next_sentence: str
    reason: str = ""
    message: str = ""
    hint: str = ""


Scalar = str | int | float | bool | None
Event = Mapping[str, Scalar]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One result.

    Attributes:
        kind: attempt, ``run`` or ``plan``.
        attempt: id that joins the records before and after a reboot.
        sequence: number of this record on its device, from 1; orders records where the
            clock cannot.
        agent_version: of the program that wrote it.
        device, before, after, bundle, medium, answer: see there.
        started_utc, ended_utc: by the device's own clock, whole seconds.
        duration_s: by a clock that cannot jump, rounded to milliseconds.
        clock_note: why the times are not to be relied upon; empty when they are.
        events: what happened, oldest first, flat.
        truncated: whether something was left out for length.
    """

    kind: RecordKind
    attempt: str
    sequence: int
    agent_version: str
    device: DeviceNames
    before: Version
    after: Version
    bundle: BundleNames
    medium: MediumNames
    answer: Answer
    started_utc: datetime
    ended_utc: datetime
    duration_s: float
    clock_note: str = ""
    events: tuple[Event, ...] = ()
    truncated: bool = False

    @property
    def id(self) -> str:
        """First 32 hex digits of the SHA-256 of the record's canonical JSON."""
        return _digest(_to_table(self))

    @property
    def stem(self) -> str:
        """Name of its files without suffix, usable on FAT: ``20260102T030405Z-0007``."""
        return f"{self.ended_utc:%Y%m%dT%H%M%SZ}-{self.sequence:04d}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a record needs beside the outcome; filled in as an attempt finds out.

    Attributes:
        kind, attempt, agent_version, device, medium, bundle: as in `Record`.
        started_utc: when it began, by the system clock.
        before: what ran when it began.
        after: the Target it is about, or what runs now.
        floor_utc: the trusted lower bound of the time, None when there is none.
    """

    kind: RecordKind
    attempt: str
    agent_version: str
    device: DeviceNames
    started_utc: datetime
    before: Version = field(default_factory=Version)
    after: Version = field(default_factory=Version)
    bundle: BundleNames = field(default_factory=BundleNames)
    medium: MediumNames = field(default_factory=MediumNames)
    floor_utc: datetime | None = None


def make_record(
    around: Circumstances,
    outcome: Outcome,
    *,
    ended_utc: datetime,
    duration_s: float,
    events: Iterable[Mapping[str, object]] = (),
) -> Record:
    """Put a record together, every text bounded and printable; it has no number yet.

    Args:
        around: the device, the stick, the beginning.
        outcome: what came of it.
        ended_utc: by the system clock.
        duration_s: by a clock that cannot jump.
        events: structlog events of the attempt; the newest `EVENTS_LIMIT` are kept.
    """
    happened = tuple(events)
    return Record(
        kind=around.kind,
        attempt=_told(around.attempt, NAME_LIMIT),
        sequence=0,
        agent_version=_told(around.agent_version, NAME_LIMIT),
        device=_bounded(around.device),
        before=_bounded(around.before),
        after=_bounded(around.after),
        bundle=_bounded(around.bundle),
        medium=_bounded(around.medium),
        answer=_answer(outcome),
        started_utc=_whole_second(around.started_utc),
        ended_utc=_whole_second(ended_utc),
        duration_s=round(float(min(max(duration_s, 0.0), 1e9)), 3),
        clock_note=clock_note(around.started_utc, ended_utc, duration_s, around.floor_utc),
        events=tuple(flat_event(event) for event in happened[-EVENTS_LIMIT:]),
        truncated=len(happened) > EVENTS_LIMIT,
    )


def numbered(record: Record, sequence: int) -> Record:
    """Return the record with its number on the device, and short enough to be written."""
    return _within_limit(replace(record, sequence=sequence))


def version_from_target(target: Target) -> Version:
    """Return what a record tells of ``target``."""
    return Version(target.name, target.version, target.commit)


def clock_note(
    started_utc: datetime, ended_utc: datetime, duration_s: float, floor_utc: datetime | None
) -> str:
    """Say why the record's times are not to be relied upon; empty when they are.

    Args:
        started_utc: by the system clock.
        ended_utc: by the system clock.
        duration_s: by a clock that cannot jump.
        floor_utc: the time it must be at least, from verified metadata; None: not known.
    """
    said = f"the device's clock said {started_utc:%Y-%m-%d %H:%M} UTC"
    if floor_utc is not None and started_utc < floor_utc - CLOCK_SLACK:
        return f"Times are not reliable: {said}, but it is at least {floor_utc:%Y-%m-%d}."
    if floor_utc is not None and started_utc > floor_utc + CLOCK_AHEAD:
        return f"Times are not reliable: {said}, decades after {floor_utc:%Y-%m-%d}."
    if abs(ended_utc - started_utc - timedelta(seconds=duration_s)) > CLOCK_SLACK:
        return "Times are not reliable: the device's clock was set during the attempt."
    return ""


def _answer(outcome: Outcome) -> Answer:
    return Answer(
        code=int(outcome.exit),
        name=outcome.exit.name,
        verdict=Verdict(verdict_from_outcome(outcome).value),
        headline=headline(outcome.exit),
        meaning=outcome.exit.meaning,
        next_step=outcome.next_step.value,
        next_sentence=outcome.next_step.sentence,
        reason=_told(outcome.reason, NAME_LIMIT),
        message=_told(outcome.message, TEXT_LIMIT),
        hint=_told(outcome.hint, TEXT_LIMIT),
    )


def _bounded(names: T) -> T:
    """Return a group of names with each text bounded and printable."""
    table = {f.name: getattr(names, f.name) for f in fields(names)}  # type: ignore[arg-type]
    told = {k: _told(v, NAME_LIMIT) if isinstance(v, str) else v for k, v in table.items()}
    return type(names)(**told)


def _told(text: str, limit: int) -> str:
    # Made printable before the search, so that reading a record back finds the same.
    shown = printable(text, SEARCH_LIMIT)
    return "[removed]" if _SECRET_VALUE.search(shown) else printable(shown, limit)


def _whole_second(when: datetime) -> datetime:
    return when.astimezone(UTC).replace(microsecond=0)


def _within_limit(record: Record) -> Record:
    """Drop the oldest events until the record is short enough; its texts are bounded already."""
    while len(to_json(record)) > RECORD_LIMIT_BYTES:
        kept = record.events[len(record.events) // 2 + 1 :]
        record = replace(record, events=kept, truncated=True)
    return record


class Posted(StrEnum):
    """What became of writing a record to a stick."""

    WRITTEN = "written"
    ALREADY_THERE = "already-there"
    READ_ONLY = "read-only"
    FULL = "full"
    GONE = "gone"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether a record is on the stick, and why not.

    Attributes:
        posted: what became of it.
        detail: path of the file on the stick, or the reason it is not there.
    """

    posted: Posted
    detail: str

    @property
    def arrived(self) -> bool:
        """Whether the record is on the stick, whole and durable."""
        return self.posted in (Posted.WRITTEN, Posted.ALREADY_THERE)


# --- events ----------------------------------------------------------------------------


def flat_event(event: Mapping[str, object]) -> Event:
    """Reduce a structlog event to bounded scalars, without what may hold a secret."""
    kept = [(key, value) for key, value in event.items() if _may_leave(key, value)]
    return {printable(key, 60): _scalar(value) for key, value in kept[:EVENT_KEYS_LIMIT]}


def _may_leave(key: str, value: object) -> bool:
    plain = isinstance(value, str | int | float | list | tuple | None)
    return plain and not _DROPPED_KEY.fullmatch(key)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        items = (str(item) for item in value[:EVENTS_LIMIT] if isinstance(item, str | int | float))
        return _told(", ".join(items), EVENT_TEXT_LIMIT)
    if isinstance(value, int | float) and abs(value) <= NUMBER_LIMIT:
        return float(value) if isinstance(value, float) else int(value)
    return _told(str(value), EVENT_TEXT_LIMIT)


# --- JSON ------------------------------------------------------------------------------

_WIRE = {"before": "from", "after": "to", "answer": "outcome"}
_HEAD = ("format", "schema", "id")


def to_json(record: Record) -> bytes:
    """Return the record's file: UTF-8 JSON, one key per line, ended by a newline."""
    table = _to_table(record)
    head = {"format": FORMAT, "schema": SCHEMA, "id": _digest(table)}
    return (json.dumps({**head, **table}, ensure_ascii=False, indent=1) + "\n").encode()


def from_json(data: bytes) -> Record:
    """Read a record, believing nothing of it.

    Args:
        data: a file's bytes; longer than `RECORD_LIMIT_BYTES` is refused.

    Raises:
        RecordError: it is not exactly what `to_json` of this schema writes; the message
            names the key.
    """
    table = _parsed(data)
    _check_head(table)
    body = {key: value for key, value in table.items() if key not in _HEAD}
    record = _read(Record, body, "record")
    if table.get("id") != _digest(body):
        _refuse("'id' does not match the content: it was changed or damaged")
    return record


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > RECORD_LIMIT_BYTES:
        _refuse(f"it has {len(data)} bytes, more than {RECORD_LIMIT_BYTES}")
    try:
        table = json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
        raise RecordError(f"it is not JSON: {printable(str(e), 80)}") from e
    if not isinstance(table, dict):
        _refuse("it is not a JSON object")
    return table


def _check_head(table: Mapping[str, object]) -> None:
    if table.get("format") != FORMAT:
        _refuse(f"'format' is not '{FORMAT}'")
    schema = table.get("schema")
    if type(schema) is int and schema > SCHEMA:
        _refuse(f"schema {schema} is newer than this program, which knows {SCHEMA}")
    if type(schema) is not int or schema != SCHEMA:
        _refuse(f"'schema' is not {SCHEMA}")


def _digest(table: Mapping[str, object]) -> str:
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"))
    import hashlib  # noqa: PLC0415  4 MiB, and an idle device makes no record

    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _to_table(value: Any) -> dict[str, object]:  # noqa: ANN401  any of our dataclasses
    return {_WIRE.get(f.name, f.name): _to_wire(getattr(value, f.name)) for f in fields(value)}


def _to_wire(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None).isoformat()}Z"
    if isinstance(value, tuple):
        return [dict(event) for event in value]
    return _to_table(value) if is_dataclass(value) else value


def _read(kind: type[T], value: object, where: str) -> T:
    """Build a dataclass from a JSON object that has exactly its fields."""
    if not isinstance(value, dict):
        _refuse(f"'{where}' is not an object")
    wanted = {_WIRE.get(f.name, f.name): f for f in fields(kind)}  # type: ignore[arg-type]
    if set(value) != set(wanted):
        odd = min(set(value) ^ set(wanted))
        _refuse(f"'{where}': key '{printable(odd, 60)}' is missing or not known")
    return kind(**{f.name: _read_value(f.type, value[key], key) for key, f in wanted.items()})


def _read_value(kind: Any, value: object, key: str) -> object:  # noqa: ANN401  a field's type
    if get_origin(kind) is tuple:
        return _read_events(value)
    if is_dataclass(kind):
        return _read(kind, value, key)  # type: ignore[arg-type]
    if kind is datetime:
        return _read_time(value, key)
    if issubclass(kind, StrEnum):
        return _read_word(kind, value, key)
    if not _is_a(kind, value):
        _refuse(f"'{key}' is not a bounded, printable {kind.__name__}")
    return value


def _is_a(kind: type, value: object) -> bool:
    if type(value) is not kind:
        return False
    if isinstance(value, str):
        return len(value) <= TEXT_LIMIT and value.isprintable()
    return abs(value) <= NUMBER_LIMIT  # type: ignore[arg-type]


def _read_word(kind: type[StrEnum], value: object, key: str) -> StrEnum:
    words = {word.value: word for word in kind}
    if not isinstance(value, str) or value not in words:
        _refuse(f"'{key}' is not one of {', '.join(words)}")
    return words[value]


def _read_time(value: object, key: str) -> datetime:
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        _refuse(f"'{key}' is not a time like 2026-01-02T03:04:05Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError as e:
        raise RecordError(f"'{key}' is no point in time") from e


def _read_events(value: object) -> tuple[Event, ...]:
    if not isinstance(value, list) or len(value) > EVENTS_LIMIT:
        _refuse(f"'events' is not a list of at most {EVENTS_LIMIT}")
    if not all(isinstance(event, dict) and event == flat_event(event) for event in value):
        _refuse("'events' holds something else than flat, bounded objects")
    return tuple(value)


def _refuse(why: str) -> NoReturn:
    raise RecordError(why)


# --- the text beside it ----------------------------------------------------------------

_BANNERS = {
    Verdict.DONE: "DONE",
    Verdict.REFUSED: "REFUSED: THE STICK",
    Verdict.FAILED: "FAILED: THE DEVICE",
}


def to_text(record: Record) -> bytes:
    """Return what a technician reads: plain ASCII, CRLF ends, at most 80 columns."""
    blocks = [_banner(record), _facts(record), _times(record), _happened(record)]
    lines = [line for block in blocks if block for line in (*block, "")]
    text = "\r\n".join(lines)
    return text.encode("ascii", "replace")


def _banner(record: Record) -> list[str]:
    answer = record.answer
    big = f"{_BANNERS[answer.verdict]} - {answer.headline}"
    return [big, "=" * len(big), "", *_wrapped("", answer.meaning)]


def _facts(record: Record) -> list[str]:
    answer, device = record.answer, record.device
    serial = f" (serial number {device.serial})" if device.serial else ""
    return [
        *_labelled("Device", f"{device.name}{serial}"),
        *_labelled("Hardware", device.hardware_id),
        *_labelled("From", _version_text(record.before)),
        *_labelled("To", _version_text(record.after)),
        *_labelled("What to do", answer.next_sentence),
        *_labelled("Hint", answer.hint),
        *_labelled("Because", answer.message),
        *_labelled("Code", f"{record.kind} {answer.code} {answer.name} {answer.reason}".rstrip()),
    ]


def _times(record: Record) -> list[str]:
    stick = " ".join(part for part in (record.medium.label, record.medium.fs_uuid) if part)
    return [
        *_labelled("Started", f"{record.started_utc:%Y-%m-%d %H:%M:%S} UTC"),
        *_labelled("Took", duration_text(record.duration_s)),
        *_labelled("Clock", record.clock_note),
        *_labelled("Stick", stick),
        *_labelled("Bundle", f"{record.bundle.tag} {record.bundle.type}".strip()),
        *_labelled("Agent", record.agent_version),
        *_labelled("Record", f"{record.id}, attempt {record.attempt or '-'}"),
    ]


def _happened(record: Record) -> list[str]:
    if not record.events:
        return []
    shown = record.events[-TEXT_EVENTS_LIMIT:]
    fewer = record.truncated or len(shown) < len(record.events)
    left_out = ["  (the oldest events were left out for length)"] if fewer else []
    lines = (line for event in shown for line in _event_lines(event))
    return ["What happened:", *left_out, *lines]


def _event_lines(event: Event) -> list[str]:
    name, when = event.get("event", "?"), event.get("timestamp", "")
    facts = (f"{k}={v}" for k, v in event.items() if k not in ("event", "timestamp"))
    line = printable(f"{when} {name} {' '.join(facts)}".strip(), TEXT_LIMIT)
    return _wrapped("  ", line, hanging="      ")


def _version_text(version: Version) -> str:
    number = f" (version {version.version})" if version.version >= 0 else ""
    commit = f", commit {version.commit[:12]}" if version.commit else ""
    return f"{version.target}{number}{commit}" if version.target else ""


def _labelled(label: str, text: str) -> list[str]:
    return _wrapped(f"{label + ':':<12}", text, hanging=" " * 12) if text else []


def _wrapped(start: str, text: str, *, hanging: str = "") -> list[str]:
    return textwrap.wrap(
        text, TEXT_WIDTH, initial_indent=start, subsequent_indent=hanging, break_on_hyphens=False
    )


def duration_text(seconds: float) -> str:
    """Return a duration for people: ``7 s``, ``3 min 05 s``, ``2 h 04 min``."""
    whole = round(seconds)
    if round(seconds, 1) < 10:  # noqa: PLR2004  below ten seconds a tenth is news
        return f"{seconds:.1f} s"
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
