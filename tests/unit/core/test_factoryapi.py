"""How a factory's server is asked, and what its answers may be."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import factoryapi
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.factoryapi import Branch
from agent.core.target import Target, target_from_custom

COMMIT = "a" * 64
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def target(name: str = "rpi-lmp-42", **custom: object) -> Target:
    facts = {"version": "42", "hardwareIds": ["rpi"], "tags": ["main"], **custom}
    return target_from_custom(name, COMMIT, facts)


@pytest.mark.parametrize(
    ("branch", "path", "kind"),
    [
        (Branch("main"), "/ota/repo/f/api/v1/user_repo/targets.json?tag=main", BundleType.CI),
        (Branch("a&b", prod=True), "/ota/factories/f/prod-targets/?tag=a%26b", BundleType.PROD),
        (Branch(wave="w 1"), "/ota/factories/f/wave-targets/?name=w%201", BundleType.PROD),
    ],
)
def test_where_a_list_is(branch: Branch, path: str, kind: BundleType) -> None:
    assert factoryapi.list_path("f", branch) == path
    assert branch.bundle_type is kind


@pytest.mark.parametrize(
    ("branch", "query"),
    [
        (Branch("main"), "tag=main"),
        (Branch("main", prod=True), "tag=main&production=1"),
        (Branch(wave="w"), "tag=&production=1"),
    ],
)
def test_where_a_root_is(branch: Branch, query: str) -> None:
    path = factoryapi.root_path("f", 3, branch)

    assert path == f"/ota/repo/f/api/v1/user_repo/3.root.json?{query}"


@pytest.mark.parametrize(
    ("custom", "build"),
    [({}, "42"), ({"origUri": "https://x/builds/40"}, "40"), ({"origUri": ""}, "42")],
)
def test_which_build_a_rootfs_is_of(custom: dict[str, object], build: str) -> None:
    path = factoryapi.rootfs_path("f", target(**custom))

    assert path == f"/projects/f/lmp/builds/{build}/runs/rpi/other/rpi-ostree_repo.tar.bz2"


@pytest.mark.parametrize(
    "custom", [{"version": "../1"}, {"origUri": "https://x/builds/"}, {"hardwareIds": []}]
)
def test_a_target_that_does_not_say(custom: dict[str, object]) -> None:
    if custom == {"origUri": "https://x/builds/"}:
        assert factoryapi.rootfs_build(target(**custom)) == "42"
    else:
        with pytest.raises(AuthoringError, match="Target 'rpi-lmp-42'"):
            factoryapi.rootfs_path("f", target(**custom))


def test_where_apps_are() -> None:
    named = target(**{"fetched-apps": {"uri": "https://x/a.tar"}})
    built = target(tags=["feature/x"])

    assert factoryapi.apps_address("f", named, named) == "https://x/a.tar"
    assert factoryapi.apps_address("f", target(tags=["prod"]), built) == (
        "/projects/f/lmp/builds/42/runs/assemble-system-image/feature%2Fx/rpi-lmp-42-apps.tar"
    )


def test_names_never_leave_their_place_in_a_path() -> None:
    assert "/../" not in factoryapi.metadata_path("f", "../../x")
    assert factoryapi.metadata_path("f", "a/b") == "/ota/factories/f/targets/a%2Fb/meta/"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"message": "no"}', "no"),
        (b'{"msg": "no", "errors": ["a"]}', 'no; ["a"]'),
        (b'{"message": "two\\nlines\\u001b[31m"}', "twolines[31m"),
        (b"<html>", ""),
        (b"[]", ""),
        (b"", ""),
    ],
)
def test_a_refusals_sentence(answer: bytes, said: str) -> None:
    assert factoryapi.complaint(answer) == said


def test_a_long_refusal_is_cut() -> None:
    answer = json.dumps({"message": "x" * 10_000}).encode()

    assert len(factoryapi.complaint(answer)) == factoryapi.QUOTE_LIMIT


@pytest.mark.parametrize(
    ("sentence", "hint"),
    [
        ("Root metadata expire (2026-02-01T00:00:00Z) before the specified", "at most 30 days"),
        ("Targets metadata expire (2025-01-01T00:00:00Z) before", "at most 0 days"),
        ("something else", "fewer days"),
        ("expire (2026-99-01T00:00:00Z)", "fewer days"),
    ],
)
def test_what_to_do_about_a_date(sentence: str, hint: str) -> None:
    assert hint in factoryapi.expiry_hint(sentence, NOW)


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["signed", "targets", "timestamp", "message", "custom", "main"]),
        inner,
        max_size=3,
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    """Whatever a server says: a value, or a sentence; never a traceback."""
    for read in (
        lambda: factoryapi.read_list(answer, Branch("main")),
        lambda: factoryapi.read_list(answer, Branch("main", prod=True)),
        lambda: factoryapi.read_metadata(answer),
        lambda: factoryapi.read_built(answer, target()),
        lambda: factoryapi.complaint(answer),
    ):
        with suppress(AuthoringError):
            read()
