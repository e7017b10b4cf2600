"""Hostile and malformed metadata, case by case; names carry the row of the case table.

Every case must be refused with the exit status that is public, and leave no trace: a
`VerifiedBundle` is the only thing that is ever remembered, and none is made.
"""

import base64
import hashlib
import json
import time
from typing import Any

import pytest

from agent.core.bundle import TrustedDocuments
from agent.core.errors import (
    BundleError,
    BundleMetadataInvalidError,
    BundleSignatureError,
    BundleTagError,
    BundleTypeError,
    MetadataExpiredError,
    MetadataInvalidError,
    MetadataNotFoundError,
    MetadataRollbackError,
    MetadataUpdateError,
)
from agent.core.keys import key_id
from tests.factory import (
    NOW,
    PAST,
    KeyFactory,
    SignedBundle,
    bundle,
    key,
    sign,
    target_entry,
    verified,
)

ROLES = ("timestamp", "snapshot", "targets")
DOCUMENTS = ("1.root", *ROLES)
TARGET = "raspberrypi4-64-lmp-42"
EVIL = KeyFactory("evil-")


def refused(
    built: SignedBundle, error: type[BundleError], trusted: TrustedDocuments | None = None
) -> str:
    """Demand that ``built`` is refused with exactly ``error``; return the message."""
    with pytest.raises(BundleError) as caught:
        verified(built, trusted or bundle().provisioned)

    assert type(caught.value) is error, caught.value
    return str(caught.value)


def first_use(built: SignedBundle, error: type[BundleError]) -> str:
    """As `refused`, on a device that trusts no root yet."""
    return refused(built, error, TrustedDocuments())


def resigned(name: str, signer: str) -> Any:
    """Return a forgery: ``name``'s document signed by ``signer``, under the true key id."""

    def forge(document: dict[str, Any]) -> None:
        label = document["signatures"][0]["keyid"]
        document["signatures"] = sign(document["signed"], [key(signer)])["signatures"]
        document["signatures"][0]["keyid"] = label

    return {name: forge}


def flip(document: dict[str, Any]) -> None:
    sig = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
    sig[5] ^= 1
    document["signatures"][0]["sig"] = base64.b64encode(sig).decode()


def set_in_root(*path: str, to: Any) -> Any:
    def edit(signed: dict[str, Any]) -> None:
        place = signed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return {"1.root": edit}


# --- signatures ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_rows_1_2_3_a_signature_that_is_none(name: str) -> None:
    forgeries: list[dict[str, Any]] = [
        {"forge": {name: lambda d: d["signatures"].clear()}},
        {"forge": {name: flip}},
        {"forge": resigned(name, "evil-root")},
        {"signers": {name: ("evil-root",)}},
    ]
    for changes in forgeries:
        first_use(bundle(**changes), MetadataUpdateError)


@pytest.mark.parametrize("role", ROLES)
def test_row_3_another_roles_key_does_not_count(role: str) -> None:
    for other in {"root", *ROLES} - {role}:
        refused(bundle(signers={role: (other,)}), MetadataUpdateError)
        refused(bundle(forge=resigned(role, other)), MetadataUpdateError)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_row_4_a_key_id_twice(name: str) -> None:
    def twice(document: dict[str, Any]) -> None:
        document["signatures"] *= 2

    message = first_use(bundle(forge={name: twice}), MetadataUpdateError)

    assert "same key id" in message


def test_row_5_a_key_id_twice_in_a_role_counts_once() -> None:
    keyid = key_id(key("timestamp").public)
    edit = set_in_root("roles", "timestamp", "keyids", to=[keyid, keyid])

    assert verified(bundle(edit=edit)).targets
    first_use(bundle(thresholds={"timestamp": 2}, edit=edit), MetadataUpdateError)


def one_key_under_two_labels(public: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    def edit(signed: dict[str, Any]) -> None:
        signed["keys"] |= {"label-1": public, "label-2": again}
        signed["roles"]["timestamp"] = {"keyids": ["label-1", "label-2"], "threshold": 2}

    return {"1.root": edit}


@pytest.mark.parametrize("name", ["ed", "rsa"])
def test_row_6_one_key_under_two_labels_counts_once(name: str) -> None:
    public: dict[str, Any] = key(name).public.to_json()
    text = public["keyval"]["public"]
    for other in (text, text.upper() if name == "ed" else text.replace("\n", "\r\n")):
        again = {**public, "keyval": {"public": other}}

        def both(document: dict[str, Any]) -> None:
            signature = sign(document["signed"], [key(name)])["signatures"][0]
            document["signatures"] = [{**signature, "keyid": f"label-{n}"} for n in (1, 2)]

        message = first_use(
            bundle(edit=one_key_under_two_labels(public, again), forge={"timestamp": both}),
            MetadataUpdateError,
        )
        assert "signed by 1 of the 2 timestamp keys" in message


@pytest.mark.parametrize("value", [True, 2.0, "1", None, [], [1], {}])
@pytest.mark.parametrize("role", ["root", *ROLES])
def test_row_7_a_threshold_that_is_no_integer(role: str, value: object) -> None:
    first_use(bundle(edit=set_in_root("roles", role, "threshold", to=value)), MetadataInvalidError)


@pytest.mark.parametrize("value", [0, -1, 1001])
@pytest.mark.parametrize("role", ["root", *ROLES])
def test_row_7_a_threshold_out_of_range(role: str, value: int) -> None:
    first_use(bundle(thresholds={role: value}), MetadataUpdateError)


def test_row_7_no_threshold() -> None:
    edit = {"1.root": lambda signed: signed["roles"]["snapshot"].pop("threshold")}
    first_use(bundle(edit=edit), MetadataInvalidError)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot"])
def test_row_8_a_threshold_that_nobody_can_meet(role: str) -> None:
    first_use(bundle(thresholds={role: 2}), MetadataUpdateError)


def test_row_9_keys_and_roles_have_to_name_each_other() -> None:
    keyid = key_id(key("timestamp").public)
    no_key = {"1.root": lambda signed: signed["keys"].pop(keyid)}
    no_role = set_in_root("roles", "timestamp", "keyids", to=[])

    first_use(bundle(edit=no_key), MetadataUpdateError)
    first_use(bundle(edit=no_role), MetadataUpdateError)


def test_row_10_key_ids_are_labels() -> None:
    def edit(signed: dict[str, Any]) -> None:
        signed["keys"]["any label"] = key("timestamp").public.to_json()
        signed["roles"]["timestamp"]["keyids"] = ["any label"]

    def label(document: dict[str, Any]) -> None:
        document["signatures"][0]["keyid"] = "any label"

    assert verified(bundle(edit={"1.root": edit}, forge={"timestamp": label})).targets


def test_row_54_a_method_that_is_unknown_or_another_keys() -> None:
    for method in ("rsassa-pss-sha256", "rsassa-pkcs1v15", "none", "", "ed25519 "):
        for name in DOCUMENTS:
            forge = {name: lambda d, m=method: d["signatures"][0].update(method=m)}
            first_use(bundle(forge=forge), MetadataInvalidError)
    values: tuple[Any, ...] = (None, 7, [])
    for value in values:
        forge = {"timestamp": lambda d, v=value: d["signatures"][0].update(method=v)}
        refused(bundle(forge=forge), MetadataInvalidError)
    gone = {"timestamp": lambda d: d["signatures"][0].pop("method")}
    refused(bundle(forge=gone), MetadataInvalidError)


def test_row_54_a_strangers_unknown_method_refuses_the_file_as_well() -> None:
    extra = {"keyid": "stranger", "method": "none", "sig": "AAAA"}
    refused(
        bundle(forge={"timestamp": lambda d: d["signatures"].append(extra)}), MetadataInvalidError
    )


def test_row_54_methods_are_spelt_in_either_case() -> None:
    upper = {"timestamp": lambda d: d["signatures"][0].update(method="ED25519")}

    assert verified(bundle(forge=upper)).targets


def test_rows_58_60_61_an_unusable_key_never_counts_and_hurts_nobody() -> None:
    odd = {
        "ecdsa": {"keytype": "ECDSA", "keyval": {"public": "x"}},
        "short": {"keytype": "ED25519", "keyval": {"public": "ab"}},
        "empty": {},
    }

    def edit(signed: dict[str, Any]) -> None:
        signed["keys"] |= odd
        signed["roles"]["timestamp"]["keyids"] += list(odd)

    def strangers(document: dict[str, Any]) -> None:
        document["signatures"] += [
            {"keyid": name, "method": "ed25519", "sig": "A" * 86 + "=="} for name in odd
        ]

    assert verified(bundle(edit={"1.root": edit})).targets
    assert verified(bundle(edit={"1.root": edit}, forge={"timestamp": strangers})).targets


def test_row_62_a_signature_that_is_not_base64() -> None:
    for respell in (
        lambda sig: sig[:-1],
        lambda sig: " " + sig,
        lambda sig: base64.b64decode(sig).hex(),
        lambda sig: sig[:4] + "-_" + sig[6:],
    ):
        forge = {
            "timestamp": lambda d, f=respell: d["signatures"][0].update(
                sig=f(d["signatures"][0]["sig"])
            )
        }
        refused(bundle(forge=forge), MetadataUpdateError)


# --- JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":42}', b'"version":42,"version":42}'),
        (b'"version":42}', b'"version":41,"v\\u0065rsion":42}'),
        (b'"version":42}', b'"version":42,"x":NaN}'),
        (b'"version":42}', b'"version":42,"x":1e999}'),
        (b'"version":42}', b'"version":9007199254740992}'),
        (b'"version":42}', b'"version":1' + b"0" * 4000 + b"}"),
        (b'"version":42}', b'"version":42,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        (b'{"signatures"', b'\xef\xbb\xbf{"signatures"'),
        (b'{"signatures"', b'/* */{"signatures"'),
        (b'"version":42}}', b'"version":42}},'),
        (b'"version":42}}', b'"version":42}}{}'),
        (b'"version":42}}', b'"version":42,}}'),
        (b'"version":42}', rb'"version":42,"x":"\ud800"}'),
        (b'"version":42}', b'"version":42,"x":"\xc3"}'),
        (b'"version":42}}', b'"version":42}}\x00'),
    ],
)
def test_rows_11_to_15_json_that_readers_disagree_about(old: bytes, new: bytes) -> None:
    for role in ROLES:
        good = bundle()
        data = good.metadata[f"{role}.json"]
        assert old in data

        odd = good.with_files({f"{role}.json": data.replace(old, new)})
        assert f"'{role}.json' cannot be read" in refused(odd, MetadataInvalidError)


def test_row_15_other_encodings() -> None:
    good = bundle()
    text = good.metadata["timestamp.json"].decode()
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig"):
        refused(good.with_files({"timestamp.json": text.encode(encoding)}), MetadataInvalidError)


BAD_VERSIONS = [True, 2.0, "2", None, 0, -1, [], {}]


@pytest.mark.parametrize("value", BAD_VERSIONS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_row_16_a_version_that_is_none(name: str, value: object) -> None:
    first_use(bundle(edit={name: lambda s: s.update(version=value)}), MetadataInvalidError)


@pytest.mark.parametrize("value", BAD_VERSIONS)
@pytest.mark.parametrize(("parent", "child"), [("timestamp", "snapshot"), ("snapshot", "targets")])
def test_row_16_a_version_that_is_none_in_meta(parent: str, child: str, value: object) -> None:
    edit = {parent: lambda s: s["meta"][f"{child}.json"].update(version=value)}
    refused(bundle(edit=edit), MetadataInvalidError)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_row_16_no_version(name: str) -> None:
    first_use(bundle(edit={name: lambda s: s.pop("version")}), MetadataInvalidError)


@pytest.mark.parametrize(
    "change",
    [
        {"signed": []},
        {"signed": None},
        {"signed": "x"},
        {"signatures": {}},
        {"signatures": None},
        {"signatures": ["x"]},
        {"signatures": [[]]},
        {"signatures": [{"keyid": 7, "method": "ed25519", "sig": ""}]},
        {"signatures": [{"keyid": "x", "method": "ed25519", "sig": 7}]},
        {"signatures": [{"keyid": ["x"], "method": "ed25519", "sig": ""}]},
    ],
)
def test_row_17_members_of_another_type(change: dict[str, Any]) -> None:
    for name in DOCUMENTS:
        first_use(bundle(forge={name: lambda d: d.update(change)}), MetadataInvalidError)


@pytest.mark.parametrize("value", [[], None, "x", 7])
@pytest.mark.parametrize(("parent", "child"), [("timestamp", "snapshot"), ("snapshot", "targets")])
def test_row_17_meta_of_another_type(parent: str, child: str, value: object) -> None:
    for edit in (
        lambda s: s.update(meta=value),
        lambda s: s["meta"].update({f"{child}.json": value}),
        lambda s: s["meta"][f"{child}.json"].update(hashes=value),
        lambda s: s["meta"][f"{child}.json"].update(hashes={"sha256": value, "x": 7}),
    ):
        refused(bundle(edit={parent: edit}), MetadataInvalidError)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_row_18_another_roles_type(name: str) -> None:
    own = name.removeprefix("1.").capitalize()
    others = {"Root", "Timestamp", "Snapshot", "Targets", own.lower(), own.upper(), f"{own} ", ""}
    for other in [*sorted(others - {own}), None, 7, [own]]:
        first_use(bundle(edit={name: lambda s, o=other: s.update(_type=o)}), MetadataInvalidError)


def test_row_19_targets_and_bundle_metadata_are_not_each_other() -> None:
    good = bundle()
    targets, listed = good.metadata["targets.json"], good.metadata["bundle-targets.json"]

    refused(good.with_files({"bundle-targets.json": targets}), BundleMetadataInvalidError)
    # Vouched for by the snapshot, for the sake of the argument:
    claim = json.loads(listed)["signed"]["x-fio-offline-bundle"]
    edit = lambda s: (s.pop("targets"), s.update({"x-fio-offline-bundle": claim}))  # noqa: E731
    refused(bundle(edit={"targets": edit}), MetadataInvalidError)


# --- the root chain --------------------------------------------------------------------


def test_row_20_a_gap_ends_the_chain() -> None:
    rotated = {3: {"targets": "new-targets"}}
    whole = bundle(roots=(1, 2, 3), role_keys=rotated)
    gap = bundle().with_files({"3.root.json": whole.metadata["3.root.json"]})

    assert verified(gap).documents.roots == bundle().roots


@pytest.mark.parametrize("version", [1, 3, 4, 100])
def test_row_21_a_root_of_another_version(version: int) -> None:
    edit = {"2.root": lambda s: s.update(version=version)}
    message = refused(bundle(roots=(1, 2), edit=edit), MetadataUpdateError)

    assert f"says it is version {version}, expected 2" in message


@pytest.mark.parametrize("signer", ["root", "new-root", "evil-root"])
def test_rows_22_24_a_rotation_needs_the_old_keys_and_the_new(signer: str) -> None:
    rotated: dict[str, Any] = {"roots": (1, 2, 3), "role_keys": {2: {"root": "new-root"}}}

    assert verified(bundle(roots=(1, 2), role_keys={2: {"root": "new-root"}})).targets
    refused(bundle(**rotated, signers={"2.root": (signer,)}), MetadataUpdateError)


def test_row_23_a_revoked_key_signs_no_root() -> None:
    names = {2: {"root": "new-root"}, 3: {"root": "third-root"}}
    thief = bundle(roots=(1, 2, 3), role_keys=names, signers={"3.root": ("root", "third-root")})

    refused(thief, MetadataUpdateError)


def test_row_24_a_tampered_root_in_the_middle() -> None:
    for name in ("2.root", "3.root"):
        refused(bundle(roots=(1, 2, 3, 4), forge={name: flip}), MetadataUpdateError)


def test_row_25_expiry_of_roots() -> None:
    expired: Any = lambda s: s.update(expires=PAST)  # noqa: E731

    assert verified(bundle(roots=(1, 2, 3), edit={"2.root": expired})).targets
    refused(bundle(roots=(1, 2), edit={"2.root": expired}), MetadataExpiredError)


def test_row_26_a_first_root_on_the_stick_does_not_replace_the_devices() -> None:
    evil = bundle(keys=EVIL).metadata["1.root.json"]
    mixed = bundle().with_files({"1.root.json": evil, "root.json": evil})

    assert verified(mixed, bundle().provisioned).documents.roots == bundle().roots


def test_row_27_another_factorys_repository() -> None:
    refused(bundle(keys=EVIL), BundleSignatureError)
    refused(bundle(keys=EVIL, roots=(1, 2)), MetadataUpdateError)


@pytest.mark.parametrize("role", ["root", *ROLES])
def test_row_28_a_root_without_a_role(role: str) -> None:
    first_use(bundle(edit={"1.root": lambda s: s["roles"].pop(role)}), MetadataInvalidError)


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.pop("roles"),
        lambda s: s.update(roles=[]),
        lambda s: s.pop("keys"),
        lambda s: s.update(keys=[]),
        lambda s: s["keys"].update(x=None),
        lambda s: s["keys"].update(x="ab"),
        lambda s: s["roles"].update(timestamp=[]),
        lambda s: s["roles"]["timestamp"].update(keyids="ab"),
        lambda s: s["roles"]["timestamp"].update(keyids={}),
        lambda s: s["roles"]["timestamp"].update(keyids=[["ab"]]),
        lambda s: s["roles"]["timestamp"].pop("keyids"),
    ],
)
def test_row_28_a_malformed_root(edit: Any) -> None:
    first_use(bundle(edit={"1.root": edit}), MetadataInvalidError)


def test_more_roles_than_four_are_no_harm() -> None:
    more = {"1.root": lambda s: s["roles"].update(mirrors={"keyids": [], "threshold": 1})}

    assert verified(bundle(edit=more)).targets


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_row_29_a_role_signed_by_the_key_before_the_rotation(role: str) -> None:
    rotated: dict[str, Any] = {"roots": (1, 2), "role_keys": {2: {role: f"new-{role}"}}}

    assert verified(bundle(**rotated)).targets
    refused(bundle(**rotated, signers={role: (role,)}), MetadataUpdateError)


def test_row_63_many_signatures_are_refused_unread() -> None:
    def many(document: dict[str, Any]) -> None:
        signature = document["signatures"][0]
        document["signatures"] = [{**signature, "keyid": str(n)} for n in range(50_000)]

    before = time.process_time()
    message = refused(bundle(forge={"targets": many}), MetadataInvalidError)

    assert "50000 signatures, more than 64" in message
    assert time.process_time() - before < 5.0


def test_row_63_forty_roots_are_walked() -> None:
    long = bundle(roots=range(1, 41))

    assert verified(long).documents.roots == long.roots


def test_row_63_the_walk_ends_after_a_thousand_roots() -> None:
    """Roots 1002 and 1003 are not looked at, however they are signed."""
    long = bundle(roots=range(1, 1002)).with_files({"1002.root.json": b"", "1003.root.json": b""})

    assert len(verified(long).documents.roots) == 1001


# --- versions, hashes, dates -------------------------------------------------------------


def test_row_30_versions_may_fall_after_the_key_was_rotated() -> None:
    for role in ROLES:
        fast = bundle(version=2**31 - 1, **thieves(role)).metadata[f"{role}.json"]
        device = TrustedDocuments(bundle().roots, **{role: fast})
        rotated = bundle(roots=(1, 2), role_keys={2: {role: f"new-{role}"}})

        assert verified(rotated, device).targets
        refused(bundle(), MetadataRollbackError, device)


def thieves(role: str) -> dict[str, Any]:
    """The thief of one role's key signs what that key can sign."""
    return {"signers": dict.fromkeys(set(ROLES) - {role}, ("evil",))}


def test_row_31_an_unsigned_fast_forward_leaves_no_trace() -> None:
    refused(
        bundle(version=2**31 - 1, signers={"timestamp": ("evil",)}),
        MetadataUpdateError,
        bundle().trusted,
    )
    assert verified(bundle(), bundle().trusted).documents == bundle().trusted


def test_row_32_the_whole_older_stick() -> None:
    message = refused(bundle(version=41), MetadataRollbackError, bundle(version=42).trusted)

    assert "'timestamp.json' is version 41, this device has already trusted 42" in message


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_row_33_an_older_child_of_a_newer_timestamp(role: str) -> None:
    older = bundle(version=43, versions={role: 41})
    refused(older, MetadataRollbackError, bundle(version=42).trusted)


def test_row_34_an_equal_timestamp_with_other_content() -> None:
    device = bundle(expires={"timestamp": "2026-01-01T00:00:00Z"}).trusted
    renewed = bundle(expires={"timestamp": "2026-06-01T00:00:00Z"})

    assert verified(renewed, device).documents.timestamp == renewed.metadata["timestamp.json"]
    lowered = bundle(versions={"snapshot": 41, "targets": 41})
    refused(lowered, MetadataRollbackError, device)
    refused(bundle(expires={"timestamp": "2026-01-01T00:00:00Z"}), MetadataExpiredError, device)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_row_35_old_signed_children_under_new_parents(role: str) -> None:
    old = bundle(version=41).metadata[f"{role}.json"]
    refused(bundle(version=42).with_files({f"{role}.json": old}), MetadataInvalidError)


def hashes_of(role: str, hashes: dict[str, str]) -> dict[str, Any]:
    parent = {"snapshot": "timestamp", "targets": "snapshot"}[role]
    return {parent: lambda s: s["meta"][f"{role}.json"].update(hashes=hashes)}


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_row_36_hashes_that_do_not_match(role: str) -> None:
    data = bundle().metadata[f"{role}.json"]
    good = hashlib.sha256(data).hexdigest()
    for hashes in (
        {"sha256": "0" * 64},
        {"sha256": good, "sha512": "0" * 128},
        {"sha256": "0" * 64, "sha512": hashlib.sha512(data).hexdigest()},
        {"md5": hashlib.md5(data).hexdigest()},  # noqa: S324 - that it is not enough is the test
        {},
        {"sha256": "not hex"},
        {"sha256": good[:-1]},
        {"sha256": good + " "},
    ):
        refused(bundle(edit=hashes_of(role, hashes)), MetadataInvalidError)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_row_36_hashes_that_match(role: str) -> None:
    data = bundle().metadata[f"{role}.json"]
    good = hashlib.sha256(data).hexdigest()
    for hashes in (
        {"sha256": good.upper()},
        {"sha512": hashlib.sha512(data).hexdigest()},
        {"sha256": good, "md5": "unknown here"},
    ):
        assert verified(bundle(edit=hashes_of(role, hashes))).targets


@pytest.mark.parametrize(("parent", "child"), [("timestamp", "snapshot"), ("snapshot", "targets")])
def test_a_version_that_the_parent_does_not_name(parent: str, child: str) -> None:
    for version in (41, 43):
        edit = {parent: lambda s, v=version: s["meta"][f"{child}.json"].update(version=v)}
        message = refused(bundle(edit=edit), MetadataUpdateError)
        assert f"'{child}.json' is version 42, expected {version}" in message


def test_row_37_lengths_are_not_looked_at() -> None:
    """As the reference: hashes pin the content, the reader bounds it."""
    for value in (0, 7, -1, 10**9, "x", None):
        edit = {"timestamp": lambda s, v=value: s["meta"]["snapshot.json"].update(length=v)}
        assert verified(bundle(edit=edit)).targets


@pytest.mark.parametrize("name", ["root", *ROLES])
def test_row_39_each_role_expired(name: str) -> None:
    expired = bundle(expires={name: PAST})

    first_use(expired, MetadataExpiredError)
    refused(expired, MetadataExpiredError, expired.provisioned)
    refused(expired, MetadataExpiredError, expired.trusted)


def test_row_41_a_clock_far_ahead_refuses_everything() -> None:
    with pytest.raises(MetadataExpiredError) as caught:
        verified(bundle(), now=NOW.replace(year=2099))

    assert "clock" in caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2030-01-01T00:00:00+00:00",
        "2030-01-01T00:00:00.0Z",
        "2030-01-01T00:00:00z",
        "2030-01-01 00:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-02-30T00:00:00Z",
        "2030-01-01T24:00:00Z",
        "0000-01-01T00:00:00Z",
        "٢٠٣٠-01-01T00:00:00Z",
        "2030-01-01T00:00:00Z\n",
        "",
        2030,
        None,
        True,
        [],
    ],
)
def test_row_42_dates_have_one_form(value: object) -> None:
    for name in DOCUMENTS:
        first_use(bundle(edit={name: lambda s: s.update(expires=value)}), MetadataInvalidError)


@pytest.mark.parametrize("role", ROLES)
def test_row_43_a_role_is_missing(role: str) -> None:
    message = refused(bundle(without=(f"{role}.json",)), MetadataNotFoundError)

    assert f"'{role}.json'" in message


def test_row_43_no_root_at_all() -> None:
    assert "1.root.json" in first_use(bundle(without=("1.root.json",)), MetadataNotFoundError)


def test_row_47_the_bytes_that_were_verified_are_the_bytes_that_are_kept() -> None:
    good = bundle()

    assert verified(good).documents.targets is good.metadata["targets.json"]


# --- Targets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delegations", "fine"),
    [
        ({}, True),
        (None, True),
        ({"keys": {}, "roles": []}, True),
        ({"keys": {}, "roles": [{"name": "other", "terminating": True}]}, False),
        ({"keys": {"k": {}}, "roles": []}, False),
        ("other", False),
        ([{}], False),
    ],
)
def test_row_50_nothing_is_delegated(delegations: object, fine: bool) -> None:  # noqa: FBT001
    built = bundle(edit={"targets": lambda s: s.update(delegations=delegations)})
    if fine:
        assert verified(built).targets
    else:
        refused(built, MetadataInvalidError)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        "",
        ".",
        "..",
        "-rf",
        "a b",
        "a\nb",
        "a\x00b",
        "é",
        "x" * 5000,
        ".hidden",
    ],
)
def test_row_51_names_that_are_more_than_names(name: str) -> None:
    refused(bundle(targets={name: target_entry()}), MetadataInvalidError)


def test_row_51_names_in_the_bundle_are_compared_and_nothing_else() -> None:
    assert verified(bundle(listed=("../../etc/passwd", TARGET))).targets


URI = "hub.foundries.io/factory/app@sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("../app", URI),
        ("App", URI),
        ("", URI),
        ("a" * 65, URI),
        ("app", "hub.foundries.io/factory/app"),
        ("app", URI[:-1]),
        ("app", URI + "0"),
        ("app", URI.upper()),
        ("app", URI.replace("sha256", "md5")),
        ("app", URI.replace("/factory", "/../factory")),
        ("app", URI.replace("factory", "..")),
        ("app", URI.replace("/app", "/..")),
        ("app", URI.replace("hub.foundries.io", "..")),
        ("app", "file:///etc/passwd@sha256:" + "ab" * 32),
        ("app", URI + "\n"),
    ],
)
def test_row_52_apps_that_are_more_than_apps(name: str, uri: str) -> None:
    refused(bundle(targets={TARGET: target_entry(apps={name: uri})}), MetadataInvalidError)


@pytest.mark.parametrize("commit", ["", "ab" * 31, "ab" * 33, "zz" * 32, "../" + "a" * 61, 7, None])
def test_row_53_a_commit_is_64_hex_digits(commit: Any) -> None:
    refused(bundle(targets={TARGET: target_entry(commit=commit)}), MetadataInvalidError)


def test_more_targets_than_there_may_be() -> None:
    many = dict.fromkeys(map(str, range(10_001)))

    assert "more than 10000" in refused(bundle(targets=many, listed=()), MetadataInvalidError)


# --- the bundle's own metadata -----------------------------------------------------------

TWO: dict[str, Any] = {
    "role_keys": {"targets": ("targets", "offline")},
    "thresholds": {"targets": 2},
}


def under_two_labels(document: dict[str, Any]) -> None:
    signature = document["signatures"][0]
    label = key_id(key("offline").public)
    document["signatures"] = [signature, {**signature, "keyid": label}]


@pytest.mark.parametrize(
    "changes",
    [
        {"signers": {"bundle": ()}},
        {"signers": {"bundle": ("evil-targets",)}},
        {"signers": {"bundle": ("timestamp",)}},
        {"forge": resigned("bundle", "evil-targets")},
        {"forge": {"bundle": flip}},
        {**TWO, "signers": {"bundle": ("targets",)}},
        {**TWO, "signers": {"bundle": ("targets", "targets")}},
        {**TWO, "forge": {"bundle": under_two_labels}},
        {"signers": {"bundle": ("targets", "evil-targets")}},
        {**TWO, "signers": {"bundle": ("targets", "offline", "evil-targets")}},
        {"forge": {"bundle": lambda d: d["signed"].update(x=1)}},
    ],
)
def test_rows_64_65_signatures_of_the_bundle(changes: dict[str, Any]) -> None:
    first_use(bundle(**changes), BundleSignatureError)


def test_row_64_a_key_that_signed_twice_counts_once_and_no_less() -> None:
    assert verified(bundle(signers={"bundle": ("targets", "targets")})).targets
    assert verified(bundle(**TWO, signers={"bundle": ("targets", "offline", "targets")})).targets


def test_row_66_type_and_tag() -> None:
    def claims(**change: object) -> SignedBundle:
        return bundle(edit={"bundle": lambda s: s["x-fio-offline-bundle"].update(change)})

    first_use(claims(type="CI"), BundleTypeError)
    first_use(claims(type=""), BundleTypeError)
    first_use(claims(type=None), BundleMetadataInvalidError)
    first_use(claims(tag="devel"), BundleTagError)
    first_use(claims(tag=""), BundleTagError)
    first_use(claims(tag="Main"), BundleTagError)
    first_use(claims(tag=["main"]), BundleMetadataInvalidError)


def test_row_67_expired_is_12_and_expired_and_forged_is_15() -> None:
    first_use(bundle(expires={"bundle": PAST}), MetadataExpiredError)
    first_use(bundle(expires={"bundle": PAST}, forge={"bundle": flip}), BundleSignatureError)


def test_row_69_a_listed_name_that_nobody_vouches_for() -> None:
    assert verified(bundle(listed=("raspberrypi4-64-lmp-43",))).targets == ()


def test_row_71_a_bundle_signed_by_the_targets_key_before_the_rotation() -> None:
    rotated: dict[str, Any] = {"roots": (1, 2), "role_keys": {2: {"targets": "new-targets"}}}

    assert verified(bundle(**rotated)).targets
    refused(bundle(**rotated, signers={"bundle": ("targets",)}), BundleSignatureError)
    refused(bundle(**rotated, signers={"targets": ("targets",)}), MetadataUpdateError)
