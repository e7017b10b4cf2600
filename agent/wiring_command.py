"""Settings → the device and its logbook, for one command of a person or script."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent import __version__
from agent.adapters.journal import Recorder
from agent.core.config import Configuration, Settings
from agent.ports import Progress, Signals
from agent.services.station import Station
from agent.wiring import opened_station

if TYPE_CHECKING:
    from agent.core.feedback import Signal
    from agent.services.logbook import Logbook


@contextmanager
def opened_command(
    found: Configuration, *, progress: Progress, log_level: int | None
) -> Iterator[tuple[Station, "Callable[[], Logbook]"]]:
    """Open the device; its logbook is made when it is asked for.

    Raises:
        LockedError, StateError: as `wiring.opened_station`.
    """
    recorder = Recorder()
    with opened_station(
        found, progress=progress, log_level=log_level, recorder=recorder
    ) as station:
        yield station, lambda: make_logbook(found.settings, NoSignals(), recorder)


class NoSignals:
    """`Signals` of a command: the person reads its answer."""

    def show(self, signal: "Signal") -> None:
        """Tell nobody."""


def make_logbook(settings: Settings, signals: Signals, recorder: Recorder) -> "Logbook":
    """Return the device's logbook."""
    import socket  # noqa: PLC0415

    # Imported here: `run` with nothing pending keeps no record, and is to be quick.
    from agent.core.record import DeviceNames  # noqa: PLC0415
    from agent.services.logbook import Logbook  # noqa: PLC0415
    from agent.services.report import Reporter  # noqa: PLC0415
    from agent.wiring_results import device_results  # noqa: PLC0415

    return Logbook(
        reporter=Reporter(device_results(settings), signals),
        device=DeviceNames(socket.gethostname(), settings.provision.primary_ecu_serial),
        agent_version=__version__,
        monotonic=time.monotonic,
        take_events=recorder.take,
    )
