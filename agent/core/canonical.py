"""The bytes that are signed: strict JSON in, canonical JSON out.

In: bytes of a file that nobody vouches for yet. Out: a JSON value that every other
reader of those bytes reads the same way, and the one spelling of it that is hashed and
signed. Whatever two readers could disagree about (duplicate members, huge numbers,
non-ASCII text, nesting without end) is refused here, before a signature is looked at.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

DEPTH_LIMIT = 32  # levels of nesting; real metadata has seven
VALUES_LIMIT = 400_000  # commas in one document; 10 000 Targets with two Apps each have 140 000
QUOTES_LIMIT = 4 * VALUES_LIMIT  # two for a name, two for a string
INTEGER_LIMIT = 2**53 - 1  # beyond it, readers that use doubles lose digits
INTEGER_CHARACTERS = 17  # of INTEGER_LIMIT with a minus sign; longer text need not be converted

_NOT_ASCII = re.compile(rb"[^\x00-\x7e]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_REAL = re.compile(rb"[0-9][.e]")


class NotCanonicalJsonError(ValueError):
    """The bytes are not JSON that all readers agree about."""


def parse_strict(data: bytes) -> object:
    """Read one JSON document, refusing whatever readers could disagree about.

    Raw control characters inside strings are let through, as the reference does;
    finite reals are, too. Takes time linear in the size of ``data``.

    Args:
        data: a whole file.

    Raises:
        NotCanonicalJsonError: not JSON; a byte-order mark, DEL or a byte beyond ASCII;
            data after the document; a member twice; NaN or an infinity; an integer
            beyond `INTEGER_LIMIT`; half a surrogate pair; nesting beyond `DEPTH_LIMIT`;
            values beyond `VALUES_LIMIT`.
    """
    _demand_ascii(data)
    _demand_few(data)
    _demand_shallow(data)
    try:
        value = _DECODER.decode(data.decode("ascii"))
    except json.JSONDecodeError as e:
        raise NotCanonicalJsonError(f"not JSON: {e}") from e
    _demand_whole_characters(data, value)
    return value


def canonical_bytes(value: object) -> bytes:
    r"""Spell a JSON value the one way that Foundries' tools sign and hash.

    Sorted members, no white space, ASCII; ``\n`` and its kin stay escaped, which is what
    sets this apart from OLPC's rules (`olpc_bytes`).

    Source: the reference's serializer; see docs/trust.md, "The bytes that are signed".
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    # The C encoder spells reals its own way. They are rare, so the slow way is, too.
    return _spell(value).encode() if _REAL.search(_outside_strings(text)) else text


def olpc_bytes(value: object) -> bytes:
    r"""Spell a JSON value by OLPC's rules, which standard TUF 1.0 signs.

    Only ``"`` and ``\`` are escaped; there are no reals.

    Raises:
        NotCanonicalJsonError: there is a real in ``value``.
    """
    return _spell_olpc(value).encode()


def _demand_ascii(data: bytes) -> None:
    # The writers in use spell non-ASCII text and DEL differently; no signature over them
    # holds everywhere.
    if found := _NOT_ASCII.search(data):
        byte, offset = found.group()[0], found.start()
        raise NotCanonicalJsonError(f"byte 0x{byte:02x} at offset {offset} is not printable ASCII")


def _demand_few(data: bytes) -> None:
    """Refuse what would fill a small device's memory: a value takes 30 times its text."""
    if data.count(b",") > VALUES_LIMIT or data.count(b'"') > QUOTES_LIMIT:
        raise NotCanonicalJsonError(f"there are more than {VALUES_LIMIT} values")


def _demand_shallow(data: bytes) -> None:
    """Refuse deep nesting before a recursive parser meets it.

    Each round removes the innermost level, so what is left after `DEPTH_LIMIT` rounds is
    too deep (or not balanced, hence not JSON).
    """
    rest = _outside_strings(data).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(DEPTH_LIMIT):
        rest = rest.replace(b"[]", b"")
    if rest:
        raise NotCanonicalJsonError(
            f"nested deeper than {DEPTH_LIMIT} levels, or brackets do not match"
        )


def _outside_strings(data: bytes) -> bytes:
    """Return what stands outside of string literals.

    Escaped backslashes go first, then escaped quotes; each quote that is left opens or
    closes a string.
    """
    return b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _demand_whole_characters(data: bytes, value: object) -> None:
    if not _SURROGATE.search(data):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as e:
        raise NotCanonicalJsonError("a string holds half a surrogate pair") from e


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise NotCanonicalJsonError("an object has the same member twice")
    return table


def _integer(text: str) -> int:
    if len(text) > INTEGER_CHARACTERS or abs(int(text)) > INTEGER_LIMIT:
        raise NotCanonicalJsonError(f"integer {text[:24]} is beyond ±{INTEGER_LIMIT}")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotCanonicalJsonError(f"number {text[:24]} is too large")
    return value


def _constant(text: str) -> object:
    raise NotCanonicalJsonError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_real,
    parse_constant=_constant,
    strict=False,
)


def _spell(value: object) -> str:
    match value:
        case Mapping():
            members = (f"{_spell(k)}:{_spell(value[k])}" for k in sorted(value))
            return "{" + ",".join(members) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_spell, value)) + "]"
        case float():
            return _spell_real(value)
    return json.dumps(value)


def _spell_real(value: float) -> str:
    text = f"{value:.17g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _spell_olpc(value: object) -> str:
    match value:
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Mapping():
            members = (f"{_spell_olpc(k)}:{_spell_olpc(value[k])}" for k in sorted(value))
            return "{" + ",".join(members) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_spell_olpc, value)) + "]"
        case float():
            raise NotCanonicalJsonError(f"real number {value} has no canonical spelling")
    return json.dumps(value)
