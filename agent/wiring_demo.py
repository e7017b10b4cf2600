"""What ``usb-update demo`` needs of the world."""

from contextlib import AbstractContextManager

from agent.adapters import demodevice, journal
from agent.adapters.demodevice import Demo
from agent.wiring import DESK_LOG_LEVEL

__all__ = ["Demo", "opened_demo"]


def opened_demo(*, keep: bool) -> AbstractContextManager[Demo]:
    """Make a directory for a demonstration; see `demodevice.opened_demo`."""
    journal.set_up(DESK_LOG_LEVEL)
    return demodevice.opened_demo(keep=keep)
