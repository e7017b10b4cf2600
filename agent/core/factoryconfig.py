"""What a factory's configuration says of Apps in offline bundles, for one branch.

In: the values of ``factory-config.yml`` and the branch that is built. Out: `FetchApps`,
the two parameters ``FETCH_APPS`` and ``FETCH_APPS_SHORTLIST`` of that build, and from them
which Apps a bundle carries and what a Target says in ``fetched-apps``.

Each parameter is looked for by itself, and what is found first counts:

1. ``containers.ref_options.<ref>.params``
2. ``containers.offline``: ``enabled``, ``app_shortlist``
3. the shortlist alone: ``containers.preloaded_images.shortlist``
4. nothing: every App is carried, and the Target has no ``fetched-apps``

Source: the factory definition of the user's document; spec "factory-config.yml" §4.2.
"""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from agent.core.authoring import AuthoringError

CONFIG_NAME = "factory-config.yml"
FETCH, SHORTLIST = "FETCH_APPS", "FETCH_APPS_SHORTLIST"
COMPOSE_FILES = "COMPOSE_FILES"
SWITCH = {"1": True, "0": False}

Table = Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class FetchApps:
    """Which Apps of a Target an offline bundle carries.

    Attributes:
        enabled: False carries none; None says nothing, and everything is carried.
        shortlist: the only ones to carry; empty carries all.
    """

    enabled: bool | None = None
    shortlist: tuple[str, ...] = ()

    def carried(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of a Target's Apps a bundle carries.

        Raises:
            AuthoringError: the shortlist names none of them; CI fails then, too.
        """
        if self.enabled is None:
            return tuple(names)
        if not self.enabled:
            return ()
        kept = tuple(name for name in names if not self.shortlist or name in self.shortlist)
        if names and not kept:
            raise AuthoringError(
                f"the shortlist '{','.join(self.shortlist)}' has none of the Target's Apps "
                f"{', '.join(names)}",
                hint=f"correct 'app_shortlist' or {SHORTLIST} in '{CONFIG_NAME}', or leave it "
                "empty to carry all",
            )
        return kept

    def unknown(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return what the shortlist names that is no App of the Target."""
        return tuple(name for name in self.shortlist if self.enabled and name not in names)

    def to_json(self, target: str, names: Sequence[str]) -> dict[str, Any] | None:
        """Spell ``fetched-apps`` of a Target, None when it has none.

        The ``uri`` is where CI keeps the Apps' archive. A device reads only whether there
        is one; what an offline bundle is made of lies beside it.

        Raises:
            AuthoringError: as `carried`.
        """
        if self.enabled is None:
            return None
        if not self.enabled:
            return {"uri": None}
        listed = {"shortlist": ",".join(sorted(self.carried(names)))} if self.shortlist else {}
        return {"uri": f"{target}.apps.tar", **listed}


ALL_APPS = FetchApps()


def fetch_apps(document: object, branch: str) -> FetchApps:
    """Read which Apps offline bundles of a branch carry.

    Args:
        document: values of ``factory-config.yml``.
        branch: ``refs/heads/<name>`` of the containers; empty when it is not known.

    Raises:
        AuthoringError: a value is not what its key asks for, or it depends on a branch that
            is not known.
    """
    containers = _table(document, "containers")
    offline = _table(containers, "offline")
    params = _params(containers, branch, {FETCH, SHORTLIST}, "which Apps are carried")
    preloaded = _table(containers, "preloaded_images")
    return FetchApps(
        _enabled(params.get(FETCH), offline.get("enabled")),
        _first_shortlist((params, SHORTLIST), (offline, "app_shortlist"), (preloaded, "shortlist")),
    )


def compose_files(document: object, branch: str) -> tuple[str, ...]:
    """Read which files of an App the factory's CI merges into its compose file.

    Args:
        document: values of ``factory-config.yml``.
        branch: as `fetch_apps`.

    Returns:
        Their names in order; empty when the configuration says nothing: the usual one alone.

    Raises:
        AuthoringError: as `fetch_apps`.
    """
    containers = _table(document, "containers")
    params = _params(containers, branch, {COMPOSE_FILES}, "which compose files are merged")
    found = {**_table(containers, "params"), **params}
    return _words(COMPOSE_FILES, found.get(COMPOSE_FILES), expected="file names in quotes")


def branch_tags(document: object, branch: str) -> tuple[str, ...]:
    """Return the tags that CI gives what it builds of a branch of the containers; often none.

    Raises:
        AuthoringError: a value is not what its key asks for.
    """
    tagging = _table(_table(document, "containers"), "tagging").get(branch)
    if tagging is None:
        return ()
    if not isinstance(tagging, list) or not all(isinstance(_tag(entry), str) for entry in tagging):
        raise _wrong(f"tagging of '{branch}'", "a list of 'tag: NAME'", tagging)
    return tuple(dict.fromkeys(str(_tag(entry)) for entry in tagging))


def _tag(entry: object) -> object:
    return entry.get("tag") if isinstance(entry, Mapping) else None


def _params(containers: Table, branch: str, wanted: AbstractSet[str], what: str) -> Table:
    options = _table(containers, "ref_options")
    if branch:
        return _table(_table(options, branch), "params")
    deciding = [ref for ref in options if _table(_table(options, ref), "params").keys() & wanted]
    if deciding:
        raise AuthoringError(
            f"'{CONFIG_NAME}' decides by branch {what} "
            f"({', '.join(str(ref) for ref in deciding)}), and no branch is named",
            hint="name a branch in --containers-git PATH@BRANCH, or give --branch",
        )
    return {}


def _enabled(parameter: object, enabled: object) -> bool | None:
    if parameter is not None:
        word = str(parameter) if type(parameter) in (int, str) else ""
        if word not in SWITCH:
            raise _wrong(FETCH, '"1" or "0"', parameter)
        return SWITCH[word]
    if enabled is not None and not isinstance(enabled, bool):
        raise _wrong("offline.enabled", "true or false", enabled)
    return enabled


def _first_shortlist(*places: tuple[Table, str]) -> tuple[str, ...]:
    """Return the first shortlist that is there; one that is there and empty means all."""
    return next((_words(key, table[key]) for table, key in places if key in table), ())


def _words(
    key: str, value: object, expected: str = "Apps separated by commas, in quotes"
) -> tuple[str, ...]:
    if value is not None and not isinstance(value, str):
        raise _wrong(key, expected, value)
    return tuple(word for word in re.split(r"[,\s]+", value or "") if word)


def _table(value: object, key: object) -> Table:
    """Return the mapping below ``key``, empty where there is none."""
    found = value.get(key) if isinstance(value, Mapping) else value
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise _wrong(f"'{key}'", "a mapping", found)
    return found


def _wrong(key: str, expected: str, found: object) -> AuthoringError:
    return AuthoringError(f"{key} in '{CONFIG_NAME}' is {str(found)[:80]!r}, not {expected}")
