"""Maintenance windows: when a device may reboot by itself.

In: a text like ``Mon-Fri 22:00-05:00`` and a local wall-clock time. Out: whether a window
is open, and when the next one opens. Windows are judged by the wall clock: one that falls
wholly into the hour a daylight-saving change skips does not open on that day.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60
EXPECTED = "'[DAYS] HH:MM-HH:MM', for example 'Mon-Fri 22:00-05:00', 'Sat,Sun 01:00-04:00'"

_DAY = r"(?:mon|tue|wed|thu|fri|sat|sun)"
_RANGE = rf"{_DAY}(?:-{_DAY})?"
_WINDOW = re.compile(
    rf"(?:(?P<days>{_RANGE}(?:,{_RANGE})*)\s+)?"
    r"(?P<from>[0-2][0-9]:[0-5][0-9])-(?P<to>[0-2][0-9]:[0-5][0-9])",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that comes back every week.

    Attributes:
        text: as it was written.
        days: weekdays on which it opens, Monday is 0.
        opens: minute of the day it opens, 0..1439.
        length: minutes it stays open, 1..1440; it may reach into the next day.
    """

    text: str
    days: frozenset[int]
    opens: int
    length: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read a window; without days it opens every day, from = to is the whole day.

        Raises:
            ValueError: it is not `EXPECTED`.
        """
        match = _WINDOW.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"a window is {EXPECTED}, found {text!r}")
        opens, closes = _minute(match["from"]), _minute(match["to"])
        if opens >= MINUTES_A_DAY or closes > MINUTES_A_DAY:
            raise ValueError(f"a window opens 00:00..23:59 and closes by 24:00, found {text!r}")
        length = (closes - opens) % MINUTES_A_DAY or MINUTES_A_DAY
        return cls(text.strip(), _days(match["days"]), opens, length)

    def opening_on(self, moment: datetime) -> datetime | None:
        """Return when it opens on ``moment``'s day, None when it does not."""
        if moment.weekday() not in self.days:
            return None
        return moment.replace(
            hour=self.opens // 60, minute=self.opens % 60, second=0, microsecond=0
        )

    def holds(self, moment: datetime) -> bool:
        """Whether it is open at ``moment``: it opened today, or yesterday and still is."""
        since = (self.opening_on(moment - timedelta(days=back)) for back in (0, 1))
        length = timedelta(minutes=self.length)
        return any(start is not None and start <= moment < start + length for start in since)

    def __str__(self) -> str:
        """As it was written."""
        return self.text


def is_open(windows: Sequence[Window], now_local: datetime) -> bool:
    """Whether any window is open; without windows none ever is."""
    return any(window.holds(now_local) for window in windows)


def next_open(windows: Sequence[Window], now_local: datetime) -> datetime | None:
    """Return ``now_local`` when a window is open, else the next opening; None without windows."""
    if is_open(windows, now_local):
        return now_local
    week = [now_local + timedelta(days=ahead) for ahead in range(8)]
    openings = (window.opening_on(day) for window in windows for day in week)
    return min(
        (start for start in openings if start is not None and start > now_local), default=None
    )


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    return frozenset(day for part in text.lower().split(",") for day in _span(part))


def _span(part: str) -> list[int]:
    """Read ``fri`` or ``fri-mon``; a range may pass over Sunday."""
    first, _, last = part.partition("-")
    start, end = DAYS.index(first), DAYS.index(last or first)
    return [day % 7 for day in range(start, end + 1 if end >= start else end + 8)]
