"""The system's clock, in UTC. Nothing here is trusted: see `policy.trusted_now`."""

from datetime import UTC, datetime


class SystemClock:
    """ports.Clock of the running system."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        return datetime.now(UTC)
