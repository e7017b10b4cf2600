"""The hash tree of dm-verity: its shape, and what it refuses."""

import hashlib

import pytest

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

SALT = b"salt"


def block(number: int) -> bytes:
    return number.to_bytes(4, "big") * (BLOCK_BYTES // 4)


def data(count: int) -> bytes:
    return b"".join(map(block, range(count)))


def walked(tree: bytes, count: int, root_hash: bytes) -> bytes:
    def read(index: int) -> bytes:
        return tree[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]

    return b"".join(vouched(read, count, root_hash=root_hash, salt=SALT))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (1, ()),
        (2, (1,)),
        (FANOUT, (1,)),
        (FANOUT + 1, (1, 2)),
        (FANOUT**2, (1, FANOUT)),
        (FANOUT**2 + 1, (1, 2, FANOUT + 1)),
    ],
)
def test_levels_grow_by_128(blocks: int, expected: tuple[int, ...]) -> None:
    assert levels(blocks) == expected
    assert tree_size(blocks * BLOCK_BYTES) == sum(expected) * BLOCK_BYTES


def test_a_single_block_is_its_own_root() -> None:
    tree = hash_tree([block(7)], SALT)

    assert tree.root_hash == hashlib.sha256(SALT + block(7)).digest()
    assert tree.blocks == b""
    assert walked(b"", 1, tree.root_hash) == tree.root_hash


@pytest.mark.parametrize("count", [2, FANOUT, FANOUT + 1, 3 * FANOUT - 1])
def test_a_tree_vouches_for_its_data_in_order(count: int) -> None:
    tree = hash_tree([data(count)], SALT)
    digests = walked(tree.blocks, count, tree.root_hash)

    assert digests == b"".join(hashlib.sha256(SALT + block(n)).digest() for n in range(count))
    assert len(tree.blocks) == tree_size(count * BLOCK_BYTES)


def test_pieces_of_any_length_give_one_tree() -> None:
    whole = data(FANOUT + 3)
    pieces = [whole[: 5 * BLOCK_BYTES], whole[5 * BLOCK_BYTES :]]

    assert hash_tree([whole], SALT) == hash_tree(pieces, SALT)


@pytest.mark.parametrize("index", [0, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES - 1])
def test_a_changed_tree_is_refused_even_in_its_padding(index: int) -> None:
    tree = hash_tree([data(FANOUT + 1)], SALT)
    changed = bytearray(tree.blocks)
    changed[index] ^= 1

    with pytest.raises(BlockMismatchError, match="block of the hash tree"):
        walked(bytes(changed), FANOUT + 1, tree.root_hash)


def test_a_short_tree_is_refused() -> None:
    tree = hash_tree([data(FANOUT + 1)], SALT)

    with pytest.raises(BlockMismatchError):
        walked(tree.blocks[:-1], FANOUT + 1, tree.root_hash)


def test_a_changed_block_is_named() -> None:
    good = data(4)
    digests = b"".join(hashlib.sha256(SALT + block(n)).digest() for n in range(4))
    demand_blocks(good, digests, SALT, what="block", first=100)

    with pytest.raises(BlockMismatchError, match="block 102 is"):
        demand_blocks(good[: 2 * BLOCK_BYTES] + bytes(2 * BLOCK_BYTES), digests, SALT,
                      what="block", first=100)  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES, 5 * BLOCK_BYTES])
def test_another_number_of_blocks_is_refused(length: int) -> None:
    digests = b"".join(hashlib.sha256(SALT + block(n)).digest() for n in range(4))

    with pytest.raises(BlockMismatchError):
        demand_blocks(data(5)[:length], digests, SALT, what="block", first=0)
