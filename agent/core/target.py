"""One entry of ``targets.json``, parsed once: name, version, commit, Apps.

In: a name and the JSON value beside it, already verified. Out: a `Target`.
Names and digests are checked here, so that later code may use them in file names and
argument lists.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.core.errors import MetadataInvalidError

UNKNOWN_NAME = "unknown"
INITIAL_NAME = "Initial Target"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{64}", re.ASCII)
APP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
APP_URI = re.compile(
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?)/(?P<factory>[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"/(?P<app>[A-Za-z0-9][A-Za-z0-9._-]*)@sha256:(?P<digest>[0-9a-f]{64})",
    re.ASCII,
)
APPS_LIMIT = 256  # Apps in one Target; the largest factory known has about thirty


@dataclass(frozen=True, slots=True, order=True)
class AppRef:
    """A Compose App, pinned.

    Attributes:
        name: the App's name, also its compose project and directory.
        uri: ``<host>/<factory>/<app>@sha256:<64 hex>``.
    """

    name: str
    uri: str

    @property
    def digest(self) -> str:
        """SHA-256 of the App's manifest, 64 lowercase hex digits."""
        return self.uri.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Target:
    """One Target: what a device can be updated to.

    Attributes:
        name: its key in ``targets.json``, or `UNKNOWN_NAME` / `INITIAL_NAME`.
        version: from ``custom.version``; -1 when there is none.
        commit: OSTree commit, 64 lowercase hex digits.
        hardware_ids: as listed; a device matches only a list of exactly one.
        tags: release channels.
        target_format: ``OSTREE`` for everything this agent installs.
        apps: sorted by name.
        fetched: names of the Apps the bundle carries; None means all of ``apps``.
        custom_json: the whole ``custom`` object, canonical JSON; kept for ``sql.db``.
    """

    name: str
    version: int
    commit: str
    hardware_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    target_format: str = "OSTREE"
    apps: tuple[AppRef, ...] = ()
    fetched: tuple[str, ...] | None = None
    custom_json: str = "{}"

    def with_apps(self, apps: tuple[AppRef, ...]) -> "Target":
        """Return this Target reduced to ``apps``, in ``custom_json`` too."""
        custom = json.loads(self.custom_json)
        custom["docker_compose_apps"] = {app.name: {"uri": app.uri} for app in apps}
        if not apps:
            del custom["docker_compose_apps"]
        return replace(self, apps=tuple(sorted(apps)), custom_json=_canonical(custom))

    def same_as(self, other: "Target") -> bool:
        """Whether both are the same name, version, commit and Apps."""
        return _identity(self) == _identity(other)


def unknown_target(commit: str) -> Target:
    """Name what runs when no record does."""
    return Target(UNKNOWN_NAME, -1, commit)


def target_from_json(name: str, entry: object) -> Target:
    """Read one entry of ``targets.json``.

    Raises:
        MetadataInvalidError: a name, digest or type that later code could not trust.
    """
    _demand(NAME.fullmatch(name), f"Target name {name[:80]!r} has characters a name must not have")
    table = _table(entry, f"Target {name!r}")
    hashes = _table(table.get("hashes"), f"'hashes' of Target {name!r}")
    return target_from_custom(
        name, _commit(hashes.get("sha256"), name), _table(table.get("custom", {}), "'custom'")
    )


def target_from_custom(name: str, commit: str, custom: Mapping[str, Any]) -> Target:
    """Build a Target from its name, commit and ``custom`` object (also a row of ``sql.db``).

    Raises:
        MetadataInvalidError: as `target_from_json`.
    """
    return Target(
        name=name,
        version=_version(custom.get("version")),
        commit=commit,
        hardware_ids=_strings(custom.get("hardwareIds")),
        tags=_strings(custom.get("tags")),
        target_format=str(custom.get("targetFormat", "")),
        apps=_apps(custom.get("docker_compose_apps"), name),
        fetched=_fetched(custom.get("fetched-apps")),
        custom_json=_canonical(custom),
    )


def _identity(target: Target) -> tuple[str, int, str, tuple[AppRef, ...]]:
    return target.name, target.version, target.commit, target.apps


def _version(value: object) -> int:
    """Read ``custom.version``: leading decimal digits count, anything else is -1."""
    if type(value) is int:
        return value
    digits = re.match(r"[0-9]{1,18}", value, re.ASCII) if isinstance(value, str) else None
    return int(digits.group()) if digits else -1


def _commit(value: object, name: str) -> str:
    commit = value.lower() if isinstance(value, str) else ""
    _demand(COMMIT.fullmatch(commit), f"'sha256' of Target {name!r} is not 64 hex digits")
    return commit


def _apps(value: object, target: str) -> tuple[AppRef, ...]:
    if value is None:
        return ()
    apps = _table(value, f"'docker_compose_apps' of Target {target!r}")
    _demand(len(apps) <= APPS_LIMIT, f"Target {target!r} lists more than {APPS_LIMIT} Apps")
    return tuple(_app(name, entry, target) for name, entry in sorted(apps.items()))


def _app(name: str, entry: object, target: str) -> AppRef:
    uri = _table(entry, f"App {name[:80]!r} of Target {target!r}").get("uri")
    _demand(APP_NAME.fullmatch(name), f"App name {name[:80]!r} of Target {target!r} is not usable")
    _demand(
        isinstance(uri, str) and APP_URI.fullmatch(uri),
        f"uri of App {name!r} of Target {target!r} is not <host>/<factory>/<app>@sha256:<64 hex>",
    )
    return AppRef(name, str(uri))


def _fetched(value: object) -> tuple[str, ...] | None:
    """Read ``fetched-apps`` (reference-behaviour §4.7): None = all, () = none."""
    if not isinstance(value, dict):
        return None
    if not isinstance(value.get("uri"), str) or not value["uri"]:
        return ()
    shortlist = value.get("shortlist")
    if not isinstance(shortlist, str) or not shortlist:
        return None
    return tuple(re.split(r"[, ]+", shortlist.strip(", ")))


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MetadataInvalidError(f"{what} is not a JSON object")
    return value


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise MetadataInvalidError(otherwise)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
