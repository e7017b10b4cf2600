"""The switch, the services and the yes of a device in memory."""

from dataclasses import dataclass, field

from agent.core.errors import RebootInhibitedError


@dataclass(slots=True)
class MemoryPower:
    """Counts reboots; ``inhibited`` refuses so many first."""

    inhibited: int = 0
    reboots: int = 0

    def reboot(self) -> None:
        if self.inhibited:
            self.inhibited -= 1
            raise RebootInhibitedError("a program holds the reboot back")
        self.reboots += 1


@dataclass(slots=True)
class MemoryServices:
    """Other update agents that run, or stand still for us."""

    running: set[str] = field(default_factory=set)
    noted: set[str] = field(default_factory=set)

    def stop(self) -> None:
        self.noted |= self.running
        self.running.clear()

    def restore(self) -> None:
        self.running |= self.noted
        self.noted.clear()


@dataclass(slots=True)
class MemoryConfirmations:
    """A person who says yes when told to."""

    asked: bool = False
    yes: bool = False

    def say_yes(self) -> None:
        self.yes |= self.asked

    def ask(self) -> None:
        self.asked, self.yes = True, False

    def given(self) -> bool:
        return self.yes

    def close(self) -> None:
        self.asked = False
