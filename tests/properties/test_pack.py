"""Packs: whatever is changed, wherever, nothing else is ever read from one."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core.errors import AgentError, BundleError
from agent.core.pack import PREAMBLE, header_length, image_offset, read_header
from agent.core.verify import verify_bundle
from agent.core.verity import (
    BLOCK_BYTES,
    FANOUT,
    BlockMismatchError,
    demand_blocks,
    hash_tree,
    levels,
    tree_size,
    vouched,
)
from tests.factory import NO_TRUST, NOW
from tests.factory.packs import Packed, packed, parsed

MADE = packed()
salts = st.binary(max_size=64)
counts = st.integers(1, 3 * FANOUT)


def read_through(made: Packed) -> bytes:
    """Do what a device does: judge the seal, then each block. Return the image."""
    if len(made.file) != made.header.file_size:
        raise AgentError("of another length")
    image = verify_bundle(
        made.raw, NO_TRUST, device_type=None, device_tags=("main",), now=NOW
    ).image
    assert image is not None
    content = made.file[image.offset : image.offset + image.size]
    tree = made.file[image.offset + image.size :]

    def read(index: int) -> bytes:
        return tree[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]

    count = image.size // BLOCK_BYTES
    digests = b"".join(vouched(read, count, root_hash=image.root_hash, salt=image.salt))
    demand_blocks(content, digests, image.salt, what="block", first=0)
    return content


@given(st.integers(0, len(MADE.file) - 1), st.integers(1, 255))
@example(len(MADE.file) - 1, 1)
@example(MADE.file.rindex(b"ed25519"), 1)
@settings(max_examples=500)
def test_any_changed_byte_is_refused_or_changes_nothing(position: int, difference: int) -> None:
    changed = bytearray(MADE.file)
    changed[position] ^= difference
    try:
        found = Packed(MADE.bundle, MADE.facts, bytes(changed))
        content, documents = read_through(found), found.header.documents
    except (AgentError, BlockMismatchError):
        return

    assert content == read_through(MADE)
    assert unmethodical(documents) == unmethodical(MADE.bundle.metadata)


def unmethodical(documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out what devices ignore: the key says how it signs, as with the reference."""
    return {name: re.sub(rb'"method":"[^"]*"', b"", data) for name, data in documents.items()}


@given(st.integers(0, len(MADE.file) - 1))
def test_a_pack_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(AgentError):
        read_through(Packed(MADE.bundle, MADE.facts, MADE.file[:length]))


@given(st.binary(max_size=300))
def test_any_bytes_as_a_header_give_a_documented_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        parsed(PREAMBLE.pack(b"USBUPACK", 1, len(data)) + data.ljust(BLOCK_BYTES - 16, b"\0"))


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(("documents", "seal", "signed", "_type",
                                                       "x-usb-update-pack", "format")),
                                      inner, max_size=4), max_leaves=20))  # fmt: skip
def test_any_json_as_a_header_gives_a_documented_error(value: object) -> None:
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    block = data.ljust(image_offset(len(data)) - PREAMBLE.size, b"\0")

    with pytest.raises(BundleError):
        read_header(block, header_length(PREAMBLE.pack(b"USBUPACK", 1, len(data))))


@given(counts, salts)
def test_a_tree_vouches_for_every_block_once(count: int, salt: bytes) -> None:
    data = b"".join(n.to_bytes(4, "big") * 1024 for n in range(count))
    tree = hash_tree([data], salt)
    asked: list[int] = []

    def read(index: int) -> bytes:
        asked.append(index)
        return tree.blocks[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]

    digests = b"".join(vouched(read, count, root_hash=tree.root_hash, salt=salt))
    demand_blocks(data, digests, salt, what="block", first=0)

    assert len(digests) == 32 * count
    assert sorted(asked) == list(range(sum(levels(count))))


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="no veritysetup here")
@given(count=st.sampled_from((1, 2, FANOUT, FANOUT + 1, FANOUT**2 + 1)), salt=salts)
@settings(max_examples=12)
def test_the_tree_is_the_one_that_veritysetup_makes(count: int, salt: bytes) -> None:
    data = b"".join(n.to_bytes(4, "big") * 1024 for n in range(count))
    tree = hash_tree([data], salt)
    with TemporaryDirectory() as place:
        image, hashes, ours = (Path(place, name) for name in ("data", "hashes", "ours"))
        image.write_bytes(data)
        options = ["--no-superblock", f"--data-blocks={count}", f"--salt={salt.hex() or '-'}"]
        made = subprocess.run(
            ["veritysetup", "format", *options, image, hashes],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        ours.write_bytes(tree.blocks)
        subprocess.run(
            ["veritysetup", "verify", *options, image, ours, tree.root_hash.hex()],
            check=True,
            capture_output=True,
        )
        theirs = hashes.read_bytes() if hashes.exists() else b""

    assert f"Root hash:      \t{tree.root_hash.hex()}" in made
    assert theirs == tree.blocks
    assert len(theirs) == tree_size(len(data))
