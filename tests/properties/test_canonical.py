"""Canonical JSON, for all values and for all bytes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.canonical import (
    INTEGER_LIMIT,
    NotCanonicalJsonError,
    canonical_bytes,
    olpc_bytes,
    parse_strict,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_LIMIT, INTEGER_LIMIT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4)
)
without_reals = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_LIMIT, INTEGER_LIMIT) | texts,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(texts, v, max_size=4),
)


def shuffled(value: Any) -> Any:
    """Return an equal value with members in reverse order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_what_is_spelt_reads_back_the_same(value: object) -> None:
    assert value == parse_strict(canonical_bytes(value))


@given(values)
def test_the_order_of_members_never_shows(value: object) -> None:
    assert canonical_bytes(value) == canonical_bytes(shuffled(value))
    assert canonical_bytes(value) == canonical_bytes(parse_strict(canonical_bytes(value)))


@given(values, values)
def test_equal_bytes_are_equal_values(one: object, other: object) -> None:
    if canonical_bytes(one) == canonical_bytes(other):
        assert one == other


@given(without_reals)
def test_without_reals_it_is_the_plain_compact_sorted_spelling(value: object) -> None:
    assert canonical_bytes(value) == json.dumps(
        value, sort_keys=True, separators=(",", ":")
    ).encode("ascii")


@given(without_reals)
def test_the_two_flavours_differ_in_escapes_alone(value: object) -> None:
    plain = json.loads(json.dumps(value))
    # As text: given bytes, the reader would guess at UTF-16 when a NUL is among them.
    assert json.loads(olpc_bytes(plain).decode(), strict=False) == plain


@given(values, st.sampled_from([None, 2]))
def test_white_space_is_not_content(value: object, indent: int | None) -> None:
    assert value == parse_strict(json.dumps(value, indent=indent).encode() + b"\n")


def parsed(data: bytes) -> object:
    try:
        return parse_strict(data)
    except NotCanonicalJsonError:
        return NotCanonicalJsonError


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    if parsed(data) is not NotCanonicalJsonError:
        assert parsed(data) == json.loads(data, strict=False)


@given(st.text('[]{}":,\\ 1e.-nutrfalsNIy\n', max_size=40))
def test_text_that_is_almost_json_is_json_or_refused(text: str) -> None:
    if parsed(text.encode()) is not NotCanonicalJsonError:
        assert parsed(text.encode()) == json.loads(text, strict=False)


@given(values, st.data())
def test_no_prefix_of_an_object_is_a_document(value: object, data: st.DataObject) -> None:
    whole = canonical_bytes({"a": value})
    cut = data.draw(st.integers(0, len(whole) - 1))

    assert parsed(whole[:cut]) is NotCanonicalJsonError
