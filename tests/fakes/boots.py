"""Boots that are counted."""

from dataclasses import dataclass

from tests.fakes.effects import Effect, at_once


@dataclass
class MemoryBoots:
    boot: int = 1
    mark: str = ""
    effect: Effect = at_once

    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def await_reboot(self) -> None:
        self.effect(lambda: setattr(self, "mark", self.boot_id()))

    def awaited(self) -> bool:
        return self.mark == self.boot_id()

    def stop_waiting(self) -> None:
        self.effect(lambda: setattr(self, "mark", ""))

    def reboot(self) -> None:
        """The person's part."""
        self.boot += 1
