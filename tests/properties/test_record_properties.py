"""The record, for all inputs."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.outcome import InstallExit
from agent.core.record import (
    RECORD_LIMIT_BYTES,
    RecordError,
    flat_event,
    from_json,
    to_json,
    to_text,
)
from tests.factory.records import circumstances, record

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
events = st.lists(st.dictionaries(st.text(), values, max_size=30), max_size=20)


@given(st.text(), st.text(), st.text(), events)
def test_whatever_went_in_reads_back_the_same(device, label, message, happened):
    about = circumstances(device=device, label=label)
    made = record(InstallExit.PULL_FAILED, around=about, message=message, events=happened)
    data = to_json(made)

    assert made == from_json(data)
    assert len(data) <= RECORD_LIMIT_BYTES


@given(st.text(), st.text(), events)
def test_whatever_went_in_the_text_is_plain(device, message, happened):
    about = circumstances(device=device)
    text = to_text(record(around=about, message=message, events=happened))

    assert all(0x20 <= byte < 0x7F or byte in b"\r\n" for byte in text)
    assert max(map(len, text.split(b"\r\n"))) <= 80


@given(st.dictionaries(st.text(), values))
def test_an_event_is_flat_after_once(event):
    flat = flat_event(event)

    assert flat == flat_event(flat)


@given(st.binary())
def test_any_bytes_are_a_record_or_refused(data):
    try:
        made = from_json(data)
    except RecordError:
        return
    assert to_json(made)


@given(st.data())
def test_any_changed_value_is_refused(data):
    """A flipped character is either no JSON, no record, or does not match the id."""
    original = to_json(record())
    index = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[index] = data.draw(st.integers(0, 255))
    try:
        made = from_json(bytes(changed))
    except RecordError:
        return
    assert made == record()
