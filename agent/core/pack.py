"""A bundle in one file: what stands at its head, before anything of it is believed, and after.

A pack is a header, an image with the bundle's content, and the hash tree over the image
(`verity`). The header holds the bundle's metadata, exactly as ``tuf/`` of a directory has
it, and a *seal*: a document that names the image's root hash, signed by the same keys as
``bundle-targets.json``. What the image holds is believed as far as the seal reaches, which
`verify.verify_bundle` judges together with the rest; no byte of the image goes to a
kernel's file-system driver before that.

Every byte of the header counts: it is canonical JSON, the gap behind it is zero, and the
file ends where the tree does.

Source: docs/bundle-format.md, "Packs".
"""

import re
import struct
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from agent.core.bundle import Inventory, RawSeal, SealedImage
from agent.core.canonical import NotCanonicalJsonError, canonical_bytes, parse_strict
from agent.core.errors import PackInvalidError
from agent.core.verity import BLOCK_BYTES, DIGEST_BYTES, SALT_LIMIT_BYTES, tree_size

SUFFIX = ".usbu"
MAGIC = b"USBUPACK"
FORMAT = 1
FILE_SYSTEM = "squashfs"
SEAL = "seal of the pack"
SEAL_TYPE = "Pack"
HEADER_LIMIT_BYTES = 16 * 1024 * 1024  # twice the largest targets.json
IMAGE_LIMIT_BYTES = 2**40  # more than any stick holds
CONTENT_LIMIT = 20_000  # commits and App URIs that a seal names, each

PREAMBLE = struct.Struct("<8sII")  # magic, format, length of the header in bytes
_TABLE = "x-usb-update-pack"
_MEMBERS = frozenset(
    {"app_uris", "block_size", "commits", "file_system", "format", "hash", "image_size"}
    | {"root_hash", "salt", "tree_size"}
)
_HASH = "sha256"
_ROOT_HASH = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}", re.ASCII)
_SALT = re.compile(rf"(?:[0-9a-f]{{2}}){{0,{SALT_LIMIT_BYTES}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """What a pack says at its head. Not believed.

    Attributes:
        documents: the bundle's metadata by file name, as in ``tuf/``.
        seal: the seal as it is signed, and where the image begins.
        facts: what the seal says.
    """

    documents: Mapping[str, bytes]
    seal: RawSeal
    facts: "SealFacts"

    @property
    def file_size(self) -> int:
        """How long the file has to be."""
        return self.seal.offset + self.facts.size + tree_size(self.facts.size)


@dataclass(frozen=True, slots=True)
class SealFacts:
    """What a seal says. Worth as much as its signatures.

    Attributes:
        size: of the image, in bytes; whole blocks.
        root_hash: of the tree over it, 32 bytes.
        salt: of every digest.
        content: which commits and App URIs the image carries.
    """

    size: int
    root_hash: bytes
    salt: bytes
    content: Inventory

    def image(self, offset: int) -> SealedImage:
        """Return the image, as it lies in a file from ``offset`` on."""
        return SealedImage(FILE_SYSTEM, offset, self.size, self.root_hash, self.salt)


def header_length(preamble: bytes) -> int:
    """Read how long a pack's header is.

    Args:
        preamble: the first `PREAMBLE.size` bytes of the file.

    Raises:
        PackInvalidError: this is no pack, or one of another format.
    """
    if len(preamble) < PREAMBLE.size or not preamble.startswith(MAGIC):
        raise PackInvalidError(
            "the file does not begin as a pack does",
            hint="make it with 'usb-update bundle pack', and copy it to the stick again",
        )
    _, version, length = PREAMBLE.unpack(preamble[: PREAMBLE.size])
    if version != FORMAT:
        raise PackInvalidError(f"the pack is of format {version}, expected {FORMAT}")
    if length > HEADER_LIMIT_BYTES:
        raise PackInvalidError(f"the header has {length} bytes, more than {HEADER_LIMIT_BYTES}")
    return int(length)


def image_offset(length: int) -> int:
    """Return where the image begins behind a header of ``length`` bytes: at a whole block."""
    return -(-(PREAMBLE.size + length) // BLOCK_BYTES) * BLOCK_BYTES


def read_header(data: bytes, length: int) -> Header:
    """Read a pack's header strictly.

    Args:
        data: the file from behind the preamble up to the image.
        length: how much of it is header; the rest is zero.

    Raises:
        PackInvalidError: it is malformed, or spelt otherwise than it is signed.
    """
    if len(data) != image_offset(length) - PREAMBLE.size or any(data[length:]):
        raise PackInvalidError("the pack ends within its header, or the gap behind it is not zero")
    table = _members(_canonical(data[:length]), {"documents", "seal"}, "the header")
    seal = _object(table["seal"], SEAL)
    document = canonical_bytes(seal)
    return Header(
        documents=_documents(table["documents"]),
        seal=RawSeal(document, image_offset(length)),
        facts=read_seal(_object(seal.get("signed"), f"'signed' of {SEAL}")),
    )


def read_seal(signed: Mapping[str, Any]) -> SealFacts:
    """Read what a seal says, strictly. Who signed it is for the caller to ask.

    Raises:
        PackInvalidError: it is malformed, or asks for what this agent does not speak.
    """
    if signed.get("_type") != SEAL_TYPE:
        raise PackInvalidError(f"'_type' of {SEAL} is not {SEAL_TYPE!r}")
    table = _members(signed.get(_TABLE), _MEMBERS, f"'{_TABLE}' of {SEAL}")
    for member, expected in (
        ("format", FORMAT),
        ("file_system", FILE_SYSTEM),
        ("hash", _HASH),
        ("block_size", BLOCK_BYTES),
    ):
        if table[member] != expected or isinstance(table[member], bool):
            raise PackInvalidError(f"'{member}' of {SEAL} is not {expected!r}")
    size = _size(table)
    return SealFacts(
        size,
        bytes.fromhex(_text(table, "root_hash", _ROOT_HASH)),
        bytes.fromhex(_text(table, "salt", _SALT)),
        Inventory(_names(table, "commits"), _names(table, "app_uris")),
    )


def issue_seal(facts: SealFacts, *, version: int, expires: str) -> dict[str, Any]:
    """Return what is signed of a seal.

    Args:
        facts: what it says.
        version: of the bundle, for people.
        expires: of the bundle, as its own metadata spells it.
    """
    return {
        "_type": SEAL_TYPE,
        "expires": expires,
        "version": version,
        _TABLE: {
            "app_uris": sorted(facts.content.app_uris),
            "block_size": BLOCK_BYTES,
            "commits": sorted(facts.content.commits),
            "file_system": FILE_SYSTEM,
            "format": FORMAT,
            "hash": _HASH,
            "image_size": facts.size,
            "root_hash": facts.root_hash.hex(),
            "salt": facts.salt.hex(),
            "tree_size": tree_size(facts.size),
        },
    }


def write_header(documents: Mapping[str, bytes], seal: bytes) -> bytes:
    """Spell everything that stands before the image.

    Args:
        documents: the bundle's metadata, ASCII.
        seal: signed.
    """
    texts = {name: data.decode("ascii") for name, data in documents.items()}
    header = canonical_bytes({"documents": texts, "seal": parse_strict(seal)})
    whole = PREAMBLE.pack(MAGIC, FORMAT, len(header)) + header
    return whole.ljust(image_offset(len(header)), b"\0")


def _canonical(data: bytes) -> object:
    try:
        value = parse_strict(data)
        spelt = canonical_bytes(value)
    except NotCanonicalJsonError as e:
        raise PackInvalidError(f"the pack's header cannot be read: {e}") from e
    if spelt != data:
        raise PackInvalidError("the pack's header is not spelt canonically")
    return value


def _documents(value: object) -> dict[str, bytes]:
    table = _object(value, "'documents' of the header")
    if not all(isinstance(text, str) and text.isascii() for text in table.values()):
        raise PackInvalidError("a document in the pack's header is not ASCII text")
    return {name: text.encode("ascii") for name, text in table.items()}


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PackInvalidError(f"{what} is missing or not a JSON object")
    return value


def _members(value: object, expected: AbstractSet[str], what: str) -> Mapping[str, Any]:
    table = _object(value, what)
    if table.keys() != expected:
        raise PackInvalidError(f"{what} has other members than {', '.join(sorted(expected))}")
    return table


def _size(table: Mapping[str, Any]) -> int:
    size, tree = table["image_size"], table["tree_size"]
    if type(size) is not int or type(tree) is not int:
        raise PackInvalidError(f"a size in {SEAL} is not an integer")
    if not BLOCK_BYTES <= size <= IMAGE_LIMIT_BYTES or size % BLOCK_BYTES:
        raise PackInvalidError(f"'image_size' of {SEAL} is {size}, not whole blocks")
    if tree != tree_size(size):
        raise PackInvalidError(f"'tree_size' of {SEAL} is {tree}, expected {tree_size(size)}")
    return size


def _text(table: Mapping[str, Any], member: str, form: re.Pattern[str]) -> str:
    text = table[member]
    if not isinstance(text, str) or not form.fullmatch(text):
        raise PackInvalidError(f"'{member}' of {SEAL} is not of the form {form.pattern}")
    return text


def _names(table: Mapping[str, Any], member: str) -> frozenset[str]:
    names = table[member]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PackInvalidError(f"'{member}' of {SEAL} is not a list of names")
    if len(names) > CONTENT_LIMIT:
        raise PackInvalidError(f"'{member}' of {SEAL} has more than {CONTENT_LIMIT} names")
    return frozenset(names)
