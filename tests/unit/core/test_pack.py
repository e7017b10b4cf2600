"""A pack's header is read strictly, and its seal is judged with the bundle."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.core import pack
from agent.core.bundle import Inventory
from agent.core.bundletype import BundleType
from agent.core.canonical import canonical_bytes
from agent.core.errors import (
    AgentError,
    BundleSignatureError,
    BundleTypeError,
    MetadataExpiredError,
    MetadataNotFoundError,
    MetadataRollbackError,
    PackInvalidError,
)
from agent.core.outcome import InstallExit
from agent.core.pack import PREAMBLE
from agent.core.verify import verify_bundle
from agent.core.verity import BLOCK_BYTES, tree_size
from tests.factory import NO_TRUST, NOW, PAST, BundleFactory, bundle, verified
from tests.factory.packs import IMAGE, SALT, Packed, packed, parsed
from tests.unit.core.test_verify import TWO_KEYS, put

TABLE = "x-usb-update-pack"


def judge(made: Packed, trusted: Any = NO_TRUST, **device: Any) -> Any:
    asked = {"device_type": None, "device_tags": ("main",), "now": NOW, **device}
    return verify_bundle(made.raw, trusted, **asked)


def reworded(made: Packed, change: Any) -> bytes:
    """Change the header's JSON and spell the file anew around it."""
    length = pack.header_length(made.file)
    value = json.loads(made.file[PREAMBLE.size : PREAMBLE.size + length])
    change(value)
    return spelt(canonical_bytes(value)) + made.file[pack.image_offset(length) :]


def spelt(header: bytes) -> bytes:
    head = PREAMBLE.pack(pack.MAGIC, pack.FORMAT, len(header)) + header
    return head.ljust(pack.image_offset(len(header)), b"\0")


# --- a good pack ----------------------------------------------------------------------


def test_a_good_pack_is_verified_as_its_bundle_is() -> None:
    made = packed()
    result = judge(made)

    assert result.documents == made.bundle.trusted
    assert result.image.root_hash == made.facts.root_hash
    assert (result.image.salt, result.image.size) == (SALT, len(IMAGE))
    assert made.file[result.image.offset :].startswith(IMAGE)
    assert len(made.file) == made.header.file_size


def test_a_directory_has_no_image() -> None:
    assert verified(bundle()).image is None


def test_what_is_written_is_read_again() -> None:
    content = Inventory(frozenset({"ab" * 32, "cd" * 32}), frozenset({"hub.local/f/shop@sha256:1"}))
    made = packed(content=content)

    assert made.header.documents == made.bundle.metadata
    assert made.header.facts == made.facts
    assert made.header.facts.content == content


def test_the_same_gives_the_same_bytes() -> None:
    assert packed().file == packed().file


# --- the header -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        b"",
        pack.MAGIC,
        b"USBUPACX" + bytes(100),
        PREAMBLE.pack(pack.MAGIC, 2, 10) + bytes(100),
        PREAMBLE.pack(pack.MAGIC, 1, pack.HEADER_LIMIT_BYTES + 1) + bytes(100),
        PREAMBLE.pack(pack.MAGIC, 1, 100),
        PREAMBLE.pack(pack.MAGIC, 1, 0) + bytes(BLOCK_BYTES),
        spelt(b"{}"),
        spelt(b"[]"),
        spelt(b'{"documents":{},"seal":{}}'),
        spelt(b'{"documents":{},"seal":{"signatures":[],"signed":{}}}'),
        spelt(b'{"documents":{"a":1},"seal":{}}'),
        spelt(b'{"documents":{"a":"\\u00e4"},"seal":{}}'),
    ],
    ids=range(13),
)
def test_what_is_no_header_is_refused(file: bytes) -> None:
    with pytest.raises(PackInvalidError) as refused:
        parsed(file)
    assert refused.value.exit is InstallExit.BUNDLE_INVALID


def test_another_spelling_is_refused() -> None:
    length = pack.header_length(packed().file)
    header = packed().file[PREAMBLE.size : PREAMBLE.size + length]

    with pytest.raises(PackInvalidError, match="not spelt canonically"):
        parsed(spelt(header + b" "))


def test_the_gap_behind_the_header_is_zero() -> None:
    file = bytearray(packed().file)
    file[parsed(bytes(file)).seal.offset - 1] = 1

    with pytest.raises(PackInvalidError, match="gap"):
        parsed(bytes(file))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("format", 2),
        ("format", True),
        ("file_system", "ext4"),
        ("hash", "sha1"),
        ("block_size", 512),
        ("image_size", 0),
        ("image_size", BLOCK_BYTES + 1),
        ("image_size", -BLOCK_BYTES),
        ("image_size", str(len(IMAGE))),
        ("image_size", 2**52),
        ("image_size", len(IMAGE) * 1000),
        ("tree_size", tree_size(len(IMAGE)) + BLOCK_BYTES),
        ("root_hash", "AB" * 32),
        ("root_hash", "ab" * 31),
        ("salt", "a"),
        ("salt", "ab" * 257),
        ("commits", "ab"),
        ("app_uris", [1]),
        ("commits", ["x"] * (pack.CONTENT_LIMIT + 1)),
        ("more", 1),
    ],
)
def test_a_seal_that_says_something_else_is_refused(member: str, value: object) -> None:
    made = packed(edit=put(value, TABLE, member))

    with pytest.raises(PackInvalidError, match="seal of the pack"):
        parsed(made.file)


def test_a_list_of_targets_is_no_seal() -> None:
    """Both are signed by the same keys; neither may stand for the other."""
    made = packed(edit=put("Targets", "_type"))

    with pytest.raises(PackInvalidError, match="_type"):
        parsed(made.file)


# --- the verdict ----------------------------------------------------------------------


def test_a_stranger_s_seal_is_refused() -> None:
    with pytest.raises(BundleSignatureError, match="seal of the pack"):
        judge(packed(signers=("stranger",)))


def test_one_stranger_beside_a_good_key_is_refused() -> None:
    with pytest.raises(BundleSignatureError):
        judge(packed(signers=("targets", "stranger")))


def test_a_seal_nobody_signed_is_refused_even_where_bundle_metadata_is_not_required() -> None:
    made = packed(signers=(), without=("bundle-targets.json",))

    with pytest.raises(BundleSignatureError):
        judge(made, require_bundle_metadata=False)


@pytest.mark.parametrize(
    ("signers", "good"),
    [(("targets",), False), (("targets", "targets"), False), (("targets", "offline"), True)],
)
def test_a_seal_needs_as_many_keys_as_the_bundle(signers: tuple[str, ...], good: bool) -> None:  # noqa: FBT001
    made = packed(signers=signers, type="prod", **TWO_KEYS)
    if good:
        assert judge(made).image
        return
    with pytest.raises(BundleSignatureError, match="1 of the 2"):
        judge(made)


def test_an_edited_seal_is_refused() -> None:
    changed = reworded(
        packed(), lambda value: value["seal"]["signed"][TABLE].update(root_hash="00" * 32)
    )

    with pytest.raises(BundleSignatureError):
        judge(Packed(packed().bundle, packed().facts, changed))


def test_an_expired_seal_is_refused() -> None:
    with pytest.raises(MetadataExpiredError, match="seal of the pack"):
        judge(packed(sealed_until=PAST))


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({"type": "prod"}, {"device_type": BundleType.CI}, BundleTypeError),
        ({"without": ("timestamp.json",)}, {}, MetadataNotFoundError),
        ({"expires": {"timestamp": PAST}}, {}, MetadataExpiredError),
    ],
)
def test_the_bundle_inside_answers_as_in_a_directory(
    changes: dict[str, Any], device: dict[str, Any], expected: type[AgentError]
) -> None:
    with pytest.raises(expected):
        judge(packed(**changes), **device)


def test_an_older_bundle_in_a_pack_is_refused() -> None:
    trusted = bundle(version=43).trusted

    with pytest.raises(MetadataRollbackError):
        judge(packed(), trusted)


def test_the_seal_is_judged_by_the_newest_root() -> None:
    """A rotated targets key seals nothing any more, whatever older roots said."""
    rotated = {"roots": (1, 2), "role_keys": {2: {"targets": ("targets-2",)}}}
    assert BundleFactory(**rotated).key_names("targets") == ("targets-2",)

    assert judge(packed(signers=("targets-2",), **rotated)).image
    with pytest.raises(BundleSignatureError):
        judge(packed(signers=("targets",), **rotated))


def test_a_seal_ends_at_the_second() -> None:
    made = packed(sealed_until="2026-02-01T00:00:00Z")
    end = datetime(2026, 2, 1, tzinfo=UTC)

    assert judge(made, now=end.replace(month=1)).image
    with pytest.raises(MetadataExpiredError):
        judge(made, now=end)
