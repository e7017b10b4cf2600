"""The ledger in memory."""

from dataclasses import dataclass, field
from datetime import datetime

from agent.core.bundletype import BundleType
from agent.core.policy import quarantine_key
from agent.core.promise import Promise
from agent.core.target import Target
from tests.fakes.effects import Effect, at_once


@dataclass
class MemoryLedger:
    open_promise: Promise | None = None
    floor: datetime | None = None
    fixed_type: BundleType | None = None
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    effect: Effect = at_once

    def promise(self, promise: Promise) -> None:
        self.effect(lambda: setattr(self, "open_promise", promise))

    def promised(self) -> Promise | None:
        return self.open_promise

    def forget(self) -> None:
        self.effect(lambda: setattr(self, "open_promise", None))

    def last_seen_utc(self) -> datetime | None:
        return self.floor

    def saw_utc(self, when: datetime) -> None:
        if self.floor is None or when > self.floor:
            self.effect(lambda: setattr(self, "floor", when))

    def bundle_type(self) -> BundleType | None:
        return self.fixed_type

    def fix_bundle_type(self, bundle_type: BundleType) -> None:
        if self.fixed_type is None:
            self.effect(lambda: setattr(self, "fixed_type", bundle_type))

    def quarantine(self, target: Target, reason: str) -> None:
        entry = (target.name, reason)
        self.effect(lambda: self.held.update({quarantine_key(target): entry}))

    def quarantined(self) -> dict[str, str]:
        return {key: reason for key, (_, reason) in self.held.items()}

    def forgive(self, name: str | None = None) -> tuple[str, ...]:
        released = {key for key, (held, _) in self.held.items() if name in (None, held)}
        names = tuple(sorted({self.held[key][0] for key in released}))
        if released:
            kept = {key: entry for key, entry in self.held.items() if key not in released}
            self.effect(lambda: setattr(self, "held", kept))
        return names
