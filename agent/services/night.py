"""The reboot an update needs: now, in a maintenance window, or left to somebody else.

Asked for after the stick has its record, carried out when nobody waits. A reboot is asked
for only when a deployment was newly staged, so a stick left in its port cannot cause two.
"""

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
        due: whether a reboot is owed.
    """

    policy: RebootPolicy
    windows: Sequence[Window]
    now_local: Callable[[], datetime]
    power: Power
    signals: Signals
    due: bool = False

    def hear(self, outcome: Outcome) -> None:
        """Take note of an outcome that needs a reboot."""
        if wants_reboot(outcome):
            self.owe(wanted=True)
            log.info("reboot.owed", policy=self.policy.value, target=outcome.target)

    def owe(self, *, wanted: bool) -> None:
        """Owe a reboot, if one is wanted and this device may reboot by itself."""
        self.due = wanted and self.policy is not RebootPolicy.NEVER

    def on_idle(self) -> float | None:
        """Reboot if it is time; else return in how many seconds to ask again."""
        if not self.due:
            return None
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
            return RETRY_S
        self.due = False
        return None


def wants_reboot(outcome: Outcome) -> bool:
    """Whether something was newly staged; being told "not rebooted yet" is no reason."""
    if outcome.exit is InstallExit.NEEDS_REBOOT:
        return True
    return outcome.exit is RunExit.NEEDS_REBOOT and outcome.reason == "app_rollback"
