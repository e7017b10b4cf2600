"""Telling a person: the same `Signal` to a file, lamps, a sound, a console and followers.

Each sink has one module. A sink raises OSError when it cannot tell something; `SignalBus`
logs that once and goes on, since telling must never stop an update.
"""

from agent.adapters.signals.bus import SignalBus, Sink
from agent.adapters.signals.console import Console
from agent.adapters.signals.followers import Followers, follow, is_heard
from agent.adapters.signals.leds import Leds
from agent.adapters.signals.sdnotify import ServiceManager
from agent.adapters.signals.sound import Beeper, Bell
from agent.adapters.signals.statusfile import StatusFile, read_status

__all__ = [
    "Beeper",
    "Bell",
    "Console",
    "Followers",
    "Leds",
    "ServiceManager",
    "SignalBus",
    "Sink",
    "StatusFile",
    "follow",
    "is_heard",
    "read_status",
]
