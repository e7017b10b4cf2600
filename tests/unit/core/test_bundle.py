"""Values that carry a bundle from claim to belief."""

import ast
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from agent.core.bundle import Inventory, RawBundle, TrustedDocuments
from agent.core.bundletype import BundleType
from tests.factory import bundle, verified

AGENT = Path(__file__).parents[3] / "agent"


def makers(name: str) -> set[str]:
    """Return the modules that call ``name``."""
    return {
        path.relative_to(AGENT).as_posix()
        for path in AGENT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and name in (ast.unparse(node.func).split("."))
    }


def test_only_the_verifier_makes_a_verified_bundle() -> None:
    """Holding one is the check."""
    assert makers("VerifiedBundle") == {"core/verify.py"}


def test_a_verified_bundle_does_not_change() -> None:
    result = verified(bundle())
    with pytest.raises(FrozenInstanceError):
        result.tag = "devel"  # type: ignore[misc]


def test_types_are_spelt_as_in_the_file() -> None:
    assert [kind.value for kind in BundleType] == ["ci", "prod"]


def test_nothing_is_trusted_or_claimed_to_begin_with() -> None:
    assert TrustedDocuments() == TrustedDocuments((), None, None, None)
    assert Inventory() == Inventory(frozenset(), frozenset())
    assert RawBundle({}, "here").metadata == {}
