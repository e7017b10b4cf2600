"""The bytes that are signed."""

import json
import time

import pytest

from agent.core.canonical import (
    DEPTH_LIMIT,
    INTEGER_LIMIT,
    VALUES_LIMIT,
    NotCanonicalJsonError,
    canonical_bytes,
    olpc_bytes,
    parse_strict,
)

REFUSED = {
    "nothing": b"",
    "blank": b"  \n",
    "byte-order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "raw UTF-8": '{"a":"é"}'.encode(),
    "broken UTF-8": b'{"a":"\xff"}',
    "DEL": b'{"a":"\x7f"}',
    "NUL outside of a string": b'{"a":1\x00}',
    "trailing data": b"{} x",
    "two documents": b"{}{}",
    "comment": b"{} // done",
    "inner comment": b'{/* a */"a":1}',
    "trailing comma in object": b'{"a":1,}',
    "trailing comma in list": b"[1,]",
    "single quotes": b"{'a':1}",
    "member twice": b'{"a":1,"a":1}',
    "member twice, once escaped": b'{"version":1,"v\\u0065rsion":2}',
    "member twice, deep inside": b'{"x":[{"a":1,"a":2}]}',
    "NaN": b"[NaN]",
    "Infinity": b"[Infinity]",
    "-Infinity": b"[-Infinity]",
    "real beyond all bounds": b"[1e400]",
    "2^53": b"[9007199254740992]",
    "-2^53": b"[-9007199254740992]",
    "2^63": b"[9223372036854775808]",
    "10^4000": b"[1" + b"0" * 4000 + b"]",
    "10^100000": b"[1" + b"0" * 100_000 + b"]",
    "leading zero": b"[01]",
    "plus sign": b"[+1]",
    "hex": b"[0x10]",
    "first half of a surrogate pair": rb'["\ud800"]',
    "second half of a surrogate pair": rb'["\udc00"]',
    "half a pair as member": rb'{"\uD83D":1}',
    "bad escape": rb'["\x41"]',
    "string without end": b'["abc',
    "brackets crossed": b"[{]}",
    "33 levels": b"[" * 33 + b"]" * 33,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_readers_could_disagree_about_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonicalJsonError):
        parse_strict(data)


ACCEPTED = {
    "object": (b'{"a": [1, true, null, "x"]}', {"a": [1, True, None, "x"]}),
    "newline at the end": (b"{}\n", {}),
    "largest integer": (b"[9007199254740991]", [INTEGER_LIMIT]),
    "smallest integer": (b"[-9007199254740991]", [-INTEGER_LIMIT]),
    "raw control characters": (b'["a\nb\x01\x00"]', ["a\nb\x01\x00"]),
    "escaped text beyond ASCII": (rb'["\u00e9\ud83d\ude00"]', ["é😀"]),
    "reals": (b"[1.5, 2e3]", [1.5, 2000.0]),
    "brackets in strings": (b'["[[[[", "}"]', ["[[[[", "}"]),
    "quotes and backslashes": (rb'["\"[", "\\", "\\\"{"]', ['"[', "\\", '\\"{']),
    "32 levels": (b"[" * 32 + b"]" * 32, json.loads("[" * 32 + "]" * 32)),
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_all_readers_agree_about_is_read(data: bytes, value: object) -> None:
    assert value == parse_strict(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'[{"a":' * 200_000,
        b'["' + b"[" * 200_000 + b'",' + b"[" * 200_000,
    ],
)
def test_deep_nesting_is_refused_at_once(data: bytes) -> None:
    before = time.process_time()
    with pytest.raises(NotCanonicalJsonError, match=f"{DEPTH_LIMIT} levels"):
        parse_strict(data)

    assert time.process_time() - before < 1.0


@pytest.mark.parametrize("value", [b"0", b"{}", b'{"a":0}', b'""'])
def test_more_values_than_a_small_device_can_hold_are_refused(value: bytes) -> None:
    most = b"[" + b",".join([value] * (VALUES_LIMIT + 1)) + b"]"

    assert len(parse_strict(most)) == VALUES_LIMIT + 1  # type: ignore[arg-type]
    with pytest.raises(NotCanonicalJsonError, match="more than 400000 values"):
        parse_strict(most[:-1] + b"," + value + b"]")


def test_more_quotes_than_values_could_have_are_refused_unread() -> None:
    with pytest.raises(NotCanonicalJsonError, match="more than 400000 values"):
        parse_strict(b'"' * (4 * VALUES_LIMIT + 1))


def test_the_message_says_where_a_byte_is_not_ascii() -> None:
    with pytest.raises(NotCanonicalJsonError, match="byte 0xc3 at offset 6"):
        parse_strict('{"a":"é"}'.encode())


SPELT: dict[str, tuple[object, bytes]] = {
    "order": ({"b": 1, "a": 2, "B": 3}, b'{"B":3,"a":2,"b":1}'),
    "escapes": ('"\\/\b\f\n\r\t\x01\x1f', rb'"\"\\/\b\f\n\r\t\u0001\u001f"'),
    "beyond ASCII": ("é\u2028😀", rb'"\u00e9\u2028\ud83d\ude00"'),
    "constants": ([True, False, None], b"[true,false,null]"),
    "integers": ([0, -1, INTEGER_LIMIT], b"[0,-1,9007199254740991]"),
    "whole real": ([1.0], b"[1.0]"),
    "real": ([0.1], b"[0.10000000000000001]"),
    "large real": ([1e16], b"[10000000000000000.0]"),
    "larger real": ([1e17], b"[1e+17]"),
    "small real": ([1e-7], b"[9.9999999999999995e-08]"),
    "text like a real": (["1.5", "2e3"], b'["1.5","2e3"]'),
    "real beside escapes": ({'"\n': [1.5, 'a"']}, rb'{"\"\n":[1.5,"a\""]}'),
    "nothing in it": ([{}, []], b"[{},[]]"),
}


@pytest.mark.parametrize(("value", "expected"), SPELT.values(), ids=SPELT.keys())
def test_canonical_spelling(value: object, expected: bytes) -> None:
    assert expected == canonical_bytes(value)


def test_what_cannot_be_spelt_is_not_spelt() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes([float("nan")])


def test_olpc_escapes_only_quotes_and_backslashes() -> None:
    value: dict[str, object] = {"b": 'line\n"\\é', "a": [1, True, None, {}]}

    assert '{"a":[1,true,null,{}],"b":"line\n\\"\\\\é"}'.encode() == olpc_bytes(value)


def test_olpc_has_no_reals() -> None:
    with pytest.raises(NotCanonicalJsonError, match="real number"):
        olpc_bytes({"a": [1.5]})
