"""The hash tree of dm-verity: what lets a file be believed block by block.

In: blocks, a salt, a root hash. Out: the tree over blocks, or the digests that a tree and
its root hash vouch for. Nothing here reads a file: who has one hands in what was read, and
each block of the tree is asked for once, is checked against the digest above it, and only
then believed.

One shape of dm-verity alone is spoken: hash format 1 (the salt goes before the block),
SHA-256, blocks of 4096 bytes for data and hashes, no superblock (what it would say is in
the signed header).

Source: the kernel's admin-guide/device-mapper/verity; `veritysetup` judges it in the tests.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

BLOCK_BYTES = 4096
DIGEST_BYTES = 32
FANOUT = BLOCK_BYTES // DIGEST_BYTES  # digests in one block of the tree
GROUP_BYTES = FANOUT * BLOCK_BYTES  # data that one lowest block of the tree vouches for
SALT_LIMIT_BYTES = 256  # the kernel's


class BlockMismatchError(ValueError):
    """A block is not the one whose digest was signed."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A hash tree.

    Attributes:
        root_hash: 32 bytes; vouches for everything below.
        blocks: the tree as it lies behind the data, highest level first.
    """

    root_hash: bytes
    blocks: bytes


def levels(data_blocks: int) -> tuple[int, ...]:
    """Return how many blocks each level of the tree has, highest first.

    A single block of data needs no tree: its digest is the root hash.
    """
    found: list[int] = []
    count = data_blocks
    while count > 1:
        count = -(-count // FANOUT)
        found.append(count)
    return tuple(reversed(found))


def tree_size(size: int) -> int:
    """Return how many bytes the tree over ``size`` bytes has; whole blocks both."""
    return sum(levels(size // BLOCK_BYTES)) * BLOCK_BYTES


def hash_tree(blocks: Iterable[bytes], salt: bytes) -> Tree:
    """Make the tree over data.

    Args:
        blocks: the data in pieces of whole blocks; at least one.
        salt: of every digest.
    """
    digests = b"".join(_digests(blocks, salt))
    stack: list[bytes] = []
    while len(digests) > DIGEST_BYTES:
        level = digests + bytes(-len(digests) % BLOCK_BYTES)
        stack.append(level)
        digests = b"".join(_digests((level,), salt))
    return Tree(digests, b"".join(reversed(stack)))


def vouched(
    read_block: Callable[[int], bytes], data_blocks: int, *, root_hash: bytes, salt: bytes
) -> Iterator[bytes]:
    """Walk down a tree and yield the digests of the data, in order.

    Args:
        read_block: returns one block of the tree, numbered from 0 as they lie.
        data_blocks: how many there are.
        root_hash: believed.
        salt: believed.

    Yields:
        The digests of one group of `FANOUT` blocks, one after the other; fewer at the end.

    Raises:
        BlockMismatchError: a block of the tree is not the one that was signed.
    """
    if data_blocks == 1:
        yield root_hash
        return
    counts = levels(data_blocks)
    starts = tuple(sum(counts[:depth]) for depth in range(len(counts)))
    below = (*counts[1:], data_blocks)

    def walk(depth: int, number: int, digest: bytes) -> Iterator[bytes]:
        index = starts[depth] + number
        block = read_block(index)
        demand_blocks(block, digest, salt, what="block of the hash tree", first=index)
        first = number * FANOUT
        held = block[: min(FANOUT, below[depth] - first) * DIGEST_BYTES]
        if depth == len(counts) - 1:
            yield held
            return
        for offset in range(0, len(held), DIGEST_BYTES):
            child = first + offset // DIGEST_BYTES
            yield from walk(depth + 1, child, held[offset : offset + DIGEST_BYTES])

    yield from walk(0, 0, root_hash)


def demand_blocks(data: bytes, digests: bytes, salt: bytes, *, what: str, first: int) -> None:
    """Compare blocks with their digests.

    Args:
        data: as many whole blocks as there are digests.
        digests: believed.
        salt: of every digest.
        what: what a block is called, for the message.
        first: number of the first one, for the message.

    Raises:
        BlockMismatchError: there are fewer or more, or one differs.
    """
    found = b"".join(_digests((data,), salt)) if len(data) % BLOCK_BYTES == 0 else b""
    if found == digests:
        return
    pairs = zip(_pieces(found), _pieces(digests), strict=False)
    wrong = next((n for n, (one, other) in enumerate(pairs) if one != other), 0)
    raise BlockMismatchError(f"{what} {first + wrong} is not the one that was signed")


def _digests(pieces: Iterable[bytes], salt: bytes) -> Iterator[bytes]:
    salted = hashlib.sha256(salt)
    for piece in pieces:
        view = memoryview(piece)
        for offset in range(0, len(piece), BLOCK_BYTES):
            state = salted.copy()
            state.update(view[offset : offset + BLOCK_BYTES])
            yield state.digest()


def _pieces(digests: bytes) -> Iterator[bytes]:
    for offset in range(0, len(digests), DIGEST_BYTES):
        yield digests[offset : offset + DIGEST_BYTES]
