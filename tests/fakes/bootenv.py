"""A boot loader's environment in memory, U-Boot's masked kind."""

from dataclasses import dataclass, field

from tests.fakes.effects import Effect, at_once


@dataclass
class MemoryBootEnv:
    variables: dict[str, str] = field(default_factory=dict)
    updates_firmware: bool = True
    counts_boots: bool = True
    effect: Effect = at_once

    def confirm_boot(self) -> None:
        self._set("upgrade_available", "0")
        self._set("bootcount", "0")

    def expect_new_rootfs(self) -> None:
        self._set("bootcount", "0")
        self._set("rollback", "0")
        self._set("upgrade_available", "1")

    def firmware_update_pending(self) -> bool:
        return self.updates_firmware and self.variables.get("bootupgrade_available") == "1"

    def rollback_protected(self) -> bool:
        return self.updates_firmware and self.variables.get("rollback_protection") == "1"

    def firmware_version(self) -> str | None:
        return self.variables.get("bootfirmware_version") or None

    def flag_firmware_update(self) -> None:
        self._set("bootupgrade_available", "1")

    def _set(self, name: str, value: str) -> None:
        if self.variables.get(name) != value:
            self.effect(lambda: self.variables.update({name: value}))
