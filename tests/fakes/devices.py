"""Sticks and sleep in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.core.stick import Action, BlockEvent


def stick(name: str = "sda1", *, fs_uuid: str = "AAAA-0001", fs_type: str = "vfat") -> BlockEvent:
    """Return the arrival of a stick."""
    disk = name.rstrip("0123456789") if name.startswith("sd") else name
    return BlockEvent(
        f"/dev/{name}", number="8:1", fs_type=fs_type, fs_uuid=fs_uuid, label="STICK", disk=disk
    )


@dataclass(slots=True)
class MemoryDevices:
    """Sticks that come and go when told."""

    plugged: dict[str, BlockEvent] = field(default_factory=dict)
    news: list[BlockEvent] = field(default_factory=list)

    def fileno(self) -> int:
        return -1

    def plug(self, event: BlockEvent) -> None:
        self.plugged[event.devnode] = event
        self.news += [event, replace(event, action=Action.CHANGE)]

    def pull(self, event: BlockEvent) -> None:
        del self.plugged[event.devnode]
        self.news.append(replace(event, action=Action.REMOVE))

    def present(self) -> tuple[BlockEvent, ...]:
        return tuple(self.plugged.values())

    def read(self) -> tuple[BlockEvent, ...]:
        news, self.news = tuple(self.news), []
        return news


@dataclass(slots=True)
class MemoryWakeups:
    """Sleep that passes at once. Each ``wait`` plays one step of the script.

    Attributes:
        script: what happens during each sleep; when it is over the daemon is stopped.
        clock: seconds; each sleep with a timeout moves it on.
        slept: the timeouts asked for, None for "as long as it takes".
    """

    script: list[Callable[[], None]] = field(default_factory=list)
    listeners: list[Callable[[], None]] = field(default_factory=list)
    clock: float = 0.0
    slept: list[float | None] = field(default_factory=list)
    stopped: bool = False

    def wait(self, timeout_s: float | None, *, mounts: bool = False) -> None:
        if timeout_s != 0:
            self.slept.append(timeout_s)
            self.clock += timeout_s or 0
            if self.script:
                self.script.pop(0)()
            elif timeout_s is None:
                self.stopped = True
        for listener in self.listeners:
            listener()

    def stopping(self) -> bool:
        return self.stopped

    def stop(self) -> None:
        self.stopped = True

    def monotonic(self) -> float:
        return self.clock
