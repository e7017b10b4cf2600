"""Images of real registries, and what a network may do to them on the way."""

import base64
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from agent.adapters.authoring.credentials import find_credential
from agent.adapters.authoring.directory import DirectoryApp
from agent.adapters.authoring.images import find_image, image_sources
from agent.adapters.authoring.registry import PARALLEL, RegistryImages
from agent.adapters.authoring.store import AppStore, _image_blobs, plan_app
from agent.adapters.authoring.transport import Patience, Transport
from agent.core.authoring import AuthoringError
from tests import app_store
from tests.app_store import Image, encode, make_image, sha256, tar_of
from tests.authoring_desk import Workshop, files_below, workshop
from tests.loopback import Fault, Loopback, Said, forward_to
from tests.registry import PASSWORD, USER, Registry, base64_pair

COMPOSE = "services:\n  web:\n    image: IMAGE\n    network_mode: none\n"
HASTY = Patience(
    attempts=3, pause_s=0.001, longest_pause_s=0.001, connect_s=5, silence_s=0.3, answer_s=0.6
)
MIB = 1024 * 1024
BIG = 700_000  # bytes of a layer: several pieces


def app(path: Path, *images: str) -> Path:
    directory = path / "shop"
    directory.mkdir(exist_ok=True)
    services = "".join(
        f"  web{n}:\n    image: {image}\n    network_mode: none\n" for n, image in enumerate(images)
    )
    (directory / "docker-compose.yml").write_text(f"services:\n{services}")
    return directory


def layered(*layers: bytes, **more: object) -> Image:
    return make_image([tar_of({"data": os.urandom(8) + layer}) for layer in layers], **more)  # type: ignore[arg-type]


def fetch(
    path: Path,
    reference: str,
    transport: Transport,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    *,
    arch: str = "",
) -> Path:
    """Write an App with one image of a registry; returns the store."""
    source = RegistryImages(transport)
    try:
        (path / "scratch").mkdir()
        planned = plan_app(
            DirectoryApp(app(path, reference)),
            [source],
            path / "scratch",
            prefix="hub/factory",
            arch=arch,
        )
        AppStore(path / "apps").write([planned], progress)
    finally:
        source.close()
    return path / "apps"


def blobs(store: Path) -> set[str]:
    return {file.name for file in (store / "blobs/sha256").iterdir()}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's credentials but a test's own."""
    path = tmp_path / "docker-config"
    path.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(path))
    return path


@pytest.fixture
def network(registry: Registry) -> Iterator[Loopback]:
    """A bad network between us and the real registry."""
    with Loopback(forward_to(registry.host), ranges=False) as between:
        yield between


def through(network: Loopback, reference: str) -> str:
    return f"{network.host}/{reference.partition('/')[2]}"


class TestARealRegistry:
    def test_an_app_with_its_image(
        self, shop: Workshop, tmp_path: Path, registry: Registry
    ) -> None:
        image = layered(b"one", b"two")
        reference = registry.push("shop/web", image)
        shop.create(apps=(app(tmp_path, reference),), images=("registry:",))

        assert shop.judge(deep=True).accepted
        assert image.blobs.keys() <= blobs(shop.bundle / "apps")

    def test_the_registrys_digest_is_kept(self, tmp_path: Path, registry: Registry) -> None:
        image = layered(b"kept")
        reference = registry.push("shop/kept", image)
        with image_sources(["registry:"]) as sources:
            found = find_image(reference, sources)
            pinned = find_image(f"{registry.host}/shop/kept@sha256:{image.root}", sources)

        assert found.root.digest == pinned.root.digest == f"sha256:{image.root}"

    @pytest.mark.parametrize("arch", ["amd64", "arm/v7"])
    def test_one_platform_of_an_index(self, tmp_path: Path, registry: Registry, arch: str) -> None:
        """The index is kept as it is, so that its digest stays; other platforms stay away."""
        images = {
            "amd64": layered(b"a"),
            "arm/v6": layered(b"b", architecture="arm"),
            "arm/v7": layered(b"c", architecture="arm"),
        }
        index = push_index(registry, "shop/multi", images)
        with closing_transport() as transport:
            store = fetch(tmp_path, f"{registry.host}/shop/multi:1", transport, arch=arch)
        others = set().union(*(i.blobs for name, i in images.items() if name != arch))

        assert {sha256(index), *images[arch].blobs} <= blobs(store)
        assert not others & blobs(store)

    def test_an_index_without_this_platform(self, tmp_path: Path, registry: Registry) -> None:
        push_index(registry, "shop/few", {"amd64": layered(b"a"), "arm64": layered(b"b")})
        with closing_transport() as transport, pytest.raises(AuthoringError) as caught:
            fetch(tmp_path, f"{registry.host}/shop/few:1", transport, arch="riscv64")

        assert "platforms there: amd64, arm64" in caught.value.message
        assert "--arch" in caught.value.hint

    def test_an_image_that_is_not_there(self, tmp_path: Path, registry: Registry) -> None:
        with closing_transport() as transport, pytest.raises(AuthoringError, match="in none of"):
            fetch(tmp_path, f"{registry.host}/shop/nothing:1", transport)

    def test_one_image_under_another_name(
        self, shop: Workshop, tmp_path: Path, registry: Registry
    ) -> None:
        reference = registry.push("mirror/web", layered(b"alias"), tag="7")
        shop.create(apps=(app(tmp_path, "web:1"),), images=(f"web:1=registry:{reference}",))
        compose = next((shop.bundle / "apps/apps").rglob("docker-compose.yml")).read_text()

        assert shop.judge(deep=True).accepted
        assert "docker.io/library/web@sha256:" in compose

    def test_only_the_registry_that_is_named(self, tmp_path: Path, registry: Registry) -> None:
        reference = registry.push("shop/named", layered(b"named"))
        with image_sources([f"registry:{registry.host}"]) as sources:
            assert find_image(reference, sources).root
            # Asking example.com would take the name server; nobody is asked.
            with pytest.raises(AuthoringError, match="in none of"):
                find_image("example.com/shop/web:1", sources)

    def test_pushed_by_docker_itself(
        self, shop: Workshop, tmp_path: Path, registry: Registry, docker_engine: object
    ) -> None:
        from tests.images import busybox_image  # noqa: PLC0415

        name = f"{registry.host}/shop/docker:1"
        docker_engine.load(busybox_image(tmp_path, name))  # type: ignore[attr-defined]
        docker_engine.run("push", name)  # type: ignore[attr-defined]
        shop.create(apps=(app(tmp_path, name),), images=("registry:",))

        assert shop.judge(deep=True).accepted


class TestWhoWeAre:
    def test_docker_login(
        self, shop: Workshop, tmp_path: Path, locked_registry: Registry, docker_config: Path
    ) -> None:
        entry = {"auth": base64_pair()}
        login(docker_config, {"auths": {locked_registry.host: entry}})
        reference = locked_registry.push("shop/web", layered(b"locked"))
        shop.create(apps=(app(tmp_path, reference),), images=("registry:",))

        assert shop.judge(deep=True).accepted

    @pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
    def test_a_credential_helper(
        self, tmp_path: Path, locked_registry: Registry, docker_config: Path,
        monkeypatch: pytest.MonkeyPatch, key: str,
    ) -> None:  # fmt: skip
        helper(tmp_path / "bin", monkeypatch, f'"Username":"{USER}","Secret":"{PASSWORD}"')
        chosen = "test" if key == "credsStore" else {locked_registry.host: "test"}
        login(docker_config, {key: chosen, "auths": {locked_registry.host: {}}})
        reference = locked_registry.push("shop/helped", layered(b"helped"))
        with closing_transport() as transport:
            assert blobs(fetch(tmp_path, reference, transport))
        assert (tmp_path / "bin/asked").read_text() == locked_registry.host

    @pytest.mark.parametrize("given", [None, "wrong-83b1"])
    def test_a_stranger(
        self, tmp_path: Path, locked_registry: Registry, docker_config: Path, given: str | None
    ) -> None:
        reference = locked_registry.push("shop/secret", layered(b"secret"))
        if given:
            pair = base64.b64encode(f"{USER}:{given}".encode()).decode()
            login(docker_config, {"auths": {locked_registry.host: {"auth": pair}}})
        with (
            structlog.testing.capture_logs() as logged,
            closing_transport() as transport,
            pytest.raises(AuthoringError) as caught,
        ):
            fetch(tmp_path, reference, transport)

        assert "does not let us read 'shop/secret'" in caught.value.message
        assert f"docker login {locked_registry.host}" in caught.value.hint
        assert (given or PASSWORD) not in f"{caught.value!r}{caught.value.hint}{logged}"

    def test_a_token_server(
        self, tmp_path: Path, network: Loopback, registry: Registry, docker_config: Path
    ) -> None:
        """The password goes to the token server alone, the token to the registry alone."""
        image = layered(b"token" * 1000)
        reference = through(network, registry.push("shop/token", image))
        behind = network.answer
        login(docker_config, {"auths": {network.host: {"auth": base64_pair()}}})

        def answer(ask: object) -> Said:
            return behind(ask) if authorized(ask) == "Bearer tok-51" else challenge(tokens)  # type: ignore[arg-type]

        with Loopback(lambda ask: give_token(ask, "tok-51")) as tokens, closing_transport() as t:
            network.answer = answer
            store = fetch(tmp_path, reference, t)
            asked = tokens.asked

        assert image.blobs.keys() <= blobs(store)
        assert {authorized(ask) for ask in network.asked} == {"", "Bearer tok-51"}
        assert [authorized(ask) for ask in asked] == [f"Basic {base64_pair()}"]
        assert "scope=repository%3Ashop%2Ftoken%3Apull" in asked[0].path

    def test_an_identity_token_is_exchanged(
        self, tmp_path: Path, network: Loopback, registry: Registry, docker_config: Path
    ) -> None:
        reference = through(network, registry.push("shop/identity", layered(b"id")))
        behind = network.answer
        login(docker_config, {"auths": {network.host: {"identitytoken": "refresh-77"}}})
        with Loopback(lambda ask: give_token(ask, "tok-52")) as tokens, closing_transport() as t:
            network.answer = lambda ask: (
                behind(ask) if authorized(ask) == "Bearer tok-52" else challenge(tokens)
            )
            fetch(tmp_path, reference, t)
            (asked,) = tokens.asked

        assert asked.method == "POST"
        assert b"grant_type=refresh_token" in asked.body
        assert b"refresh_token=refresh-77" in asked.body

    def test_a_token_that_ends_while_layers_come(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(b"1", b"2", b"3")
        reference = through(network, registry.push("shop/ends", image))
        behind, given = network.answer, []

        def give(ask: object) -> Said:
            given.append(ask)
            return give_token(ask, f"tok-{len(given)}")  # type: ignore[arg-type]

        def answer(ask: object) -> Said:
            if "/blobs/" in ask.path and authorized(ask) == "Bearer tok-1":  # type: ignore[attr-defined]
                return challenge(tokens)
            return behind(ask) if authorized(ask) else challenge(tokens)  # type: ignore[arg-type]

        with Loopback(give) as tokens, closing_transport() as transport:
            network.answer = answer
            store = fetch(tmp_path, reference, transport)

        assert image.blobs.keys() <= blobs(store)
        assert len(given) == 2

    def test_a_redirect_takes_no_password_along(
        self, tmp_path: Path, network: Loopback, registry: Registry, docker_config: Path
    ) -> None:
        """Layers often lie elsewhere; that place has no business with our password."""
        image = layered(b"moved")
        reference = through(network, registry.push("shop/moved", image))
        login(docker_config, {"auths": {network.host: {"auth": base64_pair()}}})
        behind = network.answer
        layer = image.layers[0]
        with Loopback(lambda _: Said(image.blobs[layer])) as storage, closing_transport() as t:

            def answer(ask: object) -> Said:
                if not authorized(ask):
                    return Said(b"", 401, {"WWW-Authenticate": 'Basic realm="x"'})
                if layer in ask.path:  # type: ignore[attr-defined]
                    return Said(b"", 307, {"Location": f"{storage.url}/x?signature=s3cret"})
                return behind(ask)  # type: ignore[arg-type]

            network.answer = answer
            store = fetch(tmp_path, reference, t)

        assert layer in blobs(store)
        assert [authorized(ask) for ask in storage.asked] == [""]


class TestABadNetwork:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("blobs", cut=300_000),
            Fault("blobs", cut=0),
            Fault("blobs", stall=300_000),
            Fault("blobs", trickle=300_000),
            Fault("blobs", drop=True),
            Fault("blobs", said=Said(b"busy", 503)),
            Fault("blobs", said=Said(b"slower", 429, {"Retry-After": "3600"})),
            Fault("manifests", said=Said(b"", 502)),
            Fault("manifests", cut=100),
            Fault("manifests", stall=10),
        ],
        ids=lambda fault: ", ".join(
            f"{k}={v!r}" for k, v in vars(fault).items() if v and k not in ("said", "times")
        ),
    )
    def test_is_tried_again(
        self, tmp_path: Path, network: Loopback, registry: Registry, fault: Fault
    ) -> None:
        image = layered(os.urandom(BIG))
        reference = through(network, registry.push("shop/tried", image))
        network.faults.append(replace(fault, times=2))
        with closing_transport() as transport:
            store = fetch(tmp_path, reference, transport)

        assert image.blobs.keys() <= blobs(store)

    def test_a_layer_goes_on_where_it_broke(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(os.urandom(BIG))
        reference = through(network, registry.push("shop/resumed", image))
        layer = image.layers[0]
        network.faults.append(Fault(layer, cut=300_000))
        with closing_transport() as transport:
            fetch(tmp_path, reference, transport)
        ranges = [ask.headers.get("Range") for ask in network.asked_for(layer)]

        assert ranges == [None, "bytes=300000-"]

    def test_a_registry_that_knows_no_ranges(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(os.urandom(BIG))
        reference = through(network, registry.push("shop/whole", image))
        behind = network.answer
        network.answer = lambda ask: behind(
            replace(ask, headers={k: v for k, v in ask.headers.items() if k != "Range"})
        )
        network.faults.append(Fault(image.layers[0], cut=300_000))
        with closing_transport() as transport:
            store = fetch(tmp_path, reference, transport)

        assert image.blobs.keys() <= blobs(store)

    def test_it_gives_up_in_the_end(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        reference = through(network, registry.push("shop/broken", layered(b"x")))
        network.faults.append(Fault("blobs", times=99, drop=True))
        with closing_transport() as transport, pytest.raises(AuthoringError, match="cannot be"):
            fetch(tmp_path, reference, transport)

    @pytest.mark.parametrize("what", ["manifests", "config", "layer"])
    def test_wrong_bytes_are_refused(
        self, tmp_path: Path, network: Loopback, registry: Registry, what: str
    ) -> None:
        """Whatever the network changes, nothing of it becomes part of a bundle."""
        image = layered(b"changed")
        reference = through(network, registry.push(f"shop/changed-{what}", image))
        where = {"manifests": what, "config": image.config, "layer": image.layers[0]}[what]
        network.faults.append(Fault(where, times=99, garble=True))
        with closing_transport() as transport, pytest.raises(AuthoringError) as caught:
            fetch(tmp_path, reference, transport)
        written = blobs(tmp_path / "apps") if (tmp_path / "apps").exists() else set()

        assert "sha256" in caught.value.message
        assert image.layers[0] not in written
        assert not list((tmp_path / "apps").rglob("uri"))

    @pytest.mark.parametrize("pinned", [True, False])
    def test_another_image_in_its_place(
        self, tmp_path: Path, network: Loopback, registry: Registry, *, pinned: bool
    ) -> None:
        """A sound image, but not the one that was pinned, or that the registry speaks of."""
        wanted, other = layered(b"wanted"), layered(b"other")
        reference = through(network, registry.push("shop/placed", wanted))
        registry.push("shop/placed", other, tag="2")
        headers = {"Docker-Content-Digest": f"sha256:{wanted.root}"}
        said = Said(other.blobs[other.root], headers=headers)
        network.faults.append(Fault("manifests", times=99, said=said))
        asked = f"{reference[:-2]}@sha256:{wanted.root}" if pinned else reference
        with closing_transport() as transport, pytest.raises(AuthoringError, match="was asked for"):
            fetch(tmp_path, asked, transport)

    def test_a_longer_layer_than_its_manifest_says(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(b"longer")
        reference = through(network, registry.push("shop/longer", image))
        layer = image.layers[0]
        longer = Said(image.blobs[layer] + b"more")
        network.faults.append(Fault(layer, times=99, said=longer))
        with closing_transport() as transport, pytest.raises(AuthoringError, match="other content"):
            fetch(tmp_path, reference, transport)

    def test_a_manifest_without_end(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        reference = through(network, registry.push("shop/endless", layered(b"x")))
        network.faults.append(Fault("manifests", times=99, said=Said(b"{" * 5_000_000)))
        with closing_transport() as transport, pytest.raises(AuthoringError, match="longer than"):
            fetch(tmp_path, reference, transport)

    def test_no_server_at_all(self, tmp_path: Path) -> None:
        with Loopback(lambda _: Said()) as gone:
            host = gone.host
        with closing_transport() as transport, pytest.raises(AuthoringError) as caught:
            fetch(tmp_path, f"{host}/shop/web:1", transport)

        assert "Connection refused" in caught.value.message


class TestLayers:
    def test_a_shared_layer_is_fetched_once(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        shared = tar_of({"shared": os.urandom(1000)})
        images = [make_image([shared, tar_of({"own": os.urandom(9)})]) for _ in range(2)]
        references = [
            through(network, registry.push(f"shop/shared{n}", image))
            for n, image in enumerate(images)
        ]
        shop = workshop(tmp_path)
        shop.create(apps=(app(tmp_path, *references),), images=("registry:",))
        layer = images[0].layers[0]

        assert layer == images[1].layers[0]
        assert shop.judge(deep=True).accepted
        assert len(network.asked_for(layer)) == 1

    def test_what_is_there_is_not_fetched_again(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(b"once")
        reference = through(network, registry.push("shop/once", image))
        shop = workshop(tmp_path)
        app(tmp_path, reference)
        shop.create(apps=(tmp_path / "shop",), images=("registry:",))
        shop.create(43, apps=(tmp_path / "shop",), images=("registry:",),
                    allow_multiple_targets=True)  # fmt: skip

        assert len(network.asked_for(image.layers[0])) == 1

    def test_several_at_once_but_not_many(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        """All that may come at once do: each waits for the others before it is answered."""
        from threading import Barrier, BrokenBarrierError  # noqa: PLC0415

        image = layered(*(bytes([n]) for n in range(PARALLEL * 2)))
        reference = through(network, registry.push("shop/parallel", image))
        behind, together, most = network.answer, Barrier(PARALLEL), []

        def answer(ask: object) -> Said:
            if any(layer in ask.path for layer in image.layers):  # type: ignore[attr-defined]
                together.wait(20)
                most.append(together.n_waiting)
            return behind(ask)  # type: ignore[arg-type]

        network.answer = answer
        with closing_transport(Patience()) as transport:
            try:
                store = fetch(tmp_path, reference, transport)
            except BrokenBarrierError:
                pytest.fail("fewer than PARALLEL layers came at once")

        assert image.blobs.keys() <= blobs(store)
        assert max(most) < PARALLEL

    def test_an_interrupted_command_is_finished_by_repeating_it(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        image = layered(*(os.urandom(1000) for _ in range(3)))
        reference = through(network, registry.push("shop/again", image))
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        fault = Fault(image.layers[2], times=99, drop=True)
        network.faults.append(fault)
        with closing_transport() as transport, pytest.raises(AuthoringError, match="broke off"):
            fetch(tmp_path / "one", reference, transport)
        fault.times = 0
        (tmp_path / "one/scratch/shop.tgz").unlink()
        (tmp_path / "one/scratch").rmdir()
        with closing_transport() as transport:
            again = fetch(tmp_path / "one", reference, transport)
        with closing_transport() as transport:
            straight = fetch(tmp_path / "two", reference, transport)

        assert files_below(again) == files_below(straight)

    def begun(
        self, tmp_path: Path, between: Loopback, registry: Registry, layer: bytes, *, at: int
    ) -> tuple[str, str]:
        """Fetch up to the middle of a layer; return its digest and the image's reference."""
        image = layered(layer)
        digest, reference = image.layers[0], through(between, registry.push("shop/half", image))
        between.faults += [Fault(digest, cut=at), Fault(digest, times=99, drop=True)]
        with closing_transport() as transport, pytest.raises(AuthoringError) as caught:
            fetch(tmp_path, reference, transport)
        assert "goes on from there" in caught.value.hint
        between.faults.clear()
        between.asked.clear()
        shutil.rmtree(tmp_path / "scratch")
        return digest, reference

    @pytest.fixture
    def exact(self, registry: Registry) -> Iterator[Loopback]:
        """A network through which a registry's ranges come."""
        with Loopback(forward_to(registry.host)) as between:
            yield between

    def test_a_half_fetched_layer_is_not_fetched_again(
        self, tmp_path: Path, exact: Loopback, registry: Registry
    ) -> None:
        """Not by the command that was cut, and not by the next one either."""
        layer = os.urandom(5 * MIB)
        digest, reference = self.begun(tmp_path, exact, registry, layer, at=3 * MIB)
        with closing_transport() as transport:
            store = fetch(tmp_path, reference, transport)
        ranges = [ask.headers.get("Range") for ask in exact.asked_for(digest)]

        assert len(ranges) == 1
        assert ranges[0]
        start = int(ranges[0].removeprefix("bytes=").removesuffix("-"))
        assert start >= 2 * MIB
        assert blobs(store) >= {digest}
        assert not list(store.rglob("*.part"))

    def test_a_registry_without_ranges_sends_it_all_and_it_fits(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        digest, reference = self.begun(tmp_path, network, registry, os.urandom(5 * MIB), at=3 * MIB)
        with closing_transport() as transport:
            store = fetch(tmp_path, reference, transport)

        assert blobs(store) >= {digest}

    @pytest.mark.parametrize("left", ["zeros", "longer", "empty", "link"])
    def test_what_was_left_is_believed_only_when_the_whole_has_its_digest(
        self, tmp_path: Path, exact: Loopback, registry: Registry, left: str
    ) -> None:
        """A power cut leaves a file of the right length and other content."""
        digest, reference = self.begun(tmp_path, exact, registry, os.urandom(5 * MIB), at=3 * MIB)
        (part,) = (tmp_path / "apps/blobs/sha256").glob(".*.part")
        content = {"zeros": bytes(part.stat().st_size), "longer": os.urandom(6 * MIB), "empty": b""}
        part.unlink()
        if left == "link":
            (tmp_path / "elsewhere").write_bytes(b"kept")
            part.symlink_to(tmp_path / "elsewhere")
        else:
            part.write_bytes(content[left])
        told: list[tuple[int, int]] = []
        with closing_transport() as transport:
            store = fetch(tmp_path, reference, transport, lambda _, *counted: told.append(counted))
        name = digest

        assert hashlib.sha256((store / "blobs/sha256" / name).read_bytes()).hexdigest() == name
        assert all(done <= total for done, total in told)
        assert told[-1][0] == told[-1][1]
        assert left != "link" or (tmp_path / "elsewhere").read_bytes() == b"kept"

    def test_what_is_there_counts_when_room_is_looked_for(
        self, tmp_path: Path, exact: Loopback, registry: Registry
    ) -> None:
        digest, reference = self.begun(tmp_path, exact, registry, os.urandom(5 * MIB), at=3 * MIB)
        store = AppStore(tmp_path / "apps")
        with closing_transport() as transport:
            image = find_image(reference, [RegistryImages(transport)])
            layers = [blob for blob in _image_blobs(image) if blob.descriptor.hex == digest]

            assert 2 * MIB <= store.begun(layers[0]) <= 3 * MIB

    def test_one_that_fails_ends_the_others(
        self, tmp_path: Path, network: Loopback, registry: Registry
    ) -> None:
        """However patient each of them is."""
        image = layered(b"1", b"2", b"3")
        reference = through(network, registry.push("shop/fails", image))
        wrong, *others = image.layers
        network.faults.append(Fault(wrong, times=99, garble=True))
        network.faults += [Fault(layer, times=999, stall=1) for layer in others]
        endless = Patience(attempts=1000, pause_s=0.001, longest_pause_s=0.001, silence_s=0.3)
        with closing_transport(endless) as transport, pytest.raises(AuthoringError) as caught:
            fetch(tmp_path, reference, transport)

        assert wrong in caught.value.message


class TestEncryption:
    def test_a_registry_elsewhere_is_never_asked_in_the_clear(self) -> None:
        transport = Transport(HASTY)
        from agent.adapters.authoring.transport import Request  # noqa: PLC0415

        with pytest.raises(AuthoringError, match="is not encrypted"):
            transport.fetch(Request("http://registry.example.com/v2/"), limit=10)
        transport.close()

    def test_unless_somebody_asks_for_it(self, registry: Registry) -> None:
        reference = registry.push("shop/plain", layered(b"plain"))
        with image_sources([f"registry+http:{registry.host}"]) as sources:
            assert find_image(reference, sources).root

    @pytest.mark.parametrize("spec", ["registry+http:", "registry:a b", "registry:https://x"])
    def test_a_source_that_is_none(self, spec: str) -> None:
        with pytest.raises(AuthoringError, match="not a registry's host"), image_sources([spec]):
            pass


class TestCredentials:
    """What ``docker login`` leaves behind, in each of its spellings."""

    @pytest.mark.parametrize(
        ("host", "key"),
        [
            ("docker.io", "https://index.docker.io/v1/"),
            ("example.com", "example.com"),
            ("example.com", "https://example.com/v1/"),
            ("example.com:5000", "http://example.com:5000"),
        ],
    )
    def test_keys(self, docker_config: Path, host: str, key: str) -> None:
        login(docker_config, {"auths": {"other": {}, key: {"auth": base64_pair()}}})
        found = find_credential(host)

        assert found is not None
        assert found.basic == f"{USER}:{PASSWORD}"
        assert PASSWORD not in repr(found)

    def test_nothing_for_this_registry(self, docker_config: Path) -> None:
        assert find_credential("example.com") is None
        login(docker_config, {"auths": {"example.com.evil": {"auth": base64_pair()}}})
        assert find_credential("example.com") is None

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": {"example.com": {"auth": "x"}}}'])
    def test_a_file_that_cannot_be_used(self, docker_config: Path, text: str) -> None:
        (docker_config / "config.json").write_text(text)

        with pytest.raises(AuthoringError, match="Docker's"):
            find_credential("example.com")

    def test_a_helper_that_names_a_path(self, docker_config: Path) -> None:
        login(docker_config, {"credsStore": "../../tmp/evil"})

        with pytest.raises(AuthoringError, match="cannot be one"):
            find_credential("example.com")

    @pytest.mark.parametrize("says", ["not json", "exit", "absent"])
    def test_a_helper_that_has_nothing(
        self, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch, says: str
    ) -> None:
        login(docker_config, {"credsStore": "test"})
        if says != "absent":
            helper(tmp_path / "bin", monkeypatch, says)
        with structlog.testing.capture_logs() as logged:
            assert find_credential("example.com") is None

        assert [entry["event"] for entry in logged][-1:] == ["credentials.not_given"]

    def test_an_identity_token_of_a_helper(
        self, tmp_path: Path, docker_config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helper(tmp_path / "bin", monkeypatch, '"Username":"<token>","Secret":"t-9"')
        login(docker_config, {"credsStore": "test"})
        found = find_credential("example.com")

        assert found is not None
        assert (found.identity, found.basic) == ("t-9", "")


# --- small parts -----------------------------------------------------------------------


class closing_transport:  # noqa: N801  reads as `closing`
    """A transport in a hurry, closed at the end."""

    def __init__(self, patience: Patience = HASTY) -> None:
        self.transport = Transport(patience)

    def __enter__(self) -> Transport:
        return self.transport

    def __exit__(self, *_: object) -> None:
        self.transport.close()


def login(directory: Path, config: object) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def helper(directory: Path, monkeypatch: pytest.MonkeyPatch, fields: str) -> None:
    """Put ``docker-credential-test`` into ``PATH``; it notes what it was asked."""
    directory.mkdir()
    program = directory / "docker-credential-test"
    answer = "exit 1" if fields == "exit" else f"echo '{{{fields}}}'"
    program.write_text(f'#!/bin/sh\n[ "$1" = get ] || exit 9\ncat > {directory}/asked\n{answer}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def push_index(registry: Registry, name: str, images: dict[str, Image]) -> bytes:
    entries = []
    for platform, image in images.items():
        registry.push(name, image, tag=platform.replace("/", "-"))
        architecture, _, variant = platform.partition("/")
        entry = app_store.describe(app_store.OCI_MANIFEST, image.blobs[image.manifest])
        spelt = {"architecture": architecture, "os": "linux"}
        entries.append(entry | {"platform": spelt | ({"variant": variant} if variant else {})})
    index = encode({"schemaVersion": 2, "mediaType": app_store.OCI_INDEX, "manifests": entries})
    registry.put_manifest(name, "1", index)
    return index


def authorized(ask: object) -> str:
    return str(ask.headers.get("Authorization", ""))  # type: ignore[attr-defined]


def challenge(tokens: Loopback) -> Said:
    words = f'Bearer realm="{tokens.url}/token",service="tests"'
    return Said(b"", 401, {"WWW-Authenticate": words})


def give_token(ask: object, token: str) -> Said:
    return Said(json.dumps({"token": token}).encode())
