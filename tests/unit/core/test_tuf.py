"""What the modules below `verify` do on their own, and standard TUF 1.0 beside its own tools."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.core import tuf
from agent.core.canonical import olpc_bytes
from agent.core.errors import (
    AgentError,
    BundleMetadataInvalidError,
    MetadataInvalidError,
    MetadataNotFoundError,
)
from agent.core.tuf import FOUNDRIES, STANDARD, Role
from tests.factory import FUTURE, NOW, PAST, SignedBundle, bundle, key, target_entry, verified

oracle = pytest.importorskip("tuf.api.metadata", reason="python-tuf is not installed")


def root_of(built: SignedBundle) -> tuf.Root:
    document = tuf.read_document("1.root.json", built.metadata["1.root.json"], FOUNDRIES)
    return tuf.parse_root(document, FOUNDRIES)


def test_a_root_is_read_once_and_whole() -> None:
    root = root_of(bundle(roots=(1,), thresholds={"targets": 2}))

    assert root.version == 1
    assert root.expires == datetime(2030, 1, 1, tzinfo=UTC)
    assert root.dialect is FOUNDRIES
    assert len(root.keys) == 4
    assert set(root.roles) == set(Role)
    assert root.roles[Role.TARGETS].threshold == 2
    assert root.consistent_snapshot is False


def test_a_foundries_root_never_asks_for_versioned_names() -> None:
    asked = bundle(edit={"1.root": lambda s: s.update(consistent_snapshot=True)})

    assert root_of(asked).consistent_snapshot is False
    assert verified(asked).targets


def test_the_other_documents_are_read_once_and_whole() -> None:
    good = bundle(versions={"timestamp": 44, "snapshot": 43})

    def read(role: str) -> tuf.Document:
        return tuf.read_document(f"{role}.json", good.metadata[f"{role}.json"], FOUNDRIES)

    assert tuf.parse_timestamp(read("timestamp"), FOUNDRIES).version == 44
    assert tuf.parse_timestamp(read("timestamp"), FOUNDRIES).snapshot.version == 43
    assert tuf.parse_snapshot(read("snapshot")).targets.version == 42
    assert list(tuf.parse_targets(read("targets")).entries) == ["raspberrypi4-64-lmp-42"]


def test_the_caller_says_which_error_a_file_is() -> None:
    with pytest.raises(BundleMetadataInvalidError, match=r"'b\.json' cannot be read"):
        tuf.read_document("b.json", b"{", FOUNDRIES, error=BundleMetadataInvalidError)
    with pytest.raises(MetadataInvalidError, match=r"'b\.json' is missing or not a JSON object"):
        tuf.read_object("b.json", b"[]")


def test_reals_have_no_spelling_in_the_standard_flavour() -> None:
    data = b'{"signatures":[],"signed":{"x":1.5}}'

    assert tuf.read_document("a.json", data, FOUNDRIES).signed == {"x": 1.5}
    with pytest.raises(MetadataInvalidError, match="real number"):
        tuf.read_document("a.json", data, STANDARD)


# --- the standard flavour, made by python-tuf --------------------------------------------


class StandardRepository:
    """A repository as python-tuf writes it, with a bundle file beside it.

    Args:
        edit: role to a function that changes its ``Signed`` before it is signed.
        signers: role to the name of the key that signs, instead of its own.
    """

    def __init__(
        self,
        *,
        consistent: bool = True,
        edit: Mapping[str, Callable[[Any], object]] | None = None,
        signers: Mapping[str, str] | None = None,
        rsa: bool = False,
    ) -> None:
        self.edit, self.signers, self.rsa = edit or {}, signers or {}, rsa
        self.consistent = consistent

    def build(self) -> SignedBundle:
        expires = datetime(2030, 1, 1, tzinfo=UTC)
        root = oracle.Root(version=1, expires=expires, consistent_snapshot=self.consistent)
        for role in Role:
            root.add_key(self.signer(role.value).public_key, role.value)
        entry = {**target_entry(), "custom": target_entry()["custom"] | {"note": "a\nb é"}}
        targets = oracle.Targets(version=7, expires=expires)
        targets.targets["lmp-7"] = oracle.TargetFile.from_dict(entry, "lmp-7")
        files = {"1.root.json": self.signed("root", root)}
        files[self.name("targets", 7)] = data = self.signed("targets", targets)
        meta = {"targets.json": oracle.MetaFile.from_data(7, data, ["sha256"])}
        snapshot = oracle.Snapshot(version=8, expires=expires, meta=meta)
        files[self.name("snapshot", 8)] = data = self.signed("snapshot", snapshot)
        pinned = oracle.MetaFile.from_data(8, data, ["sha512"])
        timestamp = oracle.Timestamp(version=9, expires=expires, snapshot_meta=pinned)
        files["timestamp.json"] = self.signed("timestamp", timestamp)
        files["bundle-targets.json"] = self.bundle()
        return SignedBundle(files)

    def name(self, role: str, version: int) -> str:
        return f"{version}.{role}.json" if self.consistent else f"{role}.json"

    def signer(self, role: str) -> Any:
        from securesystemslib.signer._crypto_signer import CryptoSigner  # noqa: PLC0415

        return CryptoSigner(key(f"rsa-{role}" if self.rsa else role)._key)

    def signed(self, role: str, signed: Any) -> bytes:
        self.edit.get(role, bool)(signed)
        metadata = oracle.Metadata(signed)
        metadata.sign(self.signer(self.signers.get(role, role)))
        return bytes(metadata.to_bytes())

    def bundle(self) -> bytes:
        claim = {"type": "ci", "tag": "main", "targets": ["lmp-7"]}
        signed = {"_type": "targets", "expires": FUTURE, "x-fio-offline-bundle": claim}
        signature = self.signer("targets").sign(olpc_bytes(signed))
        return json.dumps({"signatures": [signature.to_dict()], "signed": signed}).encode()


def oracle_accepts(files: Mapping[str, bytes]) -> bool:
    """Whether python-tuf's client logic takes the same files at the same time."""
    from tuf.api.exceptions import RepositoryError  # noqa: PLC0415
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet  # noqa: PLC0415
    from tuf.ngclient.config import EnvelopeType  # noqa: PLC0415

    named = {name.split(".", 1)[1] if name[0].isdigit() else name: f for name, f in files.items()}
    try:
        trusted = TrustedMetadataSet(named["root.json"], EnvelopeType.METADATA)
        trusted.reference_time = NOW
        trusted.update_timestamp(named["timestamp.json"])
        trusted.update_snapshot(named["snapshot.json"])
        trusted.update_targets(named["targets.json"])
    except RepositoryError:
        return False
    return True


def we_accept(built: SignedBundle) -> bool:
    try:
        verified(built)
    except AgentError:
        return False
    return True


def expire(signed: Any) -> None:
    signed.expires = datetime.fromisoformat(PAST)


def other_version(signed: Any) -> None:
    signed.version += 1


def wrong_hash(signed: Any) -> None:
    meta = signed.snapshot_meta if signed.type == "timestamp" else signed.meta["targets.json"]
    meta.hashes = {name: "0" * len(digest) for name, digest in meta.hashes.items()}


def no_hash(signed: Any) -> None:
    meta = signed.snapshot_meta if signed.type == "timestamp" else signed.meta["targets.json"]
    meta.hashes = None


def keys_of_another_role(signed: Any) -> None:
    signed.roles["timestamp"].keyids, signed.roles["snapshot"].keyids = (
        signed.roles["snapshot"].keyids,
        signed.roles["timestamp"].keyids,
    )


CASES: dict[str, dict[str, Any]] = {
    "good": {},
    "flat names": {"consistent": False},
    "RSA": {"rsa": True},
    "snapshot not pinned": {"edit": {"timestamp": no_hash}},
    "targets not pinned": {"edit": {"snapshot": no_hash}},
    "roles swapped": {"edit": {"root": keys_of_another_role}},
    "wrong hash of snapshot": {"edit": {"timestamp": wrong_hash}},
    "wrong hash of targets": {"edit": {"snapshot": wrong_hash}},
    **{f"{role} expired": {"edit": {role.value: expire}} for role in Role},
    **{
        f"{role} of another version": {"edit": {role: other_version}}
        for role in ("snapshot", "targets")
    },
    **{
        f"{role} signed by {other}": {"signers": {role.value: other}}
        for role in Role
        for other in ("stranger", "timestamp", "targets")
        if other != role
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_we_agree_with_python_tuf(case: dict[str, Any]) -> None:
    built = StandardRepository(**case).build()

    assert oracle_accepts(built.metadata) == we_accept(built)


def test_python_tufs_repository_is_verified() -> None:
    cases: tuple[dict[str, Any], ...] = ({}, {"consistent": False}, {"rsa": True})
    for case in cases:
        result = verified(StandardRepository(**case).build())

        assert [target.name for target in result.targets] == ["lmp-7"]


def test_standard_names_follow_the_versions_that_were_signed() -> None:
    built = StandardRepository().build()
    flat = {name.removeprefix("7.").removeprefix("8."): d for name, d in built.metadata.items()}
    with pytest.raises(MetadataNotFoundError, match=r"'8\.snapshot\.json'"):
        verified(SignedBundle(flat))


def test_standard_hashes_are_of_the_files_bytes() -> None:
    built = StandardRepository(consistent=False).build()
    for name in ("snapshot.json", "targets.json"):
        respelt = built.with_files({name: built.metadata[name] + b"\n"})
        with pytest.raises(MetadataInvalidError, match="hash"):
            verified(respelt)


def test_a_flavour_is_a_property_of_the_root_and_not_of_a_file() -> None:
    """A device that trusts one flavour takes no document of the other."""
    standard, foundries = StandardRepository(consistent=False).build(), bundle()
    for mine, other in ((standard, foundries), (foundries, standard)):
        for name in ("timestamp.json", "snapshot.json", "targets.json", "bundle-targets.json"):
            mixed = mine.with_files({name: other.metadata[name]})
            assert not we_accept(mixed), name
    with pytest.raises(AgentError):
        verified(foundries, standard.provisioned)


def test_a_standard_root_rotates_like_any_other() -> None:
    built = StandardRepository(consistent=False).build()
    document = oracle.Metadata.from_bytes(built.metadata["1.root.json"])
    document.signed.version = 2
    document.sign(StandardRepository().signer("root"))
    result = verified(built.with_files({"2.root.json": bytes(document.to_bytes())}))

    assert [version for version, _ in result.documents.roots] == [1, 2]


@pytest.mark.parametrize("version", ["2.0.0", "", "10", None, 1, ["1.0"]])
def test_a_root_of_another_specification_is_refused(version: object) -> None:
    built = StandardRepository().build()
    root = json.loads(built.metadata["1.root.json"])
    root["signed"]["spec_version"] = version
    with pytest.raises(MetadataInvalidError, match="spec_version"):
        verified(built.with_files({"1.root.json": json.dumps(root).encode()}))
