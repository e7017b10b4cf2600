"""A person's consent before an install: nothing, a countdown, or a yes.

In: how the configuration wants it, and the stick. Out: one `Consent`. Pulling the stick is
always a no. Only the configuration decides how; nothing on the stick shortens it, except a
signed bundle where the configuration says so (``confirm_by_bundle``).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from agent.core.feedback import Stage, signal_from_stage
from agent.core.stick import BlockEvent
from agent.log import get_logger
from agent.ports import Confirmations, Signals, Wakeups

log = get_logger()


class Ladder(StrEnum):
    """``[usb_update] consent``."""

    AUTO = "auto"
    COUNTDOWN = "countdown"
    CONFIRM = "confirm"


class Consent(StrEnum):
    """What came of asking."""

    GIVEN = "given"
    STICK_PULLED = "stick-pulled"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Asking:
    """How this device asks.

    Attributes:
        ladder: how much is asked for.
        countdown_s: length of a countdown.
        wakeups: where it waits.
        confirmations: every way to say yes.
        signals: told what is being waited for.
        holds: whether the stick is still in its port.
        monotonic: seconds of a clock that cannot jump.
    """

    ladder: Ladder
    countdown_s: int
    wakeups: Wakeups
    confirmations: Sequence[Confirmations]
    signals: Signals
    holds: Callable[[BlockEvent], bool]
    monotonic: Callable[[], float] = time.monotonic

    def ask(self, stick: BlockEvent, *, detail: str, confirmed_by_bundle: bool = False) -> Consent:
        """Ask for consent to install what ``detail`` says; waits as long as it takes.

        Args:
            stick: pulling it is a no.
            detail: a sentence that says what will happen.
            confirmed_by_bundle: whether the configuration lets this signed bundle stand for
                the yes.
        """
        match self.ladder:
            case Ladder.AUTO:
                return Consent.GIVEN
            case Ladder.COUNTDOWN:
                answer = self._count_down(stick, detail)
            case Ladder.CONFIRM:
                answer = Consent.GIVEN if confirmed_by_bundle else self._await_yes(stick, detail)
            case _:
                assert_never(self.ladder)
        log.info("consent.decided", ladder=self.ladder.value, answer=answer.value)
        return answer

    def _count_down(self, stick: BlockEvent, detail: str) -> Consent:
        end = self.monotonic() + self.countdown_s
        while (left := end - self.monotonic()) > 0:
            if (no := self._refusal(stick)) is not None:
                return no
            seconds = math.ceil(left)
            self.signals.show(
                signal_from_stage(Stage.COUNTDOWN, detail=detail, seconds_left=seconds)
            )
            self.wakeups.wait(left - (seconds - 1))
        return self._refusal(stick) or Consent.GIVEN

    def _await_yes(self, stick: BlockEvent, detail: str) -> Consent:
        for way in self.confirmations:
            way.ask()
        try:
            self.signals.show(signal_from_stage(Stage.WAITING_FOR_CONFIRMATION, detail=detail))
            while (no := self._refusal(stick)) is None:
                if any(way.given() for way in self.confirmations):
                    return Consent.GIVEN
                self.wakeups.wait(None)
            return no
        finally:
            for way in self.confirmations:
                way.close()

    def _refusal(self, stick: BlockEvent) -> Consent | None:
        if not self.holds(stick):
            return Consent.STICK_PULLED
        return Consent.STOPPED if self.wakeups.stopping() else None
