"""Who signed: for any signatures, in any order, however often."""

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, BundleError
from agent.core.keys import key_from_json, signature_from_base64
from tests.factory import bundle, verified

NAMES = ("a", "b", "c", "stranger")
ROLE_KEYS = {"timestamp": ("a", "b", "c"), "targets": ("a", "b", "c")}
signers = st.lists(st.sampled_from(NAMES), max_size=6)
thresholds = st.integers(1, 4)


def verdict(**changes: Any) -> type[AgentError] | None:
    try:
        verified(bundle(role_keys=ROLE_KEYS, **changes))
    except AgentError as e:
        return type(e)
    return None


@given(signers, thresholds)
def test_a_role_needs_that_many_different_keys(names: list[str], threshold: int) -> None:
    good = set(names) - {"stranger"}
    accepted = len(good) >= threshold and len(set(names)) == len(names)
    found = verdict(signers={"timestamp": names}, thresholds={"timestamp": threshold})

    assert accepted == (found is None)


@given(signers, thresholds)
def test_a_bundle_needs_that_many_different_keys_and_no_other(
    names: list[str], threshold: int
) -> None:
    accepted = len(set(names)) >= threshold and "stranger" not in names
    everybody = {"signers": {"bundle": names, "targets": NAMES[:3]}}

    assert accepted == (verdict(**everybody, thresholds={"targets": threshold}) is None)


@given(signers, thresholds, st.randoms(use_true_random=False))
def test_the_order_of_signatures_never_matters(
    names: list[str], threshold: int, random: Any
) -> None:
    other = list(names)
    random.shuffle(other)
    for document, role in (("timestamp", "timestamp"), ("bundle", "targets")):
        one, two = (
            verdict(signers={"targets": NAMES[:3], document: order}, thresholds={role: threshold})
            for order in (names, other)
        )
        assert one == two


@given(signers, thresholds)
def test_repeating_signatures_never_helps(names: list[str], threshold: int) -> None:
    def both(order: list[str], document: str, role: str) -> type[AgentError] | None:
        signed = {"targets": NAMES[:3], document: order}
        return verdict(signers=signed, thresholds={role: threshold})

    assert both(names, "bundle", "targets") == both(names * 2, "bundle", "targets")
    if names:
        assert both(names * 2, "timestamp", "timestamp") is not None


@given(st.text(max_size=100))
def test_any_text_is_a_signature_with_one_spelling_or_none(text: str) -> None:
    value = signature_from_base64(text)

    assert value == b"" or base64.b64encode(value).decode() == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=5), v, max_size=2),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "keytype": st.sampled_from(["ED25519", "RSA", "ed25519", "ECDSA"]) | json_values,
            "keyval": st.fixed_dictionaries({"public": json_values}) | json_values,
            "scheme": st.sampled_from(["ed25519", "rsassa-pss-sha256"]) | json_values,
        },
    )
)
def test_any_json_is_a_key_or_none(value: dict[str, Any]) -> None:
    key = key_from_json(value)

    assert key is None or key_from_json(key.to_json()) == key


@given(json_values, st.sampled_from(["1.root", "timestamp", "snapshot", "targets", "bundle"]))
def test_any_json_as_signatures_is_refused(value: object, name: str) -> None:
    forge = {name: lambda document: document.update(signatures=json.loads(json.dumps(value)))}
    error = verdict(forge=forge)

    assert error is not None
    assert issubclass(error, BundleError)
