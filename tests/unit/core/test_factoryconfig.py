"""factory-config.yml: which of its values counts, for which branch."""

from typing import Any

import pytest

from agent.core.authoring import AuthoringError
from agent.core.factoryconfig import FetchApps, branch_tags, compose_files, fetch_apps

MAIN = "refs/heads/main"
APPS = ("db", "shop", "web")


def config(
    *,
    params: dict[str, Any] | None = None,
    offline: dict[str, Any] | None = None,
    preloaded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    containers: dict[str, Any] = {"platforms": ["amd64"]}
    if params is not None:
        containers["ref_options"] = {MAIN: {"params": params}}
    if offline is not None:
        containers["offline"] = offline
    if preloaded is not None:
        containers["preloaded_images"] = preloaded
    return {"lmp": {}, "containers": containers}


ON, OFF = {"enabled": True}, {"enabled": False}
NONE = FetchApps(enabled=False)


def some(*names: str) -> FetchApps:
    """These Apps; without names all, and said so."""
    return FetchApps(enabled=True, shortlist=names)


# What ref_options, offline and preloaded_images say, and what follows.
PRECEDENCE: list[tuple[dict[str, Any], FetchApps]] = [
    ({}, FetchApps()),
    ({"offline": ON}, some()),
    ({"offline": OFF}, NONE),
    ({"offline": {}}, FetchApps()),
    ({"offline": {**ON, "app_shortlist": "shop,db"}}, some("shop", "db")),
    ({"offline": {**ON, "app_shortlist": " shop, db "}}, some("shop", "db")),
    # absent: the shortlist of preloading; there and empty: all
    ({"offline": ON, "preloaded": {"shortlist": "web"}}, some("web")),
    ({"offline": {**ON, "app_shortlist": ""}, "preloaded": {"shortlist": "web"}}, some()),
    ({"offline": {**ON, "app_shortlist": None}, "preloaded": {"shortlist": "w"}}, some()),
    (
        {"offline": {**ON, "app_shortlist": "db"}, "preloaded": {"shortlist": "web"}},
        some("db"),
    ),
    ({"offline": ON, "preloaded": {"enabled": False, "shortlist": "web"}}, some("web")),
    ({"preloaded": {"enabled": True, "shortlist": "web"}}, FetchApps(None, ("web",))),
    # a branch's own parameters come first, each by itself
    ({"params": {"FETCH_APPS": "1"}}, some()),
    ({"params": {"FETCH_APPS": 1}}, some()),
    ({"params": {"FETCH_APPS": "0"}, "offline": ON}, NONE),
    ({"params": {"FETCH_APPS": "1"}, "offline": OFF}, some()),
    (
        {"params": {"FETCH_APPS": "1"}, "offline": {**OFF, "app_shortlist": "db"}},
        some("db"),
    ),
    ({"params": {"FETCH_APPS": "1"}, "preloaded": {"shortlist": "web"}}, some("web")),
    (
        {"params": {"FETCH_APPS_SHORTLIST": "shop"}, "offline": {**ON, "app_shortlist": "db"}},
        some("shop"),
    ),
    (
        {"params": {"FETCH_APPS_SHORTLIST": ""}, "offline": {**ON, "app_shortlist": "db"}},
        some(),
    ),
    ({"params": {"OTHER": "1"}, "offline": ON}, some()),
    ({"params": {"FETCH_APPS": None}, "offline": ON}, some()),
]


@pytest.mark.parametrize(("says", "expected"), PRECEDENCE)
def test_which_value_counts(says: dict[str, Any], expected: FetchApps) -> None:
    assert fetch_apps(config(**says), MAIN) == expected


def test_another_branchs_parameters_do_not_count() -> None:
    document = config(params={"FETCH_APPS": "0"}, offline=ON)

    assert fetch_apps(document, "refs/heads/devel") == FetchApps(enabled=True)


def test_a_branch_must_be_known_where_it_decides() -> None:
    with pytest.raises(AuthoringError, match="decides by branch") as caught:
        fetch_apps(config(params={"FETCH_APPS": "0"}, offline=ON), "")
    assert "--branch" in caught.value.hint


def test_a_branch_need_not_be_known_where_it_decides_nothing() -> None:
    document = config(params={"OTHER": "1"}, offline=ON)

    assert fetch_apps(document, "") == FetchApps(enabled=True)


@pytest.mark.parametrize("document", [{}, {"containers": None}, {"lmp": {}}])
def test_a_configuration_that_says_nothing(document: object) -> None:
    assert fetch_apps(document, MAIN) == FetchApps()


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "'containers'"),
        ("text", "'containers'"),
        ({"containers": []}, "'containers'"),
        (config(offline={"enabled": "yes"}), "offline.enabled"),
        (config(offline={"enabled": 1}), "offline.enabled"),
        ({"containers": {"offline": True}}, "'offline'"),
        (config(offline={**ON, "app_shortlist": ["a"]}), "app_shortlist"),
        (config(offline=ON, preloaded={"shortlist": 7}), "shortlist"),
        (config(params={"FETCH_APPS": True}), "FETCH_APPS"),
        (config(params={"FETCH_APPS": "yes"}), "FETCH_APPS"),
        (config(params={"FETCH_APPS": 2}), "FETCH_APPS"),
        ({"containers": {"ref_options": {MAIN: []}}}, MAIN),
        ({"containers": {"ref_options": {MAIN: {"params": "x"}}}}, "'params'"),
    ],
)
def test_a_value_of_another_kind(document: object, what: str) -> None:
    with pytest.raises(AuthoringError) as caught:
        fetch_apps(document, MAIN)
    assert what in caught.value.message
    assert "factory-config.yml" in caught.value.message


class TestCarried:
    def test_all_without_a_word(self) -> None:
        assert FetchApps().carried(APPS) == APPS
        assert FetchApps().to_json("rpi-lmp-42", APPS) is None

    def test_none(self) -> None:
        assert FetchApps(enabled=False).carried(APPS) == ()
        assert FetchApps(enabled=False).to_json("rpi-lmp-42", APPS) == {"uri": None}

    def test_all(self) -> None:
        assert FetchApps(enabled=True).carried(APPS) == APPS
        assert FetchApps(enabled=True).to_json("rpi-lmp-42", APPS) == {"uri": "rpi-lmp-42.apps.tar"}

    def test_some_in_a_fixed_order(self) -> None:
        fetch = FetchApps(enabled=True, shortlist=("web", "gone", "db"))

        assert fetch.carried(APPS) == ("db", "web")
        assert fetch.unknown(APPS) == ("gone",)
        assert fetch.to_json("rpi-lmp-42", APPS) == {
            "uri": "rpi-lmp-42.apps.tar",
            "shortlist": "db,web",
        }

    def test_none_of_them_is_a_mistake(self) -> None:
        with pytest.raises(AuthoringError, match="none of the Target's Apps db, shop, web"):
            FetchApps(enabled=True, shortlist=("gone",)).carried(APPS)

    def test_a_shortlist_without_fetching_is_not_asked(self) -> None:
        assert FetchApps(None, ("gone",)).carried(APPS) == APPS
        assert FetchApps(None, ("gone",)).unknown(APPS) == ()


class TestComposeFiles:
    def test_none_are_named(self) -> None:
        assert compose_files(config(), MAIN) == ()
        assert compose_files({}, "") == ()

    def test_those_of_the_branch_come_before_those_of_all(self) -> None:
        says = config(params={"COMPOSE_FILES": "a.yml  b.yml"})
        says["containers"]["params"] = {"COMPOSE_FILES": "c.yml"}

        assert compose_files(says, MAIN) == ("a.yml", "b.yml")
        assert compose_files(says, "refs/heads/other") == ("c.yml",)

    def test_a_branch_must_be_known_where_it_decides(self) -> None:
        with pytest.raises(AuthoringError, match="which compose files are merged"):
            compose_files(config(params={"COMPOSE_FILES": "a.yml"}), "")

    def test_a_value_of_another_kind(self) -> None:
        with pytest.raises(AuthoringError, match=r"COMPOSE_FILES .* not file names in quotes"):
            compose_files(config(params={"COMPOSE_FILES": ["a.yml"]}), MAIN)


class TestTags:
    @pytest.mark.parametrize(
        ("tagging", "tags"),
        [
            ({}, ()),
            ({MAIN: None}, ()),
            ({"refs/heads/devel": [{"tag": "devel"}]}, ()),
            ({MAIN: [{"tag": "main"}, {"tag": "next", "inherit": "main"}]}, ("main", "next")),
            ({MAIN: [{"tag": "main"}, {"tag": "main"}]}, ("main",)),
        ],
    )
    def test_those_of_the_branch(self, tagging: object, tags: tuple[str, ...]) -> None:
        assert branch_tags({"containers": {"tagging": tagging}}, MAIN) == tags

    @pytest.mark.parametrize("value", ["main", [{"inherit": "x"}], [["tag"]], [{"tag": 1}], 7])
    def test_anything_else_is_refused(self, value: object) -> None:
        with pytest.raises(AuthoringError, match="tagging of 'refs/heads/main' in"):
            branch_tags({"containers": {"tagging": {MAIN: value}}}, MAIN)
