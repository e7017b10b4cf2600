"""Whatever a factory's configuration says, author and device read the same from it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.core.authoring import AuthoringError
from agent.core.factoryconfig import FetchApps, fetch_apps
from agent.core.policy import carried
from agent.core.target import target_from_json

MAIN = "refs/heads/main"
NAMES = st.lists(st.sampled_from(["db", "shop", "web", "a-b", "x_1"]), unique=True)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=8),
    st.sampled_from(["1", "0", "db", "shop, web", "db,,web ", ""]),
)  # fmt: skip
KEYS = st.sampled_from(
    ["containers", "offline", "enabled", "app_shortlist", "ref_options", MAIN, "params",
     "FETCH_APPS", "FETCH_APPS_SHORTLIST", "preloaded_images", "shortlist"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.one_of(KEYS, SCALARS), inner, max_size=4)
    ),
    max_leaves=20,
)
SWITCHES = st.sampled_from(["1", "0", 1, 0])
SHORTLISTS = st.one_of(st.none(), NAMES.map(",".join), NAMES.map(", ".join))
FETCHES = st.builds(
    FetchApps,
    enabled=st.sampled_from([None, True, False]),
    shortlist=NAMES.map(tuple),
)


@given(VALUES, st.sampled_from(["", MAIN, "refs/heads/devel"]))
def test_any_values_give_an_answer_or_a_sentence(document: object, branch: str) -> None:
    try:
        answer: object = fetch_apps(document, branch)
    except AuthoringError as e:
        answer = e.message.count("factory-config.yml")

    assert isinstance(answer, FetchApps) or answer == 1


@given(SWITCHES, st.sampled_from([None, True, False]), SHORTLISTS, SHORTLISTS, SHORTLISTS)
def test_a_branchs_own_words_come_first(
    switch: object, enabled: object, own: str | None, offline: str | None, preloaded: str | None
) -> None:
    document = {
        "containers": {
            "ref_options": {MAIN: {"params": {"FETCH_APPS": switch, "FETCH_APPS_SHORTLIST": own}}},
            "offline": {"enabled": enabled, "app_shortlist": offline},
            "preloaded_images": {"shortlist": preloaded},
        }
    }

    assert fetch_apps(document, MAIN) == FetchApps(
        enabled=str(switch) == "1",
        shortlist=tuple((own or "").replace(",", " ").split()),
    )


@given(FETCHES, NAMES)
def test_a_device_wants_exactly_what_the_bundle_carries(fetch: FetchApps, names: list[str]) -> None:
    try:
        kept, fetched = fetch.carried(names), fetch.to_json("rpi-lmp-42", names)
    except AuthoringError:
        assert names
        assert not set(names) & set(fetch.shortlist)
        return
    custom: dict[str, object] = {
        "docker_compose_apps": {n: {"uri": f"hub/f/{n}@sha256:{'1' * 64}"} for n in names}
    }
    if fetched is not None:
        custom["fetched-apps"] = json.loads(json.dumps(fetched))
    target = target_from_json("rpi-lmp-42", {"hashes": {"sha256": "1" * 64}, "custom": custom})

    assert {app.name for app in carried(target).apps} == set(kept)
