"""``status.json``: where the agent stands, for any program that looks (docs/status.md)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.adapters import files
from agent.core.feedback import Signal, signal_to_json

SCHEMA = 1
STATUS_LIMIT_BYTES = 64 * 1024
STATUS_MODE = 0o644  # any program may look; a signal holds nothing private


def _system_now() -> datetime:
    return datetime.now(UTC)


def message_from_signal(signal: Signal, now: datetime) -> dict[str, object]:
    """Return what ``status.json`` and the follow socket say."""
    head = {"schema": SCHEMA, "updated_utc": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
    return {**head, **signal_to_json(signal)}


@dataclass(frozen=True, slots=True)
class StatusFile:
    """Replaces the file with each signal, so that a reader always finds a whole one.

    Attributes:
        path: usually ``/run/usb-update/status.json``.
        now: the time, UTC.
    """

    path: Path
    now: Callable[[], datetime] = _system_now

    def show(self, signal: Signal) -> None:
        """See `bus.Sink`."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = json.dumps(message_from_signal(signal, self.now()), ensure_ascii=False)
        files.write_atomic(self.path, f"{text}\n".encode(), mode=STATUS_MODE)


def read_status(path: Path) -> dict[str, Any] | None:
    """Return what the file says; None when the agent has not said anything since boot.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what `StatusFile` writes.
    """
    try:
        table = json.loads(files.read_bounded(path, limit=STATUS_LIMIT_BYTES))
    except FileNotFoundError:
        return None
    except (files.NotRegularError, files.TooLargeError) as e:
        raise ValueError(str(e)) from e
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ValueError(f"'{path}' is not a status of schema {SCHEMA}")
    return table
