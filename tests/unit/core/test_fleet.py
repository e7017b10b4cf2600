"""Merging the records of many devices."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agent.core.fleet import Ending, Reading, Skipped, merge
from agent.core.outcome import InstallExit, RunExit
from agent.core.record import RecordKind
from tests.factory.records import NOON, circumstances, record


def run_record(exit=RunExit.OK, *, device="pump-07", attempt="attempt-1", sequence=2, **more):
    around = circumstances(kind=RecordKind.RUN, device=device, attempt=attempt, **more)
    return record(exit, around=around, sequence=sequence, duration_s=5.0)


def test_a_record_on_two_sticks_counts_once():
    fleet = merge([Reading("a", (record(),)), Reading("b", (record(),))])

    assert (len(fleet.rows), fleet.duplicates, fleet.places) == (1, 1, 2)


def test_install_and_run_of_one_attempt_are_one_row():
    row = merge([Reading("a", (run_record(), record()))]).rows[0]

    assert row.steps == "install 100, run 0"
    assert row.ending is Ending.DONE
    assert row.duration_s == 65.0


def test_the_order_holds_though_the_clock_fell_back_to_1970_over_the_reboot():
    late = run_record(started_utc=datetime(1970, 1, 1, tzinfo=UTC), floor_utc=NOON)
    row = merge([Reading("a", (late, record()))]).rows[0]

    assert row.steps == "install 100, run 0"
    assert "1970" in row.clock_note


def test_an_attempt_without_its_run_is_not_finished():
    fleet = merge([Reading("a", (record(),))])

    assert fleet.rows[0].ending is Ending.WAITING
    assert fleet.attention == fleet.rows


def test_attempts_of_two_devices_are_two_rows_though_their_ids_agree():
    other = record(around=circumstances(device="pump-08"))

    assert merge([Reading("a", (record(), other))]).devices == 2


def test_records_without_an_attempt_stay_apart():
    loose = [record(around=circumstances(attempt=""), sequence=n) for n in (1, 2)]

    assert len(merge([Reading("a", tuple(loose))]).rows) == 2


def test_a_plan_is_no_part_of_the_attempt_it_precedes():
    plan = record(around=replace(circumstances(), kind=RecordKind.PLAN), sequence=9)

    assert len(merge([Reading("a", (plan, record()))]).rows) == 2


def test_a_device_that_succeeded_at_last_needs_no_attention():
    refused = record(InstallExit.METADATA_EXPIRED, around=circumstances(attempt="one"))
    later = circumstances(attempt="two", started_utc=NOON + timedelta(days=1))
    good = record(InstallExit.UP_TO_DATE, around=later, sequence=2)
    fleet = merge([Reading("a", (good, refused))])

    assert fleet.attention == ()
    assert fleet.outcomes == (
        (Ending.DONE, "already up to date", 1),
        (Ending.REFUSED, "it has expired", 1),
    )


def test_skipped_files_of_every_place_are_listed():
    fleet = merge([Reading("a", (), (Skipped("x", "y"),)), Reading("b", (), (Skipped("z", "y"),))])

    assert [skipped.path for skipped in fleet.skipped] == ["x", "z"]
