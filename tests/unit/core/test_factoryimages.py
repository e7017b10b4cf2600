"""Which image a compose file of a factory means."""

import pytest

from agent.core.authoring import AuthoringError
from agent.core.factoryimages import FactoryImages, build_tag

IMAGES = FactoryImages("hub.example.com/acme", "42_abcdef0")
OWN = "hub.example.com/acme/web"


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        f"{OWN}:latest",
        f"{OWN}:${{TAG}}",
        f"{OWN}:$TAG",
        f"{OWN}:42_abcdef0",
        "hub.example.com/${FACTORY}/web:latest",
        "hub.example.com/$FACTORY/web",
    ],
)
def test_the_factorys_own_image_is_that_of_the_build(text: str) -> None:
    assert IMAGES.meant(text) == f"{OWN}:42_abcdef0"


@pytest.mark.parametrize(
    "text",
    [
        "postgres:16",
        "docker.io/library/postgres",
        "hub.example.com/other/web:7",
        "hub.example.com/acmeplus/web:7",
        f"{OWN}@sha256:{'1' * 64}",
        "web:${OTHER}",
        "web:${TAGS}",
        "web:$TAGS",
    ],
)
def test_other_references_stay(text: str) -> None:
    assert IMAGES.meant(text) == text


def test_an_image_of_another_build_is_refused_as_by_ci() -> None:
    with pytest.raises(AuthoringError, match="has tag '41_abcdef0'"):
        IMAGES.meant(f"{OWN}:41_abcdef0")


def test_the_tag_of_a_build() -> None:
    assert build_tag(42, "abcdef0123" + "0" * 30) == "42_abcdef0"
