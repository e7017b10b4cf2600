"""Outcome to record, stick, history and signals, with real files."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.adapters.resultfiles import (
    RESULTS_DIRECTORY,
    DeviceResults,
    StickLetterbox,
    read_results,
)
from agent.core.feedback import Mood, Signal, Stage
from agent.core.outcome import InstallExit, Outcome, RunExit
from agent.core.record import MediumNames, Posted, RecordKind
from agent.services.report import Reporter
from tests.factory.records import NOON, circumstances


@dataclass
class Heard:
    """Signals that were shown."""

    signals: list[Signal] = field(default_factory=list)

    def show(self, signal: Signal) -> None:
        self.signals.append(signal)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def reporter(tmp_path, heard) -> Reporter:
    return Reporter(DeviceResults(tmp_path / "results"), heard)


@pytest.fixture
def stick(tmp_path) -> Path:
    (tmp_path / "stick").mkdir()
    return tmp_path / "stick"


def keep(reporter, *, fs_uuid="1234-ABCD", kind=RecordKind.INSTALL, exit=InstallExit.NEEDS_REBOOT):
    around = replace(circumstances(kind=kind), medium=MediumNames("STICK", fs_uuid))
    return reporter.keep(
        around,
        Outcome(exit, "lmp-42"),
        ended_utc=NOON + timedelta(seconds=9),
        duration_s=9.0,
        events=[{"event": "bundle.found"}],
    )


def test_the_result_of_the_reboot_joins_the_one_before_it_on_the_stick(reporter, stick):
    keep(reporter)
    reporter.deliver(StickLetterbox(stick), fs_uuid="1234-ABCD")
    keep(reporter, kind=RecordKind.RUN, exit=RunExit.OK)
    reporter.deliver(StickLetterbox(stick), fs_uuid="1234-ABCD")

    assert [(r.kind, r.answer.code) for r in read_results(stick).records] == [
        ("install", 100),
        ("run", 0),
    ]
    assert reporter.results.owed() == ()
    assert len(reporter.results.history()) == 2


def test_a_result_is_held_without_a_stick_and_delivered_once_at_the_next_visit(
    reporter, stick, tmp_path
):
    keep(reporter)
    gone = reporter.deliver(StickLetterbox(tmp_path / "gone"), fs_uuid="1234-ABCD")
    assert [delivery.posted for delivery in gone] == [Posted.GONE]

    assert len(reporter.deliver(StickLetterbox(stick), fs_uuid="1234-ABCD")) == 1
    assert reporter.deliver(StickLetterbox(stick), fs_uuid="1234-ABCD") == ()
    assert len(read_results(stick).records) == 1


def test_a_power_cut_between_writing_and_settling_delivers_nothing_twice(reporter, stick):
    kept = keep(reporter)
    StickLetterbox(stick).put(kept)

    (delivery,) = reporter.deliver(StickLetterbox(stick), fs_uuid="1234-ABCD")

    assert delivery.posted is Posted.ALREADY_THERE
    assert len(list((stick / RESULTS_DIRECTORY).rglob("*.json"))) == 1


def test_a_sticks_own_records_go_first_and_those_of_others_say_whose_they_are(reporter, stick):
    keep(reporter, fs_uuid="OTHER")
    keep(reporter, fs_uuid="MINE")

    deliveries = reporter.deliver(StickLetterbox(stick), fs_uuid="MINE")

    assert [Path(delivery.detail).stem[-4:] for delivery in deliveries] == ["0002", "0001"]
    assert {r.medium.fs_uuid for r in read_results(stick).records} == {"MINE", "OTHER"}


def test_a_stick_that_refuses_once_is_not_asked_for_every_record(reporter, tmp_path):
    for _ in range(3):
        keep(reporter)

    assert len(reporter.deliver(StickLetterbox(tmp_path / "gone"), fs_uuid="x")) == 1


def test_the_stick_may_not_go_while_a_result_is_written_and_may_after(reporter, stick, heard):
    keep(reporter)
    reporter.deliver(StickLetterbox(stick), fs_uuid="x")
    reporter.announce(Outcome(InstallExit.NEEDS_REBOOT))

    assert [(s.stage, s.remove_stick) for s in heard.signals] == [
        (Stage.WRITING_RESULT, False),
        (Stage.FINISHED, True),
    ]
    assert heard.signals[-1].mood is Mood.DONE


def test_nothing_owed_says_and_writes_nothing(reporter, stick, heard):
    assert reporter.deliver(StickLetterbox(stick), fs_uuid="x") == ()
    assert heard.signals == []
    assert list(stick.iterdir()) == []
