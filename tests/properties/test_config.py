"""For all configurations: order, merging, and no value that breaks the reader."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.config import (
    KEYS,
    Fragment,
    Merged,
    Settings,
    flatten,
    merge,
    read_settings,
    settings_from,
)
from agent.core.errors import ConfigError

SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.sampled_from(["0", "1", "true", "prod", "/x", "a,b", "self", "Mon 22:00-05:00"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = st.sampled_from(sorted(KEYS))
GOOD = PLACES.map(lambda place: {place[0]: {place[1]: KEYS[place].example}})
KEY_NAMES = st.sampled_from(sorted({name for _, name in KEYS})) | st.text(max_size=10)
TABLES = st.dictionaries(
    st.sampled_from(sorted({section for section, _ in KEYS})) | st.text(max_size=8),
    st.dictionaries(KEY_NAMES, VALUES, max_size=4),
    max_size=4,
)


def merged(table: dict[str, object], file: str) -> Merged:
    return flatten(Fragment(file, table))


@given(PLACES, VALUES)
def test_any_value_of_any_key_is_a_setting_or_a_config_error(
    place: tuple[str, str], value: object
) -> None:
    section, key = place
    try:
        found = read_settings([Fragment("f.toml", {section: {key: value}})])
    except ConfigError as e:
        assert f"[{section}] {key}" in e.message  # noqa: PT017
        assert "'f.toml'" in e.message  # noqa: PT017
        return

    assert isinstance(found.settings, Settings)
    assert not found.warnings


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_any_document_is_settings_or_a_config_error(tables: dict[str, object]) -> None:
    try:
        found = read_settings([Fragment("f.toml", tables)])
    except ConfigError:
        return

    assert isinstance(found.settings, Settings)


@given(TABLES, TABLES, TABLES)
def test_merging_is_associative(
    a: dict[str, object], b: dict[str, object], c: dict[str, object]
) -> None:
    one, two, three = merged(a, "a"), merged(b, "b"), merged(c, "c")

    left = merge(merge(one, two), three)
    right = merge(one, merge(two, three))

    assert {place: value.file for place, value in left.items()} == {
        place: value.file for place, value in right.items()
    }
    assert all(left[place].value is right[place].value for place in left)


@given(st.lists(GOOD, max_size=6), GOOD)
def test_the_last_file_wins(earlier: list[dict[str, object]], last: dict[str, object]) -> None:
    fragments = [Fragment(f"{n}", table) for n, table in enumerate(earlier)]
    ((section, keys),) = last.items()

    found = read_settings([*fragments, Fragment("last", last)])
    alone = read_settings([Fragment("last", last)])

    def entry(configuration: object) -> object:
        return next(
            each
            for each in configuration.entries  # type: ignore[attr-defined]
            if (each.section, each.key) == (section, next(iter(keys)))
        )

    assert entry(found) == entry(alone)


@given(st.text(), st.text(), VALUES)
def test_unknown_keys_stay_out_of_settings_and_errors(
    section: str, key: str, value: object
) -> None:
    if (section, key) in KEYS or (section, "x") in KEYS:
        return

    found = settings_from(merged({section: {key: value}}, "f.toml"))

    assert found.settings == Settings()
