"""Settings → the idle daemon: what it needs to wait for a stick, and no more.

What an attempt needs (`wiring_house`) is imported when the first stick comes: an idle
device carries neither signatures nor databases nor Docker in memory.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from agent.adapters import journal, packs
from agent.adapters.control import ControlSocket
from agent.adapters.control import confirm as say_yes
from agent.adapters.keypress import open_key
from agent.adapters.mountinfo import StickMounts
from agent.adapters.poll import PollWakeups
from agent.adapters.systemd import SystemdPower, SystemdServices
from agent.adapters.tomlfiles import load as configuration
from agent.adapters.udev import UdevDevices, system_disks
from agent.core.config import Configuration, Settings
from agent.core.feedback import Stage, signal_from_stage
from agent.core.stick import BlockEvent
from agent.log import get_logger
from agent.services.consent import Asking, Ladder
from agent.services.night import Night, RebootPolicy
from agent.services.watch import Watch
from agent.wiring_results import Telling, make_telling

if TYPE_CHECKING:
    from agent.services.attend import House

__all__ = ["Tools", "configuration", "make_night", "make_tools", "opened_watch", "say_yes"]

log = get_logger()

Survive = Callable[[Callable[[], None]], None]
"""Calls what it is given; a bug in it must not end the daemon."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the idle daemon and an attempt share.

    Attributes:
        settings: the configuration.
        telling: signals and the service manager.
        recorder: the newest events, for the record.
        services: other update agents.
        mounts: sticks in the file tree.
    """

    settings: Settings
    telling: Telling
    recorder: journal.Recorder
    services: SystemdServices
    mounts: StickMounts


@dataclass(slots=True)
class Daemon:
    """The running service.

    Attributes:
        watch: the loop.
        night: the reboot it may owe.
        tools: shared with the attempts.
        asking: how consent is asked for.
        survive: keeps a bug of one attempt from ending the daemon.
    """

    watch: Watch
    night: Night
    tools: Tools
    asking: Asking
    survive: Survive
    _house: "House | None" = None

    def run(self) -> None:
        """Serve sticks until asked to stop."""
        manager = self.tools.telling.manager
        # A pack of an earlier life first: it keeps the stick that it lies on busy.
        packs.clear(packs.places(Path(self.tools.settings.storage.ledger)))
        self.watch.start()
        self._take_up_reboot()
        if not self.tools.telling.has_news:
            self.say_ready()
        manager.ready()
        self.watch.run()
        manager.stopping()

    def attend(self, event: BlockEvent) -> None:
        """Walk with one stick."""
        self.survive(lambda: self._attend(event))

    def _attend(self, event: BlockEvent) -> None:
        from agent.services.attend import attend  # noqa: PLC0415  heavy: see above
        from agent.wiring_house import make_house  # noqa: PLC0415

        if self._house is None:
            self._house = make_house(self.tools, asking=self.asking, breathe=self.watch.breathe)
        self.night.hear(attend(self._house, event))

    def say_ready(self) -> None:
        """Tell that a stick may come, unless a reboot is more important."""
        if not self.night.restarts:
            self.tools.telling.bus.show(signal_from_stage(Stage.IDLE))

    def _take_up_reboot(self) -> None:
        """Owe again the reboot an earlier life of this process owed."""
        if Path(self.tools.settings.storage.ledger, "pending").exists():
            from agent.wiring_house import awaits_reboot  # noqa: PLC0415  heavy: see above

            self.night.owe(wanted=awaits_reboot(self.tools.settings))


@contextmanager
def opened_watch(
    found: Configuration, *, survive: Survive, log_level: int | None = None
) -> Iterator[Daemon]:
    """Open everything ``usb-update watch`` needs.

    Args:
        found: the configuration.
        survive: keeps a bug of one attempt from ending the daemon.
        log_level: 0 trace … 5 fatal; None takes ``[logger] loglevel``.

    Raises:
        AgentError: the udev socket or the control socket cannot be opened.
    """
    tools = make_tools(found, log_level=log_level)
    manager = tools.telling.manager
    ours = tools.settings.usb_update
    with ExitStack() as stack:
        stack.callback(tools.telling.close)
        poll = PollWakeups(manager.alive, alive_s=manager.watchdog_s)
        stack.callback(poll.close)
        stack.enter_context(poll.signals_heard())
        devices = UdevDevices(system_disks())
        night = make_night(tools)
        watch = Watch(
            wakeups=poll,
            devices=devices,
            mounts=tools.mounts,
            services=tools.services,
            attend=lambda event: daemon.attend(event),  # noqa: PLW0108  it is made below
            on_idle=night.on_idle,
            holds_back=lambda: night.holds_back,
            on_left=lambda: daemon.say_ready(),  # noqa: PLW0108  likewise
            mount_wait_s=ours.mount_wait_s,
        )
        poll.listen(devices, watch.hear)
        if followers := tools.telling.followers:
            poll.listen(followers, followers.accept)
        daemon = Daemon(watch, night, tools, _asking(tools, poll, watch, stack), survive)
        yield daemon


def make_tools(
    found: Configuration, *, log_level: int | None = None, listening: bool = True
) -> Tools:
    """Set the log up and put the shared tools in their places.

    Args:
        found: the configuration.
        log_level: 0 trace … 5 fatal; None takes ``[logger] loglevel``.
        listening: whether programs may follow on a socket; the daemon's business.
    """
    settings = found.settings
    recorder = journal.Recorder()
    level = settings.logger.loglevel if log_level is None else log_level
    journal.set_up(level, recorder=recorder)
    for warning in found.warnings:
        log.warning("config.warned", message=warning)
    ours = settings.usb_update
    return Tools(
        settings=settings,
        telling=make_telling(settings, listening=listening),
        recorder=recorder,
        services=SystemdServices(ours.stop_services, Path(settings.storage.ledger)),
        mounts=StickMounts(
            ours.filesystems, wait_s=float(ours.mount_wait_s) if ours.mount == "wait" else None
        ),
    )


def make_night(tools: Tools) -> Night:
    """Return what waits for the moment to reboot."""
    ours = tools.settings.usb_update
    zone = ZoneInfo(ours.timezone) if ours.timezone else None
    return Night(
        RebootPolicy(ours.reboot),
        ours.windows,
        lambda: datetime.now(zone).replace(tzinfo=None),
        SystemdPower(tools.settings.bootloader.reboot_command),
        tools.telling.bus,
    )


def _asking(tools: Tools, poll: PollWakeups, watch: Watch, stack: ExitStack) -> Asking:
    ours = tools.settings.usb_update
    control = ControlSocket()
    stack.callback(control.end)
    poll.listen(control, control.answer)
    key = open_key(ours.confirm_key) if ours.confirm_key else None
    if key:
        stack.callback(key.end)
        poll.listen(key, key.read)
    return Asking(
        ladder=Ladder(ours.consent),
        countdown_s=ours.countdown_s,
        wakeups=poll,
        confirmations=(control, key) if key else (control,),
        signals=tools.telling.bus,
        holds=watch.holds,
    )
