"""Installed, pending and failed Targets in memory, by the rules of ``sql.db``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.core.target import (
    INITIAL_NAME,
    AppRef,
    Target,
    target_from_custom,
    unknown_target,
)
from tests.fakes.effects import Effect, at_once


@dataclass(frozen=True)
class Row:
    target: Target
    is_current: bool = False
    is_pending: bool = False
    was_installed: bool = False


@dataclass
class MemoryVersions:
    """One tuple of rows and a flag, replaced together: each change is one transaction."""

    hardware: str = "raspberrypi4-64"
    rows: tuple[Row, ...] = ()
    needs_reboot: bool = False
    effect: Effect = at_once

    def hardware_id(self) -> str:
        return self.hardware

    def current(self, booted_commit: str) -> Target:
        marked = self._newest(lambda row: row.is_current)
        if marked and marked.commit == booted_commit:
            return marked
        found = self._newest(lambda row: row.target.commit == booted_commit)
        return found or unknown_target(booted_commit)

    def ensure_initial(self, booted_commit: str, apps: Sequence[AppRef]) -> None:
        if self._newest(lambda row: row.target.commit == booted_commit):
            return
        custom = {"hardwareIds": [self.hardware], "targetFormat": "OSTREE"}
        initial = target_from_custom(INITIAL_NAME, booted_commit, custom)
        target = initial.with_apps(tuple(apps)) if apps else initial
        self._become(Row(target, is_current=True, was_installed=True), self.rows)

    def pending(self) -> Target | None:
        return self._newest(lambda row: row.is_pending)

    def reboot_needed(self) -> bool:
        return self.needs_reboot

    def has_failed(self, target: Target) -> bool:
        named = [row for row in self.rows if row.target.name == target.name]
        return bool(named) and not any(
            row.was_installed or (row.is_pending and row.target.commit == target.commit)
            for row in named
        )

    def rollback_target(self, failed: Target) -> Target | None:
        mine = failed.commit, failed.name
        return self._newest(
            lambda row: row.was_installed and (row.target.commit, row.target.name) != mine
        )

    def save_pending(self, target: Target, *, needs_reboot: bool, correlation_id: str) -> None:
        assert correlation_id
        rows = tuple(replace(row, is_pending=False) for row in self.rows)
        self._become(Row(target, is_pending=True), rows, needs_reboot=needs_reboot)

    def save_current(self, target: Target) -> None:
        rows = tuple(replace(row, is_current=False, is_pending=False) for row in self.rows)
        self._become(Row(target, is_current=True, was_installed=True), rows)

    def save_failed(self, target: Target) -> None:
        rows = tuple(replace(row, is_pending=False) for row in self.rows)
        self._become(Row(target), rows)

    def _newest(self, fits: Callable[[Row], bool]) -> Target | None:
        return next((row.target for row in reversed(self.rows) if fits(row)), None)

    def _become(self, row: Row, rows: tuple[Row, ...], *, needs_reboot: bool = False) -> None:
        mine = row.target.commit, row.target.name
        if rows and (rows[-1].target.commit, rows[-1].target.name) == mine:
            rows = rows[:-1]
        self.effect(lambda: self._commit((*rows, row), needs_reboot))

    def _commit(self, rows: tuple[Row, ...], needs_reboot: bool) -> None:  # noqa: FBT001
        self.rows, self.needs_reboot = rows, needs_reboot
