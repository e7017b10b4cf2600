"""Manifests and compose files: what is read of them, and what is refused."""

import json

import pytest

from agent.adapters.apps.manifest import (
    Architecture,
    app_manifest,
    choose_platform,
    compose_file,
    demand_platform,
    image_manifest,
    media_type,
    pinned,
)
from agent.core.errors import ComposeInvalidError, PullError

DIGEST = "a" * 64
PIN = f"registry.example.com/factory/web@sha256:{DIGEST}"
REF = pinned(PIN, "a test")
ARM = Architecture("arm", "v7")


def compose(text: str) -> bytes:
    return text.replace("IMAGE", PIN).encode()


def test_services_are_read() -> None:
    text = """
services:
  web: {image: "IMAGE", labels: {io.compose-spec.config-hash: abc}, healthcheck: {test: [CMD, a]}}
  db: {image: "IMAGE", labels: ["io.compose-spec.config-hash=def"], healthcheck: {disable: true}}
  tool: {image: "IMAGE", profiles: [debug]}
  none: {image: "IMAGE", deploy: {replicas: 0}}
"""
    services = {s.name: s for s in compose_file(compose(text), "web").services}

    assert ("abc", True, True) == (
        services["web"].config_hash,
        services["web"].has_health_check,
        services["web"].started,
    )
    assert ("def", False) == (services["db"].config_hash, services["db"].has_health_check)
    assert not services["tool"].started
    assert not services["none"].started


def test_composes_own_tags_are_read_as_they_stand() -> None:
    text = """
services:
  web: !override
    image: !override "IMAGE"
    ports: !reset []
    profiles: !override [debug]
    healthcheck: {disable: !override true}
    deploy: {replicas: !reset 0}
"""
    (web,) = compose_file(compose(text), "web").services

    assert not web.started
    assert not web.has_health_check


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "services:",
        "services: []",
        "services: {}",
        "services: {web: }",
        "services: {web: {}}",
        "services: {web: {build: .}}",
        "services: {web: {image: 5}}",
        "services: {web: {image: busybox}}",
        "services: {web: {image: 'busybox:latest'}}",
        "services: {web: {image: '${IMAGE_NAME}'}}",
        f"services: {{web: {{image: 'a/../b@sha256:{DIGEST}'}}}}",
        f"services: {{web: {{image: '/a@sha256:{DIGEST}'}}}}",
        f"services: {{web: {{image: 'a@sha256:{DIGEST[1:]}'}}}}",
        "services: {'../web': {image: 'IMAGE'}}",
        "services: {5: {image: 'IMAGE'}}",
        "services: {web: {image: 'IMAGE'",
        "services: !!python/object/apply:os.system ['true']",
        "services: {web: {image: 'IMAGE', ports: !other []}}",
        "\x00",
        "a: &a [*a]\nservices: {web: {image: 'IMAGE'}}",
        "[" * 5000,
    ],
)
def test_a_compose_file_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(ComposeInvalidError):
        compose_file(compose(text), "web")


def test_a_compose_file_that_multiplies_by_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]

    with pytest.raises(ComposeInvalidError, match="values"):
        compose_file(compose("\n".join([*lines, "services: {web: {image: 'IMAGE'}}"])), "web")


@pytest.mark.parametrize(
    "name", [PIN, f"busybox@sha256:{DIGEST}", f"localhost:5000/a/b/c:1.0@sha256:{DIGEST}"]
)
def test_pinned_references_are_read(name: str) -> None:
    ref = pinned(name, "a test")

    assert (name, DIGEST) == (ref.reference, ref.digest)
    assert f"{ref.repository}:{DIGEST[:7]}" == ref.short_tag
    assert ":1.0" not in ref.repository


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"layers":[]}',
        b'{"layers":[5]}',
        b'{"layers":[{"digest":"sha256:../../x","size":1}]}',
        json.dumps({"layers": [{"digest": f"sha256:{DIGEST}", "size": -1}]}).encode(),
        json.dumps({"layers": [{"digest": f"sha256:{DIGEST}", "size": 2**40}]}).encode(),
        json.dumps({"layers": [{"digest": f"sha256:{DIGEST}", "size": True}]}).encode(),
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(PullError):
        app_manifest(value, "web")
    with pytest.raises(PullError):
        image_manifest(value, REF)


def test_a_document_that_is_index_and_manifest_at_once_is_refused() -> None:
    """Two programs could read it as two different images."""
    with pytest.raises(PullError):
        media_type(b'{"manifests":[],"layers":[]}', REF)


def test_a_type_that_contradicts_the_contents_is_refused() -> None:
    claim = {"mediaType": "application/vnd.oci.image.index.v1+json", "layers": []}

    with pytest.raises(PullError):
        media_type(json.dumps(claim).encode(), REF)


def index(*platforms: tuple[str, str]) -> bytes:
    entries = [
        {
            "digest": f"sha256:{n:064x}",
            "size": 1,
            "platform": {"architecture": name, "variant": variant, "os": "linux"},
        }
        for n, (name, variant) in enumerate(platforms)
    ]
    return json.dumps({"manifests": entries}).encode()


def test_the_best_platform_of_an_index_is_chosen() -> None:
    data = index(("amd64", ""), ("arm", "v5"), ("arm", "v7"), ("arm", "v8"))

    assert f"{2:064x}" == choose_platform(data, REF, ARM).digest


def test_the_own_architecture_goes_before_one_that_also_runs() -> None:
    data = index(("386", ""), ("amd64", ""))

    assert f"{1:064x}" == choose_platform(data, REF, Architecture("amd64")).digest


def test_an_index_without_this_platform_says_what_it_has() -> None:
    with pytest.raises(PullError, match="expected arm/v7, found amd64, s390x"):
        choose_platform(index(("amd64", ""), ("s390x", "")), REF, ARM)


def test_an_image_for_another_architecture_is_refused() -> None:
    with pytest.raises(PullError, match="expected arm/v7, found arm64"):
        demand_platform(b'{"architecture":"arm64"}', REF, ARM)
