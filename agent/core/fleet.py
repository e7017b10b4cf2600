"""Records of many devices, merged: one row per attempt, from door to final answer.

In: what was read from any number of sticks, in any order, with duplicates. Out: rows and
tallies. An attempt's ``install`` and the ``run`` after its reboot are one row, and the last
answer counts.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agent.core.outcome import NextStep
from agent.core.record import Answer, DeviceNames, Record, RecordKind, Verdict, Version

UNFINISHED = (NextStep.RUN.value, NextStep.REBOOT_THEN_RUN.value)


class Ending(StrEnum):
    """How an attempt stands; a record's verdict, and whether its last word was said."""

    DONE = "done"
    WAITING = "waiting"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not used: its path and the reason, both printable."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one place held.

    Attributes:
        place: as the person named it.
        records: without their events.
        skipped: files that were refused.
    """

    place: str
    records: tuple[Record, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt.

    Attributes:
        records: its records in the order they were made; at least one.
    """

    records: tuple[Record, ...]

    @property
    def last(self) -> Record:
        """The record whose answer counts."""
        return self.records[-1]

    @property
    def device(self) -> DeviceNames:
        """Which device it was."""
        return self.last.device

    @property
    def answer(self) -> Answer:
        """What came of it in the end."""
        return self.last.answer

    @property
    def ending(self) -> Ending:
        """How it stands: an update that still needs a reboot or ``run`` is waiting."""
        if self.answer.verdict is Verdict.DONE and self.answer.next_step in UNFINISHED:
            return Ending.WAITING
        return Ending(self.answer.verdict.value)

    @property
    def before(self) -> Version:
        """What ran when the attempt began."""
        return self.records[0].before

    @property
    def after(self) -> Version:
        """The Target it was about."""
        return next((r.after for r in reversed(self.records) if r.after.target), self.last.after)

    @property
    def steps(self) -> str:
        """Every command with its exit status: ``install 100, run 0``."""
        return ", ".join(f"{record.kind} {record.answer.code}" for record in self.records)

    @property
    def duration_s(self) -> float:
        """Time worked in all; the reboot in between is not counted."""
        return sum(record.duration_s for record in self.records)

    @property
    def started_utc(self) -> datetime:
        """When it began, by the device's clock."""
        return self.records[0].started_utc

    @property
    def clock_note(self) -> str:
        """Why the times are not to be relied upon; empty when they are."""
        return next((r.clock_note for r in self.records if r.clock_note), "")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything that was read, merged.

    Attributes:
        rows: by device, then in the order they were made.
        skipped: files that were refused.
        places: how many sticks or directories were read.
        duplicates: records that were read more than once.
    """

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    places: int
    duplicates: int

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len({row.device for row in self.rows})

    @property
    def attention(self) -> tuple[Row, ...]:
        """Devices whose last attempt was refused, failed, or waits for its end."""
        latest = {row.device: row for row in self.rows}.values()
        return tuple(row for row in latest if row.ending is not Ending.DONE)

    @property
    def outcomes(self) -> tuple[tuple[Ending, str, int], ...]:
        """Ending, headline and how often; endings in order, most frequent first."""
        counted = Counter((row.ending, row.answer.headline) for row in self.rows)
        order = list(Ending)
        ranked = sorted(counted.items(), key=lambda it: (order.index(it[0][0]), -it[1], it[0][1]))
        return tuple((ending, text, count) for (ending, text), count in ranked)

    def count(self, ending: Ending) -> int:
        """Return how many attempts stand so."""
        return sum(1 for row in self.rows if row.ending is ending)


def merge(readings: Iterable[Reading]) -> Fleet:
    """Merge what was read: each record once, each attempt one row."""
    seen = tuple(readings)
    found = [record for reading in seen for record in reading.records]
    unique = {record.id: record for record in found}
    return Fleet(
        rows=_rows(unique.values()),
        skipped=tuple(skipped for reading in seen for skipped in reading.skipped),
        places=len(seen),
        duplicates=len(found) - len(unique),
    )


def _rows(records: Iterable[Record]) -> tuple[Row, ...]:
    attempts: dict[tuple[DeviceNames, str], list[Record]] = {}
    for record in records:
        key = record.attempt if record.kind is not RecordKind.PLAN else ""
        attempts.setdefault((record.device, key or record.id), []).append(record)
    rows = (Row(tuple(sorted(group, key=_made))) for group in attempts.values())
    return tuple(
        sorted(rows, key=lambda row: (row.device.name, row.device.serial, _made(row.last)))
    )


def _made(record: Record) -> tuple[int, datetime]:
    """Order the records of one device: by number, since its clock may have been wrong."""
    return record.sequence, record.ended_utc
