"""Bundles from a factory's server, and what may go wrong with one."""

import bz2
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from agent.adapters.authoring.factoryserver import ServerAddress, open_server
from agent.adapters.authoring.transport import Patience, Transport
from agent.core import authoring
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.errors import AgentError, BundleError
from agent.core.factoryapi import Branch
from agent.core.target import AppRef
from agent.faces.cli import usb_update
from agent.services.author import BundleInfo
from agent.services.fetch import FetchSpec, fetch_bundle
from tests import kills
from tests.app_store import make_app, make_image, regular, special, tar_of, tar_of_members
from tests.authoring_desk import Workshop, files_below, workshop
from tests.factory_api import (
    FACTORY,
    TAG,
    TOKEN,
    WAVE,
    FactoryApi,
    apps_archive,
    rootfs_path,
)
from tests.loopback import Fault, Loopback, Said

pytestmark = pytest.mark.needs_ostree

HASTY = Patience(
    attempts=3, pause_s=0.001, longest_pause_s=0.001, connect_s=5, silence_s=0.5, answer_s=1.0
)
COMPOSE = "services:\n  web:\n    image: {web}\n    network_mode: none\n"


class Desk:
    """A factory's server and somebody who fetches from it."""

    def __init__(self, path: Path, server: Loopback, api: FactoryApi) -> None:
        self.path, self.server, self.api, self.shop = path, server, api, api.shop
        self.token = path / "token"
        self.token.write_text(f"{TOKEN}\n")

    @property
    def bundle(self) -> Path:
        return self.shop.bundle

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def fetch(
        self,
        target: str = "rpi-lmp-42",
        progress: Callable[[str, int, int], None] = lambda *_: None,
        **wanted: object,
    ) -> BundleInfo:
        spec = FetchSpec(target, self.bundle, Branch(TAG))
        address = ServerAddress(self.server.url, FACTORY, self.token, self.cache)
        with open_server(address, Transport(HASTY)) as server:
            return fetch_bundle(self.shop.desk(progress), server, replace(spec, **wanted))  # type: ignore[arg-type]

    def with_app(self, version: int = 42, **how: object) -> AppRef:
        """Give the server a Target with one App."""
        image = make_image([tar_of({"data": os.urandom(50_000)})])
        store = self.path / f"store-{version}"
        ref = make_app(store, "shop", COMPOSE, {"web": image}, **how)  # type: ignore[arg-type]
        name = self.api.add_target(version, apps=[ref])
        self.api.add_apps(store, self.server.url, name)
        return ref


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    api = FactoryApi(workshop(tmp_path))
    with Loopback(api.answer) as server:
        yield Desk(tmp_path, server, api)


class TestWhatArrives:
    def test_a_ci_bundle(self, desk: Desk) -> None:
        desk.api.add_target()
        info = desk.fetch()

        assert (info.bundle_type, info.tag, info.listed) == (BundleType.CI, TAG, ("rpi-lmp-42",))
        assert desk.shop.judge(deep=True).accepted
        assert not list(desk.cache.glob("*.unpacked"))

    def test_with_apps(self, desk: Desk) -> None:
        ref = desk.with_app()
        desk.fetch()
        view = desk.bundle / "apps/apps/shop" / ref.digest

        assert desk.shop.judge(deep=True).accepted
        assert (view / "uri").read_text() == ref.uri
        assert (view / "docker-compose.yml").is_file()
        assert list((view / "images").rglob("index.json"))

    def test_an_app_store_of_the_older_layout(self, desk: Desk) -> None:
        desk.with_app(layout="old")
        desk.fetch()

        assert desk.shop.judge(deep=True).accepted

    def test_more_blobs_of_an_app(self, desk: Desk) -> None:
        sizes = b'{"amd64": {}}'
        layer = ("application/json", sizes, {"layers-meta": "v1"})
        desk.with_app(extra_layers=[layer])
        desk.fetch()

        assert desk.shop.judge(deep=True).accepted
        assert sizes in files_below(desk.bundle / "apps/blobs").values()

    def test_a_production_bundle_is_signed_afterwards(self, desk: Desk) -> None:
        desk.api.add_target()
        info = desk.fetch(branch=Branch(TAG, prod=True))
        desk.shop.sign()

        assert info.signers is not None
        assert info.signers.missing == 1
        assert desk.shop.judge(deep=True, bundle_type=BundleType.PROD).accepted

    def test_a_wave(self, desk: Desk) -> None:
        desk.api.add_target()
        info = desk.fetch(branch=Branch(wave=WAVE))
        (asked,) = desk.server.asked_for("/meta/")

        assert (info.bundle_type, info.tag) == (BundleType.PROD, TAG)
        assert json.loads(asked.body) == {
            "tag": "", "expires-in-days": 30, "production": True, "wave": WAVE
        }  # fmt: skip

    def test_the_bundle_lasts_as_long_as_was_asked(self, desk: Desk) -> None:
        desk.api.add_target()

        assert desk.fetch(expires_in_days=90).ends == desk.shop.now + timedelta(days=90)

    @pytest.mark.parametrize(("initial", "first"), [(True, 1), (False, 3)])
    def test_roots(self, desk: Desk, *, initial: bool, first: int) -> None:
        desk.api.add_target()
        desk.fetch(with_initial_roots=initial)
        found = sorted(path.name for path in (desk.bundle / "tuf").glob("*.root.json"))

        assert found == [f"{n}.root.json" for n in range(first, 5)]

    def test_a_server_that_shows_no_first_roots(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.api.first_root = 3
        desk.fetch()

        assert desk.shop.judge().accepted

    def test_the_rootfs_of_an_earlier_build(self, desk: Desk) -> None:
        """A Target whose Apps alone are new names the build its rootfs is of."""
        desk.api.add_target(origUri="https://ci.example.com/projects/acme/lmp/builds/40")
        desk.fetch()

        assert desk.server.asked_for("/builds/40/")

    def test_a_local_repository(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.fetch(ostree_repo=desk.shop.repo)

        assert not desk.server.asked_for("ostree_repo")
        assert desk.shop.judge(deep=True).accepted

    def test_no_apps(self, desk: Desk) -> None:
        desk.with_app()
        desk.fetch(no_apps=True)

        assert not (desk.bundle / "apps").exists()
        assert not desk.server.asked_for("/apps/")

    def test_a_target_that_was_fetched_without_apps(self, desk: Desk) -> None:
        desk.with_app()
        desk.api.entries["rpi-lmp-42"]["custom"]["fetched-apps"] = {"uri": None}
        desk.fetch()

        assert desk.shop.judge(deep=True).accepted
        assert not (desk.bundle / "apps").exists()

    def test_apps_of_an_older_factory(self, desk: Desk) -> None:
        """Its Targets do not say where Apps are; only CI's copy knows the branch's tag."""
        ref = desk.with_app()
        del desk.api.entries["rpi-lmp-42"]["custom"]["fetched-apps"]
        desk.api.artifacts[
            f"/projects/{FACTORY}/lmp/builds/42/runs/assemble-system-image/{TAG}"
            "/rpi-lmp-42-apps.tar"
        ] = apps_archive(desk.path / "store-42")
        desk.fetch()

        assert (desk.bundle / "apps/apps/shop" / ref.digest / "uri").is_file()


class TestWhatIsThere:
    def test_a_second_target(self, desk: Desk) -> None:
        desk.with_app(42)
        desk.with_app(43)
        desk.fetch()
        info = desk.fetch("rpi-lmp-43", allow_multiple_targets=True)

        assert info.listed == ("rpi-lmp-42", "rpi-lmp-43")
        assert desk.shop.judge(deep=True).accepted

    def test_is_not_touched_unless_asked(self, desk: Desk) -> None:
        """Not even its metadata: the command is refused before the server is asked."""
        desk.api.add_target()
        desk.fetch()
        before, asked = files_below(desk.bundle), len(desk.server.asked)
        with pytest.raises(AuthoringError, match="holds tuf, ostree_repo already"):
            desk.fetch()

        assert files_below(desk.bundle) == before
        assert len(desk.server.asked) == asked

    def test_of_another_type(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.fetch()
        with pytest.raises(AuthoringError, match="of type 'ci'"):
            desk.fetch(branch=Branch(TAG, prod=True), allow_multiple_targets=True)

    def test_renewed(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.fetch(expires_in_days=10)
        info = desk.fetch(expires_in_days=60, tuf_only=True)

        assert info.ends == desk.shop.now + timedelta(days=60)
        assert len(desk.server.asked_for("ostree_repo")) == 1
        assert desk.shop.judge(deep=True).accepted

    def test_nothing_to_renew(self, desk: Desk) -> None:
        desk.api.add_target()
        with pytest.raises(AuthoringError, match="holds no bundle to renew"):
            desk.fetch(tuf_only=True)

    def test_a_server_that_forgets_what_the_bundle_holds(self, desk: Desk) -> None:
        desk.api.add_target(42)
        desk.api.add_target(43)
        desk.fetch()
        before = files_below(desk.bundle)
        desk.api.change = lambda made: relisted(desk.shop, made, ("rpi-lmp-43",))
        with pytest.raises(AuthoringError, match="does not list rpi-lmp-42"):
            desk.fetch("rpi-lmp-43", allow_multiple_targets=True)

        assert files_below(desk.bundle) == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("days", "sentence"),
        [(5000, "Root metadata expire"), (400, "Targets metadata expire")],
    )
    def test_more_days_than_the_metadata_lasts(self, desk: Desk, days: int, sentence: str) -> None:
        desk.api.add_target()
        with pytest.raises(AuthoringError) as caught:
            desk.fetch(expires_in_days=days)

        assert sentence in caught.value.message
        assert "before the specified expiration time" in caught.value.message
        assert "ask for at most 36" in caught.value.hint
        assert not desk.bundle.exists()

    def test_a_token_it_does_not_know(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.token.write_text("wrong-4711")
        with structlog.testing.capture_logs() as logged, pytest.raises(AuthoringError) as caught:
            desk.fetch()

        assert "does not accept the token: Authentication required" in caught.value.message
        assert "wrong-4711" not in f"{caught.value!r}{caught.value.hint}{logged}"

    @pytest.mark.parametrize(
        ("status", "words"),
        [(403, "may not read this"), (418, "answers 418: short and stout")],
    )
    @pytest.mark.parametrize("where", ["targets.json", "root.json", "/meta/", "ostree_repo"])
    def test_other_answers(self, desk: Desk, status: int, words: str, where: str) -> None:
        desk.api.add_target()
        said = Said(b'{"message":"short and stout"}', status)
        desk.server.faults.append(Fault(where, times=99, said=said))
        with pytest.raises(AuthoringError) as caught:
            desk.fetch()

        assert words in caught.value.message
        assert not desk.bundle.exists()

    def test_a_server_that_stays_ill(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.server.faults.append(Fault("meta", times=99, said=Said(b'{"message":"ill"}', 500)))
        with pytest.raises(AuthoringError, match="answers 500: ill"):
            desk.fetch()

        assert len(desk.server.asked_for("/meta/")) == HASTY.attempts

    def test_a_target_that_is_not_listed(self, desk: Desk) -> None:
        desk.api.add_target()
        with pytest.raises(AuthoringError, match=r"lists no Target 'rpi-lmp-7'.*rpi-lmp-42"):
            desk.fetch("rpi-lmp-7")

    @pytest.mark.parametrize(
        "branch", [Branch("nightly"), Branch("x", prod=True), Branch(wave="x")]
    )
    def test_a_branch_that_is_not_there(self, desk: Desk, branch: Branch) -> None:
        desk.api.add_target()
        with pytest.raises(AuthoringError, match="has no Targets"):
            desk.fetch(branch=branch)

    @pytest.mark.parametrize("what", ["ostree_repo", "/apps/"])
    def test_content_that_is_gone(self, desk: Desk, what: str) -> None:
        desk.with_app()
        desk.api.artifacts = {k: v for k, v in desk.api.artifacts.items() if what not in k}
        with pytest.raises(AuthoringError, match="keeps no") as caught:
            desk.fetch()

        assert "--" in caught.value.hint
        assert not desk.bundle.exists()

    @pytest.mark.parametrize("text", ["", "two words", "\0", "ü"])
    def test_a_file_that_holds_no_token(self, desk: Desk, text: str) -> None:
        desk.token.write_text(text)
        with pytest.raises(AuthoringError, match="does not hold one token"):
            desk.fetch()

    @pytest.mark.parametrize(
        "url", ["ftp://x", "api.example.com", "https://", "https://[", "http://example.com"]
    )
    def test_a_server_that_is_none(self, desk: Desk, url: str) -> None:
        address = ServerAddress(url, FACTORY, desk.token, desk.cache)
        spec = FetchSpec("rpi-lmp-42", desk.bundle, Branch(TAG))
        with pytest.raises(AuthoringError), open_server(address, Transport(HASTY)) as server:
            fetch_bundle(desk.shop.desk(), server, spec)


class TestVerification:
    """What a device would refuse is not written, whoever sent it."""

    @pytest.mark.parametrize("name", ["targets.json", "snapshot.json", "timestamp.json"])
    def test_changed_metadata(self, desk: Desk, name: str) -> None:
        desk.api.add_target()
        desk.api.change = lambda made: {**made, name: changed(made[name])}
        with pytest.raises(BundleError):
            desk.fetch()

        assert not desk.bundle.exists()

    def test_a_changed_list(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.api.change = lambda made: {
            **made, "bundle-targets.json": changed(made["bundle-targets.json"])
        }  # fmt: skip
        with pytest.raises(AuthoringError, match="bad or strange signature"):
            desk.fetch()

    def test_another_factorys_server(self, desk: Desk, tmp_path: Path) -> None:
        """With the devices' own roots at hand, no server can pretend to be theirs."""
        desk.api.add_target()
        (tmp_path / "other").mkdir()
        stranger = workshop(tmp_path / "other")
        with pytest.raises(BundleError):
            desk.fetch(roots=stranger.keys / "roots")
        desk.fetch(roots=desk.shop.keys / "roots")

        assert desk.shop.judge().accepted

    def test_a_list_for_other_devices(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.api.change = lambda made: relisted(desk.shop, made, ("rpi-lmp-42",), tag="devel")
        with pytest.raises(AuthoringError, match="with tag 'devel'"):
            desk.fetch()

    def test_expired_metadata(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.api.change = lambda made: {**made, "timestamp.json": made["timestamp.json"]}
        late = desk.shop.desk()
        address = ServerAddress(desk.server.url, FACTORY, desk.token, desk.cache)
        later = desk.shop.now + timedelta(days=31)
        with (
            open_server(address, Transport(HASTY)) as server,
            pytest.raises(BundleError, match="expired"),
        ):
            fetch_bundle(
                replace(late, now=lambda: later),
                server,
                FetchSpec("rpi-lmp-42", desk.bundle, Branch(TAG)),
            )


def garbled(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def one_object_changed(data: bytes) -> bytes:
    """A well-formed archive with one wrong file: only its digest tells."""
    out = io.BytesIO()
    seen = False
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w:bz2") as new,
    ):
        for member in old:
            content = (old.extractfile(member) or io.BytesIO()).read() if member.isreg() else b""
            if member.name.endswith(".filez") and not seen:
                content, seen = content[:-1] + bytes([content[-1] ^ 1]), True
            new.addfile(member, io.BytesIO(content))
    assert seen
    return out.getvalue()


def without_objects(data: bytes, suffix: str) -> bytes:
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w:bz2") as new,
    ):
        for member in old:
            if not member.name.endswith(suffix):
                new.addfile(member, old.extractfile(member))
    return out.getvalue()


def with_members(data: bytes, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The same archive with something before it."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w:bz2") as new,
    ):
        for info, content in members:
            new.addfile(info, io.BytesIO(content))
        for member in old:
            new.addfile(member, old.extractfile(member))
    return out.getvalue()


OUTSIDE = [
    regular("../escaped", b"x"),
    regular("ostree_repo/objects/../../../escaped", b"x"),
    regular("/tmp/usb-update-escaped", b"x"),
    special("ostree_repo/objects/aa", tarfile.SYMTYPE, target="/tmp"),
    special("ostree_repo/link", tarfile.LNKTYPE, target="ostree_repo/config"),
    special("ostree_repo/fifo", tarfile.FIFOTYPE),
    special("ostree_repo/device", tarfile.CHRTYPE),
]


class TestContent:
    @pytest.mark.parametrize(
        "spoil",
        [
            garbled,
            one_object_changed,
            lambda data: without_objects(data, ".dirtree"),
            lambda data: without_objects(data, ".commit"),
            lambda data: data[: len(data) // 2],
            lambda _: b"",
            lambda _: b"no archive at all",
            lambda _: bz2.compress(b"no tar at all" * 1000),
        ],
        ids=["garbled", "object", "no dirtree", "no commit", "half", "empty", "text", "no tar"],
    )
    def test_a_rootfs_that_is_not_what_it_should_be(
        self, desk: Desk, spoil: Callable[[bytes], bytes]
    ) -> None:
        desk.api.add_target()
        path = rootfs_path("42")
        good = desk.api.artifacts[path]
        desk.api.artifacts[path] = spoil(good)
        with pytest.raises(AuthoringError):
            desk.fetch()
        assert not (desk.bundle / "tuf").exists()

        desk.api.artifacts[path] = good  # what was spoilt is not kept
        desk.fetch(allow_multiple_targets=True)
        assert desk.shop.judge(deep=True).accepted

    @pytest.mark.parametrize("member", OUTSIDE, ids=lambda m: m[0].name)
    def test_an_archive_that_reaches_outside(
        self, desk: Desk, tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
    ) -> None:
        desk.api.add_target()
        path = rootfs_path("42")
        desk.api.artifacts[path] = with_members(desk.api.artifacts[path], member)
        with pytest.raises(AuthoringError, match=r"which (leads outside|is no file)"):
            desk.fetch()

        assert not list(tmp_path.rglob("escaped"))
        assert not Path("/tmp/usb-update-escaped").exists()
        assert not desk.bundle.exists()

    def test_a_header_without_end(self, desk: Desk) -> None:
        """Extended headers are read whole: one of 64 MiB is not."""
        desk.api.add_target()
        info = tarfile.TarInfo("ostree_repo/config")
        info.pax_headers = {"comment": "x" * (64 << 20)}
        data = tar_of_members([(info, b"")])
        desk.api.artifacts[rootfs_path("42")] = bz2.compress(data)
        with pytest.raises(AuthoringError, match="a header has more than"):
            desk.fetch()

    def test_the_archives_own_configuration_counts_for_nothing(self, desk: Desk) -> None:
        """It could name a repository of this machine that hides what is missing."""
        desk.api.add_target()
        path = rootfs_path("42")
        lacking = without_objects(desk.api.artifacts[path], ".filez")
        config = f"[core]\nrepo_version=1\nmode=archive-z2\nparent={desk.shop.repo}\n".encode()
        desk.api.artifacts[path] = with_members(lacking, regular("ostree_repo/config", config))
        with pytest.raises(AuthoringError):
            desk.fetch()

        assert not (desk.bundle / "tuf").exists()

    @pytest.mark.parametrize("spoil", ["layer", "manifest", "archive", "missing", "unlisted"])
    def test_apps_that_are_not_what_they_should_be(self, desk: Desk, spoil: str) -> None:
        ref = desk.with_app()
        store = desk.path / "store-42"
        blobs = sorted((store / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
        manifest = store / "blobs/sha256" / ref.digest
        archive = json.loads(manifest.read_bytes())["layers"][0]["digest"].removeprefix("sha256:")
        if spoil == "missing":
            blobs[-1].unlink()
        elif spoil == "unlisted":
            for file in store.rglob("*"):
                if file.is_file() and ref.digest in str(file):
                    file.unlink()
        else:
            chosen = {"layer": blobs[-1], "manifest": manifest,
                      "archive": store / "blobs/sha256" / archive}[spoil]  # fmt: skip
            chosen.write_bytes(garbled(chosen.read_bytes()))
        desk.api.add_apps(store, desk.server.url, "rpi-lmp-42")
        with pytest.raises(AgentError):
            desk.fetch()

        assert not (desk.bundle / "tuf").exists()
        assert not list(desk.bundle.rglob("uri"))


class TestABadNetwork:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("x", drop=True),
            Fault("x", cut=20),
            Fault("x", cut=0),
            Fault("x", stall=20),
            Fault("x", trickle=20),
            Fault("x", said=Said(b"", 503)),
            Fault("x", said=Said(b"", 429, {"Retry-After": "99999"})),
        ],
        ids=["drop", "cut", "cut at once", "stall", "trickle", "503", "429"],
    )
    def test_is_tried_again(self, desk: Desk, fault: Fault) -> None:
        """Whichever of the five kinds of requests it happens to."""
        desk.with_app()
        places = ("targets.json", "root.json", "/meta/", "ostree_repo", "/apps/")
        desk.server.faults += [replace(fault, where=where, times=2) for where in places]
        desk.fetch()

        assert desk.shop.judge(deep=True).accepted

    @pytest.mark.parametrize("after", [1, 3, 6, 9, 12])
    def test_an_interrupted_command_is_finished_by_repeating_it(
        self, desk: Desk, tmp_path: Path, after: int
    ) -> None:
        """Wherever it was interrupted, the bundle's content is the same in the end."""
        desk.with_app()
        seen: list[str] = []

        def interrupt(step: str, done: int, total: int) -> None:
            seen.append(step)
            if len(seen) == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            desk.fetch(progress=interrupt)
        assert not (desk.bundle / "tuf/bundle-targets.json").exists()
        desk.fetch()
        again = content(desk.bundle)
        desk.shop.bundle.rename(tmp_path / "interrupted")
        desk.fetch()

        assert again == content(desk.bundle)
        assert desk.shop.judge(deep=True).accepted

    def test_wherever_it_is_killed_the_same_command_finishes_it(self, desk: Desk) -> None:
        desk.with_app()
        total = kills.changes(desk.fetch)
        whole = content(desk.bundle)
        for at, told in kills.some(total, 8):
            shutil.rmtree(desk.bundle)
            kills.killed_at(desk.fetch, at)
            listed = desk.bundle / "tuf/bundle-targets.json"
            if not listed.exists() or (desk.bundle / ".unfinished").exists():
                desk.fetch()
            assert content(desk.bundle) == whole, told
            assert desk.shop.judge(deep=True).accepted, told

    def test_another_target_does_not_take_over_what_was_begun(self, desk: Desk) -> None:
        desk.with_app(42)
        desk.with_app(43)
        (desk.bundle / "ostree_repo").mkdir(parents=True)
        desk.shop.desk().bundle(desk.bundle).begin("rpi-lmp-42")
        with pytest.raises(AuthoringError, match="holds ostree_repo already"):
            desk.fetch("rpi-lmp-43")

        desk.fetch("rpi-lmp-42")
        assert not (desk.bundle / ".unfinished").exists()

    def test_a_bundle_in_use_is_not_touched(self, desk: Desk) -> None:
        desk.api.add_target()
        with (
            desk.shop.desk().bundle(desk.bundle).alone("makes something else"),
            pytest.raises(AuthoringError, match="makes something else"),
        ):
            desk.fetch()

        assert not desk.server.asked

    def test_a_repeated_command_goes_on(self, desk: Desk) -> None:
        """What came before the command gave up is not fetched again."""
        desk.api.add_target()
        size = len(desk.api.artifacts[rootfs_path("42")])
        desk.server.faults += [
            Fault("ostree_repo", cut=size // 2),
            Fault("ostree_repo", times=3, drop=True),
        ]
        with pytest.raises(AuthoringError, match="broke off at byte") as caught:
            desk.fetch()
        assert "goes on from there" in caught.value.hint
        desk.fetch()
        ranges = [ask.headers.get("Range") for ask in desk.server.asked_for("ostree_repo")]

        assert ranges == [None, *[f"bytes={size // 2}-"] * 4]
        assert desk.shop.judge(deep=True).accepted
        assert [path.suffix for path in desk.cache.iterdir()] == [".lock"]

    def test_an_artifact_that_changed_meanwhile(self, desk: Desk) -> None:
        """The beginning of one build and the end of another are no archive."""
        desk.api.add_target()
        size = len(desk.api.artifacts[rootfs_path("42")])
        old = Said(os.urandom(size), headers={"ETag": '"old"'})
        desk.server.faults += [
            Fault("ostree_repo", said=old, cut=size // 2),
            Fault("ostree_repo", times=3, drop=True),
        ]
        with pytest.raises(AuthoringError, match="broke off"):
            desk.fetch()
        desk.fetch()

        assert desk.shop.judge(deep=True).accepted

    @pytest.mark.needs_root
    def test_a_disk_without_room_for_a_download(self, desk: Desk) -> None:
        desk.api.add_target()
        desk.cache.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", desk.cache], check=True)
        try:
            with pytest.raises(AuthoringError, match="needs more than") as caught:
                desk.fetch()
        finally:
            subprocess.run(["umount", desk.cache], check=True)

        assert "XDG_CACHE_HOME" in caught.value.hint

    def test_a_download_that_was_whole_is_not_fetched_again(self, desk: Desk) -> None:
        desk.with_app()
        desk.server.faults.append(Fault("/apps/", times=3, drop=True))
        with pytest.raises(AuthoringError):
            desk.fetch()
        desk.fetch()
        sent = [a.headers.get("Range") for a in desk.server.asked_for("ostree_repo")]

        assert sent[0] is None
        assert all(sent[1:])
        assert desk.shop.judge(deep=True).accepted

    def test_two_commands_at_once(self, desk: Desk) -> None:
        desk.api.add_target()
        behind, caught = desk.server.answer, []

        def answer(ask: object) -> Said:
            if "ostree_repo" in ask.path and not caught:  # type: ignore[attr-defined]
                caught.append(None)
                with pytest.raises(AuthoringError, match="another command is downloading"):
                    desk.fetch()
            return behind(ask)  # type: ignore[arg-type]

        desk.server.answer = answer
        desk.fetch()

        assert desk.shop.judge().accepted

    def test_the_token_stays_with_the_server(self, desk: Desk) -> None:
        """Neither where a Target's Apps are nor a redirect gets to see it."""
        desk.with_app()
        path = rootfs_path("42")
        rootfs, apps = desk.api.artifacts.pop(path), desk.api.artifacts["/apps/rpi-lmp-42.tar"]
        behind = desk.server.answer
        with Loopback(lambda ask: Said(apps if "apps" in ask.path else rootfs)) as other:
            custom = desk.api.entries["rpi-lmp-42"]["custom"]
            custom["fetched-apps"] = {"uri": f"{other.url}/apps.tar?signature=s3cret"}
            moved = Said(b"", 302, {"Location": f"{other.url}/rootfs?signature=s3cret"})
            desk.server.answer = lambda ask: moved if ask.path == path else behind(ask)
            desk.fetch()
            seen = [ask.headers for ask in other.asked]

        assert len(seen) == 2
        assert not [headers for headers in seen if "OSF-TOKEN" in headers]


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def _cache(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(desk.cache))

    def create(self, desk: Desk, *more: str) -> int:
        # The server's metadata begins in the past; the command line's clock is the real one.
        return usb_update(
            ["bundle", "create", "rpi-lmp-42", str(desk.bundle), "--factory", FACTORY,
             "--token-file", str(desk.token), "--server", desk.server.url, *more]
        )  # fmt: skip

    def test_a_bundle(self, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
        from datetime import UTC, datetime  # noqa: PLC0415

        desk.shop.now = datetime.now(UTC)
        desk.with_app()

        assert self.create(desk, "--tag", TAG) == 0
        assert "\tTag:\t\tmain" in capsys.readouterr().out
        assert desk.shop.judge(deep=True).accepted

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (("--wave", WAVE, "--prod"), "leave --prod away"),
            (("--tag", TAG, "--app", "x", "--version", "4"), "--app, --version: only for"),
        ],
    )
    def test_arguments_that_do_not_go_together(
        self, desk: Desk, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
    ) -> None:
        assert self.create(desk, *more) == 1
        assert words in capsys.readouterr().err
        assert not desk.server.asked

    def test_a_wave_is_a_factorys(self, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ["bundle", "create", "rpi-lmp-42", str(desk.bundle), "--wave", WAVE]

        assert usb_update([*argv, "--keys", str(desk.shop.keys)]) == 1
        assert "--wave names a wave of a factory" in capsys.readouterr().err


# --- small parts -----------------------------------------------------------------------


def content(bundle: Path) -> dict[str, bytes]:
    """Everything but metadata, whose versions grow, and what ostree keeps for itself."""
    ours = ("tuf", ".lock")  # who was killed when all was done leaves a lock that nobody holds
    kept = {k: v for k, v in files_below(bundle).items() if k.split("/")[0] not in ours}
    return {k: v for k, v in kept.items() if not k.startswith(("ostree_repo/tmp", "ostree_repo/."))}


def changed(document: bytes) -> bytes:
    """Change what is signed, not the signatures."""
    table = json.loads(document)
    table["signed"]["expires"] = "2027-01-01T00:00:00Z"
    return authoring.canonical_bytes(table)


def relisted(
    shop: Workshop, made: dict[str, bytes], names: tuple[str, ...], *, tag: str = TAG
) -> dict[str, bytes]:
    """Sign another list, rightly."""
    old = authoring.read_bundle(authoring.read_signed(made["bundle-targets.json"], "list"))
    facts = replace(old, targets=names, tag=tag)
    key = shop.desk().keys(shop.keys).online().targets
    return {**made, "bundle-targets.json": authoring.sign(authoring.issue_bundle(facts), [key])}
