"""What a factory's ``pre-build.conf`` says of compose files, and what an App may be made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.authoring import AuthoringError
from agent.core.prebuild import assigned_compose_files, demand_one_file


@pytest.mark.parametrize(
    ("script", "files"),
    [
        (b"", None),
        (b"# COMPOSE_FILES=a.yml\nDOCKER_BUILDX=1\n", None),
        (b"COMPOSE_FILES=a.yml", ("a.yml",)),
        (b'export COMPOSE_FILES="a.yml  b.yml" # both\n', ("a.yml", "b.yml")),
        (b"  COMPOSE_FILES='a.yml\tb.yml'", ("a.yml", "b.yml")),
        (b"COMPOSE_FILES=a.yml\nCOMPOSE_FILES=b.yml\n", ("b.yml",)),
        (b"COMPOSE_FILES=\n", ()),
        (b"MY_COMPOSE_FILES_X=1\n", None),
    ],
)
def test_a_plain_assignment_is_read(script: bytes, files: tuple[str, ...] | None) -> None:
    assert assigned_compose_files(script) == files


@pytest.mark.parametrize(
    "script",
    [
        b'COMPOSE_FILES="a.yml $MORE"',
        b"COMPOSE_FILES=`ls *.yml`",
        b"COMPOSE_FILES=a.yml make",
        b"COMPOSE_FILES+=b.yml",
        b": ${COMPOSE_FILES:=a.yml b.yml}",
        b"if x; then COMPOSE_FILES=a.yml; fi",
        b"COMPOSE_FILES='a.yml",
    ],
)
def test_what_only_a_shell_can_read_is_refused(script: bytes) -> None:
    with pytest.raises(AuthoringError, match="only a shell can read"):
        assigned_compose_files(script)


@given(st.binary(max_size=200).map(lambda more: b"COMPOSE_FILES=" + more))
def test_any_script_gives_an_answer_or_a_sentence(script: bytes) -> None:
    try:
        files = assigned_compose_files(script)
    except AuthoringError:
        return
    assert files is None or all(files)


@pytest.mark.parametrize("made_of", [[], ["docker-compose.yml"]])
def test_the_one_file_of_an_app(made_of: list[str]) -> None:
    demand_one_file("App 'shop'", made_of)


def test_several_are_refused_with_the_command_that_merges_them() -> None:
    with pytest.raises(AuthoringError, match=r"App 'shop' is made of 'a.yml' and 'b c.yml'") as e:
        demand_one_file("App 'shop'", ["a.yml", "b c.yml"])

    assert "docker compose -f a.yml -f 'b c.yml' config --no-interpolate" in e.value.hint
