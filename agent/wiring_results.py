"""Settings → what tells and keeps results, each tool in its place. No decisions.

Beside `wiring`, so that ``status`` and ``report`` load none of the update's own tools.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters import files, tomlfiles
from agent.adapters.resultfiles import DeviceResults, StickLetterbox, read_results
from agent.adapters.signals import (
    Beeper,
    Bell,
    Console,
    Followers,
    Leds,
    ServiceManager,
    SignalBus,
    Sink,
    StatusFile,
    follow,
    is_heard,
    read_status,
)
from agent.core.config import Settings
from agent.core.errors import ConfigError, StateError, UsageError
from agent.core.feedback import Stage
from agent.core.fleet import Reading
from agent.core.record import Record
from agent.log import get_logger

__all__ = ["DeviceResults", "StickLetterbox"]

log = get_logger()

RUNTIME = Path("/run/usb-update")  # the agent's directory until the next boot
SPEAKER = Path("/dev/input/by-path/platform-pcspkr-event-spkr")
BELL_TERMINAL = Path("/dev/tty0")
REPORT_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Telling:
    """What the daemon tells with.

    Attributes:
        bus: `ports.Signals`.
        manager: the service manager: ready, alive, stopping.
        followers: for the poll loop: watch ``fileno()`` for POLLIN, then ``accept()``; None
            when the socket could not be made.
        leds: give the lamps back at the end with ``restore()``; None without any.
        has_news: whether an outcome was told before, since the device was switched on: by
            the post-boot ``run``, or by a service that ended.
    """

    bus: SignalBus
    manager: ServiceManager
    followers: Followers | None
    leds: Leds | None
    has_news: bool

    def close(self) -> None:
        """Send the followers away and give the lamps back."""
        if self.followers:
            self.followers.close()
        if self.leds:
            self.leds.restore()


def make_telling(settings: Settings, *, runtime: Path = RUNTIME, listening: bool = True) -> Telling:
    """Put every sink the settings name in its place.

    Raises:
        ConfigError: an LED's name is not a name.
    """
    # The post-boot run is over before anybody could follow it, and the socket is the daemon's.
    ours = settings.usb_update
    manager = ServiceManager.from_environment()
    followers = _followers(runtime) if listening else None
    leds = _leds(ours.leds)
    console = Console(Path(ours.console)) if ours.console else None
    speaker = _speaker(ours.console) if ours.bell else None
    chosen = (StatusFile(runtime / "status.json"), followers, leds, manager, console, speaker)
    sinks: list[Sink] = [sink for sink in chosen if sink is not None]
    news = _news(runtime)
    if news and followers:
        followers.publish(news)  # what they are told first
    return Telling(SignalBus(sinks), manager, followers, leds, has_news=news is not None)


def _news(runtime: Path) -> dict[str, Any] | None:
    """Return the outcome that was told last; None when something else was, or nothing."""
    with suppress(OSError, ValueError):
        said = read_status(runtime / "status.json")
        return said if said and said.get("stage") == Stage.FINISHED else None
    return None


def device_results(settings: Settings) -> DeviceResults:
    """Return the device's own records."""
    return DeviceResults(Path(settings.storage.ledger, "results"))


def history(places: Sequence[Path]) -> tuple[Record, ...]:
    """Return the records of the device that the configuration in ``places`` describes.

    Raises:
        ConfigError: the configuration cannot be used.
        StateError: the records may not be read.
    """
    results = device_results(tomlfiles.load(places).settings)
    try:
        return results.history()
    except OSError as e:
        raise StateError(f"'{results.directory}': {e.strerror}", hint="run as root") from e


def status(runtime: Path) -> dict[str, Any] | None:
    """Return what the agent said last, with ``running``; None when it said nothing yet.

    Raises:
        StateError: the file cannot be read.
    """
    try:
        said = read_status(runtime / "status.json")
    except (OSError, ValueError) as e:
        raise StateError(f"the agent's status cannot be read: {e}") from e
    return said and {**said, "running": is_heard(runtime / "events.sock")}


def messages(runtime: Path) -> Iterator[dict[str, Any]]:
    """Yield what the agent says, from now on.

    Raises:
        StateError: no agent runs.
    """
    try:
        yield from follow(runtime / "events.sock")
    except OSError as e:
        raise StateError(
            "no agent runs on this device", hint="start it: systemctl start usb-update.service"
        ) from e


def reading(place: Path) -> Reading:
    """Return the records of a stick, directory or file.

    Raises:
        UsageError: it is not there or cannot be read.
    """
    try:
        return read_results(place)
    except OSError as e:
        raise UsageError(
            f"'{place}' cannot be read: {e.strerror}", hint="give a mounted stick or a directory"
        ) from e


def write_report(path: Path, data: bytes) -> None:
    """Write a report file, replacing an earlier one.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        files.write_atomic(path, data, mode=REPORT_MODE)
    except OSError as e:
        raise UsageError(f"'{path}' cannot be written: {e.strerror}") from e


def _followers(runtime: Path) -> Followers | None:
    try:
        return Followers(runtime / "events.sock")
    except OSError as e:
        log.warning("signal.unavailable", sink="Followers", error=str(e))
        return None


def _leds(names: Sequence[str]) -> Leds | None:
    try:
        return Leds(names) if names else None
    except ValueError as e:
        raise ConfigError(f"[usb_update] leds: {e}") from e


def _speaker(console: str) -> Sink:
    """Return the PC's speaker, or the bell of a terminal where there is none."""
    return Beeper(SPEAKER) if SPEAKER.exists() else Bell(Path(console or BELL_TERMINAL))
