"""What a person is told: from a stage or an outcome to one `Signal`.

In: where an attempt stands, or what came of it. Out: the same few words, colour and blink
for every way of telling it (status file, lamp, sound, console, service manager). Both
functions are total. No mood depends on colour alone: words and blink differ as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from agent.core.errors import AgentError, BundleError, DeviceError
from agent.core.outcome import CheckExit, ExitCode, InstallExit, Outcome, RunExit

DETAIL_LIMIT = 300  # characters; four lines of a text console


class Mood(StrEnum):
    """The few things a lamp can say; the value is the wire's spelling."""

    IDLE = "idle"
    LOOKING = "looking"
    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Colour(StrEnum):
    """Colour of a mood, for what can show one."""

    OFF = "off"
    BLUE = "blue"
    AMBER = "amber"
    GREEN = "green"
    MAGENTA = "magenta"
    RED = "red"


class Blink(StrEnum):
    """Rhythm of a mood, for a lamp of any colour."""

    OFF = "off"
    SLOW = "slow"
    STEADY = "steady"
    DOUBLE_LONG = "double-long"
    TWO_SHORT = "two-short"
    THREE_SHORT = "three-short"
    FAST = "fast"


class Stage(StrEnum):
    """Where the agent stands; the value is the wire's spelling."""

    IDLE = "idle"
    LOOKING = "looking"
    CHECKING = "checking"
    WAITING_FOR_CONFIRMATION = "waiting-for-confirmation"
    COUNTDOWN = "countdown"
    COPYING = "copying"
    STAGING = "staging"
    SAFE_TO_REMOVE = "safe-to-remove"
    WRITING_RESULT = "writing-result"
    WAITING_FOR_WINDOW = "waiting-for-window"
    REBOOTING = "rebooting"
    STARTING_APPS = "starting-apps"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the current step has come; never a guess of the whole.

    Attributes:
        step: what is being done, for example an App's name.
        done, total: bytes; ``total`` is 0 when not known.
    """

    step: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing told to a person, by every means the device has.

    Attributes:
        stage: where the agent stands.
        mood: what a lamp says about it.
        title: a few words, at most 60 characters.
        detail: one or two sentences, printable characters only.
        remove_stick: a promise: the stick is not used any more and may be pulled out.
        code: the command's exit status, once there is one.
        next_step: wire spelling of the next step, once there is an outcome.
        progress: of the current step.
        seconds_left: until a countdown ends.
    """

    stage: Stage
    mood: Mood
    title: str
    detail: str = ""
    remove_stick: bool = False
    code: int | None = None
    next_step: str = ""
    progress: Progress | None = None
    seconds_left: int | None = None

    @property
    def colour(self) -> Colour:
        """The mood's colour."""
        return _LAMPS[self.mood][0]

    @property
    def blink(self) -> Blink:
        """The mood's rhythm."""
        return _LAMPS[self.mood][1]

    @property
    def sentence(self) -> str:
        """Title, detail and the removal promise in one line."""
        may_go = "The stick may be removed" if self.remove_stick else ""
        parts = (self.title, self.detail, may_go)
        return " ".join(f"{part.rstrip('.')}." for part in parts if part)


_LAMPS = {
    Mood.IDLE: (Colour.OFF, Blink.OFF),
    Mood.LOOKING: (Colour.BLUE, Blink.SLOW),
    Mood.WAITING: (Colour.BLUE, Blink.DOUBLE_LONG),
    Mood.WORKING: (Colour.AMBER, Blink.STEADY),
    Mood.DONE: (Colour.GREEN, Blink.TWO_SHORT),
    Mood.REFUSED: (Colour.MAGENTA, Blink.THREE_SHORT),
    Mood.FAILED: (Colour.RED, Blink.FAST),
}

# stage → mood, title, whether the stick may be pulled out
_STAGES = {
    Stage.IDLE: (Mood.IDLE, "Ready for a stick", True),
    Stage.LOOKING: (Mood.LOOKING, "Looking at the stick", False),
    Stage.CHECKING: (Mood.LOOKING, "Checking the bundle", False),
    Stage.WAITING_FOR_CONFIRMATION: (Mood.WAITING, "Waiting for a person to confirm", False),
    Stage.COUNTDOWN: (Mood.WAITING, "The update is about to start", False),
    Stage.COPYING: (Mood.WORKING, "Copying - do not remove the stick", False),
    Stage.STAGING: (Mood.WORKING, "Installing - do not remove the stick", False),
    Stage.SAFE_TO_REMOVE: (Mood.DONE, "Safe to remove the stick", True),
    Stage.WRITING_RESULT: (Mood.WORKING, "Writing the result - do not remove the stick", False),
    Stage.WAITING_FOR_WINDOW: (Mood.WAITING, "Waiting for the maintenance window", True),
    Stage.REBOOTING: (Mood.WORKING, "Restarting - do not switch off", True),
    Stage.STARTING_APPS: (Mood.WORKING, "Starting the Apps - do not switch off", True),
    Stage.FINISHED: (Mood.DONE, "Finished", True),
}

_VERDICT_TITLES = {
    Mood.DONE: "Done",
    Mood.REFUSED: "Refused: the stick",
    Mood.FAILED: "Failed: the device",
}


def signal_from_stage(
    stage: Stage,
    *,
    detail: str = "",
    progress: Progress | None = None,
    seconds_left: int | None = None,
) -> Signal:
    """Say where the agent stands.

    Args:
        stage: where it stands.
        detail: a sentence with the facts; characters that do not print are replaced.
        progress: of the current step.
        seconds_left: until a countdown ends.
    """
    mood, title, remove_stick = _STAGES[stage]
    return Signal(
        stage=stage,
        mood=mood,
        title=title,
        detail=printable(detail, DETAIL_LIMIT),
        remove_stick=remove_stick,
        progress=progress,
        seconds_left=seconds_left,
    )


def signal_from_outcome(outcome: Outcome, *, released: bool) -> Signal:
    """Say what came of an attempt.

    Args:
        outcome: what came of it.
        released: whether the stick is unmounted, so that it may be pulled out.
    """
    mood = verdict_from_outcome(outcome)
    return Signal(
        stage=Stage.FINISHED,
        mood=mood,
        title=f"{_VERDICT_TITLES[mood]} - {headline(outcome.exit)}",
        detail=printable(outcome.hint or outcome.next_step.sentence, DETAIL_LIMIT),
        remove_stick=released,
        code=int(outcome.exit),
        next_step=outcome.next_step.value,
    )


def signal_to_json(signal: Signal) -> dict[str, object]:
    """Return the signal as ``status.json`` and the follow socket spell it (docs/status.md)."""
    progress = signal.progress
    return {
        "stage": signal.stage.value,
        "mood": signal.mood.value,
        "title": signal.title,
        "detail": signal.detail,
        "colour": signal.colour.value,
        "blink": signal.blink.value,
        "remove_stick": signal.remove_stick,
        "code": signal.code,
        "next_step": signal.next_step or None,
        "progress": progress
        and {
            "step": printable(progress.step, 120),
            "done_bytes": progress.done,
            "total_bytes": progress.total,
        },
        "seconds_left": signal.seconds_left,
    }


def verdict_from_outcome(outcome: Outcome) -> Mood:
    """Tell whom to call: nobody (done), who made the stick (refused), who keeps the device.

    The reason decides when it is an error's, since one exit status (50) can be the fault
    of either; the exit status decides everything else.
    """
    verdict = _verdict_from_exit(outcome.exit)
    if verdict is Mood.DONE:
        return verdict
    return _BLAME.get(outcome.reason, verdict)


def _leaves(kind: type[AgentError]) -> Iterator[type[AgentError]]:
    yield kind
    for leaf in kind.__subclasses__():
        yield from _leaves(leaf)


_BLAME = {leaf.reason: Mood.REFUSED for leaf in _leaves(BundleError)} | {
    leaf.reason: Mood.FAILED for leaf in _leaves(DeviceError)
}


# `check` answers what `install` would, so it shares verdict and headline.
_SAME_NUMBER = {int(exit): exit for exit in InstallExit}


def _verdict_from_exit(exit: ExitCode) -> Mood:
    if isinstance(exit, InstallExit):
        return _install_verdict(exit)
    if isinstance(exit, RunExit):
        return _run_verdict(exit)
    if isinstance(exit, CheckExit) and exit is CheckExit.UPDATE_FOUND:
        return Mood.DONE
    return _install_verdict(_SAME_NUMBER[int(exit)])


def _install_verdict(exit: InstallExit) -> Mood:
    match exit:
        case InstallExit.UP_TO_DATE | InstallExit.NEEDS_RUN | InstallExit.NEEDS_REBOOT:
            return Mood.DONE
        case (
            InstallExit.FAILED
            | InstallExit.INSTALLATION_IN_PROGRESS
            | InstallExit.BOOT_FIRMWARE_PENDING
        ):
            return Mood.FAILED
        case (
            InstallExit.METADATA_UPDATE_FAILED
            | InstallExit.NO_MATCHING_TARGET
            | InstallExit.CONTENT_MISSING
            | InstallExit.METADATA_INVALID
            | InstallExit.METADATA_EXPIRED
            | InstallExit.METADATA_NOT_FOUND
            | InstallExit.BUNDLE_INVALID
            | InstallExit.PULL_FAILED
            | InstallExit.CONTENT_INVALID
            | InstallExit.DOWNGRADE
        ):
            return Mood.REFUSED
    assert_never(exit)


def _run_verdict(exit: RunExit) -> Mood:
    match exit:
        case (
            RunExit.OK
            | RunExit.OK_BOOT_FIRMWARE
            | RunExit.OK_BOOT_FIRMWARE_90
            | RunExit.NOTHING_PENDING
        ):
            return Mood.DONE
        case (
            RunExit.FAILED
            | RunExit.BOOT_ROLLBACK
            | RunExit.NEEDS_REBOOT
            | RunExit.BOOT_ROLLBACK_APPS_UNKNOWN
            | RunExit.ROLLBACK_FAILED
        ):
            return Mood.FAILED
    assert_never(exit)


_INSTALL_HEADLINES = {
    InstallExit.UP_TO_DATE: "already up to date",
    InstallExit.FAILED: "could not be carried out",
    InstallExit.METADATA_UPDATE_FAILED: "its signatures do not hold",
    InstallExit.NO_MATCHING_TARGET: "not for this device",
    InstallExit.CONTENT_MISSING: "content is missing",
    InstallExit.NEEDS_RUN: "installed, Apps start next",
    InstallExit.METADATA_INVALID: "its metadata is invalid",
    InstallExit.METADATA_EXPIRED: "it has expired",
    InstallExit.METADATA_NOT_FOUND: "no update on it",
    InstallExit.BUNDLE_INVALID: "signature, type or tag not accepted",
    InstallExit.INSTALLATION_IN_PROGRESS: "an earlier update is unfinished",
    InstallExit.PULL_FAILED: "copying failed",
    InstallExit.CONTENT_INVALID: "its content is invalid",
    InstallExit.BOOT_FIRMWARE_PENDING: "it must restart first",
    InstallExit.NEEDS_REBOOT: "installed, restart to finish",
    InstallExit.DOWNGRADE: "older than what runs",
}

_RUN_HEADLINES = {
    RunExit.OK: "updated",
    RunExit.FAILED: "could not be carried out",
    RunExit.OK_BOOT_FIRMWARE: "updated, restart when convenient",
    RunExit.NOTHING_PENDING: "nothing was waiting",
    RunExit.OK_BOOT_FIRMWARE_90: "updated, restart when convenient",
    RunExit.BOOT_ROLLBACK: "new version did not boot, old one runs",
    RunExit.NEEDS_REBOOT: "it must restart",
    RunExit.BOOT_ROLLBACK_APPS_UNKNOWN: "new version did not boot",
    RunExit.ROLLBACK_FAILED: "Apps do not run",
}


def headline(exit: ExitCode) -> str:
    """Return the exit status in at most six words, to stand behind its verdict."""
    if isinstance(exit, InstallExit):
        return _INSTALL_HEADLINES[exit]
    if isinstance(exit, RunExit):
        return _RUN_HEADLINES[exit]
    if exit is CheckExit.UPDATE_FOUND:
        return "an update was found"
    return _INSTALL_HEADLINES[_SAME_NUMBER[int(exit)]]


def printable(text: str, limit: int) -> str:
    """Return ``text`` for showing: one line, no control or direction marks, bounded.

    Labels and names come from sticks; a terminal must not obey them.

    Args:
        text: anything.
        limit: characters to keep; a cut is shown by ``...``.
    """
    kept = text if len(text) <= limit else text[: limit - 3] + "..."
    if kept.isprintable():
        return kept
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in kept)
