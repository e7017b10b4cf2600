"""A clock that stands still until it is moved."""

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass
class MemoryClock:
    time: datetime = datetime(2026, 1, 2, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time
