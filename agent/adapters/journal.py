"""The log: structlog on standard error, one line per fact.

Under systemd a line is JSON with the journal's priority before it; elsewhere it is
``event key=value`` for people. Texts from a stick are tamed before they reach either: no
control or direction-changing character, no endless line. `Recorder` keeps the newest
events of one attempt, so that the stick's record holds what the journal got.
"""

import json
import os
import re
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agent.log import LEVELS as NUMBERS
from agent.log import set_up as set_up_log

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

TEXT_LIMIT = 2000  # characters of one value; a program's whole complaint fits
RECORDED_EVENTS = 500
BYTE_MAX = 0xFF
LEVELS = ("debug", "debug", "info", "warning", "error", "critical")  # 0 trace: nothing is finer
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)

# C0 and C1 controls, line and paragraph separators, bidirectional controls, lone surrogates.
_WILD = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[^\s\"'=\\]+")


class Recorder:
    """Keeps the newest events of one attempt in memory.

    A processor, so it sees exactly what the journal sees. Bounded, because a stick may be
    full and a device may be small.

    Attributes:
        events: oldest first.
    """

    def __init__(self, limit: int = RECORDED_EVENTS) -> None:
        self.events: deque[dict[str, object]] = deque(maxlen=limit)

    def __call__(self, _: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
        """Keep a copy and pass the event on."""
        self.events.append(dict(event))
        return event

    def take(self) -> tuple[dict[str, object], ...]:
        """Return the events and start anew."""
        taken = tuple(self.events)
        self.events.clear()
        return taken


class StandardError:
    """Writes lines on standard error; a log nobody reads must not stop an update."""

    def msg(self, line: str) -> None:
        """Write one line."""
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)  # noqa: T201  this is what it is for

    log = debug = info = warning = warn = error = err = critical = fatal = exception = msg


def set_up(loglevel: int, *, recorder: Recorder | None = None) -> None:
    """Set the log up for this process.

    Args:
        loglevel: 0 trace, 1 debug, 2 info, 3 warning, 4 error, 5 fatal.
        recorder: sees every event that is logged.
    """
    level = NUMBERS[LEVELS[loglevel]]
    set_up_log(level, lambda: _configure(level, recorder))


def _configure(level: int, recorder: Recorder | None) -> None:
    import structlog  # noqa: PLC0415  see `agent.log`

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_time,
            tame_event,
            *([recorder] if recorder else []),
            _as_journal_line if "JOURNAL_STREAM" in os.environ else _as_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: StandardError(),
        cache_logger_on_first_use=False,  # it would break structlog.testing.capture_logs
    )


def tame(text: str) -> str:
    r"""Escape what could move a terminal's cursor or forge a line, as ``\xNN`` or ``\uNNNN``."""
    tamed = _WILD.sub(_escaped, text[:TEXT_LIMIT])
    return tamed if len(text) <= TEXT_LIMIT else f"{tamed}... ({len(text)} characters)"


def tame_event(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    """Tame every value, and make it one that JSON knows; a traceback keeps its lines."""
    from structlog.processors import format_exc_info  # noqa: PLC0415  see `agent.log`

    trace = format_exc_info(_, __, event).pop("exception", None)
    tamed = {str(key): _tamed(value) for key, value in event.items()}
    return tamed if trace is None else {**tamed, "exception": _tamed_lines(trace)}


def _tamed(value: object) -> Any:  # noqa: ANN401  a JSON value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {tame(str(key)): _tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_tamed(item) for item in value]
    return tame(str(value))


def _tamed_lines(trace: str) -> str:
    return "\n".join(tame(line) for line in trace.split("\n"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code <= BYTE_MAX else f"\\u{code:04x}"


def _add_time(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    event["time"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _as_journal_line(_: "WrappedLogger", level: str, event: "EventDict") -> str:
    return f"<{PRIORITIES.get(level, 6)}>{json.dumps(event)}"


def _as_text(_: "WrappedLogger", __: str, event: "EventDict") -> str:
    head = f"{event.pop('time')} {event.pop('level'):<8} {event.pop('event')}"
    trace = event.pop("exception", None)
    line = " ".join([head, *(f"{key}={_quoted(value)}" for key, value in event.items())])
    return f"{line}\n{trace}" if trace else line


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
