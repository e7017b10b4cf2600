"""How a factory's server is asked: paths, questions and answers as values.

The server is the one ``fioctl`` speaks with. Nothing here is believed because the server
says so: it only says where things are. Whether they are right is for `verify` and for digests.

Source: client/foundries.go and subcommands/targets/offline-update.go of
github.com/foundriesio/fioctl.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from agent.core.authoring import (
    BUNDLE_FILE,
    SNAPSHOT_FILE,
    TARGETS_FILE,
    TIMESTAMP_FILE,
    AuthoringError,
    read_date,
)
from agent.core.bundletype import BundleType
from agent.core.canonical import NotCanonicalJsonError, canonical_bytes, parse_strict
from agent.core.target import Target, target_from_custom

DEFAULT_SERVER = "https://api.foundries.io"
FACTORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
QUOTE_LIMIT = 400  # characters of a server's sentence that a message repeats

_ROLES = {
    "timestamp": TIMESTAMP_FILE,
    "snapshot": SNAPSHOT_FILE,
    "targets": TARGETS_FILE,
    "bundle-targets": BUNDLE_FILE,
}
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_BUILD = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Branch:
    """Which of a factory's lists of Targets is meant.

    Attributes:
        tag: of the devices; empty for a wave, which has one of its own.
        prod: whether production's list is meant.
        wave: name of a wave; empty for none.
    """

    tag: str = ""
    prod: bool = False
    wave: str = ""

    @property
    def bundle_type(self) -> BundleType:
        """Type of the devices; a wave is for production."""
        return BundleType.PROD if self.prod or self.wave else BundleType.CI

    def __str__(self) -> str:
        if self.wave:
            return f"wave '{self.wave}'"
        return f"{'production' if self.prod else 'CI'} with tag '{self.tag}'"


# --- questions -------------------------------------------------------------------------


def list_path(factory: str, branch: Branch) -> str:
    """Return where the list of Targets is."""
    if branch.wave:
        return f"/ota/factories/{factory}/wave-targets/?name={_q(branch.wave)}"
    if branch.prod:
        return f"/ota/factories/{factory}/prod-targets/?tag={_q(branch.tag)}"
    return f"/ota/repo/{factory}/api/v1/user_repo/targets.json?tag={_q(branch.tag)}"


def root_path(factory: str, version: int, branch: Branch) -> str:
    """Return where a root is."""
    production = "&production=1" if branch.bundle_type is BundleType.PROD else ""
    return (
        f"/ota/repo/{factory}/api/v1/user_repo/{version}.root.json?tag={_q(branch.tag)}{production}"
    )


def metadata_path(factory: str, target: str) -> str:
    """Return where metadata for a bundle is signed."""
    return f"/ota/factories/{factory}/targets/{_q(target)}/meta/"


def target_path(factory: str, target: str) -> str:
    """Return where CI's own copy of a Target is."""
    return f"/ota/factories/{factory}/targets/{_q(target)}"


def rootfs_path(factory: str, target: Target) -> str:
    """Return where the OSTree repository of a Target's build is.

    Raises:
        AuthoringError: the Target does not say which build, or for which hardware.
    """
    if not target.hardware_ids:
        raise AuthoringError(f"Target '{target.name}' names no hardware ID")
    hardware_id = _q(target.hardware_ids[0])
    return (
        f"/projects/{factory}/lmp/builds/{rootfs_build(target)}/runs/{hardware_id}"
        f"/other/{hardware_id}-ostree_repo.tar.bz2"
    )


def rootfs_build(target: Target) -> str:
    """Return the build a Target's rootfs is of: its own, or one before if only Apps changed.

    Raises:
        AuthoringError: it does not say.
    """
    custom = custom_of(target)
    origin = custom.get("origUri")
    build = origin.rpartition("/")[2] if isinstance(origin, str) and origin else ""
    return _build(build or str(custom.get("version", "")), target)


def apps_address(factory: str, target: Target, built: Target) -> str:
    """Return where a Target's Apps are: a path, or a whole URL if the Target names one.

    Args:
        factory: its name.
        target: as the list has it.
        built: CI's copy, which has the tag of the branch it was built for.

    Raises:
        AuthoringError: the Target does not say.
    """
    fetched = custom_of(target).get("fetched-apps")
    if isinstance(fetched, dict):
        return str(fetched.get("uri") or "")
    if not built.tags:
        raise AuthoringError(f"CI's Target '{target.name}' has no tag")
    build = _build(str(custom_of(target).get("version", "")), target)
    return (
        f"/projects/{factory}/lmp/builds/{build}/runs/assemble-system-image"
        f"/{_q(built.tags[0])}/{_q(target.name)}-apps.tar"
    )


def names_its_apps(target: Target) -> bool:
    """Whether a Target says itself where its Apps are: `apps_address` needs no CI copy."""
    return isinstance(custom_of(target).get("fetched-apps"), dict)


def metadata_question(branch: Branch, days: int, listed: bytes | None) -> dict[str, Any]:
    """Return what the server is asked when it shall sign metadata for a bundle.

    Args:
        branch: of the Target.
        days: how long the bundle shall last.
        listed: ``bundle-targets.json`` that the new Target is added to.
    """
    question: dict[str, Any] = {
        "tag": branch.tag,
        "expires-in-days": days,
        "production": branch.bundle_type is BundleType.PROD,
        "wave": branch.wave,
    }
    if listed is not None:
        question["bundle-targets"] = parse_strict(listed)
    return question


# --- answers ---------------------------------------------------------------------------


def read_list(answer: bytes, branch: Branch) -> Mapping[str, Any]:
    """Return the Targets of a list by name. Nothing is verified.

    Raises:
        AuthoringError: it is none.
    """
    try:
        table: Any = json.loads(answer)
        if branch.bundle_type is BundleType.PROD:
            table = table[branch.wave or branch.tag]
        return dict(table["signed"]["targets"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise AuthoringError(f"the server's list of Targets, {branch}, is none") from e


def read_built(answer: bytes, target: Target) -> Target:
    """Return CI's copy of a Target. Nothing is verified.

    Raises:
        AuthoringError: it is none.
    """
    try:
        custom = dict(json.loads(answer)["custom"])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise AuthoringError(f"the server's copy of Target '{target.name}' is none") from e
    return target_from_custom(target.name, target.commit, custom)


def read_metadata(answer: bytes) -> dict[str, bytes]:
    """Return the four documents the server signed, by file name, as canonical JSON.

    Raises:
        AuthoringError: one is missing, or malformed.
    """
    try:
        table: Any = parse_strict(answer)
        return {file: canonical_bytes(dict(table[role])) for role, file in _ROLES.items()}
    except (NotCanonicalJsonError, KeyError, TypeError, ValueError) as e:
        raise AuthoringError(
            f"the server's answer is not the metadata of a bundle: expected {', '.join(_ROLES)}"
        ) from e


def complaint(answer: bytes) -> str:
    """Return the sentences of a refusal, on one line; empty when there are none."""
    try:
        table: Any = json.loads(answer)
        found = [table.get(name) for name in ("message", "msg", "errors")]
    except (ValueError, AttributeError, RecursionError):
        return ""
    words = [text if isinstance(text, str) else json.dumps(text) for text in found if text]
    return "".join(c for c in "; ".join(words) if c.isprintable())[:QUOTE_LIMIT]


def expiry_hint(sentence: str, now: datetime) -> str:
    """Return what to do about a server that will not sign for so long.

    Args:
        sentence: the server's, which begins with the moment that is too early.
        now: UTC.
    """
    mend = "a root key rotation renews root; a CI build, or a new wave, renews the Targets metadata"
    ends = _first_date(sentence)
    if ends is None:
        return f"ask for fewer days with --expires-in-days; {mend}"
    return f"ask for at most {max((ends - now).days, 0)} days with --expires-in-days; {mend}"


def _first_date(text: str) -> datetime | None:
    found = _DATE.search(text)
    try:
        return read_date(found.group()) if found else None
    except ValueError:
        return None


def custom_of(target: Target) -> Mapping[str, Any]:
    """Return a Target's ``custom`` object."""
    return dict(json.loads(target.custom_json))


def _build(text: str, target: Target) -> str:
    if not _BUILD.fullmatch(text):
        raise AuthoringError(f"Target '{target.name}' does not say which build it is of")
    return text


def _q(text: str) -> str:
    return quote(text, safe="")
