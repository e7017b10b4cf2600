"""Bundles made from a factory's git repositories, and what devices say to them."""

import json
import shlex
from pathlib import Path
from typing import Any

import pygit2
import pytest

from agent.adapters.apps import ComposeApps
from agent.core.authoring import AuthoringError
from agent.core.outcome import InstallExit, RunExit
from agent.core.target import target_from_json
from agent.faces.cli import usb_update
from agent.services.sources import GitSpec
from tests.app_store import busybox_layer, make_image, tar_of
from tests.authoring_desk import Workshop, files_below, workshop
from tests.docker_engine import Engine
from tests.field import COMPOSE as COMPOSE_OF_FIELD
from tests.field import IMAGE, SLEEPS, Field
from tests.git_repos import add_commit, bare_repo
from tests.image_files import docker_archive, oci_layout
from tests.ostree_device import archive_repo, ostree

COMPOSE = b"services: {web: {image: 'web:1'}}\n"
WEB = "docker.io/library/web:1"
APPS = ("db", "shop", "web")
COMPOSE_THAT_RUNS = COMPOSE_OF_FIELD.format(image=IMAGE, command=json.dumps(SLEEPS))
CONFIG = "factory-config.yml"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


@pytest.fixture
def containers(tmp_path: Path) -> pygit2.Repository:
    repo = bare_repo(tmp_path / "containers.git")
    apps = {name: {"docker-compose.yml": COMPOSE, "name": name.encode()} for name in APPS}
    add_commit(repo, apps)
    return repo


def layout(shop: Workshop, name: str = WEB) -> str:
    image = make_image([tar_of({"web": b"web"})])
    return str(oci_layout(shop.path / "layout", {name: image}))


def config(shop: Workshop, text: str) -> str:
    """Put a factory-config.yml on ``master`` of a ci-scripts.git; return its place."""
    path = shop.path / "ci-scripts.git"
    repo = bare_repo(path)
    add_commit(repo, {CONFIG: text.encode()}, branch="master")
    return f"{path}@master"


def create(shop: Workshop, *, version: int = 42, images: str = "", **git: Any) -> dict[str, Any]:
    """Make a bundle from git and return the Target's ``custom``."""
    spec = GitSpec(**{"containers": str(shop.path / "containers.git"), **git})
    shop.create(version, git=spec, images=(images or layout(shop),))
    return custom(shop, version)


def create_more(
    shop: Workshop, version: int, *, containers_at: str = "", **git: Any
) -> dict[str, Any]:
    place = str(shop.path / "containers.git") + (f"@{containers_at}" if containers_at else "")
    spec = GitSpec(containers=place, **git)
    shop.create(version, git=spec, images=(layout(shop),), allow_multiple_targets=True)
    return custom(shop, version)


def custom(shop: Workshop, version: int = 42) -> dict[str, Any]:
    targets = json.loads((shop.bundle / "tuf/targets.json").read_bytes())["signed"]["targets"]
    target_from_json(f"rpi-lmp-{version}", targets[f"rpi-lmp-{version}"])
    found: dict[str, Any] = targets[f"rpi-lmp-{version}"]["custom"]
    return found


def stored(shop: Workshop) -> list[str]:
    store = shop.bundle / "apps/apps"
    return sorted(path.name for path in store.iterdir()) if store.exists() else []


class TestApps:
    def test_all_of_a_commit_are_accepted_by_a_device(
        self, shop: Workshop, containers: pygit2.Repository
    ) -> None:
        made = create(shop)

        assert list(made["docker_compose_apps"]) == ["db", "shop", "web"]
        assert made["containers-sha"] == str(containers.head.target)
        assert "fetched-apps" not in made
        assert shop.judge(deep=True).accepted

    @pytest.mark.usefixtures("containers")
    def test_directories_beside_them(self, shop: Workshop) -> None:
        more = shop.path / "more"
        more.mkdir()
        (more / "docker-compose.yml").write_bytes(COMPOSE)
        git = GitSpec(containers=str(shop.path / "containers.git"))
        shop.create(git=git, apps=(more,), images=(layout(shop),))

        assert list(custom(shop)["docker_compose_apps"]) == ["db", "more", "shop", "web"]

    def test_the_same_commit_gives_the_same_bytes(
        self, shop: Workshop, containers: pygit2.Repository
    ) -> None:
        create(shop)
        first = files_below(shop.bundle / "apps")
        other = workshop(shop.path / "elsewhere")
        other.later(days=3)
        pygit2.clone_repository(containers.path, str(other.path / "containers.git"), bare=True)
        create(other, images=layout(shop))

        assert files_below(other.bundle / "apps") == first

    def test_an_older_commit(self, shop: Workshop, containers: pygit2.Repository) -> None:
        old = str(containers.head.target)
        add_commit(containers, {"web/docker-compose.yml": COMPOSE}, parents=[old])
        made = create(shop, containers=f"{shop.path}/containers.git@{old}")

        assert made["containers-sha"] == old
        assert len(made["docker_compose_apps"]) == 3

    def test_the_factorys_own_image_is_that_of_the_build(self, shop: Workshop) -> None:
        repo = bare_repo(shop.path / "containers.git")
        text = b"services: {web: {image: 'hub.local/${FACTORY}/web:latest'}}"
        commit = add_commit(repo, {"shop/docker-compose.yml": text})
        tag = f"42_{commit[:7]}"
        create(shop, images=layout(shop, f"hub.local/factory/web:{tag}"))
        (compose,) = shop.bundle.glob("apps/apps/shop/*/docker-compose.yml")

        assert "hub.local/factory/web@sha256:" in compose.read_text()
        with pytest.raises(AuthoringError, match=r"43_.* is in none of the image sources"):
            create_more(shop, 43)

    def test_an_image_that_was_built_here(self, shop: Workshop) -> None:
        repo = bare_repo(shop.path / "containers.git")
        text = b"services: {web: {image: 'hub.local/${FACTORY}/web:${TAG}'}}"
        add_commit(repo, {"shop/docker-compose.yml": text})
        create(shop, image_tag="latest", images=layout(shop, "hub.local/factory/web:latest"))

        assert shop.judge(deep=True).accepted

    def test_a_repository_without_apps(self, shop: Workshop) -> None:
        add_commit(bare_repo(shop.path / "containers.git"), {"README": b""})

        with pytest.raises(AuthoringError, match="has no Compose App"):
            create(shop)
        assert not shop.bundle.exists()

    @pytest.mark.parametrize("option", [{"image_tag": "7"}, {"submodules": ("a=b",)}])
    def test_options_that_would_be_of_no_use(self, shop: Workshop, option: dict[str, Any]) -> None:
        with pytest.raises(AuthoringError, match="with --containers-git only"):
            create(shop, containers="", **option)

    @pytest.mark.parametrize("text", ["vendor", "=x", "vendor=", "/=x"])
    @pytest.mark.usefixtures("containers")
    def test_half_a_submodule(self, shop: Workshop, text: str) -> None:
        with pytest.raises(AuthoringError, match="is not NAME=PATH"):
            create(shop, submodules=(text,))


PROD = b"services: {web: {restart: always}}\n"


class TestWhatCiRuns:
    """A script that CI runs before it builds, and several compose files."""

    def made(self, shop: Workshop, script: bytes | None = None, **git: Any) -> list[str]:
        """Make a bundle; return what was warned of."""
        repo = bare_repo(shop.path / "containers.git")
        files = {"web/docker-compose.yml": COMPOSE, "shop/docker-compose.yml": COMPOSE,
                 "shop/prod.yml": PROD}  # fmt: skip
        add_commit(repo, files if script is None else {**files, "pre-build.conf": script})
        create(shop, **git)
        return shop.warned

    def test_a_script_is_not_run_and_told(self, shop: Workshop) -> None:
        ran = shop.path / "ran"
        (told,) = self.made(shop, f"touch {ran}\n".encode())

        assert "'pre-build.conf' in" in told
        assert "shop, web is missing here|" in told
        assert "run it in a checkout" in told
        assert not ran.exists()
        assert shop.judge(deep=True).accepted

    def test_without_one_nothing_is_told(self, shop: Workshop) -> None:
        assert self.made(shop) == []

    @pytest.mark.parametrize(
        "script", [b'COMPOSE_FILES="docker-compose.yml prod.yml"', b"export COMPOSE_FILES=prod.yml"]
    )
    def test_an_app_of_other_compose_files_is_refused(self, shop: Workshop, script: bytes) -> None:
        with pytest.raises(
            AuthoringError, match=r"App 'shop' .* is made of .*'prod.yml'"
        ) as caught:
            self.made(shop, script)

        assert "docker compose -f" in caught.value.hint
        assert not shop.bundle.exists()

    def test_files_that_no_app_has_do_not_matter(self, shop: Workshop) -> None:
        assert len(self.made(shop, b'COMPOSE_FILES="docker-compose.yml other.yml"')) == 1
        assert shop.judge(deep=True).accepted

    @pytest.mark.parametrize(
        "where", ["{params: {COMPOSE_FILES: THESE}}",
                  "{ref_options: {refs/heads/main: {params: {COMPOSE_FILES: THESE}}}}"]
    )  # fmt: skip
    def test_the_factorys_configuration_may_name_them(self, shop: Workshop, where: str) -> None:
        text = where.replace("THESE", "docker-compose.yml prod.yml")
        with pytest.raises(AuthoringError, match=r"App 'shop' .* is made of"):
            self.made(shop, factory_config=config(shop, f"containers: {text}"))

    def test_the_script_has_the_last_word(self, shop: Workshop) -> None:
        text = "containers: {params: {COMPOSE_FILES: docker-compose.yml prod.yml}}"
        place = config(shop, text)
        self.made(shop, b"COMPOSE_FILES=docker-compose.yml\n", factory_config=place)

        assert shop.judge(deep=True).accepted

    def test_a_tag_that_ci_would_not_give_is_told(self, shop: Workshop) -> None:
        tagging = "containers: {tagging: {refs/heads/main: [{tag: devel}, {tag: next}]}}"
        (told,) = self.made(shop, factory_config=config(shop, tagging))

        assert "gets tag 'main'; 'factory-config.yml' gives that branch 'devel', 'next'" in told

    def test_a_tag_that_ci_gives(self, shop: Workshop) -> None:
        tagging = "containers: {tagging: {refs/heads/main: [{tag: next}, {tag: main, inherit: x}]}}"

        assert self.made(shop, factory_config=config(shop, tagging)) == []


@pytest.mark.usefixtures("containers")
class TestConfiguration:
    def test_a_shortlist_is_what_the_bundle_carries(self, shop: Workshop) -> None:
        text = "containers: {offline: {enabled: true, app_shortlist: 'web,db'}}"
        made = create(shop, factory_config=config(shop, text))

        assert made["fetched-apps"] == {"uri": "rpi-lmp-42.apps.tar", "shortlist": "db,web"}
        assert list(made["docker_compose_apps"]) == ["db", "shop", "web"]
        assert stored(shop) == ["db", "web"]
        assert shop.judge(deep=True).accepted

    def test_what_is_not_carried_is_not_missing_what_is_carried_is(self, shop: Workshop) -> None:
        text = "containers: {offline: {enabled: true, app_shortlist: 'web,db'}}"
        made = create(shop, factory_config=config(shop, text))
        digest = made["docker_compose_apps"]["db"]["uri"].rpartition(":")[2]
        (shop.bundle / "apps/blobs/sha256" / digest).unlink()

        assert shop.judge(deep=True).damaged == (f"blob sha256:{digest} of App 'db' is missing",)

    def test_disabled_is_rootfs_only(self, shop: Workshop) -> None:
        made = create(shop, factory_config=config(shop, "containers: {offline: {enabled: false}}"))

        assert made["fetched-apps"] == {"uri": None}
        assert len(made["docker_compose_apps"]) == 3
        assert stored(shop) == []
        assert shop.judge(deep=True).accepted

    def test_the_branch_of_the_containers_decides(
        self, shop: Workshop, containers: pygit2.Repository
    ) -> None:
        containers.branches.create("devel", containers.head.peel())
        text = """
        containers:
          offline: {enabled: true}
          preloaded_images: {shortlist: shop}
          ref_options:
            refs/heads/devel: {params: {FETCH_APPS: "1", FETCH_APPS_SHORTLIST: "web"}}
        """
        place = config(shop, text)
        main = create(shop, factory_config=place)
        devel = create_more(shop, 43, factory_config=place, containers_at="devel")
        named = create_more(shop, 44, factory_config=place, branch="devel")

        shortlists = [made["fetched-apps"]["shortlist"] for made in (main, devel, named)]
        assert shortlists == ["shop", "web", "web"]

    def test_a_commit_needs_a_branch_named(
        self, shop: Workshop, containers: pygit2.Repository
    ) -> None:
        text = "containers: {ref_options: {refs/heads/main: {params: {FETCH_APPS: '0'}}}}"
        place = config(shop, text)
        at = f"{containers.path.rstrip('/')}@{containers.head.target}"

        with pytest.raises(AuthoringError, match="no branch is named"):
            create(shop, containers=at, factory_config=place)
        assert create(shop, containers=at, factory_config=place, branch="main")["fetched-apps"] == {
            "uri": None
        }

    def test_a_name_that_is_no_app_is_told(self, shop: Workshop) -> None:
        text = "containers: {offline: {enabled: true, app_shortlist: 'web,wbe'}}"
        create(shop, factory_config=config(shop, text))

        assert [told.partition("|")[0] for told in shop.warned] == [
            "the shortlist names wbe, and there is no such App"
        ]

    def test_directories_obey_it_too(self, shop: Workshop) -> None:
        app = shop.path / "only"
        app.mkdir()
        (app / "docker-compose.yml").write_bytes(COMPOSE)
        place = config(shop, "containers: {offline: {enabled: false}}")
        shop.create(apps=(app,), images=(layout(shop),), git=GitSpec(factory_config=place))

        assert custom(shop)["fetched-apps"] == {"uri": None}

    @pytest.mark.parametrize(
        "text",
        [
            "\t{",
            "a: [",
            "containers: {offline: {enabled: maybe}}",
            "!!python/object/apply:os.system ['true']",
            "? {a: b}\n: c",
            "a: &a [*a]\nb: 2020-99-99",
            "x: " + "9" * 6000,
            "[" * 5000,
            "a: &a {k: v}\n"
            + "".join(
                f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 20)}]}}\n"
                for n in range(12)
            ),
        ],
        ids=["tab", "open", "value", "object", "key", "date", "number", "deep", "merges"],
    )
    def test_a_file_that_is_nothing_of_the_kind(self, shop: Workshop, text: str) -> None:
        with pytest.raises(AuthoringError):
            create(shop, factory_config=config(shop, text))
        assert not shop.bundle.exists()

    @pytest.mark.parametrize("text", ["", "# nothing\n"])
    def test_an_empty_file(self, shop: Workshop, text: str) -> None:
        with pytest.raises(AuthoringError, match="or an empty one"):
            create(shop, factory_config=config(shop, text))

    def test_a_repository_without_one(self, shop: Workshop) -> None:
        with pytest.raises(AuthoringError, match=r"has no 'factory-config\.yml'"):
            create(shop, factory_config=str(shop.path / "containers.git"))


class TestCommand:
    def test_a_bundle_from_two_clones(
        self, shop: Workshop, containers: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(shop.path)
        config(shop, "containers: {offline: {enabled: true, app_shortlist: web}}")
        commit, images = shop.commit(), layout(shop)
        status = usb_update(
            ["bundle", "create", "rpi-lmp-42", "bundle", "--keys", "keys", "--tag", "main",
             "--hardware-id", "rpi", "--ostree-repo", "repo", "--commit", commit, "--image", images,
             "--containers-git", "containers.git@main", "--factory-config", "ci-scripts.git@master"]
        )  # fmt: skip

        assert status == 0
        assert custom(shop)["containers-sha"] == str(containers.head.target)
        assert stored(shop) == ["web"]

    @pytest.mark.usefixtures("containers")
    def test_no_apps_means_none(self, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(shop.path)
        status = usb_update(
            ["bundle", "create", "rpi-lmp-42", "bundle", "--keys", "keys", "--tag", "main",
             "--hardware-id", "rpi", "--ostree-repo", "repo", "--commit", shop.commit(),
             "--containers-git", "containers.git@main", "--no-apps"]
        )  # fmt: skip

        assert status == 0
        assert not {"docker_compose_apps", "containers-sha", "fetched-apps"} & custom(shop).keys()

    def test_a_missing_ref_is_one_sentence(
        self,
        shop: Workshop,
        containers: pygit2.Repository,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(shop.path)
        commit = shop.commit()
        capsys.readouterr()
        status = usb_update(
            ["bundle", "create", "rpi-lmp-42", "bundle", "--keys", "keys", "--tag", "main",
             "--hardware-id", "rpi", "--ostree-repo", "repo", "--commit", commit,
             "--containers-git", "containers.git@devel"]
        )  # fmt: skip

        assert status == 1
        assert capsys.readouterr().err.splitlines() == [
            "repository 'containers.git' has no commit 'devel'",
            "  it has heads/main; 'git fetch' brings what is new",
        ]
        assert not shop.bundle.exists()


def test_its_apps_start_on_a_device(shop: Workshop, tmp_path: Path, docker_engine: Engine) -> None:
    """From a commit to a running container, by digest, with no network."""
    compose = b"""\
services:
  web:
    image: web:1
    command: [sh, /cfg/run.sh]
    network_mode: none
    volumes: [./cfg:/cfg:ro]
"""
    repo = bare_repo(tmp_path / "containers.git")
    script = b"echo up; exec sleep 3600\n"
    add_commit(repo, {"shop/docker-compose.yml": compose, "shop/cfg/run.sh": script})
    saved = docker_archive(tmp_path / "saved.tar", {"web:1": make_image([busybox_layer()])})
    info = shop.create(git=GitSpec(containers=str(tmp_path / "containers.git")),
                       images=(str(saved),))  # fmt: skip
    (ref,) = info.targets[0].apps
    apps = ComposeApps(tmp_path / "device/store", tmp_path / "device/projects", watermark=95)
    apps.fetch(shop.bundle / "apps", ref, lambda *_: None)
    apps.check(ref)
    apps.start(ref)

    assert shop.judge(deep=True).accepted
    assert docker_engine.containers(running=True) == ["shop-web-1"]
    assert apps.running((ref,))


def test_the_example_of_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed as it stands there, where there are clones and an image as it says."""
    monkeypatch.chdir(tmp_path)
    ostree("commit", "--repo", archive_repo(tmp_path / "repo"), "--branch=main",
           f"--tree=dir={_small_tree(tmp_path)}")  # fmt: skip
    repo = bare_repo(tmp_path / "containers.git")
    text = b"services: {web: {image: 'hub.example.com/${FACTORY}/web:${TAG}'}}"
    commit = add_commit(repo, {"shop/docker-compose.yml": text})
    add_commit(bare_repo(tmp_path / "ci-scripts.git"),
               {CONFIG: b"containers: {offline: {enabled: true}}"}, branch="master")  # fmt: skip
    image = make_image([tar_of({"web": b"web"})])
    oci_layout(tmp_path / "images", {f"hub.example.com/acme/web:42_{commit[:7]}": image})
    usb_update(["keys", "init", "factory"])
    capsys.readouterr()
    typed, answer = _example("git")
    statuses = [usb_update(shlex.split(line)[1:]) for line in typed]

    assert len(typed) == 2
    assert statuses == [0, 0]
    assert answer
    assert capsys.readouterr().out.splitlines()[-len(answer) :] == answer


def _example(name: str) -> tuple[list[str], list[str]]:
    """Return the commands of an example in docs/authoring.md, and the last one's answer."""
    document = (Path(__file__).parents[2] / "docs/authoring.md").read_text(encoding="utf-8")
    block = document.split(f"<!-- example: {name} -->\n```console\n")[1].split("```")[0]
    lines = block.replace("\\\n", " ").splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("$ "))
    return [line[2:] for line in lines if line.startswith("$ ")], lines[last + 1 :]


def _small_tree(path: Path) -> Path:
    (path / "tree/usr").mkdir(parents=True)
    (path / "tree/usr/version").write_text("1", encoding="ascii")
    return path / "tree"


def test_a_device_installs_it_and_runs_what_was_carried(
    tmp_path: Path, docker_engine: Engine
) -> None:
    """From two clones over a stick to a container that runs; the rest waits for another day."""
    field = Field(tmp_path / "factory")
    compose = COMPOSE_THAT_RUNS.encode()
    add_commit(
        bare_repo(tmp_path / "containers.git"),
        {"shop/docker-compose.yml": compose, "stock/docker-compose.yml": compose + b"# other\n"},
    )
    text = b"containers: {offline: {enabled: true, app_shortlist: shop}}"
    add_commit(bare_repo(tmp_path / "ci-scripts.git"), {CONFIG: text})
    git = GitSpec(str(tmp_path / "containers.git"), str(tmp_path / "ci-scripts.git"))
    bundle = field.bundle(42, git=git, images=[field.image()])
    device = field.device(tmp_path / "device", apps=True)
    installed = device.install(bundle)
    device.reboot()
    finished = device.run()

    assert (installed.code, finished.code) == (InstallExit.NEEDS_REBOOT, RunExit.OK)
    assert docker_engine.containers(running=True) == ["shop-web-1"]
    assert list(device.current()["apps"]) == ["shop"]
