"""One entry of targets.json, read once."""

import json
from typing import Any

import pytest

from agent.core.errors import MetadataInvalidError
from agent.core.target import (
    APPS_LIMIT,
    AppRef,
    Target,
    target_from_custom,
    target_from_json,
    unknown_target,
)
from tests.factory import target_entry

COMMIT = "ab" * 32
URI = "hub.foundries.io/factory/{}@sha256:" + "cd" * 32
APPS = {name: URI.format(name) for name in ("web", "db")}


def target(**changes: Any) -> Target:
    return target_from_json("lmp-42", target_entry(**changes))


def test_an_entry_becomes_a_target() -> None:
    entry = target_entry(apps=APPS, tags=("main", "devel"), **{"containers-sha": "1f"})
    expected = Target(
        name="lmp-42",
        version=42,
        commit=COMMIT,
        hardware_ids=("raspberrypi4-64",),
        tags=("main", "devel"),
        target_format="OSTREE",
        apps=(AppRef("db", APPS["db"]), AppRef("web", APPS["web"])),
        fetched=None,
        custom_json=json.dumps(entry["custom"], sort_keys=True, separators=(",", ":")),
    )

    assert expected == target_from_json("lmp-42", entry)


def test_an_apps_digest_is_the_end_of_its_uri() -> None:
    assert target(apps=APPS).apps[0].digest == "cd" * 32


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ("42", 42),
        (42, 42),
        ("42-rc1", 42),
        ("007", 7),
        ("0x10", 0),
        ("", -1),
        ("v42", -1),
        ("-1", -1),
        (None, -1),
        (True, -1),
        (4.2, -1),
        ([], -1),
        ("٤٢", -1),
        ("9" * 40, int("9" * 18)),
    ],
)
def test_versions_begin_with_decimal_digits(value: Any, version: int) -> None:
    assert version == target(version=value).version


def test_a_commit_is_kept_in_lower_case() -> None:
    """One tool of the field writes it in upper case."""
    assert target(commit=COMMIT.upper()).commit == COMMIT


@pytest.mark.parametrize("member", ["hardwareIds", "tags"])
@pytest.mark.parametrize("value", [None, "main", 7, {"a": 1}])
def test_a_list_that_is_none_is_empty(member: str, value: object) -> None:
    entry = target_entry()
    entry["custom"][member] = value
    read = target_from_json("lmp-42", entry)

    lists = {"hardwareIds": read.hardware_ids, "tags": read.tags}

    assert lists[member] == ()


def test_what_is_no_text_in_a_list_is_left_out() -> None:
    assert target(tags=["main", 7, None]).tags == ("main",)


@pytest.mark.parametrize("apps", [None, {}])
def test_a_target_without_apps(apps: Any) -> None:
    entry = target_entry()
    entry["custom"]["docker_compose_apps"] = apps

    assert target_from_json("lmp-42", entry).apps == ()


def test_a_bare_entry_is_a_target_that_fits_nothing() -> None:
    read = target_from_json("lmp-42", {"hashes": {"sha256": COMMIT}})

    assert read == Target("lmp-42", -1, COMMIT, target_format="")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"hashes": None},
        {"hashes": {}},
        {"hashes": {"sha512": COMMIT * 2}},
        {"hashes": {"sha256": COMMIT}, "custom": []},
        {"hashes": {"sha256": COMMIT}, "custom": None},
        {"hashes": {"sha256": COMMIT}, "custom": {"docker_compose_apps": []}},
        {"hashes": {"sha256": COMMIT}, "custom": {"docker_compose_apps": {"web": None}}},
        {"hashes": {"sha256": COMMIT}, "custom": {"docker_compose_apps": {"web": {}}}},
        {"hashes": {"sha256": COMMIT}, "custom": {"docker_compose_apps": {"web": {"uri": 7}}}},
    ],
)
def test_a_malformed_entry_is_refused(entry: object) -> None:
    with pytest.raises(MetadataInvalidError):
        target_from_json("lmp-42", entry)


def test_apps_are_bounded() -> None:
    many = {f"a{n}": URI.format("a") for n in range(APPS_LIMIT)}

    assert len(target(apps=many).apps) == APPS_LIMIT
    with pytest.raises(MetadataInvalidError, match=f"more than {APPS_LIMIT}"):
        target(apps={**many, "web": APPS["web"]})


@pytest.mark.parametrize(
    ("fetched", "expected"),
    [
        (None, None),
        ("x", None),
        ({}, ()),
        ({"uri": ""}, ()),
        ({"uri": 7}, ()),
        ({"uri": "https://x"}, None),
        ({"uri": "https://x", "shortlist": ""}, None),
        ({"uri": "https://x", "shortlist": 7}, None),
        ({"uri": "https://x", "shortlist": "web"}, ("web",)),
        ({"uri": "https://x", "shortlist": "web, db"}, ("web", "db")),
        ({"uri": "https://x", "shortlist": ",web db,"}, ("web", "db")),
    ],
)
def test_which_apps_the_bundle_carries(fetched: object, expected: object) -> None:
    assert expected == target(**{"fetched-apps": fetched}).fetched


def test_a_target_reduced_to_some_apps_says_so_everywhere() -> None:
    whole = target(apps=APPS)
    reduced = whole.with_apps(whole.apps[:1])

    assert reduced.apps == whole.apps[:1]
    assert reduced == target(apps={"db": APPS["db"]})
    assert "docker_compose_apps" not in json.loads(whole.with_apps(()).custom_json)


def test_the_same_target_is_the_same_name_version_commit_and_apps() -> None:
    whole = target(apps=APPS)

    assert whole.same_as(target(apps=APPS, tags=("devel",), note="other"))
    assert not whole.same_as(target(apps={"db": APPS["db"]}))
    assert not whole.same_as(target(apps=APPS, version="43"))
    assert not whole.same_as(target(apps=APPS, commit="cd" * 32))
    assert not whole.same_as(target_from_json("lmp-43", target_entry(apps=APPS)))


def test_a_row_of_the_database_becomes_the_same_target() -> None:
    whole = target(apps=APPS)

    assert whole == target_from_custom("lmp-42", COMMIT, json.loads(whole.custom_json))


def test_a_commit_that_no_record_names_is_an_unknown_target() -> None:
    assert unknown_target(COMMIT) == Target("unknown", -1, COMMIT)
