"""A pack in memory: a sealed image and its header, with any one thing made wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from agent.core import pack
from agent.core.bundle import Inventory, RawBundle
from agent.core.pack import PREAMBLE, Header, SealFacts
from agent.core.verity import BLOCK_BYTES, hash_tree
from tests.factory.keys import KeyFactory
from tests.factory.metadata import FUTURE, SignedBundle, bundle, dump, sign

SALT = bytes(range(32))
IMAGE = b"".join(bytes([n]) * BLOCK_BYTES for n in range(5))


@dataclass(frozen=True)
class Packed:
    """A pack and what is in it.

    Attributes:
        bundle: its metadata.
        facts: what its seal says.
        file: the whole file.
    """

    bundle: SignedBundle
    facts: SealFacts
    file: bytes

    @property
    def header(self) -> Header:
        return parsed(self.file)

    @property
    def raw(self) -> RawBundle:
        return RawBundle(self.header.documents, "memory", self.header.seal)


def packed(
    *,
    image: bytes = IMAGE,
    signers: Iterable[str] = ("targets",),
    sealed_until: str = FUTURE,
    edit: Callable[[dict[str, Any]], object] = bool,
    keys: KeyFactory | None = None,
    content: Inventory | None = None,
    **changes: Any,
) -> Packed:
    """Pack a good bundle, but for what is said otherwise; ``changes`` are `bundle`'s."""
    tree = hash_tree([image], SALT)
    facts = SealFacts(len(image), tree.root_hash, SALT, content or Inventory())
    signed = pack.issue_seal(facts, version=42, expires=sealed_until)
    edit(signed)
    seal = sign(signed, [(keys or KeyFactory())[name] for name in signers])
    inner = bundle(**changes)
    return Packed(inner, facts, pack.write_header(inner.metadata, dump(seal)) + image + tree.blocks)


def parsed(file: bytes) -> Header:
    """Read the header of a whole file."""
    length = pack.header_length(file[: PREAMBLE.size])
    return pack.read_header(file[PREAMBLE.size : pack.image_offset(length)], length)
