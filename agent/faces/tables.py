"""A fleet as a terminal table and as CSV."""

import csv
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap

from agent.core.feedback import printable
from agent.core.fleet import Ending, Fleet, Row
from agent.core.record import Record, Version, duration_text

ENDING_WORDS = {
    Ending.DONE: "Done",
    Ending.WAITING: "Not finished",
    Ending.REFUSED: "Refused: the stick",
    Ending.FAILED: "Failed: the device",
}
NARROWEST = 5  # columns of text a cell keeps, whatever the terminal
SHOWN_SKIPPED = 20

_HEADINGS = ("Device", "Started UTC", "From", "To", "Outcome", "Took", "Steps")


def fleet_text(fleet: Fleet, *, width: int) -> str:
    """Return a table of at most ``width`` columns, and what it comes to."""
    cells = [_cells(row) for row in fleet.rows]
    table = [*text_table(_HEADINGS, cells, width=width), ""] if cells else []
    return "\n".join([*table, tally(fleet), *_skipped(fleet)])


def history_text(records: Sequence[Record], *, width: int) -> str:
    """Return a table of a device's own records."""
    if not records:
        return "No attempt is on record."
    headings = ("No.", "Started UTC", "What", "From", "To", "Outcome", "Took")
    return "\n".join(text_table(headings, [_history_cells(r) for r in records], width=width))


def tally(fleet: Fleet) -> str:
    """Return how many devices and attempts there are, and how they ended."""
    counts = (f"{fleet.count(ending)} {_counted(ending)}" for ending in Ending)
    devices, attempts = count_of(fleet.devices, "device"), count_of(len(fleet.rows), "attempt")
    return f"{devices}, {attempts}: {', '.join(counts)}."


def _counted(ending: Ending) -> str:
    word, _, whom = ENDING_WORDS[ending].lower().partition(": ")
    return f"{word} ({whom})" if whom else word


def count_of(number: int, thing: str) -> str:
    """Return ``1 device`` or ``2 devices``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def outcome_text(row: Row) -> str:
    """Return how an attempt stands, in words."""
    return f"{ENDING_WORDS[row.ending]} - {row.answer.headline}"


def version_text(version: Version) -> str:
    """Return a version in as few words as tell it: its number, else its name."""
    return str(version.version) if version.version >= 0 else version.target or "-"


def started_text(row: Row) -> str:
    """Return when an attempt began; a question mark says that the clock was wrong."""
    doubt = " ?" if row.clock_note else ""
    return f"{row.started_utc:%Y-%m-%d %H:%M}{doubt}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.device.name,
        started_text(row),
        version_text(row.before),
        version_text(row.after),
        outcome_text(row),
        duration_text(row.duration_s),
        row.steps,
    )


def _history_cells(record: Record) -> tuple[str, ...]:
    answer = record.answer
    doubt = " ?" if record.clock_note else ""
    return (
        str(record.sequence),
        f"{record.started_utc:%Y-%m-%d %H:%M}{doubt}",
        f"{record.kind} {answer.code}",
        version_text(record.before),
        version_text(record.after),
        f"{ENDING_WORDS[Ending(answer.verdict.value)]} - {answer.headline}",
        duration_text(record.duration_s),
    )


def _skipped(fleet: Fleet) -> list[str]:
    if not fleet.skipped:
        return []
    shown = [f"  {skipped.path}: {skipped.why}" for skipped in fleet.skipped[:SHOWN_SKIPPED]]
    more = len(fleet.skipped) - len(shown)
    return [
        f"{count_of(len(fleet.skipped), 'file')} not used:",
        *shown,
        *([f"  and {more} more"] if more else []),
    ]


# --- columns ---------------------------------------------------------------------------


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return the lines of a table; the widest columns give way until it fits."""
    cells = [tuple(headings), *(tuple(printable(cell, 200) for cell in row) for row in rows)]
    widths = _fitted([max(map(_columns, column)) for column in zip(*cells, strict=True)], width)
    lines = ["  ".join(starmap(_padded, zip(row, widths, strict=True))).rstrip() for row in cells]
    rule = "  ".join("-" * column for column in widths)
    return [lines[0], rule, *lines[1:]]


def _fitted(widths: list[int], width: int) -> list[int]:
    room = width - 2 * (len(widths) - 1)
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _padded(text: str, width: int) -> str:
    cut = _cut(text, width)
    return cut + " " * (width - _columns(cut))


def _cut(text: str, width: int) -> str:
    if _columns(text) <= width:
        return text
    kept = text
    while _columns(kept) > width - 2:
        kept = kept[:-1]
    return f"{kept}.."


def _columns(text: str) -> int:
    """Return how many columns a terminal gives a text."""
    wide = sum(1 for char in text if unicodedata.east_asian_width(char) in "WF")
    marks = sum(1 for char in text if unicodedata.combining(char))
    return len(text) + wide - marks


# --- CSV -------------------------------------------------------------------------------


def fleet_csv(fleet: Fleet) -> bytes:
    """Return one line per attempt; UTF-8 with a mark, as spreadsheets want it."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(_CSV_COLUMNS)
    for row in fleet.rows:
        writer.writerow([_harmless(cell(row)) for cell in _CSV_COLUMNS.values()])
    return file.getvalue().encode("utf-8-sig")


def _number(version: int) -> int | str:
    return version if version >= 0 else ""


def _harmless(value: object) -> object:
    """Keep a spreadsheet from taking a device's or stick's text for a formula.

    Source: OWASP, "CSV Injection".
    """
    risky = isinstance(value, str) and value.lstrip()[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if risky and value else value


_CSV_COLUMNS: Mapping[str, Callable[[Row], object]] = {
    "device": lambda row: row.device.name,
    "serial": lambda row: row.device.serial,
    "hardware_id": lambda row: row.device.hardware_id,
    "attempt": lambda row: row.last.attempt,
    "started_utc": lambda row: f"{row.started_utc:%Y-%m-%dT%H:%M:%SZ}",
    "from_target": lambda row: row.before.target,
    "from_version": lambda row: _number(row.before.version),
    "to_target": lambda row: row.after.target,
    "to_version": lambda row: _number(row.after.version),
    "ending": lambda row: row.ending.value,
    "outcome": lambda row: row.answer.headline,
    "code": lambda row: row.answer.code,
    "code_name": lambda row: row.answer.name,
    "reason": lambda row: row.answer.reason,
    "message": lambda row: row.answer.message,
    "next_step": lambda row: row.answer.next_step,
    "steps": lambda row: row.steps,
    "duration_s": lambda row: round(row.duration_s, 3),
    "clock_note": lambda row: row.clock_note,
    "bundle_tag": lambda row: row.last.bundle.tag,
    "bundle_type": lambda row: row.last.bundle.type,
    "medium_label": lambda row: row.last.medium.label,
    "medium_uuid": lambda row: row.last.medium.fs_uuid,
    "records": lambda row: " ".join(record.stem for record in row.records),
}
