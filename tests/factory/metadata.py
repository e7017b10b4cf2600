"""TUF and bundle metadata, signed and hashed for real, with any one thing made wrong.

`bundle` gives a bundle that every device without history accepts. Each argument changes
one thing; everything that depends on it (hashes, signatures) follows, so that a test
meets the check it is about and no other.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.bundle import RawBundle, TrustedDocuments
from agent.core.canonical import canonical_bytes
from agent.core.keys import PrivateKey, key_id
from tests.factory.keys import KeyFactory

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FUTURE = "2030-01-01T00:00:00Z"
PAST = "2025-01-01T00:00:00Z"
HARDWARE_ID = "raspberrypi4-64"
ROLES = ("root", "timestamp", "snapshot", "targets")

Document = dict[str, Any]
Edit = Callable[[Document], object]


@dataclass(frozen=True)
class SignedBundle:
    """Bundle metadata as it would lie on a stick.

    Attributes:
        metadata: file name inside ``tuf/`` to bytes.
    """

    metadata: dict[str, bytes]

    @property
    def raw(self) -> RawBundle:
        return RawBundle(self.metadata, "memory")

    @property
    def roots(self) -> tuple[tuple[int, bytes], ...]:
        names = (name for name in self.metadata if name.endswith(".root.json"))
        return tuple(sorted((int(name.split(".")[0]), self.metadata[name]) for name in names))

    @property
    def trusted(self) -> TrustedDocuments:
        """What a device remembers that took this bundle."""
        return TrustedDocuments(
            self.roots,
            self.metadata["timestamp.json"],
            self.metadata["snapshot.json"],
            self.metadata["targets.json"],
        )

    @property
    def provisioned(self) -> TrustedDocuments:
        """What a device knows that has this bundle's roots and nothing else."""
        return TrustedDocuments(self.roots)

    def with_files(self, changes: Mapping[str, bytes | None]) -> "SignedBundle":
        """Replace files; None removes one."""
        merged = {**self.metadata, **changes}
        return SignedBundle({name: data for name, data in merged.items() if data is not None})

    def write(self, directory: Path) -> Path:
        """Write the files into ``directory`` (a bundle's ``tuf``)."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in self.metadata.items():
            (directory / name).write_bytes(data)
        return directory


def target_entry(
    *,
    version: str = "42",
    commit: str = "ab" * 32,
    hardware_ids: Iterable[str] = (HARDWARE_ID,),
    tags: Iterable[str] = ("main",),
    apps: Mapping[str, str] | None = None,
    **custom: object,
) -> Document:
    """One entry of ``targets.json``; ``apps`` maps names to URIs."""
    custom = {
        "version": version,
        "hardwareIds": list(hardware_ids),
        "tags": list(tags),
        "targetFormat": "OSTREE",
        **custom,
    }
    if apps:
        custom["docker_compose_apps"] = {name: {"uri": uri} for name, uri in apps.items()}
    return {"hashes": {"sha256": commit}, "length": 0, "custom": custom}


def dump(document: object) -> bytes:
    """Spell a document as every file of a `bundle` is spelt."""
    return canonical_bytes(document)


def sign(signed: Document, keys: Iterable[PrivateKey], *, message: bytes | None = None) -> Document:
    """Return the document with one signature by each of ``keys``, in order."""
    message = canonical_bytes(signed) if message is None else message
    signatures = []
    for private in keys:
        method, sig = private.sign(message)
        signatures.append({"keyid": key_id(private.public), "method": method, "sig": sig})
    return {"signatures": signatures, "signed": signed}


@dataclass
class BundleFactory:
    """Everything about a bundle's metadata that a test may want to be otherwise.

    Documents go by ``"timestamp"``, ``"snapshot"``, ``"targets"``, ``"bundle"`` and, for
    root versions, ``"1.root"``.

    Attributes:
        tag, type: of the bundle.
        targets: Target name to entry, see `target_entry`.
        listed: names in the bundle metadata; None lists all Targets.
        version: of timestamp, snapshot and targets; ``versions`` sets single ones.
        expires: one date for everything, or by document: ``{"bundle": PAST}``.
        roots: versions of the root chain in the bundle.
        keys: where keys come from; ``role_keys`` names the keys of each role, by root
            version if it is a mapping of mappings: ``{2: {"targets": ("targets-2",)}}``.
        thresholds: by role.
        signers: document to names of the keys that sign it, instead of those of its role.
        edit: document to a function that changes ``signed`` before it is signed.
        forge: document to a function that changes the whole of it after it is signed (its
            parents' hashes follow).
        without: file names to leave out.
    """

    tag: str = "main"
    type: str = "ci"
    targets: Mapping[str, Any] = field(
        default_factory=lambda: {f"{HARDWARE_ID}-lmp-42": target_entry()}
    )
    listed: Iterable[str] | None = None
    version: int = 42
    versions: Mapping[str, int] = field(default_factory=dict)
    expires: str | Mapping[str, str] = FUTURE
    roots: Iterable[int] = (1,)
    keys: KeyFactory = field(default_factory=KeyFactory)
    role_keys: Mapping[Any, Any] = field(default_factory=dict)
    thresholds: Mapping[str, int] = field(default_factory=dict)
    signers: Mapping[str, Iterable[str]] = field(default_factory=dict)
    edit: Mapping[str, Edit] = field(default_factory=dict)
    forge: Mapping[str, Edit] = field(default_factory=dict)
    without: Iterable[str] = ()

    def build(self) -> SignedBundle:
        """Write, hash and sign everything, from the leaves up."""
        files = {f"{number}.root.json": self._root_file(number) for number in self.roots}
        files["targets.json"] = self._file("targets", self._targets())
        files["snapshot.json"] = self._file("snapshot", self._snapshot(files["targets.json"]))
        files["timestamp.json"] = self._file("timestamp", self._timestamp(files["snapshot.json"]))
        files["bundle-targets.json"] = self._file("bundle", self._bundle())
        return SignedBundle({n: data for n, data in files.items() if n not in tuple(self.without)})

    def key_names(self, role: str, root: int | None = None) -> tuple[str, ...]:
        """Return the names of a role's keys in root version ``root`` (None: the newest)."""
        root = max(self.roots, default=1) if root is None else root
        by_root = {n: names for n, names in self.role_keys.items() if isinstance(n, int)}
        names = by_root.get(root, {}).get(role) or self.role_keys.get(role) or (role,)
        return (names,) if isinstance(names, str) else tuple(names)

    def signed_root(self, number: int) -> Document:
        """Return the ``signed`` part of root version ``number``."""
        roles = {role: self.key_names(role, number) for role in ROLES}
        publics = {self.keys[n].public for names in roles.values() for n in names}
        return self._edited(
            f"{number}.root",
            {
                **self._common("root", number),
                "consistent_snapshot": False,
                "keys": {key_id(public): public.to_json() for public in publics},
                "roles": {role: self._role(role, names) for role, names in roles.items()},
            },
        )

    def _role(self, role: str, names: Iterable[str]) -> Document:
        keyids = [key_id(self.keys[name].public) for name in names]
        return {"keyids": keyids, "threshold": self.thresholds.get(role, 1)}

    def _root_file(self, number: int) -> bytes:
        names = self.key_names("root", number)
        if number > 1:
            names = tuple(dict.fromkeys(names + self.key_names("root", number - 1)))
        return self._sealed(f"{number}.root", self.signed_root(number), names)

    def _targets(self) -> Document:
        return {**self._common("targets"), "targets": dict(self.targets)}

    def _snapshot(self, targets: bytes) -> Document:
        return {
            **self._common("snapshot"),
            "meta": {"targets.json": self._meta("targets", targets)},
        }

    def _timestamp(self, snapshot: bytes) -> Document:
        return {
            **self._common("timestamp"),
            "meta": {"snapshot.json": self._meta("snapshot", snapshot)},
        }

    def _bundle(self) -> Document:
        listed = list(self.targets if self.listed is None else self.listed)
        claim = {"type": self.type, "tag": self.tag, "targets": listed}
        return {
            **self._common("bundle"),
            "_type": "Targets",
            "x-fio-offline-bundle": claim,
        }

    def _meta(self, name: str, data: bytes) -> Document:
        """What a parent says of ``data``: the intended version, the true hash."""
        digest = hashlib.sha256(data).hexdigest()
        version = self.versions.get(name, self.version)
        return {"hashes": {"sha256": digest}, "length": len(data), "version": version}

    def _common(self, name: str, version: int | None = None) -> Document:
        expires = self.expires if isinstance(self.expires, str) else self.expires.get(name, FUTURE)
        if version is None:
            version = self.versions.get(name, self.version)
        return {"_type": name.capitalize(), "expires": expires, "version": version}

    def _file(self, name: str, signed: Document) -> bytes:
        role = "targets" if name == "bundle" else name
        return self._sealed(name, self._edited(name, signed), self.key_names(role))

    def _edited(self, name: str, signed: Document) -> Document:
        signed = json.loads(json.dumps(signed))  # an edit must not reach the caller's values
        self.edit.get(name, bool)(signed)
        return signed

    def _sealed(self, name: str, signed: Document, names: Iterable[str]) -> bytes:
        document = sign(signed, [self.keys[n] for n in self.signers.get(name, names)])
        self.forge.get(name, bool)(document)
        return dump(document)


def bundle(**changes: Any) -> SignedBundle:
    """Build a good bundle, but for ``changes``: the fields of `BundleFactory`."""
    return BundleFactory(**changes).build()
