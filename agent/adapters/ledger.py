"""What only this agent keeps: the promise, the clock floor, the bundle type, quarantine.

Small JSON files in ``<storage>/usb-update/``, each written whole (`files.write_atomic`).
The promise stands in ``pending``, which the systemd unit looks for before it starts
``run``. A file that cannot be understood is a `StateError`: guessing would forget a
rollback or believe an old clock.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.adapters import files
from agent.core.bundletype import BundleType
from agent.core.errors import AgentError, StateError
from agent.core.policy import quarantine_key
from agent.core.promise import Phase, Promise, PromiseKind
from agent.core.target import COMMIT, AppRef, Target, target_from_custom

FORMAT = 1
PROMISE = "pending"
CLOCK = "clock"
BUNDLE_TYPE = "bundle-type"
QUARANTINE = "quarantine"
LIMIT_BYTES = 16 << 20  # a promise holds one Target's `custom`, at most a targets.json
REASON_LIMIT = 500  # characters of a reason that are kept
QUARANTINE_LIMIT = 200  # Targets; the oldest make room


class FileLedger:
    """ports.Ledger in a directory of its own, mode 0700."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def promise(self, promise: Promise) -> None:
        """Make ``promise`` durable, replacing the one before."""
        self._write(PROMISE, _promise_to_json(promise))

    def promised(self) -> Promise | None:
        """Return the open promise.

        Raises:
            StateError: there is one, but it is damaged.
        """
        entry = self._read(PROMISE)
        if entry is None:
            return None
        try:
            return _promise_from_json(entry)
        except (AgentError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise self._damaged(PROMISE, f"it lacks or mistakes {e}") from e

    def forget(self) -> None:
        """Drop the promise: kept, or given up."""
        try:
            files.remove_durably(self._directory / PROMISE)
        except OSError as e:
            raise self._failed(PROMISE, e) from e

    def last_seen_utc(self) -> datetime | None:
        """Return the newest time this device has trusted."""
        entry = self._read(CLOCK)
        return None if entry is None else self._moment(entry)

    def saw_utc(self, when: datetime) -> None:
        """Move the newest trusted time forward; an earlier one changes nothing."""
        floor = self.last_seen_utc()
        if floor is None or when > floor:
            self._write(CLOCK, {"last_seen_utc": when.astimezone(UTC).isoformat()})

    def bundle_type(self) -> BundleType | None:
        """Return the type the first installed bundle fixed, None before it."""
        entry = self._read(BUNDLE_TYPE)
        if entry is None:
            return None
        try:
            return BundleType(entry["bundle_type"])
        except (KeyError, ValueError) as e:
            raise self._damaged(BUNDLE_TYPE, "it names neither 'ci' nor 'prod'") from e

    def fix_bundle_type(self, bundle_type: BundleType) -> None:
        """Record the type of the first installed bundle; later calls change nothing."""
        if self.bundle_type() is None:
            self._write(BUNDLE_TYPE, {"bundle_type": bundle_type.value})

    def quarantine(self, target: Target, reason: str) -> None:
        """Remember that ``target`` rolled back here, and why."""
        kept = self._quarantine()
        kept.pop(quarantine_key(target), None)
        kept[quarantine_key(target)] = {"name": target.name, "reason": reason[:REASON_LIMIT]}
        self._keep(dict(list(kept.items())[-QUARANTINE_LIMIT:]))

    def quarantined(self) -> dict[str, str]:
        """Return `quarantine_key` to reason."""
        return {key: entry["reason"] for key, entry in self._quarantine().items()}

    def forgive(self, name: str | None = None) -> tuple[str, ...]:
        """Release a Target (None: all) from quarantine; return the names released."""
        kept = self._quarantine()
        released = [key for key, entry in kept.items() if name in (None, entry["name"])]
        names = tuple(sorted({kept.pop(key)["name"] for key in released}))
        if names:
            self._keep(kept)
        return names

    def _quarantine(self) -> dict[str, dict[str, str]]:
        entry = self._read(QUARANTINE)
        if entry is None:
            return {}
        try:
            return {
                key: {"name": str(kept["name"]), "reason": str(kept["reason"])}
                for key, kept in entry["targets"].items()
            }
        except (KeyError, TypeError, AttributeError) as e:
            raise self._damaged(QUARANTINE, f"it lacks or mistakes {e}") from e

    def _keep(self, targets: Mapping[str, Mapping[str, str]]) -> None:
        self._write(QUARANTINE, {"targets": targets})

    def _moment(self, entry: Mapping[str, Any]) -> datetime:
        try:
            moment = datetime.fromisoformat(entry["last_seen_utc"])
        except (KeyError, TypeError, ValueError) as e:
            raise self._damaged(CLOCK, "it names no time") from e
        if moment.tzinfo is None:
            raise self._damaged(CLOCK, "its time has no zone")
        return moment

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._directory / name
        try:
            entry = json.loads(files.read_bounded(path, limit=LIMIT_BYTES))
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._failed(name, e) from e
        except (files.NotRegularError, files.TooLargeError, ValueError, RecursionError) as e:
            raise self._damaged(name, str(e)) from e
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            raise self._damaged(name, f"it is not of format {FORMAT}")
        return entry

    def _write(self, name: str, entry: Mapping[str, object]) -> None:
        data = json.dumps({"format": FORMAT, **entry}, indent=1).encode()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_atomic(self._directory / name, data)
        except OSError as e:
            raise self._failed(name, e) from e

    def _damaged(self, name: str, why: str) -> StateError:
        hints = {
            PROMISE: "remove it to give the update up; then check 'current' and install again",
            CLOCK: "set the device's clock, then remove the file",
            BUNDLE_TYPE: "remove it to let the next bundle fix the type, or set device_type",
            QUARANTINE: "remove it to forget which Targets rolled back here",
        }
        return StateError(f"'{self._directory / name}' is damaged: {why}", hint=hints[name])

    def _failed(self, name: str, error: OSError) -> StateError:
        return StateError(
            f"'{self._directory / name}' cannot be used: {error.strerror}",
            hint="check the disk and the directory's owner",
        )


def _promise_to_json(promise: Promise) -> dict[str, object]:
    target = promise.target
    return {
        **asdict(promise),
        "target": {
            "name": target.name,
            "commit": target.commit,
            "apps": {app.name: app.uri for app in target.apps},
            "custom": json.loads(target.custom_json),
        },
    }


def _promise_from_json(entry: Mapping[str, Any]) -> Promise:
    texts = ("boot_id", "previous_commit", "failed", "attempt", "fs_uuid", "started_utc")
    return Promise(
        target=_target_from_json(entry["target"]),
        phase=Phase(entry["phase"]),
        kind=PromiseKind(entry["kind"]),
        needs_boot=_flag(entry["needs_boot"]),
        **{name: _text(entry[name]) for name in texts},
    )


def _target_from_json(entry: Mapping[str, Any]) -> Target:
    if not COMMIT.fullmatch(_text(entry["commit"])):
        raise ValueError("the commit: it is not 64 hex digits")
    target = target_from_custom(_text(entry["name"]), entry["commit"], entry["custom"])
    apps = tuple(AppRef(_text(name), _text(uri)) for name, uri in entry["apps"].items())
    return target if target.apps == apps else target.with_apps(apps)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text is expected")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} where true or false is expected")
    return value
