"""A fleet for people: terminal, CSV and page."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from agent.core.fleet import Ending, Reading, Skipped, merge
from agent.core.outcome import InstallExit, RunExit
from agent.core.record import RecordKind
from agent.faces.report_page import fleet_page
from agent.faces.tables import (
    ENDING_WORDS,
    fleet_csv,
    fleet_text,
    history_text,
    outcome_text,
    text_table,
)
from tests.factory.records import NOON, circumstances, record

HOSTILE = "<script>alert(1)</script>\"'&"


def fleet(*records, skipped=()):
    return merge([Reading("/media/a", records, skipped)])


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


# --- terminal --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_table_fits_the_terminal(width):
    long = record(around=circumstances(device="pump-in-the-cellar-of-the-long-house-" * 4))
    wide = record(around=circumstances(device="生産ライン" * 9))
    text = fleet_text(fleet(long, wide), width=width)
    table = text.partition("\n\n")[0].splitlines()

    assert max(columns(line) for line in table) <= max(width, 7 * 5 + 6 * 2)


def columns(line: str) -> int:
    return sum(2 if "\u3000" < char < "\uffff" else 1 for char in line)


def test_the_last_line_counts_devices_and_endings():
    text = fleet_text(fleet(record()), width=100)

    assert text.endswith(
        "1 device, 1 attempt: 0 done, 1 not finished, 0 refused (the stick), 0 failed (the device)."
    )


def test_skipped_files_are_listed_with_their_reason():
    skipped = tuple(Skipped(f"/media/a/{n}.json", "it is not JSON") for n in range(30))
    text = fleet_text(fleet(skipped=skipped), width=100)

    assert "30 files not used:\n  /media/a/0.json: it is not JSON" in text
    assert text.endswith("and 10 more")


def test_a_wrong_clock_is_doubted_in_the_table():
    assert "1970-01-01 00:00 ?" in fleet_text(fleet(wrong_clock()), width=120)
    assert "1970-01-01 00:00 ?" in history_text([wrong_clock()], width=120)


def wrong_clock():
    early = NOON.replace(year=1970, month=1, day=1, hour=0)
    return record(around=circumstances(started_utc=early, floor_utc=NOON))


def test_an_empty_history_says_so():
    assert history_text([], width=80) == "No attempt is on record."


def test_a_cell_cannot_move_the_cursor():
    assert "\x1b" not in "\n".join(text_table(("A",), [("\x1b[2J",)], width=80))


# --- CSV -------------------------------------------------------------------------------


def test_csv_has_a_line_per_attempt_and_survives_commas_and_quotes():
    made = record(InstallExit.BUNDLE_INVALID, message='tag "a", not "b"; it\'s wrong')
    (row,) = rows_of(fleet_csv(fleet(made)))

    assert row["message"] == 'tag "a", not "b"; it\'s wrong'
    assert (row["code"], row["ending"], row["from_version"]) == ("15", "refused", "41")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "  +"])
def test_csv_injection_a_formula_stays_text(start):
    name = f'{start}HYPERLINK("http://example.com")'
    made = record(around=circumstances(device=name, label=name))
    (row,) = rows_of(fleet_csv(fleet(made)))

    assert row["device"] == f"'{name}"
    assert row["medium_label"] == f"'{name}"


def test_csv_of_nothing_has_its_headings():
    assert fleet_csv(fleet()).decode("utf-8-sig").startswith("device,serial,hardware_id,")


# --- page ------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(*records, skipped=()) -> str:
    return fleet_page(fleet(*records, skipped=skipped), made_utc=NOON)


def hostile_page() -> str:
    around = circumstances(device=HOSTILE, label=HOSTILE, attempt=HOSTILE)
    made = record(InstallExit.PULL_FAILED, around=around, message=HOSTILE, hint=HOSTILE)
    return page(made, skipped=(Skipped(HOSTILE, HOSTILE),))


def test_nothing_from_a_stick_becomes_markup():
    seen = Tags(hostile_page())

    assert "script" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert seen.open == []


def test_the_page_loads_nothing():
    text = hostile_page()
    seen = Tags(text)
    style = text[text.index("<style>") : text.index("</style>")]

    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name in ("src", "href", "action")]
    assert "default-src 'none'" in text
    assert re.findall(r"url\(([^)]*)\)", style) == ["#refused", "#failed", "#waiting"]
    assert "@import" not in style


def test_every_ending_is_told_by_words_beside_its_colour():
    text = page(
        record(InstallExit.UP_TO_DATE, sequence=1, around=circumstances(attempt="1")),
        record(InstallExit.NEEDS_REBOOT, sequence=2, around=circumstances(attempt="2")),
        record(InstallExit.METADATA_EXPIRED, sequence=3, around=circumstances(attempt="3")),
        record(InstallExit.FAILED, sequence=4, around=circumstances(attempt="4")),
    )

    for ending in Ending:
        assert f'<span class="mark {ending.value}"' in text
        assert ENDING_WORDS[ending] in text


def test_the_page_of_nothing_says_so():
    assert "No record was found." in page()


def test_a_page_says_which_devices_need_a_person():
    hint = "free 400 MiB in '/ostree'"
    failed = record(InstallExit.PULL_FAILED, reason="no_space", hint=hint)
    text = page(failed)
    attention = text[text.index("Needs attention") : text.index("Every attempt")]

    assert "Failed: the device - copying failed" in attention
    assert "free 400 MiB in &#x27;/ostree&#x27;" in attention


def test_devices_that_are_done_need_nobody():
    run = circumstances(kind=RecordKind.RUN)
    text = page(record(), record(RunExit.OK, around=run, sequence=2))

    assert "Nothing: every device's last attempt is complete." in text


@pytest.mark.parametrize("seconds", [0.0, 9.99, 10.0, 3599.0, 3600.0, 1e9])
def test_every_duration_has_a_column(seconds):
    drawn = page(record(duration_s=seconds)) if seconds < 1e6 else page(record(duration_s=1e6))

    assert drawn.count('text-anchor="middle">1</text>') == 1


def test_many_kinds_of_outcome_are_summed_up():
    exits = [e for e in InstallExit] + [e for e in RunExit]  # noqa: C416  two enums, one list
    made = [
        record(exit, sequence=n, around=circumstances(attempt=str(n)))
        for n, exit in enumerate(exits, 1)
    ]
    text = page(*made)
    total = sum(int(n) for n in re.findall(r"</text><text x=\"[0-9.]+\" y=\"[0-9]+\">(\d+)<", text))

    assert re.search(r"and \d+ others", text)
    assert total <= len(made)


def test_an_outcome_reads_as_verdict_and_headline():
    (row,) = fleet(record(InstallExit.METADATA_EXPIRED)).rows

    assert outcome_text(row) == "Refused: the stick - it has expired"
