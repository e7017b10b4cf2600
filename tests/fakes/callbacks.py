"""Callbacks that are only written down."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Notice:
    message: str
    current: str
    target: str = ""
    result: str = ""


@dataclass
class MemoryCallbacks:
    notices: list[Notice] = field(default_factory=list)

    def notify(self, message: str, *, current: str, target: str = "", result: str = "") -> None:
        self.notices.append(Notice(message, current, target, result))
