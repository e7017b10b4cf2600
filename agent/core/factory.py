"""A factory's books: its signed documents, and how each act changes them.

In: the books (path to bytes) and what is wanted. Out: the books changed, or an exception
and the books as they were. Versions only grow: `demand_forward` is the law that whoever
keeps the books asks before he keeps a change.

- ``state.json``: the metadata versions issued so far
- ``roots/{ci,prod}/N.root.json``: both chains
- ``targets/ci/targets.json``: every CI Target of the factory
- ``targets/prod/TAG/targets.json``: the production Targets of a tag
- ``waves/NAME/``: ``wave.json``, and ``targets.json`` as long as the wave is active

Source: bundle-format-and-authoring.md §3 (roots, rotation, waves).
"""

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from agent.core import authoring
from agent.core.authoring import (
    ROLE_LIFETIME,
    TARGETS_FILE,
    AuthoringError,
    IssuedVersions,
)
from agent.core.bundletype import BundleType
from agent.core.keys import PrivateKey, key_id
from agent.core.target import Target, target_from_json
from agent.core.tuf import Role, Root

Books = MutableMapping[str, bytes]

FACTORY_FILE = "factory.json"
STATE_FILE = "state.json"
CI_FILE = f"targets/ci/{TARGETS_FILE}"
SCHEMA = 1
TAGS_LIMIT = 32  # of one Target

_PRODUCTION = re.compile(rf"targets/prod/([^/]+)/{re.escape(TARGETS_FILE)}")
_WAVE = re.compile(r"waves/([^/]+)/wave\.json")
_WAVE_TARGETS = re.compile(rf"waves/([^/]+)/{re.escape(TARGETS_FILE)}")
_ROOT = re.compile(r"roots/(ci|prod)/([1-9][0-9]{0,4})\.root\.json", re.ASCII)


class WaveState(StrEnum):
    """What has become of a wave."""

    ACTIVE = "active"
    COMPLETE = "complete"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Wave:
    """Targets on their way into production.

    Attributes:
        name: given once, never again.
        tag: whose production Targets they become.
        targets: names of the CI Targets it is made of.
        state: what has become of it.
    """

    name: str
    tag: str
    targets: tuple[str, ...]
    state: WaveState = WaveState.ACTIVE


@dataclass(frozen=True, slots=True)
class Offer:
    """The Targets a bundle may be made of.

    Attributes:
        document: ``targets.json``, signed; goes into the bundle as it is.
        bundle_type, tag: of the bundle.
        refresh: how the document is made to last longer, for a hint.
    """

    document: bytes
    bundle_type: BundleType
    tag: str
    refresh: str


# --- a new factory ---------------------------------------------------------------------


def new_books(
    roots: Mapping[BundleType, Mapping[str, bytes]], state: bytes, prefix: str
) -> dict[str, bytes]:
    """Open the books of a factory with these root chains.

    Args:
        roots: of each type, ``N.root.json`` to bytes.
        state: the versions issued so far, as `write_versions` spells them.
        prefix: ``<host>/<factory>`` of its Apps' URIs.
    """
    chains = {
        f"roots/{kind.value}/{name}": document
        for kind, documents in roots.items()
        for name, document in documents.items()
    }
    facts = {"registry_prefix": prefix, "schema": SCHEMA}
    return {FACTORY_FILE: _json(facts), STATE_FILE: state, **chains}


def registry_prefix(books: Mapping[str, bytes]) -> str:
    """Return ``<host>/<factory>`` of App URIs."""
    return str(_table(books, FACTORY_FILE).get("registry_prefix", ""))


def roots_of(books: Mapping[str, bytes], bundle_type: BundleType) -> dict[str, bytes]:
    """Return ``N.root.json`` to bytes, in order."""
    found = sorted(
        (int(match.group(2)), document)
        for path, document in books.items()
        if (match := _ROOT.fullmatch(path)) and match.group(1) == bundle_type.value
    )
    return {f"{version}.root.json": document for version, document in found}


def newest_root(books: Mapping[str, bytes], bundle_type: BundleType) -> Root:
    """Return the root that says who may sign now."""
    name, document = list(roots_of(books, bundle_type).items())[-1]
    return authoring.read_root(document, f"'{name}' ({bundle_type})")


# --- versions --------------------------------------------------------------------------


def take_version(books: Books, bundle_type: BundleType, above: int = 0, request: str = "") -> int:
    """Take the next metadata version, see `IssuedVersions.next`."""
    versions, taken = issued_versions(books).next(bundle_type, above=above, request=request)
    books[STATE_FILE] = authoring.write_versions(versions)
    return taken


def demand_forward(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Refuse a change that takes anything back that devices may have seen.

    Raises:
        AuthoringError: a counter or document would go back, change under its version, or
            be gone.
    """
    taken = issued_versions(after).highest
    for kind, version in issued_versions(before).highest.items():
        if taken.get(kind, 0) < version:
            raise AuthoringError(f"the {kind} versions would go back from {version}")
    for path, document in before.items():
        if _ROOT.fullmatch(path) and after.get(path) != document:
            raise AuthoringError(f"'{path}' would change; devices may have it")
        if path == CI_FILE or _PRODUCTION.fullmatch(path):
            _demand_newer(path, document, after.get(path, b""))


def _demand_newer(path: str, before: bytes, after: bytes) -> None:
    old = authoring.read_signed(before, f"'{path}'")
    new = authoring.read_signed(after, f"'{path}', changed,")
    if new.version < old.version:
        raise AuthoringError(f"'{path}' would go back from version {old.version} to {new.version}")
    if new.version == old.version and new.message != old.message:
        raise AuthoringError(f"'{path}' would change within version {old.version}")


# --- CI Targets ------------------------------------------------------------------------


def entries_of(books: Mapping[str, bytes], path: str) -> dict[str, Any]:
    """Return the Targets of a document of the books; none when it is not there."""
    if path not in books:
        return {}
    return dict(authoring.read_signed(books[path], f"'{path}'").signed["targets"])


def targets_of(books: Mapping[str, bytes], path: str) -> tuple[Target, ...]:
    """Return the same, parsed."""
    return tuple(target_from_json(name, entry) for name, entry in entries_of(books, path).items())


def add_target(
    books: Books, name: str, entry: Mapping[str, Any], key: PrivateKey, now: datetime
) -> None:
    """Add a CI Target, or renew the CI Targets when it is there already.

    Args:
        books: changed.
        name: the Target's.
        entry: as `authoring.target_entry` makes it.
        key: online targets key.
        now: UTC.

    Raises:
        AuthoringError: the name stands for other content.
    """
    old = entries_of(books, CI_FILE)
    merged = authoring.merge_entries(old, name, entry)
    _issue_ci(books, {**merged, **old}, key, now)


def tag_target(
    books: Books, name: str, tags: Sequence[str], key: PrivateKey, now: datetime
) -> None:
    """Give a CI Target other tags; none takes it out of every channel.

    Raises:
        AuthoringError: there is no such Target, or a tag cannot be one.
    """
    entries = entries_of(books, CI_FILE)
    _issue_ci(books, {**entries, name: _tagged(_ci_entry(books, name), tags)}, key, now)


def _issue_ci(books: Books, entries: Mapping[str, Any], key: PrivateKey, now: datetime) -> None:
    version = take_version(books, BundleType.CI)
    signed = authoring.issue_targets(entries, version, now + ROLE_LIFETIME)
    books[CI_FILE] = authoring.sign(signed, (key,))


def _ci_entry(books: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    entries = entries_of(books, CI_FILE)
    if name not in entries:
        raise AuthoringError(
            f"the factory has no Target {name[:80]!r}",
            hint="'usb-update factory show' lists what it has",
        )
    return dict(entries[name])


def _tagged(entry: Mapping[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    if len(tags) > TAGS_LIMIT:
        raise AuthoringError(f"{len(tags)} tags are more than {TAGS_LIMIT}")
    for tag in tags:
        authoring.demand_word(tag, "tag")
    return {**entry, "custom": {**entry["custom"], "tags": list(dict.fromkeys(tags))}}


# --- waves and production ----------------------------------------------------------------


def production_file(tag: str) -> str:
    """Where the production Targets of a tag are."""
    return f"targets/prod/{tag}/{TARGETS_FILE}"


def wave_file(name: str) -> str:
    """Where the Targets of an active wave are."""
    return f"waves/{name}/{TARGETS_FILE}"


def production_tags(books: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the tags that have production Targets."""
    return tuple(sorted(m.group(1) for path in books if (m := _PRODUCTION.fullmatch(path))))


def waves_of(books: Mapping[str, bytes]) -> tuple[Wave, ...]:
    """Return all waves there have been, by name."""
    return tuple(_wave(books, m.group(1)) for path in sorted(books) if (m := _WAVE.fullmatch(path)))


def start_wave(books: Books, wave: Wave, expires: datetime, keys: Sequence[PrivateKey]) -> None:
    """Issue the Targets of a tag as they will be in production once the wave is complete.

    Args:
        books: changed.
        wave: its name, tag and Targets.
        expires: of its targets metadata, UTC.
        keys: who signs: the online targets key, and the offline ones at hand.

    Raises:
        AuthoringError: the name was given, the tag has an active wave, or a Target is
            missing or has other content in production.
    """
    authoring.demand_word(wave.name, "wave name")
    authoring.demand_word(wave.tag, "tag")
    _demand_free(books, wave)
    entries = entries_of(books, production_file(wave.tag))
    for name in wave.targets:
        entries = authoring.merge_entries(
            entries, name, _tagged(_ci_entry(books, name), [wave.tag])
        )
    version = take_version(books, BundleType.PROD)
    signed = authoring.issue_targets(entries, version, expires)
    books[wave_file(wave.name)] = authoring.sign(signed, keys)
    _write_wave(books, wave)


def sign_wave(books: Books, name: str, key: PrivateKey) -> None:
    """Add a signature to an active wave.

    Raises:
        AuthoringError: there is no such wave, or this key has signed.
    """
    _active(books, name)
    books[wave_file(name)] = authoring.add_signature(books[wave_file(name)], key)


def complete_wave(books: Books, name: str) -> None:
    """Turn the Targets of a wave into the production Targets of its tag.

    Raises:
        AuthoringError: there is no such active wave, or signatures are missing.
    """
    wave = _active(books, name)
    document = books[wave_file(name)]
    missing = missing_signatures(document, newest_root(books, BundleType.PROD))
    if missing:
        raise AuthoringError(
            f"wave {name!r} lacks {missing} signature{'s' if missing > 1 else ''}",
            hint=f"'usb-update factory wave sign {name} --keys TGZ' adds one",
        )
    books[production_file(wave.tag)] = document
    _end_wave(books, replace(wave, state=WaveState.COMPLETE))


def cancel_wave(books: Books, name: str) -> None:
    """End a wave; production stays as it is.

    Raises:
        AuthoringError: there is no such active wave.
    """
    _end_wave(books, replace(_active(books, name), state=WaveState.CANCELLED))


def missing_signatures(document: bytes, root: Root) -> int:
    """Return how many signatures of the targets role a document lacks."""
    signed = authoring.read_signed(document, f"'{TARGETS_FILE}'")
    signers = authoring.valid_signers(signed, authoring.targets_keys(root))
    return max(0, root.roles[Role.TARGETS].threshold - len(signers))


def _demand_free(books: Mapping[str, bytes], wave: Wave) -> None:
    for other in waves_of(books):
        if other.name == wave.name:
            raise AuthoringError(
                f"there has been a wave {wave.name!r} already ({other.state})",
                hint="give the wave another name: names are kept for the record",
            )
        if other.tag == wave.tag and other.state is WaveState.ACTIVE:
            raise AuthoringError(
                f"tag {wave.tag!r} has the active wave {other.name!r}; a tag has one at a time",
                hint=f"'usb-update factory wave complete {other.name}', or 'wave cancel' it",
            )


def _active(books: Mapping[str, bytes], name: str) -> Wave:
    known = {wave.name: wave for wave in waves_of(books)}
    wave = known.get(name)
    if wave is None or wave.state is not WaveState.ACTIVE:
        what = f"wave {name[:80]!r} is {wave.state}" if wave else f"there is no wave {name[:80]!r}"
        active = [w.name for w in known.values() if w.state is WaveState.ACTIVE]
        raise AuthoringError(
            what,
            hint=f"active: {', '.join(active)}" if active else "no wave is active",
        )
    return wave


def _wave(books: Mapping[str, bytes], name: str) -> Wave:
    path = f"waves/{name}/wave.json"
    table = _table(books, path)
    try:
        targets = tuple(str(target) for target in table["targets"])
        return Wave(name, str(table["tag"]), targets, WaveState(table["state"]))
    except (KeyError, TypeError, ValueError) as e:
        raise AuthoringError(f"'{path}' does not describe a wave: {e}") from e


def _write_wave(books: Books, wave: Wave) -> None:
    table = {"state": wave.state.value, "tag": wave.tag, "targets": list(wave.targets)}
    books[f"waves/{wave.name}/wave.json"] = _json(table)


def _end_wave(books: Books, wave: Wave) -> None:
    del books[wave_file(wave.name)]
    _write_wave(books, wave)


# --- what a bundle is made of ------------------------------------------------------------


def offer(books: Mapping[str, bytes], target: str, *, tag: str, prod: bool, wave: str) -> Offer:
    """Find the signed Targets for a bundle, and make sure that ``target`` is one of them.

    Args:
        books: the factory's.
        target: name of the Target the bundle is made for.
        tag: release channel; not needed with ``wave``.
        prod: production Targets rather than CI.
        wave: name of an active wave; empty for none.

    Raises:
        AuthoringError: there is no such wave, production or Target, with what there is.
    """
    path, found = _offer(books, tag, prod=prod, wave=wave)
    names = {t.name: t for t in targets_of(books, path)}
    fitting = [name for name, t in names.items() if found.tag in t.tags]
    if target not in fitting:
        where = _named(prod=prod, wave=wave)
        raise AuthoringError(
            f"no Target {target[:80]!r} with tag {found.tag!r} among {where}",
            hint=_there_is(fitting),
        )
    return found


def _offer(books: Mapping[str, bytes], tag: str, *, prod: bool, wave: str) -> tuple[str, Offer]:
    again = "make a new wave of the Target: 'usb-update factory wave init ... --expires-days N'"
    if wave:
        tag, path = _active(books, wave).tag, wave_file(wave)
    elif prod:
        path = production_file(tag)
    else:
        path, again = CI_FILE, "renew the CI Targets: 'usb-update factory target add' any Target"
    if path not in books:
        raise AuthoringError(
            f"the factory has no production Targets of tag {tag[:80]!r}"
            if prod
            else "the factory has no CI Targets",
            hint=f"production: {', '.join(production_tags(books)) or 'none; complete a wave'}"
            if prod
            else "'usb-update factory target add' makes one",
        )
    kind = BundleType.PROD if prod or wave else BundleType.CI
    return path, Offer(books[path], kind, tag, again)


def _named(*, prod: bool, wave: str) -> str:
    if wave:
        return f"those of wave {wave!r}"
    return "the production Targets" if prod else "the CI Targets"


def _there_is(names: Sequence[str]) -> str:
    return f"there is {', '.join(names[-10:])}" if names else "there is none with this tag"


# --- keys ------------------------------------------------------------------------------


def rotate(  # noqa: PLR0913  all but the first are named where it is called
    books: Books,
    role: Role,
    old: str,
    new: PrivateKey,
    *,
    signers: Sequence[PrivateKey],
    expires: datetime | None = None,
) -> int:
    """Put a new key in an old one's place, in both chains; return the new root version.

    A new root key signs with the old one, as every device asks that follows the chain. A
    new targets key signs again what the old one signed: production and active waves.

    Args:
        books: changed.
        role: whose key.
        old: id of the key that leaves.
        new: the key that comes.
        signers: root keys that sign the new roots, in this order.
        expires: of the new roots; None keeps what the old ones say.
    """
    for kind in BundleType:
        name, document = list(roots_of(books, kind).items())[-1]
        signed = _replaced(
            dict(authoring.read_signed(document, f"'{name}'").signed), role, old, new
        )
        signed["x-changelog"] = {"message": f"{kind}: {role.value} key rotated"}
        if expires is not None:
            signed["expires"] = authoring.write_date(expires)
        books[f"roots/{kind.value}/{signed['version']}.root.json"] = authoring.sign(signed, signers)
    if role is Role.TARGETS:
        for path in [p for p in books if _PRODUCTION.fullmatch(p) or _WAVE_TARGETS.fullmatch(p)]:
            books[path] = _signed_again(books[path], old, new)
    return newest_root(books, BundleType.PROD).version


def _replaced(root: dict[str, Any], role: Role, old: str, new: PrivateKey) -> dict[str, Any]:
    """Return the next version of a root, with another key in a role and no key unused.

    Raises:
        AuthoringError: the role does not list the old key: somebody else rotated it.
    """
    comes = key_id(new.public)
    held = root["roles"][role.value]
    if old not in held["keyids"]:
        raise AuthoringError(
            f"root version {root['version']} does not list {role.value} key {old}",
            hint="'usb-update keys list' shows which keys count",
        )
    ids = [comes if keyid == old else keyid for keyid in held["keyids"]]
    roles = {**root["roles"], role.value: {**held, "keyids": ids}}
    known = {**root["keys"], comes: new.public.to_json()}
    used = {keyid for entry in roles.values() for keyid in entry["keyids"]}
    used_keys = {keyid: key for keyid, key in known.items() if keyid in used}
    return {**root, "roles": roles, "keys": used_keys, "version": int(root["version"]) + 1}


def _signed_again(document: bytes, old: str, new: PrivateKey) -> bytes:
    """Replace a signature; a document the old key did not sign stays as it is."""
    held = authoring.read_signed(document, f"'{TARGETS_FILE}'")
    if old not in {entry[0] for entry in held.signatures}:
        return document
    return authoring.add_signature(authoring.without_signature(document, old), new)


# --- dates -----------------------------------------------------------------------------


def wave_expiry(now: datetime, *, days: int | None, at: str) -> datetime:
    """Return when a wave's targets metadata ends: in ``days``, ``at``, or in a year.

    Args:
        now: UTC.
        days: 1 or more.
        at: ``YYYY-MM-DD`` or ``YYYY-MM-DDTHH:MM:SSZ``, UTC; empty for none.

    Raises:
        AuthoringError: it is no date, or not in the future.
    """
    try:
        ends = _date(at) if at else now + (ROLE_LIFETIME if days is None else timedelta(days=days))
    except (ValueError, OverflowError) as e:
        raise AuthoringError(
            f"{at[:40] or days!r} is no time a wave could end at",
            hint="give e.g. 2027-03-01 or 2027-03-01T12:00:00Z, in UTC",
        ) from e
    if ends <= now:
        raise AuthoringError(f"a wave that ends at {authoring.write_date(ends)} has ended already")
    return ends


def _date(text: str) -> datetime:
    if "T" in text:
        return authoring.read_date(text)
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


# --- small things ----------------------------------------------------------------------


def issued_versions(books: Mapping[str, bytes]) -> IssuedVersions:
    """Return the versions issued so far."""
    return authoring.read_versions(books.get(STATE_FILE, b""), f"the factory's '{STATE_FILE}'")


def raise_versions(books: Books, seen: Mapping[str, int]) -> None:
    """Let the counters begin where they have been before, should the books be older."""
    books[STATE_FILE] = authoring.write_versions(issued_versions(books).raised(seen))


def _table(books: Mapping[str, bytes], path: str) -> Mapping[str, Any]:
    try:
        table = json.loads(books[path])
    except (KeyError, ValueError, RecursionError) as e:
        raise AuthoringError(f"the factory's '{path}' is missing or not JSON") from e
    if not isinstance(table, dict):
        raise AuthoringError(f"the factory's '{path}' is not a JSON object")
    return table


def _json(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, indent=1).encode() + b"\n"
