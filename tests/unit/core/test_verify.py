"""What verify_bundle demands, in which order, and what it answers."""

import hashlib
import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.core.bundle import TrustedDocuments
from agent.core.bundletype import BundleType
from agent.core.errors import (
    AgentError,
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
    StateError,
)
from agent.core.keys import ed25519_from_seed, key_id
from agent.core.outcome import InstallExit
from agent.core.tuf import STANDARD, root_dialect
from agent.core.verify import LIMITS, bundle_signers, limit_of, verify_roots
from tests.factory import (
    FUTURE,
    NOW,
    PAST,
    BundleFactory,
    KeyFactory,
    SignedBundle,
    bundle,
    dump,
    key,
    sign,
    target_entry,
    verified,
)

NAME = "raspberrypi4-64-lmp-42"
TWO_KEYS: dict[str, Any] = {
    "role_keys": {"targets": ("targets", "offline")},
    "thresholds": {"targets": 2},
}


def pop(*path: str) -> Any:
    """Return an edit that removes a member."""

    def edit(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return edit


def put(value: object, *path: str) -> Any:
    """Return an edit that sets a member."""

    def edit(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return edit


# --- a good bundle --------------------------------------------------------------------


def test_a_good_bundle_is_verified() -> None:
    good = bundle(expires={"snapshot": "2026-02-01T00:00:00Z"})
    result = verified(good)

    assert [target.name for target in result.targets] == [NAME]
    assert result.documents == good.trusted
    assert result.bundle_type is BundleType.CI
    assert result.tag == "main"
    assert result.expires == datetime(2026, 2, 1, tzinfo=UTC)
    assert result.listed == (NAME,)
    assert result.seen_utc is None


def test_the_earliest_expiry_may_be_the_bundles_own() -> None:
    result = verified(bundle(expires={"bundle": "2026-02-01T00:00:00Z"}))

    assert result.expires == datetime(2026, 2, 1, tzinfo=UTC)


def test_rsa_keys_are_as_good() -> None:
    names = {role: (f"rsa-{role}",) for role in ("root", "timestamp", "snapshot", "targets")}

    assert verified(bundle(role_keys=names)).targets


def test_the_golden_vector_verifies() -> None:
    """Bundle-format §2.7: the file as other tools write it, to the byte."""
    keys = [ed25519_from_seed(bytes(range(n, n + 32))) for n in (0, 32)]
    claim = {"tag": "main", "targets": ["intel-corei7-64-lmp-42"], "type": "prod"}
    signed = {
        "_type": "Targets",
        "expires": FUTURE,
        "version": 42,
        "x-fio-offline-bundle": claim,
    }
    file = dump(sign(signed, keys))
    signers = bundle_signers(file, dump(golden_root(keys)))

    assert len(file) == 566
    assert (
        hashlib.sha256(file).hexdigest()
        == "b4dec898efc4f2afd06b92978a50d9f02f5ffd26406fbb7fcfca5887997c4c54"
    )
    assert signers.valid == tuple(key_id(k.public) for k in keys)
    assert signers.missing == 0


def golden_root(keys: list[Any]) -> dict[str, Any]:
    root = BundleFactory(**TWO_KEYS).signed_root(1)
    root["keys"] |= {key_id(k.public): k.public.to_json() for k in keys}
    root["roles"]["targets"]["keyids"] = [key_id(k.public) for k in keys]
    return {"signatures": [], "signed": root}


def test_targets_come_in_the_bundles_order_and_only_if_both_name_them() -> None:
    targets = {name: target_entry() for name in ("a", "b", "c")}
    result = verified(bundle(targets=targets, listed=("c", "strange", "a", "c")))

    assert [target.name for target in result.targets] == ["c", "a"]
    assert result.listed == ("c", "strange", "a")


def test_a_bundle_that_shares_no_target_is_verified_and_empty() -> None:
    assert verified(bundle(listed=("strange",))).targets == ()


def test_a_target_that_is_not_listed_is_not_read() -> None:
    targets = {"good": target_entry(), "bad": {"hashes": 7}}

    assert [t.name for t in verified(bundle(targets=targets, listed=("good",))).targets] == ["good"]
    with pytest.raises(MetadataInvalidError, match="'bad'"):
        verified(bundle(targets=targets))


def test_two_thousand_targets_are_no_long_wait() -> None:
    """Some 50 ms here, 130 ms with five Apps each; a small device is ten times slower."""
    many = bundle(targets={f"lmp-{n}": target_entry(version=str(n)) for n in range(2000)})
    before = time.process_time()

    assert len(verified(many).targets) == 2000
    assert time.process_time() - before < 1.0


# --- the case table of bundle-format, appendix A ---------------------------------------

APPENDIX_A: dict[str, tuple[dict[str, Any], int]] = {
    "ci": ({}, 0),
    "prod with two signatures": ({"type": "prod", **TWO_KEYS}, 0),
    "prod with one signature": (
        {"type": "prod", **TWO_KEYS, "signers": {"bundle": ("targets",)}},
        15,
    ),
    "no bundle-targets.json": ({"without": ("bundle-targets.json",)}, 15),
    "roots 3..N on a device that knows none": ({"roots": (3, 4)}, 14),
    "unknown extra signer": ({"signers": {"bundle": ("targets", "stranger")}}, 15),
    "no signatures": ({"signers": {"bundle": ()}}, 15),
    "no method": ({"forge": {"bundle": lambda d: d["signatures"][0].pop("method")}}, 15),
    "any method": ({"forge": {"bundle": lambda d: d["signatures"][0].update(method="x")}}, 0),
    "no x-fio-offline-bundle": ({"edit": {"bundle": pop("x-fio-offline-bundle")}}, 15),
    "same key twice for threshold 2": (
        {**TWO_KEYS, "signers": {"bundle": ("targets", "targets")}},
        15,
    ),
    "targets.json with one of two signatures": (
        {**TWO_KEYS, "signers": {"targets": ("targets",)}},
        4,
    ),
    "tag mismatch": ({"tag": "devel"}, 15),
    "bundle expired": ({"expires": {"bundle": PAST}}, 12),
    "timestamp expired": ({"expires": {"timestamp": PAST}}, 12),
    "bundle expiry with a fraction": ({"expires": {"bundle": "2030-01-01T00:00:00.5Z"}}, 15),
    "bundle expiry with an offset": ({"expires": {"bundle": "2030-01-01T00:00:00+00:00"}}, 15),
    "timestamp missing": ({"without": ("timestamp.json",)}, 14),
    "snapshot missing": ({"without": ("snapshot.json",)}, 14),
    "targets missing": ({"without": ("targets.json",)}, 14),
    "escaped unicode": ({"edit": {"targets": put("é", "x-note")}}, 0),
    "real number": ({"edit": {"targets": put(1.5, "x-note")}}, 0),
    "angle brackets": ({"edit": {"targets": put("<&>", "x-note")}}, 0),
    "version 2^31-1": ({"version": 2**31 - 1}, 0),
    "version 2^31": ({"version": 2**31}, 4),
    "timestamp without snapshot hashes": (
        {"edit": {"timestamp": pop("meta", "snapshot.json", "hashes")}},
        4,
    ),
    "snapshot without targets hashes": (
        {"edit": {"snapshot": pop("meta", "targets.json", "hashes")}},
        0,
    ),
    "wrong length": ({"edit": {"snapshot": put(7, "meta", "targets.json", "length")}}, 0),
}


def exit_of(built: SignedBundle, **device: Any) -> int:
    try:
        verified(built, **device)
    except AgentError as e:
        return int(e.exit)
    return 0


@pytest.mark.parametrize(("changes", "code"), APPENDIX_A.values(), ids=APPENDIX_A.keys())
def test_appendix_a(changes: dict[str, Any], code: int) -> None:
    assert code == exit_of(bundle(**changes))


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
@pytest.mark.parametrize("letter", ["é", "\x7f"])
def test_raw_text_beyond_printable_ascii_is_11_in_a_role(name: str, letter: str) -> None:
    good = bundle()
    raw = good.metadata[name].replace(b'"version"', f'"x":"{letter}","version"'.encode())

    assert exit_of(good.with_files({name: raw})) == 11


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"[]", b"{}", b'{"signed":{}}', '{"signed":"é"}'.encode(), b"\x00" * 99]
)
def test_a_junk_bundle_file_is_15(junk: bytes) -> None:
    assert exit_of(bundle().with_files({"bundle-targets.json": junk})) == 15


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "1.root.json"])
@pytest.mark.parametrize("junk", [b"", b"junk", b"[]", b"{}", b"\x00" * 99])
def test_a_junk_role_file_is_11(name: str, junk: bytes) -> None:
    assert exit_of(bundle().with_files({name: junk})) == 11


@pytest.mark.parametrize(
    "respell",
    [
        lambda data: data + b"\n",
        lambda data: json.dumps(json.loads(data), indent=2).encode(),
        lambda data: json.dumps(dict(reversed(json.loads(data).items()))).encode(),
        lambda data: data.replace(b"lmp", rb"\u006c\u006dp"),
    ],
    ids=["newline", "indented", "unsorted", "escaped"],
)
def test_tuf_attack_row_38_how_a_file_is_spelt_does_not_matter(respell: Any) -> None:
    good = bundle(targets={NAME: target_entry()})
    files = {name: respell(data) for name, data in good.metadata.items()}

    assert verified(good.with_files(files)).documents.targets == files["targets.json"]


# --- order ----------------------------------------------------------------------------

FORGED = lambda d: d["signatures"][0].update(sig="A" * 86 + "==")  # noqa: E731


def test_the_first_obligation_that_fails_is_told() -> None:
    """Obligations 1 to 13, each broken together with all that come after it."""
    later: dict[str, Any] = {"targets": {NAME: {"hashes": {"sha256": "x"}}}}
    seen: list[str] = []

    def also(**changes: Any) -> str:
        for member, value in changes.items():
            both = isinstance(value, dict) and isinstance(later.get(member), dict)
            later[member] = {**later[member], **value} if both else value
        with pytest.raises(AgentError) as caught:
            verified(bundle(**later), device_type=BundleType.CI)
        seen.append(type(caught.value).__name__)
        return str(caught.value)

    also()
    also(expires={"targets": PAST})
    also(edit={"snapshot": put(7, "meta", "targets.json", "version")})
    also(forge={"targets": FORGED})
    also(edit={"targets": put("Snapshot", "_type")})
    also(expires={"snapshot": PAST})
    also(edit={"timestamp": put(9, "meta", "snapshot.json", "version")})
    also(forge={"snapshot": FORGED})
    also(expires={"timestamp": PAST})
    also(forge={"timestamp": FORGED})
    also(edit={"timestamp": put("Root", "_type")})
    assert "1.root.json" in also(expires={"root": PAST})
    also(tag="devel")
    also(type="nightly")
    assert "bundle-targets.json" in also(expires={"bundle": PAST})
    also(signers={"bundle": ("stranger",)})
    also(forge={"1.root": FORGED})
    also(type="prod")
    also(without=("bundle-targets.json",))
    also(without=("bundle-targets.json", "timestamp.json"))

    assert seen == [
        "MetadataInvalidError",  # 13
        "MetadataExpiredError",  # 12
        "MetadataUpdateError",
        "MetadataUpdateError",
        "MetadataInvalidError",
        "MetadataExpiredError",  # 11
        "MetadataUpdateError",
        "MetadataUpdateError",
        "MetadataExpiredError",  # 10
        "MetadataUpdateError",
        "MetadataInvalidError",
        "MetadataExpiredError",  # 9
        "BundleTagError",  # 8
        "BundleTypeError",  # 7
        "MetadataExpiredError",  # 6
        "BundleSignatureError",  # 5
        "MetadataUpdateError",  # 4
        "BundleTypeError",  # 3
        "BundleMetadataMissingError",  # 2
        "MetadataNotFoundError",  # 1
    ]


# --- device type and tag ---------------------------------------------------------------


@pytest.mark.parametrize("device_type", [None, BundleType.CI])
def test_a_ci_bundle_is_for_ci_devices_and_those_without_a_type(
    device_type: BundleType | None,
) -> None:
    assert verified(bundle(), device_type=device_type).bundle_type is BundleType.CI


def test_a_bundle_that_claims_the_other_type_is_refused_before_its_signatures() -> None:
    stranger = bundle(keys=KeyFactory("stranger-"), type="prod")
    with pytest.raises(BundleTypeError, match="type 'prod', this device of type 'ci'"):
        verified(stranger, bundle().provisioned, device_type=BundleType.CI)


def test_a_claim_of_the_devices_own_type_still_needs_signatures() -> None:
    stranger = bundle(keys=KeyFactory("stranger-"))
    with pytest.raises(BundleSignatureError):
        verified(stranger, bundle().provisioned, device_type=BundleType.CI)


@pytest.mark.parametrize("device_type", [None, *BundleType])
def test_an_unknown_type_is_for_nobody(device_type: BundleType | None) -> None:
    with pytest.raises(BundleTypeError, match="'nightly'"):
        verified(bundle(type="nightly"), device_type=device_type)


def test_a_device_without_tags_takes_any_tag() -> None:
    assert verified(bundle(tag="devel"), tags=()).tag == "devel"
    assert verified(bundle(tag="devel"), tags=("main", "devel")).tag == "devel"


def test_a_bundle_without_tag_is_for_devices_without_tags() -> None:
    untagged = bundle(edit={"bundle": pop("x-fio-offline-bundle", "tag")})

    assert verified(untagged, tags=()).tag == ""
    with pytest.raises(BundleTagError, match=r"\['main'\]"):
        verified(untagged)


# --- doing without bundle metadata ------------------------------------------------------


def test_without_bundle_metadata_all_targets_are_listed() -> None:
    bare = bundle(targets={n: target_entry() for n in "ab"}, without=("bundle-targets.json",))
    result = verified(bare, device_type=BundleType.PROD, tags=("x",), required=False)

    assert [target.name for target in result.targets] == ["a", "b"]
    assert result.bundle_type is None
    assert result.tag == ""


def test_bundle_metadata_that_is_there_counts_even_if_it_need_not_be() -> None:
    with pytest.raises(BundleTagError):
        verified(bundle(tag="devel"), required=False)


def test_the_switch_opens_nothing_else() -> None:
    bare = bundle(signers={"targets": ("stranger",)}, without=("bundle-targets.json",))
    with pytest.raises(MetadataUpdateError):
        verified(bare, required=False)


def test_missing_bundle_metadata_is_refused_by_default() -> None:
    with pytest.raises(BundleMetadataMissingError) as caught:
        verified(bundle(without=("bundle-targets.json",)))

    assert "require_bundle_metadata" in caught.value.hint


# --- roots ------------------------------------------------------------------------------


def test_a_device_without_roots_trusts_the_first_bundles_first_root() -> None:
    assert verified(bundle()).documents.roots == bundle().roots


def test_a_device_with_roots_needs_none_on_the_stick() -> None:
    device = bundle(roots=(1, 2)).provisioned
    result = verified(bundle(roots=(1, 2), without=("1.root.json", "2.root.json")), device)

    assert result.documents.roots == device.roots


def test_the_walk_begins_at_the_devices_newest_root_and_keeps_the_old_ones() -> None:
    rotated: dict[str, Any] = {"role_keys": {3: {"root": "root-b"}, 4: {"root": "root-b"}}}
    full = bundle(roots=(1, 2, 3, 4), **rotated)
    device = TrustedDocuments(full.roots[:2])

    assert verified(bundle(roots=(3, 4), **rotated), device).documents.roots == full.roots


def test_an_expired_root_on_the_way_is_fine_the_last_one_is_not() -> None:
    old = {"edit": {"1.root": put(PAST, "expires")}}

    assert verified(bundle(roots=(1, 2), **old)).targets
    with pytest.raises(MetadataExpiredError, match=r"'1\.root\.json' expired at 2025"):
        verified(bundle(**old))


def test_a_corrupt_trusted_root_is_the_devices_fault_and_no_stick_mends_it() -> None:
    """TUF attack row 49."""
    for broken in (b"", b"{}", bundle(forge={"1.root": FORGED}).metadata["1.root.json"]):
        with pytest.raises(StateError, match="root this device trusts"):
            verified(bundle(), TrustedDocuments(((1, broken),)))


def test_a_device_that_lost_its_roots_does_not_take_the_sticks() -> None:
    """TUF attack row 49."""
    with pytest.raises(StateError, match="no root"):
        verified(bundle(), TrustedDocuments(timestamp=bundle().metadata["timestamp.json"]))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_corrupt_trusted_role_is_the_devices_fault(role: str) -> None:
    """TUF attack row 49."""
    device = TrustedDocuments(bundle().roots, **{role: b"{}"})
    with pytest.raises(StateError, match=role):
        verified(bundle(), device)


def test_signed_nonsense_among_the_trusted_is_the_devices_fault() -> None:
    odd = bundle(edit={"timestamp": pop("meta")}).metadata["timestamp.json"]
    with pytest.raises(StateError, match="timestamp"):
        verified(bundle(), TrustedDocuments(bundle().roots, odd))


# --- provisioned roots ------------------------------------------------------------------


def test_provisioned_roots_are_a_chain() -> None:
    roots = bundle(roots=(1, 2, 3), role_keys={2: {"root": "b"}, 3: {"root": "b"}}).roots

    assert verify_roots({}) == ()
    assert verify_roots(dict(roots)) == roots
    assert verify_roots(dict(roots[1:])) == roots[1:]
    assert verify_roots({1: roots[0][1], 3: roots[2][1]}) == roots[:1]


def test_provisioned_roots_may_have_expired() -> None:
    roots = bundle(roots=(1, 2), expires=PAST).roots

    assert verify_roots(dict(roots)) == roots


def test_provisioned_roots_have_to_be_signed() -> None:
    chain = dict(bundle(roots=(1, 2)).roots)
    foreign = dict(bundle(roots=(1, 2), keys=KeyFactory("stranger-")).roots)
    with pytest.raises(MetadataUpdateError):
        verify_roots({1: chain[1], 2: foreign[2]})
    with pytest.raises(MetadataUpdateError):
        verify_roots({2: chain[1]})
    with pytest.raises(MetadataInvalidError):
        verify_roots({1: b"{"})


# --- what the device remembers ----------------------------------------------------------


def test_the_same_bundle_again_is_fine() -> None:
    device = verified(bundle()).documents

    assert verified(bundle(), device).documents == device


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_older_role_is_a_rollback(role: str) -> None:
    """Each role by itself, the others as new as they were."""
    device = bundle(version=42).trusted
    with pytest.raises(MetadataRollbackError, match="is version 41, this device has"):
        verified(bundle(versions={role: 41}), device)


def test_metadata_invalid_and_rollback_are_both_11() -> None:
    assert MetadataRollbackError.exit is MetadataInvalidError.exit is InstallExit.METADATA_INVALID


@pytest.mark.parametrize(
    ("stored", "lowered"),
    [
        ("timestamp", "timestamp"),
        ("timestamp", "snapshot"),
        ("snapshot", "snapshot"),
        ("snapshot", "targets"),
        ("targets", "targets"),
    ],
)
def test_each_remembered_document_by_itself_holds_back_what_it_names(
    stored: str, lowered: str
) -> None:
    newest = bundle(version=43)
    device = TrustedDocuments(newest.roots, **{stored: newest.metadata[f"{stored}.json"]})
    with pytest.raises(MetadataRollbackError, match=rf"'{lowered}\.json' is version 42"):
        verified(bundle(version=44, versions={lowered: 42}), device)


def test_what_rotated_keys_signed_holds_nothing_back() -> None:
    """TUF attack row 30."""
    for role in ("timestamp", "snapshot", "targets"):
        rotated = {"roots": (1, 2), "role_keys": {2: {role: f"{role}-new"}}}
        thief = TrustedDocuments(bundle(**rotated).roots[:1], **{role: huge(role)})

        assert verified(bundle(**rotated), thief).targets, role
        with pytest.raises(MetadataRollbackError):
            verified(bundle(roots=(1, 2)), thief)


def huge(role: str) -> bytes:
    return bundle(version=2**31 - 1).metadata[f"{role}.json"]


def test_an_expired_document_that_is_remembered_still_holds_versions_back() -> None:
    device = bundle(version=43, expires=PAST).trusted
    device = TrustedDocuments(bundle().roots, device.timestamp, device.snapshot, device.targets)
    with pytest.raises(MetadataRollbackError):
        verified(bundle(), device)


# --- time -------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["bundle", "root", "timestamp", "snapshot", "targets"])
def test_a_document_is_good_until_the_second_of_its_expiry(document: str) -> None:
    expires = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
    last = bundle(expires={document: expires})

    assert verified(last, now=NOW - timedelta(seconds=1)).targets
    with pytest.raises(MetadataExpiredError, match=re.escape(expires)):
        verified(last, now=NOW)


def times(**custom: Any) -> dict[str, Any]:
    return {"targets": {NAME: target_entry(**custom)}}


@pytest.mark.parametrize(
    ("custom", "seen"),
    [
        ({}, None),
        ({"createdAt": "2025-06-01T00:00:00Z"}, datetime(2025, 6, 1, tzinfo=UTC)),
        (
            {"createdAt": "2025-06-01T00:00:00Z", "updatedAt": "2025-07-01T02:00:00.25+02:00"},
            datetime(2025, 7, 1, microsecond=250_000, tzinfo=UTC),
        ),
        ({"createdAt": "2025-06-01T00:00:00"}, None),
        ({"createdAt": "yesterday"}, None),
        ({"createdAt": 7}, None),
        ({"createdAt": "0001-01-01T00:00:00+23:59"}, None),
        ({"createdAt": "2031-01-01T00:00:00Z"}, None),  # later than the bundle lives
    ],
)
def test_signed_times_feed_the_clocks_lower_bound(
    custom: dict[str, Any], seen: datetime | None
) -> None:
    assert seen == verified(bundle(**times(**custom))).seen_utc


def test_targets_that_are_not_listed_tell_no_time() -> None:
    other = {"other": target_entry(createdAt="2025-06-01T00:00:00Z"), NAME: target_entry()}

    assert verified(bundle(targets=other, listed=(NAME,))).seen_utc is None


# --- bundle metadata: shape -------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        put(7, "x-fio-offline-bundle"),
        put([], "x-fio-offline-bundle"),
        pop("x-fio-offline-bundle", "targets"),
        put("a", "x-fio-offline-bundle", "targets"),
        put([7], "x-fio-offline-bundle", "targets"),
        put({}, "x-fio-offline-bundle", "targets"),
        put(7, "x-fio-offline-bundle", "tag"),
        put(None, "x-fio-offline-bundle", "tag"),
        put([], "x-fio-offline-bundle", "type"),
        pop("x-fio-offline-bundle", "type"),
        pop("expires"),
        put(7, "expires"),
        put("2030-13-01T00:00:00Z", "expires"),
    ],
)
def test_malformed_bundle_metadata_is_refused(change: Any) -> None:
    with pytest.raises(BundleMetadataInvalidError):
        verified(bundle(edit={"bundle": change}))


def test_type_and_version_of_the_bundle_file_are_not_looked_at() -> None:
    assert verified(bundle(edit={"bundle": put("x", "_type")})).targets
    assert verified(bundle(edit={"bundle": pop("version")})).targets


# --- who signed -------------------------------------------------------------------------


def test_bundle_signers_tells_good_signatures_from_others() -> None:
    signed = bundle(**TWO_KEYS, signers={"bundle": ("targets", "stranger", "targets")})
    found = bundle_signers(signed.metadata["bundle-targets.json"], signed.metadata["1.root.json"])
    ids = {name: key_id(key(name).public) for name in ("targets", "offline", "stranger")}

    assert found.allowed == tuple(sorted((ids["targets"], ids["offline"])))
    assert found.valid == (ids["targets"], ids["targets"])
    assert found.refused == (ids["stranger"],)
    assert (found.threshold, found.missing) == (2, 1)
    assert (found.claim.type, found.claim.tag, found.claim.names) == ("ci", "main", (NAME,))
    assert found.expires == datetime(2030, 1, 1, tzinfo=UTC)


def test_bundle_signers_refuses_what_is_no_bundle_metadata() -> None:
    good = bundle()
    with pytest.raises(BundleMetadataInvalidError):
        bundle_signers(good.metadata["targets.json"], good.metadata["1.root.json"])
    with pytest.raises(MetadataInvalidError):
        bundle_signers(good.metadata["bundle-targets.json"], good.metadata["targets.json"])


# --- names and sizes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("1.root.json", 512 * 1024),
        ("13.root.json", 512 * 1024),
        ("timestamp.json", 64 * 1024),
        ("snapshot.json", 64 * 1024),
        ("7.snapshot.json", 64 * 1024),
        ("targets.json", 8 * 1024 * 1024),
        ("7.targets.json", 8 * 1024 * 1024),
        ("bundle-targets.json", 256 * 1024),
    ],
)
def test_every_file_of_a_bundle_has_a_largest_size(name: str, limit: int) -> None:
    assert limit == limit_of(name)


@pytest.mark.parametrize(
    "name",
    [
        "root.json",
        "02.root.json",
        "0.root.json",
        "99999999999.root.json",
        "1.ROOT.JSON",
        "TARGETS.JSON",
        "._targets.json",
        "targets.json~",
        "7.timestamp.json",
        "7.bundle-targets.json",
        "a/targets.json",
        "\N{ARABIC-INDIC DIGIT ONE}.root.json",
        "1.root.json\n",
        "System Volume Information",
        "",
    ],
)
def test_tuf_attack_row_74_other_names_are_junk(name: str) -> None:
    assert limit_of(name) is None


def test_limits_name_every_document() -> None:
    assert set(LIMITS) == {
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "bundle-targets.json",
    }


def test_junk_among_the_metadata_changes_nothing() -> None:
    """TUF attack row 74."""
    junk = {"999.root.json": b"x", "02.root.json": b"x", "root.json": b"x", "._targets.json": b""}

    assert verified(bundle().with_files(junk)).documents == bundle().trusted


def test_nothing_at_all_is_14() -> None:
    with pytest.raises(MetadataNotFoundError):
        verified(SignedBundle({}))


def test_the_flavour_follows_the_root() -> None:
    good = bundle()
    standard = bundle(edit={"1.root": put("1.0.31", "spec_version")})

    assert root_dialect("1.root.json", good.metadata["1.root.json"]) is not STANDARD
    assert root_dialect("1.root.json", standard.metadata["1.root.json"]) is STANDARD
    with pytest.raises(MetadataInvalidError):
        verified(standard)
