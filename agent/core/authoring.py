"""The documents of a bundle, made: Targets and keys in, signed bytes out.

The mirror image of `verify`: what is written here must hold there, in fioctl and in the
reference alike. All documents are canonical ASCII JSON, so that whoever signs the bytes
as they lie on the disk (fioctl does) signs what every device verifies. Nothing here reads
a file, a clock or a counter.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.core.bundletype import BundleType
from agent.core.canonical import NotCanonicalJsonError, canonical_bytes, parse_strict
from agent.core.errors import AgentError
from agent.core.keys import PrivateKey, PublicKey, key_id, signature_from_base64
from agent.core.outcome import InstallExit
from agent.core.target import NAME, AppRef
from agent.core.tuf import Role, Root, parse_root, read_document, root_dialect

TARGETS_FILE = "targets.json"
SNAPSHOT_FILE = "snapshot.json"
TIMESTAMP_FILE = "timestamp.json"
BUNDLE_FILE = "bundle-targets.json"
ROOT_FILE = re.compile(r"([1-9][0-9]{0,4})\.root\.json", re.ASCII)

# fioctl looks for roots from here on; versions 1 and 2 are in the device's image.
FIRST_BRANCH_VERSION = 3
PROD_THRESHOLD = 2  # the online key alone must not be able to release for production
VERSION_LIMIT = 2**31 - 1  # the reference keeps versions in a C int
ROLE_LIFETIME = timedelta(days=365)  # of targets metadata; the factory's default
DATE = "%Y-%m-%dT%H:%M:%SZ"  # the only spelling the reference reads

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", re.ASCII)
REGISTRY_PREFIX = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._-]+", re.ASCII)

EMPTY_CONFIG = b"{}"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class AuthoringError(AgentError, exit=InstallExit.FAILED):
    """A bundle or its keys cannot be made as asked; what was there is as it was."""


# --- values ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChainKeys:
    """All keys of a factory's root chains.

    Attributes:
        first_root: signs versions 1 and 2, then hands over to ``root``.
        root: kept offline; signs version 3 and later.
        targets: online; signs Targets and CI bundles.
        offline_targets: kept offline; production needs it beside ``targets``.
        snapshot, timestamp: online.
    """

    first_root: PrivateKey
    root: PrivateKey
    targets: PrivateKey
    offline_targets: PrivateKey
    snapshot: PrivateKey
    timestamp: PrivateKey


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """The keys that `issue` signs with."""

    targets: PrivateKey
    snapshot: PrivateKey
    timestamp: PrivateKey


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob of an App or image: what it is, its name, its length.

    Attributes:
        media_type: as OCI spells it.
        digest: ``sha256:<64 hex>``.
        size: in bytes.
        annotations: OCI annotations, in the order they are written.
        platform: ``architecture`` and ``os``, as an image index spells them.
    """

    media_type: str
    digest: str
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: tuple[tuple[str, str], ...] = ()

    @property
    def hex(self) -> str:
        """The digest without its algorithm: the blob's file name."""
        return self.digest.removeprefix("sha256:")

    def to_json(self) -> dict[str, Any]:
        """Spell it as OCI does."""
        table: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest}
        table["size"] = self.size
        if self.annotations:
            table["annotations"] = dict(self.annotations)
        if self.platform:
            table["platform"] = dict(self.platform)
        return table


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A Target to be put into ``targets.json``.

    Attributes:
        name: e.g. ``raspberrypi4-64-lmp-42``.
        version: 0 or more; devices compare it.
        commit: OSTree commit, 64 lowercase hex digits.
        hardware_id: the one hardware ID it is for.
        tag: release channel.
        created: when it was made, UTC.
        apps: all its Apps; empty makes a device stop every App it runs.
        arch: architecture of its images; empty when there are none.
        fetched: ``fetched-apps``, which Apps a bundle carries; None carries all.
        containers_sha: commit of the Apps' sources; empty when they are not from git.
    """

    name: str
    version: int
    commit: str
    hardware_id: str
    tag: str
    created: datetime
    apps: tuple[AppRef, ...] = ()
    arch: str = ""
    fetched: Mapping[str, Any] | None = None
    containers_sha: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed document taken apart.

    Attributes:
        signed: what the signatures are over.
        signatures: ``(key id, method, base64)``, in the file's order.
    """

    signed: Mapping[str, Any]
    signatures: tuple[tuple[str, str, str], ...]

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.signed)

    @property
    def version(self) -> int:
        """The document's version."""
        return int(self.signed["version"])

    @property
    def expires(self) -> datetime:
        """When the document ends, UTC."""
        return read_date(self.signed["expires"])


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What ``bundle-targets.json`` says.

    Attributes:
        bundle_type, tag, targets: of the bundle.
        expires, version: of the file.
    """

    bundle_type: BundleType
    tag: str
    targets: tuple[str, ...]
    expires: datetime
    version: int


# --- signing ---------------------------------------------------------------------------


def sign(signed: Mapping[str, Any], keys: Sequence[PrivateKey]) -> bytes:
    """Write a document signed by each of ``keys``, in that order."""
    document = canonical_bytes({"signatures": [], "signed": signed})
    for key in keys:
        document = add_signature(document, key)
    return document


def add_signature(document: bytes, key: PrivateKey) -> bytes:
    """Append one signature over the canonical bytes of ``signed``.

    Raises:
        AuthoringError: this key has signed already, or ``document`` is not a signed one.
    """
    old = read_signed(document, "the document")
    keyid = key_id(key.public)
    if keyid in {entry[0] for entry in old.signatures}:
        raise AuthoringError(
            f"key {keyid} has signed this already; one key counts once however often it signs",
            hint="sign with another offline key",
        )
    method, text = key.sign(old.message)
    return _write(old.signed, [*old.signatures, (keyid, method, text)])


def read_signed(document: bytes, what: str) -> Signed:
    """Take a signed document apart. Nothing is verified.

    Args:
        document: a whole file.
        what: its name, for messages.

    Raises:
        AuthoringError: it is not a signed document.
    """
    try:
        value: Any = parse_strict(document)
        signatures = tuple((s["keyid"], s["method"], s["sig"]) for s in value["signatures"])
        result = Signed(dict(value["signed"]), signatures)
        _ = result.version, result.expires
    except (NotCanonicalJsonError, KeyError, TypeError, ValueError) as e:
        raise AuthoringError(
            f"{what} is not signed metadata: expected 'signatures' and 'signed' with "
            f"'version' and 'expires'",
            hint="give a bundle made by 'usb-update bundle create' or fioctl",
        ) from e
    return result


def valid_signers(document: Signed, keys: Mapping[str, PublicKey]) -> tuple[str, ...]:
    """Return the key ids among ``keys`` whose signature holds, each key once."""
    counted: dict[bytes, str] = {}
    for keyid, _, text in document.signatures:
        key = keys.get(keyid)
        if key and key.verify(signature_from_base64(text), document.message):
            counted.setdefault(key.identity, keyid)
    return tuple(counted.values())


def without_signature(document: bytes, keyid: str) -> bytes:
    """Take one key's signature off a document."""
    held = read_signed(document, "the document")
    return _write(held.signed, (entry for entry in held.signatures if entry[0] != keyid))


def _write(signed: Mapping[str, Any], signatures: Iterable[tuple[str, str, str]]) -> bytes:
    entries = [{"keyid": k, "method": m, "sig": s} for k, m, s in signatures]
    return canonical_bytes({"signatures": entries, "signed": signed})


# --- the root chains -------------------------------------------------------------------


def root_chain(keys: ChainKeys, bundle_type: BundleType, expires: datetime) -> tuple[bytes, ...]:
    """Make versions 1 to 4 of a root chain.

    Versions 1 and 2 are the same for both types, so that a device that knows neither its
    type nor its factory's later roots can follow its first bundle. Version 3 hands over to
    the offline root key; version 4 lists the offline targets key and, for production,
    raises the threshold with it: never more signatures than there are keys.

    Source: bundle-format.md, "Root chains".
    """
    online, both = (keys.targets,), (keys.targets, keys.offline_targets)
    first, new = (keys.first_root,), (keys.root,)
    threshold = PROD_THRESHOLD if bundle_type is BundleType.PROD else 1
    offline, added = "root key taken offline", "offline targets key added"
    steps = (
        (_Root(1, first, online), first),
        (_Root(2, first, online), first),
        (_Root(3, new, online, note=f"{bundle_type}: {offline}"), (*first, *new)),
        (_Root(4, new, both, threshold, f"{bundle_type}: {added}"), new),
    )
    return tuple(sign(_root(keys, step, expires), signers) for step, signers in steps)


@dataclass(frozen=True, slots=True)
class _Root:
    """What sets one version of a root apart from the others."""

    version: int
    root: Sequence[PrivateKey]
    targets: Sequence[PrivateKey]
    threshold: int = 1
    note: str = ""


def _root(keys: ChainKeys, step: _Root, expires: datetime) -> dict[str, Any]:
    roles = {
        "root": _role(step.root),
        "targets": _role(step.targets, step.threshold),
        "snapshot": _role((keys.snapshot,)),
        "timestamp": _role((keys.timestamp,)),
    }
    used = (*step.root, *step.targets, keys.snapshot, keys.timestamp)
    document = {
        "_type": "Root",
        "consistent_snapshot": False,
        "expires": write_date(expires),
        "keys": {key_id(key.public): key.public.to_json() for key in used},
        "roles": roles,
        "version": step.version,
    }
    return document | ({"x-changelog": {"message": step.note}} if step.note else {})


def _role(keys: Sequence[PrivateKey], threshold: int = 1) -> dict[str, Any]:
    return {"keyids": [key_id(key.public) for key in keys], "threshold": threshold}


def read_root(document: bytes, what: str) -> Root:
    """Read a root without verifying it.

    Raises:
        BundleError: it is not a root document.
    """
    dialect = root_dialect(what, document)
    return parse_root(read_document(what, document, dialect), dialect)


def targets_keys(root: Root) -> dict[str, PublicKey]:
    """Return who may sign Targets: key id to key, the unusable left out."""
    found = {keyid: root.key_of(Role.TARGETS, keyid) for keyid in root.roles[Role.TARGETS].keyids}
    return {keyid: key for keyid, key in found.items() if key is not None}


def latest_root(documents: Mapping[str, bytes]) -> bytes | None:
    """Return the last root of the unbroken run that begins at version 3, as fioctl does."""
    version, latest = FIRST_BRANCH_VERSION, None
    while root := documents.get(f"{version}.root.json"):
        version, latest = version + 1, root
    return latest


# --- the other roles -------------------------------------------------------------------


def target_entry(target: NewTarget) -> dict[str, Any]:
    """Spell one Target as ``targets.json`` does.

    Raises:
        AuthoringError: a name has characters that a device would refuse.
    """
    if not target.hardware_id:
        raise AuthoringError(
            "the hardware ID of the devices is not given",
            hint="name it with --hardware-id, as 'primary_ecu_hardware_id' of the devices has it",
        )
    demand_word(target.hardware_id, "hardware ID")
    demand_word(target.tag, "tag")
    if not 0 <= target.version <= VERSION_LIMIT:
        raise AuthoringError(f"version {target.version} is not one of 0 to {VERSION_LIMIT}")
    if not NAME.fullmatch(target.name):
        raise AuthoringError(
            f"Target name {target.name!r} has characters a name must not have",
            hint="use letters, digits and '.', '_', '+', '-'; at most 128",
        )
    custom: dict[str, Any] = {
        "createdAt": write_date(target.created),
        "hardwareIds": [target.hardware_id],
        "name": target.name.removesuffix(f"-{target.version}"),
        "tags": [target.tag],
        "targetFormat": "OSTREE",
        "version": str(target.version),
    }
    if target.apps:
        custom["docker_compose_apps"] = {a.name: {"uri": a.uri} for a in sorted(target.apps)}
    if target.arch:
        custom["arch"] = target.arch
    if target.fetched is not None:
        custom["fetched-apps"] = dict(target.fetched)
    if target.containers_sha:
        custom["containers-sha"] = target.containers_sha
    return {"custom": custom, "hashes": {"sha256": target.commit}, "length": 0}


def issue_targets(entries: Mapping[str, Any], version: int, expires: datetime) -> dict[str, Any]:
    """Return what is signed of ``targets.json``."""
    return {
        "_type": "Targets",
        "expires": write_date(expires),
        "targets": dict(entries),
        "version": version,
    }


def issue_snapshot(
    targets: bytes, version: int, expires: datetime, *, final: bool
) -> dict[str, Any]:
    """Return what is signed of ``snapshot.json``.

    Args:
        targets: the whole ``targets.json``.
        version: of the snapshot.
        expires: of the snapshot.
        final: whether ``targets.json`` gets no more signatures. A hash of a file that
            somebody still has to sign offline would be wrong from then on; without it the
            offline signatures and the version hold the file.
    """
    meta: dict[str, Any] = {"version": read_signed(targets, TARGETS_FILE).version}
    return {
        "_type": "Snapshot",
        "expires": write_date(expires),
        "meta": {TARGETS_FILE: meta | (_fingerprint(targets) if final else {})},
        "version": version,
    }


def issue_timestamp(snapshot: bytes, version: int, expires: datetime) -> dict[str, Any]:
    """Return what is signed of ``timestamp.json``."""
    meta = {"version": read_signed(snapshot, SNAPSHOT_FILE).version, **_fingerprint(snapshot)}
    return {
        "_type": "Timestamp",
        "expires": write_date(expires),
        "meta": {SNAPSHOT_FILE: meta},
        "version": version,
    }


def issue_bundle(facts: BundleFacts) -> dict[str, Any]:
    """Return what is signed of ``bundle-targets.json``."""
    return {
        "_type": "Targets",
        "expires": write_date(facts.expires),
        "version": facts.version,
        "x-fio-offline-bundle": {
            "tag": facts.tag,
            "targets": list(facts.targets),
            "type": facts.bundle_type.value,
        },
    }


def issue(
    targets: bytes, facts: BundleFacts, keys: OnlineKeys, *, version: int, final: bool
) -> dict[str, bytes]:
    """Sign everything that goes with a ``targets.json``: the four documents of a bundle.

    Args:
        targets: ``targets.json``, signed.
        facts: of the bundle; snapshot, timestamp and bundle end together.
        keys: all online.
        version: of snapshot and timestamp, above every one issued before.
        final: see `issue_snapshot`.
    """
    snapshot = sign(issue_snapshot(targets, version, facts.expires, final=final), (keys.snapshot,))
    timestamp = sign(issue_timestamp(snapshot, version, facts.expires), (keys.timestamp,))
    return {
        TARGETS_FILE: targets,
        SNAPSHOT_FILE: snapshot,
        TIMESTAMP_FILE: timestamp,
        BUNDLE_FILE: sign(issue_bundle(facts), (keys.targets,)),
    }


def read_bundle(document: Signed) -> BundleFacts:
    """Read ``bundle-targets.json``.

    Raises:
        AuthoringError: it says nothing about a bundle.
    """
    try:
        table = document.signed["x-fio-offline-bundle"]
        facts = BundleFacts(
            BundleType(table["type"]),
            str(table["tag"]),
            tuple(str(name) for name in table["targets"]),
            document.expires,
            document.version,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise AuthoringError(
            f"'{BUNDLE_FILE}' does not say 'type' (ci or prod), 'tag' and 'targets'"
        ) from e
    return facts


def merge_entries(old: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Add one Target to those a bundle has.

    Raises:
        AuthoringError: the name is there already, with another commit or other Apps.
    """
    if name in old and not _same_content(old[name], entry):
        raise AuthoringError(
            f"there is a Target {name!r} already, with another commit or other Apps",
            hint="give the new Target a new name and version: devices take a name for one content",
        )
    return {**old, name: dict(entry)}


def _same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def content(entry: Mapping[str, Any]) -> tuple[object, object]:
        return entry["hashes"], entry["custom"].get("docker_compose_apps")

    return content(one) == content(other)


def _fingerprint(document: bytes) -> dict[str, Any]:
    return {"hashes": {"sha256": hashlib.sha256(document).hexdigest()}, "length": len(document)}


# --- the versions issued so far --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IssuedVersions:
    """The counter that never goes back: devices refuse metadata older than what they saw.

    Attributes:
        highest: type to the version issued last.
        requests: type to what that version was taken for.
    """

    highest: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)

    def raised(self, seen: Mapping[str, int]) -> "IssuedVersions":
        """Return the counter no lower than ``seen``."""
        kinds = {*self.highest, *seen}
        highest = {kind: max(self.highest.get(kind, 0), seen.get(kind, 0)) for kind in kinds}
        return replace(self, highest=highest)

    def next(
        self, bundle_type: BundleType, *, above: int = 0, request: str = ""
    ) -> tuple["IssuedVersions", int]:
        """Take the next version of a type; return the counter after it, and the version.

        A request that is repeated, because it was interrupted, gets its version again: what
        is signed is the same to the byte.

        Args:
            bundle_type: each type counts for itself.
            above: a version seen elsewhere that the new one must exceed.
            request: names everything that is going to be signed; empty is never repeated.

        Raises:
            AuthoringError: the counter is at its end.
        """
        kind = bundle_type.value
        last = self.highest.get(kind, 0)
        if request and self.requests.get(kind) == request and above <= last:
            return self, last
        version = max(last, above) + 1
        if version > VERSION_LIMIT:
            raise AuthoringError(f"metadata version {version} is beyond {VERSION_LIMIT}")
        requests = {k: name for k, name in self.requests.items() if k != kind}
        if request:
            requests[kind] = request
        return IssuedVersions({**self.highest, kind: version}, requests), version


def read_versions(data: bytes, what: str) -> IssuedVersions:
    """Read a counter.

    Args:
        data: a whole file.
        what: its name, for messages.

    Raises:
        AuthoringError: it is no counter. Without it a bundle could be older than what
            devices have seen.
    """
    try:
        table = json.loads(data)
        return IssuedVersions(
            {str(name): int(version) for name, version in table["versions"].items()},
            {str(name): str(request) for name, request in table.get("requests", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AuthoringError(
            f"{what} does not hold the versions issued so far: {e}",
            hint="restore it from a backup; devices refuse versions that go back",
        ) from e


def write_versions(versions: IssuedVersions) -> bytes:
    """Write a counter."""
    table: dict[str, Any] = {"schema": 1, "versions": dict(versions.highest)}
    if versions.requests:
        table["requests"] = dict(versions.requests)
    return json.dumps(table, sort_keys=True).encode() + b"\n"


# --- dates -----------------------------------------------------------------------------


def expiry(  # noqa: PLR0913  what a person has to read in a refusal, by name
    now: datetime,
    days: int,
    *,
    root: datetime,
    targets: datetime,
    refresh: str,
    refresh_root: str = "issue a new root version",
) -> datetime:
    """Return when a bundle ends that shall last ``days`` days.

    A bundle ends with the first of its roles. Asking for more than root and targets
    last is refused, not shortened: the person would learn it too late.

    Args:
        now: UTC.
        days: 1 or more.
        root: when the root ends.
        targets: when the targets metadata end.
        refresh: how the targets metadata is made to last longer, for the hint.
        refresh_root: the same of the root.

    Raises:
        AuthoringError: root or targets ends earlier.
    """
    if days < 1:
        raise AuthoringError(f"a bundle lasts 1 day or more, not {days}")
    try:
        wanted = now.replace(microsecond=0) + timedelta(days=days)
    except OverflowError as e:
        raise AuthoringError(f"{days} days from now is beyond the calendar") from e
    for role, ends, mend in (
        ("Root", root, refresh_root),
        ("Targets", targets, refresh),
    ):
        if ends < wanted:
            raise AuthoringError(
                f"{role} metadata expire ({write_date(ends)}) before the specified "
                f"expiration time ({write_date(wanted)})",
                hint=_feasible(min(root, targets) - now.replace(microsecond=0), mend),
            )
    return wanted


def _feasible(left: timedelta, mend: str) -> str:
    """Say how many days are left to ask for, and how there come to be more."""
    if left.days < 1:
        return f"less than a day is left; {mend}"
    return f"ask for at most {left.days} days, or {mend}"


def write_date(when: datetime) -> str:
    """Spell a time the one way devices read."""
    return when.astimezone(UTC).strftime(DATE)


def read_date(text: object) -> datetime:
    """Read a date as `write_date` spells it.

    Raises:
        ValueError: it is spelt otherwise.
    """
    if not isinstance(text, str):
        raise ValueError("a date is a string")  # noqa: TRY004  as for any other misspelt date
    return datetime.strptime(text, DATE).replace(tzinfo=UTC)


# --- Apps ------------------------------------------------------------------------------


def app_manifest(archive: Descriptor, index: Descriptor) -> bytes:
    """Write an App's manifest.

    Args:
        archive: the App's files.
        index: list of those files with their digests.

    Source: bundle-format.md, "App manifest".
    """
    bundle = "org.foundries.app.bundle.index"
    notes = ((f"{bundle}.digest", index.digest), (f"{bundle}.size", str(index.size)))
    layer = Descriptor("application/octet-stream", archive.digest, archive.size, notes)
    empty = describe(EMPTY_CONFIG, "application/vnd.oci.empty.v1+json")
    return canonical_bytes(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": "application/vnd.fio+compose-app",
            "config": empty.to_json(),
            "layers": [layer.to_json()],
            "annotations": {"compose-app": "v1"},
        }
    )


def image_index(manifest: Descriptor) -> bytes:
    """Write the ``index.json`` of one image for readers of the older store."""
    return canonical_bytes(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest.to_json()]}
    )


def describe(data: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of a blob held in memory."""
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def version_of(name: str) -> int:
    """Read a Target's version from the end of its name.

    Raises:
        AuthoringError: the name does not end in a number.
    """
    digits = re.search(r"-([0-9]{1,10})$", name, re.ASCII)
    if not digits:
        raise AuthoringError(
            f"Target name {name!r} does not end in '-<number>', so its version is not known",
            hint="give --version",
        )
    return int(digits.group(1))


def demand_word(text: str, what: str) -> None:
    """Refuse what a device would not take for a tag, hardware ID or name.

    Raises:
        AuthoringError: it is empty, too long, or has other characters.
    """
    if not WORD.fullmatch(text):
        raise AuthoringError(
            f"{what} {text[:80]!r} is empty or has characters it must not have",
            hint="use letters, digits and '.', '_', '+', '-'; at most 64",
        )
