"""Root, Timestamp, Snapshot, Targets: what TUF metadata says, and who signed it.

In: bytes of one document and the root that judges it. Out: a value whose every member
has been checked for type and range. The law of this module:

* A document is read by `canonical.parse_strict`, its ``_type`` is the expected one, and
  its signatures hold, before any other member is looked at.
* Keys count, labels do not: a threshold is met by that many *different* keys.
* A root names the roles' keys; the flavour (`Dialect`) follows from the trusted root and
  from nothing else.

Order, versions and dates are `verify`'s business.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from agent.core.canonical import (
    NotCanonicalJsonError,
    canonical_bytes,
    olpc_bytes,
    parse_strict,
)
from agent.core.errors import BundleError, MetadataInvalidError, MetadataUpdateError
from agent.core.keys import (
    METHODS,
    PublicKey,
    key_from_json,
    signature_from_base64,
    signature_from_hex,
)

SIGNATURES_LIMIT = 64  # per document; the largest root known has three
TARGETS_LIMIT = 10_000  # entries of one targets.json
THRESHOLD_LIMIT = 1000  # the reference's bound
VERSION_LIMIT = 2**31 - 1  # the reference keeps versions in 32 bits
SUPPORTED_SPEC = "1."  # of standard TUF: major version, see TUF spec "spec_version"

_EXPIRES = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)
_HASHES: Mapping[str, Callable[[bytes], "hashlib._Hash"]] = {
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
}


class Role(StrEnum):
    """A TUF role; the value is its spelling in a root."""

    ROOT = "root"
    TIMESTAMP = "timestamp"
    SNAPSHOT = "snapshot"
    TARGETS = "targets"

    @property
    def file_name(self) -> str:
        """Name of the role's document."""
        return f"{self.value}.json"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the flavours of TUF. A property of the trusted root.

    Attributes:
        name: for messages.
        capitalised: whether ``_type`` is ``Root`` rather than ``root``.
        canonical: spells what is signed.
        hex_signatures: ``sig`` is hex without ``method``, rather than base64 with one.
        canonical_hashes: hashes may be those of the canonical document, too: its tools
            rewrite files without changing what they say.
        timestamp_needs_hashes: the timestamp must pin the snapshot's content.
    """

    name: str
    capitalised: bool
    canonical: Callable[[object], bytes]
    hex_signatures: bool
    canonical_hashes: bool
    timestamp_needs_hashes: bool

    def type_name(self, role: Role) -> str:
        """Return the ``_type`` of a role's documents."""
        return role.value.capitalize() if self.capitalised else role.value


FOUNDRIES = Dialect(
    name="Foundries",
    capitalised=True,
    canonical=canonical_bytes,
    hex_signatures=False,
    canonical_hashes=True,
    timestamp_needs_hashes=True,
)
STANDARD = Dialect(
    name="standard TUF 1.0",
    capitalised=False,
    canonical=olpc_bytes,
    hex_signatures=True,
    canonical_hashes=False,
    timestamp_needs_hashes=False,
)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a document, not verified yet.

    Attributes:
        keyid: a label, see `keys`.
        method: lowercase; empty where the flavour has none.
        value: the signature's bytes; empty when it was not spelt as it must be.
    """

    keyid: str
    method: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A signed JSON document as it was read. Nothing in it is believed yet.

    Attributes:
        name: its file name, for messages.
        raw: its bytes.
        value: the whole document.
        signed: the part that is signed.
        signatures: in the file's order.
        message: the canonical bytes of ``signed``.
    """

    name: str
    raw: bytes
    value: Mapping[str, Any]
    signed: Mapping[str, Any]
    signatures: tuple[Signature, ...]
    message: bytes


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Who may sign for a role.

    Attributes:
        keyids: labels of its keys.
        threshold: how many different keys have to sign, 1..1000.
    """

    keyids: frozenset[str]
    threshold: int


@dataclass(frozen=True, slots=True)
class Root:
    """A root: who may sign what.

    Attributes:
        raw: the document's bytes.
        version: 1..2**31 - 1.
        expires: UTC.
        dialect: flavour of everything below this root.
        keys: the usable ones by label; others never count.
        roles: all four.
        consistent_snapshot: whether the other documents' names begin with their version.
    """

    raw: bytes
    version: int
    expires: datetime
    dialect: Dialect
    keys: Mapping[str, PublicKey]
    roles: Mapping[Role, RoleKeys]
    consistent_snapshot: bool

    def key_of(self, role: Role, keyid: str) -> PublicKey | None:
        """Return the key with that label if it may sign for ``role``."""
        return self.keys.get(keyid) if keyid in self.roles[role].keyids else None


@dataclass(frozen=True, slots=True)
class MetaFile:
    """What a document says about the one below it.

    Attributes:
        version: which one.
        hashes: algorithm to hex digest; None when there is no such member.
    """

    version: int
    hashes: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Timestamp:
    """Which snapshot is the newest."""

    version: int
    expires: datetime
    snapshot: MetaFile


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which targets.json is the newest."""

    version: int
    expires: datetime
    targets: MetaFile


@dataclass(frozen=True, slots=True)
class Targets:
    """All Targets there are.

    Attributes:
        entries: name to entry, as read; see `target.target_from_json`.
    """

    version: int
    expires: datetime
    entries: Mapping[str, object]


def read_object(
    name: str, data: bytes, *, error: type[BundleError] = MetadataInvalidError
) -> Mapping[str, Any]:
    """Read one JSON object strictly.

    Raises:
        BundleError: of class ``error``, naming the file.
    """
    try:
        value = parse_strict(data)
    except NotCanonicalJsonError as e:
        raise error(f"'{name}' cannot be read: {e}") from e
    return _object(value, f"'{name}'", error)


def read_document(
    name: str, data: bytes, dialect: Dialect, *, error: type[BundleError] = MetadataInvalidError
) -> Document:
    """Read a signed document, without believing it.

    Raises:
        BundleError: of class ``error``; malformed, or more than 64 signatures.
    """
    value = read_object(name, data, error=error)
    signed = _object(value.get("signed"), f"'signed' of '{name}'", error)
    try:
        message = dialect.canonical(signed)
    except NotCanonicalJsonError as e:
        raise error(f"'{name}' cannot be spelt canonically: {e}") from e
    return Document(name, data, value, signed, _signatures(value, name, dialect, error), message)


def root_dialect(name: str, data: bytes) -> Dialect:
    """Tell the flavour of a trusted root: a root with a ``spec_version`` is standard TUF.

    Raises:
        MetadataInvalidError: it cannot be read.
    """
    signed = read_object(name, data).get("signed")
    return STANDARD if isinstance(signed, Mapping) and "spec_version" in signed else FOUNDRIES


def parse_root(document: Document, dialect: Dialect) -> Root:
    """Read a root. Who signed it is for the caller to ask.

    Raises:
        MetadataInvalidError: not a root, or malformed.
        MetadataUpdateError: a version or threshold is out of range.
    """
    check_type(document, Role.ROOT, dialect)
    signed, name = document.signed, document.name
    if dialect is STANDARD:
        _check_specification(signed.get("spec_version"), name)
    roles = _object(signed.get("roles"), f"'roles' of '{name}'")
    return Root(
        raw=document.raw,
        version=_version(signed.get("version"), name),
        expires=expires_utc(signed.get("expires"), name),
        dialect=dialect,
        keys=_keys(signed.get("keys"), name),
        roles={role: _role_keys(roles.get(role.value), role, name) for role in Role},
        consistent_snapshot=dialect is STANDARD and signed.get("consistent_snapshot") is True,
    )


def parse_timestamp(document: Document, dialect: Dialect) -> Timestamp:
    """Read a timestamp.

    Raises:
        MetadataInvalidError: malformed.
        MetadataUpdateError: a version is out of range, or no hash pins the snapshot.
    """
    snapshot = _meta(document, Role.SNAPSHOT)
    if dialect.timestamp_needs_hashes and snapshot.hashes is None:
        raise MetadataUpdateError(f"'{document.name}' has no hashes of 'snapshot.json'")
    return Timestamp(*_common(document), snapshot)


def parse_snapshot(document: Document) -> Snapshot:
    """Read a snapshot.

    Raises:
        MetadataInvalidError: malformed.
        MetadataUpdateError: a version is out of range.
    """
    return Snapshot(*_common(document), _meta(document, Role.TARGETS))


def parse_targets(document: Document) -> Targets:
    """Read the list of Targets; single entries are read when they are listed.

    Raises:
        MetadataInvalidError: malformed, too many Targets, or delegations.
        MetadataUpdateError: the version is out of range.
    """
    name = document.name
    entries = _object(document.signed.get("targets"), f"'targets' of '{name}'")
    _demand(len(entries) <= TARGETS_LIMIT, f"'{name}' has more than {TARGETS_LIMIT} Targets")
    delegations = _object(document.signed.get("delegations") or {}, f"'delegations' of '{name}'")
    _demand(not any(delegations.values()), f"'{name}' delegates, which is not supported")
    return Targets(*_common(document), entries)


def check_type(document: Document, role: Role, dialect: Dialect) -> None:
    """Demand the exact ``_type`` of a role.

    Raises:
        MetadataInvalidError: it is another one.
    """
    expected, found = dialect.type_name(role), document.signed.get("_type")
    _demand(
        found == expected,
        f"'_type' of '{document.name}' is {str(found)[:40]!r}, expected {expected!r}",
    )


def check_signatures(document: Document, role: Role, root: Root) -> None:
    """Demand that enough different keys of ``role`` signed ``document``.

    Signatures by others are passed over, and so are bad ones, as TUF has it.

    Raises:
        MetadataInvalidError: a method is unknown, or not that of its key.
        MetadataUpdateError: a key id stands twice, or too few keys signed.
    """
    for signature in document.signatures:
        _check_method(signature, role, root, document.name)
    keyids = [signature.keyid for signature in document.signatures]
    if len(set(keyids)) != len(keyids):
        raise MetadataUpdateError(f"'{document.name}' has two signatures with the same key id")
    valid = {
        key.identity
        for signature in document.signatures
        if (key := root.key_of(role, signature.keyid))
        and key.verify(signature.value, document.message)
    }
    threshold = root.roles[role].threshold
    if len(valid) < threshold:
        raise MetadataUpdateError(
            f"'{document.name}' is signed by {len(valid)} of the {threshold} {role} keys that "
            f"root version {root.version} asks for"
        )


def matches(document: Document, meta: MetaFile, dialect: Dialect) -> bool:
    """Whether a document is the one that its parent's hashes, if it has any, are of.

    Every known algorithm has to agree, and there has to be one. In the Foundries flavour
    the hashes are of the canonical document, whatever white space the file has since got.
    """
    if meta.hashes is None:
        return True
    known = {name: digest for name, digest in meta.hashes.items() if name in _HASHES}
    if not known:
        return False
    if _digests_agree(document.raw, known):
        return True
    return dialect.canonical_hashes and _digests_agree(dialect.canonical(document.value), known)


def expires_utc(
    value: object, name: str, *, error: type[BundleError] = MetadataInvalidError
) -> datetime:
    """Read a date of exactly the form ``YYYY-MM-DDTHH:MM:SSZ``.

    Raises:
        BundleError: of class ``error``; any other form.
    """
    text = value if isinstance(value, str) and _EXPIRES.fullmatch(value) else ""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as e:
        raise error(
            f"'expires' of '{name}' is {str(value)[:40]!r}, expected YYYY-MM-DDTHH:MM:SSZ"
        ) from e


def _check_specification(version: object, name: str) -> None:
    supported = isinstance(version, str) and version.startswith(SUPPORTED_SPEC)
    _demand(supported, f"'spec_version' of '{name}' does not begin with '{SUPPORTED_SPEC}'")


def _signatures(
    value: Mapping[str, Any], name: str, dialect: Dialect, error: type[BundleError]
) -> tuple[Signature, ...]:
    listed = value.get("signatures")
    if not isinstance(listed, list):
        raise error(f"'signatures' of '{name}' is not a list")
    if len(listed) > SIGNATURES_LIMIT:
        raise error(f"'{name}' has {len(listed)} signatures, more than {SIGNATURES_LIMIT}")
    return tuple(_signature(entry, name, dialect, error) for entry in listed)


def _signature(entry: object, name: str, dialect: Dialect, error: type[BundleError]) -> Signature:
    what = f"a signature of '{name}'"
    table = _object(entry, what, error)
    keyid = _text(table.get("keyid"), f"'keyid' of {what}", error)
    sig = _text(table.get("sig"), f"'sig' of {what}", error)
    if dialect.hex_signatures:
        return Signature(keyid, "", signature_from_hex(sig))
    method = _text(table.get("method"), f"'method' of {what}", error).lower()
    return Signature(keyid, method, signature_from_base64(sig))


def _check_method(signature: Signature, role: Role, root: Root, name: str) -> None:
    if root.dialect.hex_signatures:
        return  # the key's scheme says it
    key = root.key_of(role, signature.keyid)
    fitting = key.methods if key else METHODS
    _demand(
        signature.method in fitting,
        f"method {signature.method[:40]!r} of a signature of '{name}' is not one of "
        f"{sorted(fitting)}",
    )


def _digests_agree(data: bytes, expected: Mapping[str, str]) -> bool:
    return all(_HASHES[n](data).hexdigest() == digest.lower() for n, digest in expected.items())


def _common(document: Document) -> tuple[int, datetime]:
    signed, name = document.signed, document.name
    return _version(signed.get("version"), name), expires_utc(signed.get("expires"), name)


def _keys(value: object, name: str) -> Mapping[str, PublicKey]:
    what = f"'keys' of '{name}'"
    found = {
        keyid: key_from_json(_object(entry, f"a key in {what}"))
        for keyid, entry in _object(value, what).items()
    }
    return {keyid: key for keyid, key in found.items() if key is not None}


def _role_keys(value: object, role: Role, name: str) -> RoleKeys:
    what = f"role '{role}' of '{name}'"
    table = _object(value, what)
    keyids = table.get("keyids")
    if not isinstance(keyids, list):
        raise MetadataInvalidError(f"'keyids' of {what} is not a list")
    return RoleKeys(
        frozenset(_text(keyid, f"a key id of {what}") for keyid in keyids),
        _threshold(table.get("threshold"), what),
    )


def _threshold(value: object, what: str) -> int:
    if type(value) is not int:  # True is an int, too
        raise MetadataInvalidError(f"'threshold' of {what} is not an integer")
    if not 1 <= value <= THRESHOLD_LIMIT:
        raise MetadataUpdateError(f"'threshold' of {what} is {value}, not 1..{THRESHOLD_LIMIT}")
    return value


def _version(value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise MetadataInvalidError(f"'version' in '{name}' is not a positive integer")
    if value > VERSION_LIMIT:
        raise MetadataUpdateError(f"'version' in '{name}' is {value}, more than {VERSION_LIMIT}")
    return value


def _meta(document: Document, child: Role) -> MetaFile:
    name = document.name
    what = f"'{child.file_name}' in '{name}'"
    entries = _object(document.signed.get("meta"), f"'meta' of '{name}'")
    entry = _object(entries.get(child.file_name), what)
    hashes = _object(entry["hashes"], f"'hashes' of {what}") if "hashes" in entry else None
    for digest in (hashes or {}).values():
        _text(digest, f"a hash of {what}")
    return MetaFile(_version(entry.get("version"), name), hashes)


def _object(
    value: object, what: str, error: type[BundleError] = MetadataInvalidError
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise error(f"{what} is missing or not a JSON object")
    return value


def _text(value: object, what: str, error: type[BundleError] = MetadataInvalidError) -> str:
    if not isinstance(value, str):
        raise error(f"{what} is missing or not a string")
    return value


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise MetadataInvalidError(otherwise)
