"""Verification, for any bytes: refused or true, and never another exception."""

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.bundle import RawBundle, TrustedDocuments, VerifiedBundle
from agent.core.errors import AgentError, BundleError, MetadataRollbackError
from agent.core.verify import verify_roots
from tests.factory import SignedBundle, bundle, target_entry, verified

URI = "hub.foundries.io/factory/web@sha256:" + "cd" * 32
GOOD = bundle(
    roots=(1, 2),
    role_keys={2: {"root": "root-2", "targets": ("targets", "offline")}},
    targets={"lmp-42": target_entry(apps={"web": URI}, createdAt="2025-06-01T00:00:00Z")},
)
DEVICE = TrustedDocuments(GOOD.roots[:1])
FILES = sorted(set(GOOD.metadata) - {"1.root.json"})


def judge(built: SignedBundle, trusted: TrustedDocuments = DEVICE) -> VerifiedBundle | None:
    """Return the verdict; anything but a `BundleError` leaves as it is."""
    try:
        return verified(built, trusted)
    except BundleError:
        return None


def signed_parts(built: SignedBundle) -> dict[str, object]:
    documents = built.metadata.items()
    return {name: json.loads(data, strict=False)["signed"] for name, data in documents}


@settings(max_examples=300)
@given(st.sampled_from(FILES), st.data())
def test_a_flipped_byte_is_refused_or_changes_nothing_that_was_signed(
    name: str, data: st.DataObject
) -> None:
    """What is left to change is spelling outside of ``signed``, as the case of a method."""
    before = copy.deepcopy(DEVICE)
    content = bytearray(GOOD.metadata[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    changed = GOOD.with_files({name: bytes(content)})
    result = judge(changed)

    assert result is None or signed_parts(changed) == signed_parts(GOOD)
    assert before == DEVICE


@given(st.sampled_from(FILES), st.data())
def test_a_file_that_was_cut_off_is_refused(name: str, data: st.DataObject) -> None:
    content = GOOD.metadata[name]
    cut = data.draw(st.integers(0, len(content) - 1))

    assert judge(GOOD.with_files({name: content[:cut]})) is None


@given(st.sampled_from(FILES), st.binary(max_size=100))
def test_any_bytes_as_any_document_are_refused(name: str, content: bytes) -> None:
    assert judge(GOOD.with_files({name: content})) is None
    assert judge(GOOD.with_files({"1.root.json": content}), TrustedDocuments()) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=8,
)
DOCUMENTS = ("1.root", "2.root", "timestamp", "snapshot", "targets", "bundle")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON value."""
    pairs = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [(value, step) for step, _ in pairs] + [p for _, child in pairs for p in places(child)]


@settings(max_examples=300)
@given(st.sampled_from(DOCUMENTS), st.sampled_from(["replace", "remove"]), json_values, st.data())
def test_any_signed_nonsense_is_a_verdict_and_never_a_crash(
    name: str, how: str, value: Any, data: st.DataObject
) -> None:
    """Whoever holds a key may sign anything at all; the answer is still an answer."""

    def edit(signed: dict[str, Any]) -> None:
        spots = places(signed)
        container, step = spots[data.draw(st.integers(0, len(spots) - 1))]
        if how == "remove":
            del container[step]
        else:
            container[step] = value

    try:
        built = bundle(roots=(1, 2), edit={name: edit})
    except ValueError:
        return  # the value cannot be signed: NaN, half a surrogate pair
    for trusted in (TrustedDocuments(), bundle().trusted):
        judge(built, trusted)


@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from(["timestamp", "snapshot", "all"]))
def test_versions_never_fall(first: int, second: int, role: str) -> None:
    def numbered(version: int) -> SignedBundle:
        return bundle(version=version) if role == "all" else bundle(versions={role: version})

    device = verified(numbered(first)).documents
    try:
        verified(numbered(second), device)
        accepted = True
    except MetadataRollbackError:
        accepted = False

    assert accepted == (second >= first)


@given(st.dictionaries(st.integers(1, 5), st.sampled_from([d for _, d in GOOD.roots]), max_size=3))
def test_any_provisioned_roots_are_a_chain_or_refused(provisioned: dict[int, bytes]) -> None:
    try:
        chain = verify_roots(provisioned)
    except BundleError:
        return

    assert all(provisioned[version] == data for version, data in chain)


@given(
    st.dictionaries(
        st.sampled_from([*GOOD.metadata, "root.json", "3.root.json", "x"]),
        st.sampled_from([*GOOD.metadata.values(), b"", b"{}"]),
    )
)
def test_any_mix_of_files_is_a_verdict(metadata: dict[str, bytes]) -> None:
    result = judge(SignedBundle(metadata))

    assert result is None or {t.name for t in result.targets} == {"lmp-42"}


def test_the_bundle_these_properties_are_about_is_good() -> None:
    assert judge(GOOD) is not None
    assert RawBundle(GOOD.metadata, "memory") == GOOD.raw
    assert issubclass(BundleError, AgentError)
