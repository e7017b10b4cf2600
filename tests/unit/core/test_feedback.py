"""What a person is told: total, honest, and never by colour alone."""

import pytest

from agent.core.errors import AgentError, BundleError, DeviceError
from agent.core.feedback import (
    Blink,
    Mood,
    Progress,
    Signal,
    Stage,
    printable,
    signal_from_outcome,
    signal_from_stage,
    signal_to_json,
)
from agent.core.outcome import CheckExit, InstallExit, Outcome, RunExit

EVERY_EXIT = [*InstallExit, *RunExit, *CheckExit]


def leaves(kind: type[AgentError]) -> list[type[AgentError]]:
    return [kind, *(leaf for each in kind.__subclasses__() for leaf in leaves(each))]


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_has_words_a_colour_and_a_rhythm(stage):
    signal = signal_from_stage(stage)

    assert signal.stage is stage
    assert 0 < len(signal.title) <= 60
    assert signal.colour
    assert signal.blink


@pytest.mark.parametrize("exit", EVERY_EXIT, ids=str)
def test_every_exit_has_a_verdict_and_a_headline(exit):
    signal = signal_from_outcome(Outcome(exit), released=True)

    assert signal.mood in (Mood.DONE, Mood.REFUSED, Mood.FAILED)
    assert len(signal.title) <= 60
    assert signal.code == int(exit)


def test_no_two_moods_share_a_rhythm():
    signals = [Signal(Stage.IDLE, mood, "") for mood in Mood]

    assert len({signal.blink for signal in signals}) == len(Mood)
    assert {signal.blink for signal in signals} == set(Blink)


@pytest.mark.parametrize("leaf", leaves(BundleError), ids=lambda leaf: leaf.__name__)
def test_a_bundle_error_is_the_sticks_fault(leaf):
    outcome = Outcome(leaf.exit, reason=leaf.reason)

    assert signal_from_outcome(outcome, released=True).mood is Mood.REFUSED


@pytest.mark.parametrize("leaf", leaves(DeviceError), ids=lambda leaf: leaf.__name__)
def test_a_device_error_is_the_devices_fault(leaf):
    outcome = Outcome(leaf.exit, reason=leaf.reason)

    assert signal_from_outcome(outcome, released=True).mood is Mood.FAILED


def test_success_is_never_blamed_on_anyone():
    outcome = Outcome(InstallExit.NEEDS_REBOOT, reason=BundleError.reason)

    assert signal_from_outcome(outcome, released=True).mood is Mood.DONE


def test_the_stick_may_go_only_when_it_is_released():
    outcome = Outcome(InstallExit.NEEDS_REBOOT)

    assert not signal_from_outcome(outcome, released=False).remove_stick
    assert signal_from_outcome(outcome, released=True).remove_stick


@pytest.mark.parametrize(
    "stage", [Stage.LOOKING, Stage.CHECKING, Stage.COPYING, Stage.STAGING, Stage.WRITING_RESULT]
)
def test_the_stick_must_stay_while_it_is_used(stage):
    assert not signal_from_stage(stage).remove_stick


def test_safe_to_remove_is_a_promised_state_of_its_own():
    signal = signal_from_stage(Stage.SAFE_TO_REMOVE)

    assert signal.remove_stick
    assert "afe to remove" in signal.sentence


def test_the_sentence_holds_all_there_is_to_say():
    signal = signal_from_outcome(Outcome(InstallExit.UP_TO_DATE), released=True)

    assert signal.sentence == (
        "Done - already up to date. Nothing is left to do. The stick may be removed."
    )


def test_json_spells_progress_in_bytes():
    signal = signal_from_stage(Stage.COPYING, progress=Progress("app\x07", 1, 2))

    assert signal_to_json(signal)["progress"] == {
        "step": "app?",
        "done_bytes": 1,
        "total_bytes": 2,
    }


def test_what_a_terminal_would_obey_is_not_shown():
    assert printable("a\x1b[31m\u202e\tb\ud800", 20) == "a?[31m? b?"


def test_a_long_text_shows_that_it_was_cut():
    assert printable("abcdefgh", 6) == "abc..."
