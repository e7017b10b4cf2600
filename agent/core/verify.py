"""The scales: raw bytes of a stick and what this device trusts → a `VerifiedBundle`.

In: `RawBundle`, `TrustedDocuments`, the device's type and tags, the time. Out: a
`VerifiedBundle`, or an exception that names the file and what was expected of it. Nothing
is stored here, and nothing is worth storing unless everything held. No other module makes
a `VerifiedBundle`: holding one is the check.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from agent.core import pack, tuf
from agent.core.bundle import RawBundle, RawSeal, SealedImage, TrustedDocuments, VerifiedBundle
from agent.core.bundletype import BundleType
from agent.core.errors import (
    BundleError,
    BundleMetadataInvalidError,
    BundleMetadataMissingError,
    BundleSignatureError,
    BundleTagError,
    BundleTypeError,
    MetadataExpiredError,
    MetadataInvalidError,
    MetadataNotFoundError,
    MetadataRollbackError,
    MetadataUpdateError,
    PackInvalidError,
    StateError,
)
from agent.core.target import Target, target_from_json
from agent.core.tuf import Document, MetaFile, Role, Root, Snapshot, Targets, Timestamp

BUNDLE_FILE = "bundle-targets.json"
FIRST_ROOT = 1
ROTATIONS_LIMIT = 1000  # roots after the device's own; a factory rotates a few times a year

KIB = 1024
MIB = 1024 * KIB
LIMITS: Mapping[str, int] = {
    "root.json": 512 * KIB,  # the largest real root has 9 kB
    "timestamp.json": 64 * KIB,  # the reference's bound, likewise the next two
    "snapshot.json": 64 * KIB,
    "targets.json": 8 * MIB,
    BUNDLE_FILE: 256 * KIB,  # room for some two thousand names
}
"""Largest size of each metadata file, bytes; see `limit_of` for names with a version."""

_VERSIONED = re.compile(r"[1-9][0-9]{0,9}\.(root|snapshot|targets)\.json", re.ASCII)
_CLAIM = "x-fio-offline-bundle"

T = TypeVar("T")


def limit_of(file_name: str) -> int | None:
    """Return the largest acceptable size of a file of ``tuf/``, in bytes.

    Returns:
        None when it is no file of a bundle and hence not to be read: names are exact, so
        that neither ``02.root.json`` nor ``TARGETS.JSON`` nor a bare ``root.json`` counts.
    """
    if file_name == "root.json":
        return None
    base = file_name.partition(".")[2] if _VERSIONED.fullmatch(file_name) else file_name
    return LIMITS.get(base)


@dataclass(frozen=True, slots=True)
class BundleClaim:
    """What ``bundle-targets.json`` says of itself. Worth as much as its signatures.

    Attributes:
        type: as spelt; ``ci`` or ``prod`` if it is any good.
        tag: empty when there is none.
        names: the Targets it lists, each once.
    """

    type: str
    tag: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleSigners:
    """Who signed a bundle, for its author.

    Attributes:
        claim: what was signed.
        expires: UTC.
        allowed: key ids of the root's targets role, sorted.
        threshold: how many different keys have to sign.
        valid: key ids of the good signatures, in the file's order.
        refused: key ids of the others: strangers' and bad ones. One is enough for a device
            to refuse the bundle.
        missing: how many more keys have to sign.
    """

    claim: BundleClaim
    expires: datetime
    allowed: tuple[str, ...]
    threshold: int
    valid: tuple[str, ...]
    refused: tuple[str, ...]
    missing: int


def verify_bundle(  # noqa: PLR0913 - everything a verdict depends on, by name
    raw: RawBundle,
    trusted: TrustedDocuments,
    *,
    device_type: BundleType | None,
    device_tags: tuple[str, ...],
    now: datetime,
    require_bundle_metadata: bool = True,
) -> VerifiedBundle:
    """Believe a bundle, or say why not.

    What must hold, in this order:

     1. The roles' documents are there, and a root to begin with.
     2. So is the bundle's own metadata, unless the device's owner does without.
     3. The bundle does not say itself that it is of the other type.
     4. The root chain holds: from the device's newest root (or, on a device that has none,
        the bundle's first), each next one signed by the old keys and by the new.
     5. Every signature of the bundle metadata is valid and by a targets key of the newest
        root, and they are of as many different keys as that root asks for.
     6. The bundle has not expired.
     7. Its type is the device's, if the device has one.
     8. Its tag is one of the device's, if the device has any.
     9. The newest root has not expired.
    10. The timestamp is signed, not older than the device's, and not expired.
    11. So is the snapshot, and it is the one that the timestamp names.
    12. So is targets.json, and it is the one that the snapshot names.
    13. Each listed Target that it has is well-formed.

    A bundle in one file (`pack`) has a seal over its content, and after 4 it must hold, too:
    signed as 5 asks of the bundle metadata, and not expired. No device does without.

    Args:
        raw: what was read from the medium.
        trusted: what this device verified before, or was provisioned with.
        device_type: None when the device is not registered.
        device_tags: empty when it takes any.
        now: a time, UTC, that is known to have come.
        require_bundle_metadata: whether a bundle without ``bundle-targets.json`` is refused.

    Raises:
        BundleError: the leaf says which obligation; the device has learnt nothing.
        StateError: what the device trusts cannot be used; it trusts no stick instead.
    """
    # 1, 2, 3
    _check_presence(raw, trusted)
    metadata = _bundle_metadata(raw, required=require_bundle_metadata)
    if metadata is not None:
        _check_not_other_type(_claim(metadata), device_type)
    # 4
    chain = _root_chain(raw, trusted)
    root = chain[-1]
    image = None if raw.seal is None else _check_seal(raw.seal, root, now)
    # 5, 6, 7, 8
    bundle = None if metadata is None else _check_bundle(raw, root, device_type, device_tags, now)
    # 9
    _check_fresh(f"{root.version}.root.json", root.expires, now)
    # 10, 11, 12
    stored = _stored(trusted, raw, root)
    timestamp, timestamp_raw = _timestamp(raw, root, stored, now)
    snapshot, snapshot_raw = _snapshot(raw, root, timestamp, stored, now)
    targets, targets_raw = _targets(raw, root, snapshot, stored, now)
    # 13
    names = tuple(targets.entries) if bundle is None else bundle.claim.names
    listed = tuple(_listed_targets(targets, names))
    expiries = [root.expires, timestamp.expires, snapshot.expires, targets.expires]
    expires = min(expiries if bundle is None else [*expiries, bundle.expires])
    return VerifiedBundle(
        targets=listed,
        documents=TrustedDocuments(
            _remembered_roots(trusted, chain), timestamp_raw, snapshot_raw, targets_raw
        ),
        bundle_type=None if bundle is None else BundleType(bundle.claim.type),
        tag="" if bundle is None else bundle.claim.tag,
        expires=expires,
        seen_utc=_seen_utc(targets, names, expires),
        listed=names,
        image=image,
    )


def verify_roots(provisioned: Mapping[int, bytes]) -> tuple[tuple[int, bytes], ...]:
    """Check a root chain that the device's image brings along.

    The lowest version has to be signed by its own keys, each next one by the keys of both;
    a gap ends the chain. Expired roots are fine: newer ones come with bundles.

    Args:
        provisioned: version, as the file's name has it, to the file's bytes.

    Returns:
        ``(version, bytes)`` of the chain, ascending; empty when there is none.

    Raises:
        MetadataInvalidError, MetadataUpdateError: a root is malformed or not signed as it
            must be; nothing of the chain is to be trusted.
    """
    if not provisioned:
        return ()
    first = _first_root(min(provisioned), provisioned[min(provisioned)])
    files = {_root_name(version): data for version, data in provisioned.items()}
    return tuple((root.version, root.raw) for root in (first, *_walk(first, files)))


def bundle_signers(bundle_metadata: bytes, root: bytes) -> BundleSigners:
    """Tell who signed a bundle, by the targets role of ``root``. Dates do not matter.

    Args:
        bundle_metadata: content of ``bundle-targets.json``.
        root: the newest root that devices will judge it by; taken at its word.

    Raises:
        BundleMetadataInvalidError: the bundle's metadata is malformed.
        MetadataInvalidError, MetadataUpdateError: the root is.
    """
    dialect = tuf.root_dialect("root.json", root)
    judge = tuf.parse_root(tuf.read_document("root.json", root, dialect), dialect)
    document = _bundle_document(bundle_metadata, judge)
    signers = [(s.keyid, _bundle_signer(s, document, judge)) for s in document.signatures]
    keys = {signer for _, signer in signers if signer}
    role = judge.roles[Role.TARGETS]
    return BundleSigners(
        claim=_claim(document.value),
        expires=_bundle_expires(document),
        allowed=tuple(sorted(role.keyids)),
        threshold=role.threshold,
        valid=tuple(keyid for keyid, signer in signers if signer),
        refused=tuple(keyid for keyid, signer in signers if not signer),
        missing=max(0, role.threshold - len(keys)),
    )


# --- 1-3: is there something to judge -------------------------------------------------


def _check_presence(raw: RawBundle, trusted: TrustedDocuments) -> None:
    bases = {re.sub(r"^[0-9]+\.", "", name) for name in raw.metadata}
    for role in (Role.TIMESTAMP, Role.SNAPSHOT, Role.TARGETS):
        if role.file_name not in bases:
            raise MetadataNotFoundError(f"there is no '{role.file_name}' in {raw.origin}")
    if not trusted.roots and _root_name(FIRST_ROOT) not in raw.metadata:
        raise MetadataNotFoundError(
            f"this device trusts no root yet, and there is no '{_root_name(FIRST_ROOT)}' in "
            f"{raw.origin}",
            hint="provision the device with its factory's roots, or add the first root to "
            "the bundle",
        )


def _bundle_metadata(raw: RawBundle, *, required: bool) -> Mapping[str, Any] | None:
    data = raw.metadata.get(BUNDLE_FILE)
    if data is not None:
        return tuf.read_object(BUNDLE_FILE, data, error=BundleMetadataInvalidError)
    if required:
        raise BundleMetadataMissingError(
            f"there is no '{BUNDLE_FILE}' in {raw.origin}",
            hint="make the bundle with a current tool; only '[usb_update] "
            "require_bundle_metadata = false' on the device does without",
        )
    return None


def _claim(metadata: Mapping[str, Any]) -> BundleClaim:
    signed = _table(metadata.get("signed"), "'signed'")
    claim = _table(signed.get(_CLAIM), f"'{_CLAIM}'")
    names = claim.get("targets")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleMetadataInvalidError(f"'targets' of '{BUNDLE_FILE}' is not a list of names")
    kind, tag = claim.get("type"), claim.get("tag", "")
    if not isinstance(kind, str) or not isinstance(tag, str):
        raise BundleMetadataInvalidError(f"type and tag of '{BUNDLE_FILE}' have to be strings")
    return BundleClaim(kind, tag, tuple(dict.fromkeys(names)))


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleMetadataInvalidError(f"{what} of '{BUNDLE_FILE}' is not a JSON object")
    return value


def _check_not_other_type(claim: BundleClaim, device_type: BundleType | None) -> None:
    # Before anything is verified: refusing is safe, and the person reads the true cause
    # rather than a signature of a chain that the device does not know.
    if device_type is not None and claim.type in set(BundleType) - {device_type}:
        raise BundleTypeError(
            f"the bundle is of type '{claim.type}', this device of type '{device_type}'",
            hint=f"ask for a bundle of type '{device_type}'",
        )


# --- 4: the root chain ----------------------------------------------------------------


def _root_name(version: int) -> str:
    return f"{version}.root.json"


def _root_chain(raw: RawBundle, trusted: TrustedDocuments) -> tuple[Root, ...]:
    """Return the root to begin with and those that follow it, newest last."""
    start = _device_root(trusted)
    if start is None:
        start = _first_root(FIRST_ROOT, raw.metadata[_root_name(FIRST_ROOT)])
    return start, *_walk(start, raw.metadata)


def _device_root(trusted: TrustedDocuments) -> Root | None:
    if trusted.roots:
        try:
            return _first_root(*trusted.roots[-1])
        except BundleError as e:
            raise StateError(f"the newest root this device trusts is not sound: {e}") from e
    if any((trusted.timestamp, trusted.snapshot, trusted.targets)):
        # Trusting the stick's first root now would let anyone take over a device whose
        # database lost a row.
        raise StateError("this device trusts TUF metadata but no root")
    return None


def _first_root(version: int, data: bytes) -> Root:
    name = _root_name(version)
    dialect = tuf.root_dialect(name, data)
    document = tuf.read_document(name, data, dialect)
    root = tuf.parse_root(document, dialect)
    tuf.check_signatures(document, Role.ROOT, root)
    _check_root_version(root, version)
    return root


def _walk(start: Root, files: Mapping[str, bytes]) -> Iterator[Root]:
    """Yield the roots after ``start`` up to the first gap."""
    newest = start
    for version in range(start.version + 1, start.version + 1 + ROTATIONS_LIMIT):
        data = files.get(_root_name(version))
        if data is None:
            return  # how the chain ends; whatever lies beyond a gap does not belong to it
        newest = _next_root(newest, version, data)
        yield newest


def _next_root(old: Root, version: int, data: bytes) -> Root:
    document = tuf.read_document(_root_name(version), data, old.dialect)
    tuf.check_type(document, Role.ROOT, old.dialect)
    tuf.check_signatures(document, Role.ROOT, old)
    new = tuf.parse_root(document, old.dialect)
    tuf.check_signatures(document, Role.ROOT, new)
    _check_root_version(new, version)
    return new


def _check_root_version(root: Root, version: int) -> None:
    if root.version != version:
        raise MetadataUpdateError(
            f"'{_root_name(version)}' says it is version {root.version}, expected {version}"
        )


def _remembered_roots(
    trusted: TrustedDocuments, chain: Sequence[Root]
) -> tuple[tuple[int, bytes], ...]:
    known = {version for version, _ in trusted.roots}
    new = ((root.version, root.raw) for root in chain if root.version not in known)
    return (*trusted.roots, *new)


# --- 5-8: the bundle's own metadata ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bundle:
    claim: BundleClaim
    expires: datetime


def _check_bundle(
    raw: RawBundle,
    root: Root,
    device_type: BundleType | None,
    device_tags: tuple[str, ...],
    now: datetime,
) -> _Bundle:
    document = _bundle_document(raw.metadata[BUNDLE_FILE], root)
    # 5
    _check_all_signatures(document, root)
    # 6
    expires = _bundle_expires(document)
    _check_fresh(BUNDLE_FILE, expires, now)
    # 7, 8
    claim = _claim(document.value)
    _check_type(claim, device_type)
    _check_tag(claim, device_tags)
    return _Bundle(claim, expires)


def _bundle_document(data: bytes, root: Root) -> Document:
    return tuf.read_document(BUNDLE_FILE, data, root.dialect, error=BundleMetadataInvalidError)


def _bundle_expires(document: Document) -> datetime:
    return tuf.expires_utc(
        document.signed.get("expires"), BUNDLE_FILE, error=BundleMetadataInvalidError
    )


def _check_all_signatures(document: Document, root: Root) -> None:
    """Demand that nobody but targets keys signed, and enough of them."""
    signers = [_bundle_signer(signature, document, root) for signature in document.signatures]
    for signature, signer in zip(document.signatures, signers, strict=True):
        if signer is None:
            raise BundleSignatureError(
                f"the signature of key {signature.keyid[:64]!r} on '{document.name}' is bad or not "
                f"by a targets key of root version {root.version}"
            )
    threshold = root.roles[Role.TARGETS].threshold
    if len(set(signers)) < threshold:
        raise BundleSignatureError(
            f"'{document.name}' is signed by {len(set(signers))} of the {threshold} targets keys "
            f"that root version {root.version} asks for",
            hint="let the owner of another targets key sign the bundle",
        )


def _check_seal(seal: RawSeal, root: Root, now: datetime) -> SealedImage:
    document = tuf.read_document(pack.SEAL, seal.document, root.dialect, error=PackInvalidError)
    facts = pack.read_seal(document.signed)
    _check_all_signatures(document, root)
    expires = tuf.expires_utc(document.signed.get("expires"), pack.SEAL, error=PackInvalidError)
    _check_fresh(pack.SEAL, expires, now)
    return facts.image(seal.offset)


def _bundle_signer(signature: tuf.Signature, document: Document, root: Root) -> bytes | None:
    """Return the identity of the targets key that made ``signature``; None if none did."""
    key = root.key_of(Role.TARGETS, signature.keyid)
    valid = key is not None and key.verify(signature.value, document.message)
    return key.identity if key is not None and valid else None


def _check_type(claim: BundleClaim, device_type: BundleType | None) -> None:
    if claim.type not in set(BundleType):
        raise BundleTypeError(
            f"the bundle is of type {claim.type[:40]!r}, expected one of "
            f"{[kind.value for kind in BundleType]}"
        )
    _check_not_other_type(claim, device_type)


def _check_tag(claim: BundleClaim, device_tags: tuple[str, ...]) -> None:
    if device_tags and claim.tag not in device_tags:
        raise BundleTagError(
            f"bundle tag {claim.tag[:80]!r} is not one of this device's tags {sorted(device_tags)}",
            hint="ask for a bundle with one of these tags, or set [pacman] tags",
        )


# --- 9-12: the roles ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """What this device trusted before, as far as the newest root still vouches for it."""

    timestamp: Timestamp | None
    snapshot: Snapshot | None
    targets_version: int | None


def _stored(trusted: TrustedDocuments, raw: RawBundle, root: Root) -> _Stored:
    def read(data: bytes | None, role: Role, parse: Callable[[Document], T]) -> T | None:
        # Most visits bring what is known already; the same bytes cannot be older.
        if data is None or data == raw.metadata.get(role.file_name):
            return None
        return _stored_value(data, role, root, parse)

    return _Stored(
        read(trusted.timestamp, Role.TIMESTAMP, lambda d: tuf.parse_timestamp(d, root.dialect)),
        read(trusted.snapshot, Role.SNAPSHOT, tuf.parse_snapshot),
        read(trusted.targets, Role.TARGETS, lambda d: tuf.parse_targets(d).version),
    )


def _stored_value(data: bytes, role: Role, root: Root, parse: Callable[[Document], T]) -> T | None:
    """Read a stored document; None when its role's keys were rotated since.

    That is what rotating a key is for: whatever versions its thief had signed, they hold
    nothing back.
    """
    try:
        document = tuf.read_document(role.file_name, data, root.dialect)
        return parse(document) if _still_holds(document, role, root) else None
    except BundleError as e:
        raise StateError(f"the {role} that this device trusts is not sound: {e}") from e


def _still_holds(document: Document, role: Role, root: Root) -> bool:
    try:
        tuf.check_type(document, role, root.dialect)
        tuf.check_signatures(document, role, root)
    except BundleError:
        return False
    return True


def _timestamp(
    raw: RawBundle, root: Root, stored: _Stored, now: datetime
) -> tuple[Timestamp, bytes]:
    document = _read_role(raw, Role.TIMESTAMP, root, None)
    timestamp = tuf.parse_timestamp(document, root.dialect)
    if stored.timestamp is not None:
        # An equal version with other content is fine: that is how authors renew an expiry.
        _check_not_older(document.name, timestamp.version, stored.timestamp.version)
        named = stored.timestamp.snapshot.version
        _check_not_older("snapshot.json", timestamp.snapshot.version, named)
    _check_fresh(document.name, timestamp.expires, now)
    return timestamp, document.raw


def _snapshot(
    raw: RawBundle, root: Root, timestamp: Timestamp, stored: _Stored, now: datetime
) -> tuple[Snapshot, bytes]:
    document = _read_role(raw, Role.SNAPSHOT, root, timestamp.snapshot)
    snapshot = tuf.parse_snapshot(document)
    _check_agreed(document.name, snapshot.version, timestamp.snapshot)
    if stored.snapshot is not None:
        _check_not_older(document.name, snapshot.version, stored.snapshot.version)
        _check_not_older("targets.json", snapshot.targets.version, stored.snapshot.targets.version)
    _check_fresh(document.name, snapshot.expires, now)
    return snapshot, document.raw


def _targets(
    raw: RawBundle, root: Root, snapshot: Snapshot, stored: _Stored, now: datetime
) -> tuple[Targets, bytes]:
    document = _read_role(raw, Role.TARGETS, root, snapshot.targets)
    targets = tuf.parse_targets(document)
    _check_agreed(document.name, targets.version, snapshot.targets)
    if stored.targets_version is not None:
        _check_not_older(document.name, targets.version, stored.targets_version)
    _check_fresh(document.name, targets.expires, now)
    return targets, document.raw


def _read_role(raw: RawBundle, role: Role, root: Root, meta: MetaFile | None) -> Document:
    """Read a role's document: hash, type, signatures."""
    name = role.file_name
    if root.consistent_snapshot and meta is not None:
        name = f"{meta.version}.{name}"
    data = raw.metadata.get(name)
    if data is None:
        raise MetadataNotFoundError(f"there is no '{name}' in {raw.origin}")
    document = tuf.read_document(name, data, root.dialect)
    if meta is not None and not tuf.matches(document, meta, root.dialect):
        raise MetadataInvalidError(f"'{name}' is not the file whose hash was signed")
    tuf.check_type(document, role, root.dialect)
    tuf.check_signatures(document, role, root)
    return document


def _check_agreed(name: str, version: int, meta: MetaFile) -> None:
    if version != meta.version:
        raise MetadataUpdateError(f"'{name}' is version {version}, expected {meta.version}")


def _check_not_older(name: str, version: int, trusted: int) -> None:
    if version < trusted:
        raise MetadataRollbackError(
            f"'{name}' is version {version}, this device has already trusted {trusted}",
            hint="the bundle is older than one this device has seen; make a new one",
        )


def _check_fresh(name: str, expires: datetime, now: datetime) -> None:
    if now >= expires:
        raise MetadataExpiredError(
            f"'{name}' expired at {_utc(expires)}, and it is {_utc(now)}",
            hint="ask for a new bundle; if the date above is wrong, set the device's clock",
        )


def _utc(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


# --- 13: the Targets ------------------------------------------------------------------


def _listed_targets(targets: Targets, names: Sequence[str]) -> Iterator[Target]:
    """Yield what is listed and vouched for; entries that are not listed are not read."""
    for name in names:
        if name in targets.entries:
            yield target_from_json(name, targets.entries[name])


def _seen_utc(targets: Targets, names: Sequence[str], latest: datetime) -> datetime | None:
    """Return the newest time at which a listed Target was made or changed.

    Later than ``latest`` it would be a slip of the author, and would move a device's clock
    floor past this very bundle's expiry.
    """
    entries = (targets.entries[name] for name in names if name in targets.entries)
    times = (time for entry in entries for time in _entry_times(entry))
    return max((time for time in times if time < latest), default=None)


def _entry_times(entry: object) -> Iterator[datetime]:
    custom = entry.get("custom") if isinstance(entry, Mapping) else None
    for member in ("createdAt", "updatedAt"):
        value = custom.get(member) if isinstance(custom, Mapping) else None
        time = _lenient_utc(value) if isinstance(value, str) else None
        if time is not None:
            yield time


def _lenient_utc(text: str) -> datetime | None:
    """Read an ISO 8601 time with a zone; None when it is anything else."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
