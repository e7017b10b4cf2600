"""Maintenance windows by the wall clock."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.windows import Window, is_open, next_open

MONDAY = datetime(2026, 1, 5)  # noqa: DTZ001  wall-clock time is the matter here
BERLIN = ZoneInfo("Europe/Berlin")


def at(day: int, clock: str) -> datetime:
    hours, minutes = clock.split(":")
    return MONDAY + timedelta(days=day, hours=int(hours), minutes=int(minutes))


@pytest.mark.parametrize(
    ("text", "day", "clock", "expected"),
    [
        ("22:00-05:00", 0, "22:00", True),
        ("22:00-05:00", 0, "21:59", False),
        ("22:00-05:00", 1, "04:59", True),
        ("22:00-05:00", 1, "05:00", False),
        ("Mon-Fri 22:00-05:00", 0, "03:00", False),  # Sunday's window does not open
        ("Mon-Fri 22:00-05:00", 5, "03:00", True),  # Friday's reaches into Saturday
        ("Mon-Fri 22:00-05:00", 5, "22:30", False),
        ("Sat,Sun 01:00-04:00", 6, "02:00", True),
        ("Sat,Sun 01:00-04:00", 0, "02:00", False),
        ("Fri-Mon 01:00-04:00", 6, "02:00", True),
        ("Fri-Mon 01:00-04:00", 2, "02:00", False),
        ("sun 00:00-24:00", 6, "23:59", True),
        ("12:00-12:00", 3, "11:59", True),
        ("Wed 12:00-12:00", 3, "11:59", True),
        ("Wed 12:00-12:00", 3, "12:00", False),
    ],
)
def test_open_or_not(text: str, day: int, clock: str, expected: bool) -> None:  # noqa: FBT001
    assert expected is is_open([Window.parse(text)], at(day, clock))


@pytest.mark.parametrize(
    ("text", "day", "clock", "opens"),
    [
        ("22:00-05:00", 0, "12:00", at(0, "22:00")),
        ("22:00-05:00", 0, "23:00", at(0, "23:00")),
        ("Mon 02:00-03:00", 0, "03:00", at(7, "02:00")),
        ("Mon-Fri 22:00-05:00", 5, "12:00", at(7, "22:00")),
    ],
)
def test_the_next_opening(text: str, day: int, clock: str, opens: datetime) -> None:
    assert opens == next_open([Window.parse(text)], at(day, clock))


def test_of_several_windows_the_first_to_open_counts() -> None:
    windows = [Window.parse("Wed 10:00-11:00"), Window.parse("Tue 10:00-11:00")]

    assert at(1, "10:00") == next_open(windows, at(0, "12:00"))


def test_without_windows_none_opens() -> None:
    assert not is_open([], MONDAY)
    assert next_open([], MONDAY) is None


def test_a_window_keeps_its_wall_clock_time_over_a_change_of_the_clocks() -> None:
    before = datetime(2026, 3, 28, 23, 0, tzinfo=BERLIN)

    opens = next_open([Window.parse("Sun 04:00-05:00")], before)

    assert opens == datetime(2026, 3, 29, 4, 0, tzinfo=BERLIN)


@pytest.mark.parametrize(
    "text",
    ["", "always", "Mon", "22-05", "24:00-05:00", "22:00-24:01", "Foo 22:00-23:00", "22:60-23:00",
     "Mon- 22:00-23:00", "Mon,,Tue 22:00-23:00", "22:00-05:00\x00"],
)  # fmt: skip
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        Window.parse(text)


WINDOWS = (
    "22:00-05:00",
    "Mon-Fri 22:00-05:00",
    "Sat,Sun 01:00-04:00",
    "12:00-12:00",
    "tue 00:00-00:01",
)


@given(
    st.lists(st.sampled_from(WINDOWS).map(Window.parse), min_size=1),
    st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)),  # noqa: DTZ001
)
def test_the_next_opening_is_open_and_nothing_before_it_is(
    windows: list[Window], now: datetime
) -> None:
    opens = next_open(windows, now)

    assert opens is not None
    assert is_open(windows, opens)
    if opens > now:
        assert opens - now <= timedelta(days=7)
        assert not is_open(windows, now + (opens - now) / 2)


@given(st.text())
def test_any_text_is_a_window_or_a_value_error(text: str) -> None:
    try:
        window = Window.parse(text)
    except ValueError:
        return
    assert 1 <= window.length <= 1440
