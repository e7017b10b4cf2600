"""The daemon: sleep until a stick comes, attend to it, sleep again.

In: events of sticks. Out: one call of ``attend`` per insertion, one at a time, in the order
of arrival. What leaves before its turn is dropped; ``add`` and ``change`` of one insertion
are one. Nothing ticks: while nothing waits, nothing wakes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.stick import Action, BlockEvent
from agent.log import get_logger
from agent.ports import Devices, Mounts, Services, Wakeups

log = get_logger()

MOUNT_RECHECK_S = 1.0  # beside POLLPRI, which some older kernels lose
CONTENT_WAIT_S = 3.0  # udev may tell of a medium before blkid could read it, and again after


@dataclass(slots=True)
class StickQueue:
    """Who is next. One medium's insertion is served once, however often udev tells of it."""

    _waiting: dict[str, BlockEvent] = field(default_factory=dict)
    _there: dict[str, BlockEvent] = field(default_factory=dict)

    def feed(self, events: tuple[BlockEvent, ...]) -> None:
        """Take note of what came and went."""
        for event in events:
            if event.action is Action.REMOVE:
                self._remove(event)
            else:
                self._arrive(event)

    def _arrive(self, event: BlockEvent) -> None:
        known = self._there.get(event.devnode)
        if known is not None and (known.insertion == event.insertion or not event.fs_type):
            # A file system does not turn into nothing while its medium stays: udev looked at
            # it while it was written, by us, and will look again.
            return
        if known is not None:
            self._remove(known)  # a new medium in the same device: to the end of the queue
        self._there[event.devnode] = event
        self._waiting[event.devnode] = event
        log.info("stick.arrived", devnode=event.devnode, fs_type=event.fs_type, label=event.label)

    def _remove(self, event: BlockEvent) -> None:
        if self._waiting.pop(event.devnode, None) is not None:
            log.info("stick.left_unattended", devnode=event.devnode)
        self._there.pop(event.devnode, None)

    def take(self) -> BlockEvent | None:
        """Return the one who has waited longest."""
        devnode = next(iter(self._waiting), None)
        return None if devnode is None else self._waiting.pop(devnode)

    def holds(self, event: BlockEvent) -> bool:
        """Whether this very insertion is still in its port."""
        known = self._there.get(event.devnode)
        return known is not None and known.insertion == event.insertion

    def present(self) -> tuple[BlockEvent, ...]:
        """Return what is in its port, waiting or attended to."""
        return tuple(self._there.values())

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting


Attend = Callable[[BlockEvent], None]
OnIdle = Callable[[], float | None]


@dataclass(slots=True)
class Watch:
    """The loop around everything a stick's attempt needs.

    Attributes:
        wakeups: where it sleeps; ``listen`` to ``devices`` with `hear`.
        devices, mounts, services: ports.
        attend: walks one stick; a failure of the stick is its own business.
        holds_back: whether whoever waits must go on waiting: the device is about to restart.
        on_idle: called whenever nobody waits, for what else there is to do; returns in how
            many seconds it wants to be called again, None for only after the next event.
        on_left: called when nobody waits and the stick attended to last has left its port:
            what it was told is read.
        mount_wait_s: how long an automounter may take.
        monotonic: seconds of a clock that cannot jump.
    """

    wakeups: Wakeups
    devices: Devices
    mounts: Mounts
    services: Services
    attend: Attend
    on_idle: OnIdle
    on_left: Callable[[], None] = lambda: None
    holds_back: Callable[[], bool] = lambda: False
    mount_wait_s: float = 10.0
    monotonic: Callable[[], float] = time.monotonic
    queue: StickQueue = field(default_factory=StickQueue)
    _attended: BlockEvent | None = None

    def start(self) -> None:
        """Clear up after a life that was cut short, then look at what is plugged in."""
        self.mounts.clean()
        self.services.restore()
        self.queue.feed(self.devices.present())

    def run(self) -> None:
        """Attend to sticks until asked to stop."""
        while not self.wakeups.stopping():
            stick = None if self.holds_back() else self.queue.take()
            if stick is None:
                self._sleep()
            else:
                self._attend(stick)

    def hear(self) -> None:
        """Take what the devices have to tell; called by the poll."""
        self.queue.feed(self.devices.read())

    def breathe(self) -> None:
        """Look up from a long attempt without waiting: who came, who left, must we stop."""
        self.wakeups.wait(0)

    def holds(self, event: BlockEvent) -> bool:
        """Whether the stick is still in its port, as of this moment."""
        self.breathe()
        return self.queue.holds(event)

    def _sleep(self) -> None:
        if self._attended and not self.queue.holds(self._attended):
            self._attended = None
            self.on_left()
        again_s = self.on_idle()
        nobody = self.queue.empty or self.holds_back()
        if nobody and not self.wakeups.stopping():
            self.wakeups.wait(again_s)

    def _attend(self, stick: BlockEvent) -> None:
        self._await(stick, lambda: bool(stick.fs_type), CONTENT_WAIT_S)
        self._await(stick, lambda: self.mounts.ready(stick), self.mount_wait_s)
        if not self.holds(stick):
            log.info("stick.left_unattended", devnode=stick.devnode)
            return
        self._attended = stick
        self.attend(stick)

    def _await(self, stick: BlockEvent, ready: Callable[[], bool], wait_s: float) -> None:
        """Give udev or an automounter its time; events and signals are heard meanwhile."""
        deadline = self.monotonic() + wait_s
        while not ready() and self.queue.holds(stick):
            left = deadline - self.monotonic()
            if left <= 0 or self.wakeups.stopping():
                return
            self.wakeups.wait(min(left, MOUNT_RECHECK_S), mounts=True)
