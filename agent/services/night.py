"""The reboot an update needs: now, in a maintenance window, or left to somebody else.

Asked for after the stick has its record, carried out when nobody waits. A reboot is asked
for only when a deployment was newly staged, so a stick left in its port cannot cause two.
Sticks that wait meanwhile are kept for the time after it, when each is looked at anew.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agent.core.errors import RebootError
from agent.core.feedback import Stage, signal_from_stage
from agent.core.outcome import InstallExit, Outcome, RunExit
from agent.core.windows import Window, is_open, next_open
from agent.log import get_logger
from agent.ports import Power, Signals

log = get_logger()

RETRY_S = 60.0  # a program that asked the device to stay up gets a minute, again and again
LOOK_AGAIN_S = 3600.0  # the wall clock may be set while we wait for a window


class RebootPolicy(StrEnum):
    """``[usb_update] reboot``."""

    NOW = "now"
    WINDOW = "window"
    NEVER = "never"


@dataclass(slots=True)
class Night:
    """Waits for the moment to reboot.

    Attributes:
        policy, windows: from the configuration.
        now_local: the wall clock in the windows' time zone.
        power, signals: ports.
        monotonic: seconds of a clock that cannot jump.
        due: whether a reboot is owed.
        holds_back: whether nothing should be begun before the device has restarted.
    """

    policy: RebootPolicy
    windows: Sequence[Window]
    now_local: Callable[[], datetime]
    power: Power
    signals: Signals
    monotonic: Callable[[], float] = time.monotonic
    due: bool = False
    _put_off: bool = False
    _asked_at: float | None = None

    @property
    def holds_back(self) -> bool:
        """See the class. What asked the device to stay up does not keep sticks waiting."""
        now = self.due and self.policy is RebootPolicy.NOW and not self._put_off
        return now or self._leaves_in() > 0

    @property
    def restarts(self) -> bool:
        """Whether a reboot is owed or under way."""
        return self.due or self._leaves_in() > 0

    def hear(self, outcome: Outcome) -> None:
        """Take note of an outcome that needs a reboot."""
        if wants_reboot(outcome):
            self.owe(wanted=True)
            log.info("reboot.owed", policy=self.policy.value, target=outcome.target)

    def owe(self, *, wanted: bool) -> None:
        """Owe a reboot, if one is wanted and this device may reboot by itself."""
        self.due = wanted and self.policy is not RebootPolicy.NEVER
        self._put_off = False

    def on_idle(self) -> float | None:
        """Reboot if it is time; else return in how many seconds to ask again."""
        if not self.due:
            return self._leaves_in() or None
        if self.policy is RebootPolicy.WINDOW and not is_open(self.windows, self.now_local()):
            return self._wait_for_window()
        return self._reboot()

    def _wait_for_window(self) -> float | None:
        now = self.now_local()
        opening = next_open(self.windows, now)
        if opening is None:
            log.warning("reboot.left", message="no maintenance window is configured")
            self.due = False
            return None
        detail = f"The device restarts at {opening:%A %H:%M}."
        self.signals.show(signal_from_stage(Stage.WAITING_FOR_WINDOW, detail=detail))
        return min((opening - now).total_seconds(), LOOK_AGAIN_S)

    def _reboot(self) -> float | None:
        self.signals.show(signal_from_stage(Stage.REBOOTING))
        try:
            self.power.reboot()
        except RebootError as e:
            log.warning("reboot.put_off", message=e.message)
            self._put_off = True
            return RETRY_S
        self.due = False
        self._asked_at = self.monotonic()
        return RETRY_S

    def _leaves_in(self) -> float:
        """Return for how many seconds more a reboot that was asked for is believed to come."""
        if self._asked_at is None:
            return 0
        return max(0.0, self._asked_at + RETRY_S - self.monotonic())


def wants_reboot(outcome: Outcome) -> bool:
    """Whether something was newly staged; being told "not rebooted yet" is no reason."""
    if outcome.exit is InstallExit.NEEDS_REBOOT:
        return True
    return outcome.exit is RunExit.NEEDS_REBOOT and outcome.reason == "app_rollback"
