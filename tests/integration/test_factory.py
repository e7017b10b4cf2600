"""A factory in a directory: real git, real ostree, several processes, and the agent."""

import json
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pygit2
import pytest

from agent.adapters import files, keyfiles
from agent.adapters.authoring import factorydir
from agent.adapters.authoring.factorydir import BRANCH, FactoryDirectory
from agent.core import factory as books_of
from agent.core.authoring import AuthoringError
from agent.core.tuf import Role
from agent.faces.cli import usb_update
from agent.services import author, factory
from tests import kills
from tests.app_store import make_image, tar_of
from tests.authoring_desk import files_below
from tests.factory_desk import FactoryShop, factory_shop
from tests.field import Field, finished
from tests.git_repos import add_commit, bare_repo
from tests.image_files import oci_layout
from tests.ostree_device import archive_repo, make_commit

pytestmark = pytest.mark.needs_ostree

ROOT = Path(__file__).parents[2]
PROCESSES = 6
ACTS_EACH = 4
WEB = "docker.io/library/web:1"


@pytest.fixture
def shop(tmp_path: Path) -> FactoryShop:
    return factory_shop(tmp_path)


def history(shop: FactoryShop) -> list[str]:
    """First lines of all commits, the newest first."""
    repo = pygit2.Repository(str(shop.directory))
    return [c.message.partition("\n")[0] for c in repo.walk(repo.references[BRANCH].target)]


def app(path: Path, name: str, image: str = "web:1") -> Path:
    directory = path / name
    directory.mkdir(parents=True)
    compose = f"services: {{web: {{image: '{image}'}}}}"
    (directory / "docker-compose.yml").write_text(compose, encoding="utf-8")
    return directory


class TestBooks:
    def test_every_act_is_one_commit(self, shop: FactoryShop) -> None:
        shop.add(42)
        factory.tag_target(shop.desk(), shop.directory, "rpi-lmp-42", ["main"])
        shop.wave("spring", 42)
        shop.complete("spring")
        shop.create(prod=True)
        factory.rotate_key(shop.desk(), shop.directory, Role.ROOT)
        acts = history(shop)[::-1]

        assert acts[0] == "factory init"
        assert [act.rpartition(":")[0] or act for act in acts[1:]] == [
            "target add rpi-lmp-42 (main)",
            "tag rpi-lmp-42",
            "wave init spring (main)",
            "wave complete spring",
            "bundle",
            "keys rotate root",
        ]

    def test_private_keys_are_in_no_commit(self, shop: FactoryShop) -> None:
        shop.add(42)
        factory.rotate_key(shop.desk(), shop.directory, Role.ROOT)
        factory.rotate_key(shop.desk(), shop.directory, Role.TARGETS)
        archives = [path.read_bytes() for path in (shop.directory / "keys").iterdir()]
        secrets = [
            key.secret_json()["keyval"]["private"].encode()  # type: ignore[index]
            for _, key in keyfiles.read_archives(shop.directory / "keys")
        ]
        repo = pygit2.Repository(str(shop.directory))
        blobs = [repo[oid] for oid in repo]
        data = [blob.data for blob in blobs if isinstance(blob, pygit2.Blob)]

        assert len(secrets) == 8
        assert not [d for d in data if d in archives or any(secret in d for secret in secrets)]
        assert all("keys" not in path for path in shop.files())

    def test_a_persons_git_add_takes_no_key(self, shop: FactoryShop) -> None:
        shop.add(42)
        repo = pygit2.Repository(str(shop.directory))

        assert repo.status() == {}
        assert repo.path_is_ignored("keys/offline-root.tgz")

    def test_what_lies_there_is_the_newest_act(self, shop: FactoryShop) -> None:
        shop.add(42)
        for path, data in shop.files().items():
            assert (shop.directory / path).read_bytes() == data

    def test_what_somebody_changed_by_hand_does_not_count(self, shop: FactoryShop) -> None:
        shop.add(42)
        before = shop.files()
        targets = shop.directory / books_of.CI_FILE
        targets.write_bytes(b"{}")
        (shop.directory / "state.json").unlink()
        (shop.directory / "roots/ci/5.root.json").write_bytes(b"{}")
        assert shop.files() == before

        shop.add(43)
        assert [t.name for t in factory.show(shop.desk(), shop.directory).targets] == [
            "rpi-lmp-42", "rpi-lmp-43",
        ]  # fmt: skip
        assert not (shop.directory / "roots/ci/5.root.json").exists()

    def test_a_branch_moved_back_takes_no_version_twice(self, shop: FactoryShop) -> None:
        for version in (1, 2, 3):
            shop.add(version)
        repo = pygit2.Repository(str(shop.directory))
        repo.references[BRANCH].set_target(
            next(iter(repo.revparse_single("HEAD~2").id for _ in "1"))
        )
        shop.add(4)

        assert factory.show(shop.desk(), shop.directory).versions["ci"] == 4

    @pytest.mark.parametrize("at", ["before the commit", "before the files"])
    def test_an_act_cut_short_is_done_or_not(
        self, shop: FactoryShop, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        class PowerCutError(BaseException):
            pass

        def cut(*_: object) -> None:
            raise PowerCutError

        shop.add(42)
        before = shop.files()
        with monkeypatch.context() as patch:
            if at == "before the commit":
                patch.setattr(factorydir, "_commit", cut)
            else:
                patch.setattr(FactoryDirectory, "_project", cut)
            with pytest.raises(PowerCutError):
                factory.rotate_key(shop.desk(), shop.directory, Role.TARGETS)
        done = at == "before the files"

        assert (shop.files() != before) is done
        shop.add(43)
        assert (shop.directory / "roots/prod/5.root.json").exists() is done
        assert pygit2.Repository(str(shop.directory)).status() == {}
        # The new key is there even when its archive still has its first name.
        assert shop.wave("spring", 42) == 0

    def test_it_is_made_once(self, shop: FactoryShop) -> None:
        before = files_below(shop.directory)
        for keep_keys in (True, False):
            with pytest.raises(AuthoringError, match=r"is a factory"):
                factory.init(shop.desk(), shop.directory, keep_keys=keep_keys)
        assert files_below(shop.directory) == before

    def test_what_is_no_factory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(AuthoringError, match="is no factory") as caught:
            factory.show(FactoryShop(tmp_path).desk(), tmp_path)
        assert "factory init" in caught.value.hint

    def test_a_target_that_cannot_be_added_copies_nothing(self, shop: FactoryShop) -> None:
        shop.add(42)
        before = files_below(shop.directory)
        with pytest.raises(AuthoringError, match="another commit"):
            shop.add(42, ref=make_commit(shop.repo, {"other": b"content"}))
        assert files_below(shop.directory) == before


WORKER = """\
import sys
from pathlib import Path
from tests.factory_desk import FactoryShop
from agent.services import factory
from agent.core.factory import Wave
shop, number, acts = FactoryShop(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
desk = shop.desk()
print("ready", flush=True)
sys.stdin.readline()
for act in range(acts):
    version = number * 100 + act
    shop.add(version, ref=sys.argv[4])
    name = f"rpi-lmp-{version}"
    factory.tag_target(desk, shop.directory, name, ["main", f"of-{number}"])
    wave = Wave(f"w{version}", f"of-{number}", (name,))
    factory.start_wave(desk, shop.directory, wave, shop.now.replace(year=2027))
    factory.complete_wave(desk, shop.directory, f"w{version}")
"""


class TestTwoPeople:
    def test_no_act_is_lost(self, shop: FactoryShop) -> None:
        """Several processes at once: every act of each is there, and no version twice."""
        commit = make_commit(shop.repo, {"usr/share/version": b"1\n"})
        argv = [sys.executable, "-c", WORKER, str(shop.path)]
        workers = [
            subprocess.Popen(
                [*argv, str(number), str(ACTS_EACH), commit],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(1, PROCESSES + 1)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("\n")
            worker.stdin.flush()
        told = [worker.communicate()[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * PROCESSES, told
        info = factory.show(shop.desk(), shop.directory)
        added = PROCESSES * ACTS_EACH

        assert len(info.targets) == added
        assert all(f"of-{int(t.version) // 100}" in t.tags for t in info.targets)
        assert {tag: len(targets) for tag, targets in info.production.items()} == {
            f"of-{number}": ACTS_EACH for number in range(1, PROCESSES + 1)
        }
        assert info.versions == {"ci": 2 * added, "prod": added}
        assert len(history(shop)) == 1 + 4 * added

    def test_who_waits_too_long_is_told(
        self, shop: FactoryShop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(factorydir, "LOCK_WAIT_S", 0.1)
        shop.add(42)
        before = shop.files()
        with (
            files.locked(shop.directory / factorydir.LOCK_FILE),
            pytest.raises(AuthoringError, match="another process has been at"),
        ):
            shop.wave("spring", 42)
        assert shop.files() == before


class TestBundles:
    def test_ci(self, shop: FactoryShop) -> None:
        shop.add(42)
        shop.create()

        assert shop.judge().accepted
        assert not shop.judge(prod=True).accepted

    def test_a_wave_and_then_production(self, shop: FactoryShop) -> None:
        shop.add(42)
        shop.wave("spring", 42)
        info = shop.create(wave="spring")
        assert info.targets_missing == 0
        shop.sign()
        assert shop.judge(prod=True).accepted

        shop.complete("spring")
        shop.create(prod=True, tuf_only=True)
        shop.sign()
        assert shop.judge(prod=True).accepted

    def test_a_wave_that_was_not_signed_is_completed_with_the_bundle(
        self, shop: FactoryShop, tmp_path: Path
    ) -> None:
        shop.add(42)
        factory.take_offline(shop.desk(), shop.directory, tmp_path / "safe")
        assert shop.wave("spring", 42) == 1
        shop.create(wave="spring")
        assert not shop.judge(prod=True).accepted
        shop.sign(tmp_path / "safe/offline-targets.tgz")

        assert shop.judge(prod=True).accepted

    def test_the_bundle_ends_with_the_first_of_its_roles(self, shop: FactoryShop) -> None:
        shop.add(42)
        shop.wave("spring", 42, days=20)
        with pytest.raises(AuthoringError, match=r"^Targets metadata expire \(2026-01-22T") as said:
            shop.create(wave="spring")
        assert said.value.hint.startswith("ask for at most 20 days, or make a new wave")
        info = shop.create(wave="spring", expires_in_days=20)

        assert info.ends == min(info.expiries.values())
        assert (info.ends - shop.now).days == 20

    def test_a_root_that_ends_first_says_how_to_renew_it(self, tmp_path: Path) -> None:
        shop = FactoryShop(tmp_path)
        archive_repo(shop.repo)
        factory.init(shop.desk(), shop.directory, expires_in_days=10)
        shop.add(42)
        with pytest.raises(AuthoringError, match=r"^Root metadata expire \(2026-01-12T") as said:
            shop.create()
        assert "keys rotate --role root" in said.value.hint
        assert not shop.bundle.exists()

        factory.rotate_key(shop.desk(), shop.directory, Role.ROOT)
        shop.create()
        assert shop.judge().accepted

    def test_renewing_the_ci_targets_lets_a_bundle_last_longer(self, shop: FactoryShop) -> None:
        commit = make_commit(shop.repo, {"a": b"b"})
        shop.add(42, ref=commit)
        shop.now = shop.now.replace(year=2027)
        with pytest.raises(AuthoringError, match=r"^Targets metadata expire"):
            shop.create()
        shop.add(42, ref=commit)

        assert shop.create().ends > shop.now

    def test_two_targets_side_by_side(self, shop: FactoryShop) -> None:
        shop.add(42)
        shop.add(43)
        shop.create(42)
        info = shop.create(43, allow_multiple_targets=True)

        assert info.listed == ("rpi-lmp-42", "rpi-lmp-43")
        assert shop.judge().outcome.target == "rpi-lmp-43"

    def test_apps_come_from_the_factorys_store(self, shop: FactoryShop) -> None:
        image = make_image([tar_of({"web": b"web" * 1000})])
        layout = oci_layout(shop.path / "layout", {WEB: image})
        shop.add(42, apps=(app(shop.path, "web"),), images=(str(layout),))
        shutil.rmtree(layout)
        shutil.rmtree(shop.repo)
        info = shop.create()

        assert [a.name for a in info.targets[0].apps] == ["web"]
        assert shop.judge().accepted
        held, made = (files_below(p / "apps") for p in (shop.directory, shop.bundle))
        assert held == made

    def test_no_apps_leaves_them_out(self, shop: FactoryShop) -> None:
        image = make_image([tar_of({"web": b"web" * 1000})])
        layout = oci_layout(shop.path / "layout", {WEB: image})
        shop.add(42, apps=(app(shop.path, "web"),), images=(str(layout),))
        shop.create(no_apps=True)

        assert not (shop.bundle / "apps").exists()

    def test_a_damaged_store_is_found_while_it_is_copied(self, shop: FactoryShop) -> None:
        image = make_image([tar_of({"web": b"web" * 1000})])
        layout = oci_layout(shop.path / "layout", {WEB: image})
        shop.add(42, apps=(app(shop.path, "web"),), images=(str(layout),))
        blob = shop.directory / "apps/blobs/sha256" / image.layers[0]
        blob.write_bytes(bytes(blob.stat().st_size))
        with pytest.raises(AuthoringError, match="other content at its source"):
            shop.create()

        assert not (shop.bundle / "tuf").exists()

    def test_the_same_keys_directory_still_makes_bundles_of_its_own(
        self, shop: FactoryShop
    ) -> None:
        """`--keys` on a factory: the counter is the factory's."""
        shop.add(42)
        commit = make_commit(shop.repo, {"a": b"b"})
        spec = author.BundleSpec(
            "rpi-lmp-50", shop.bundle, shop.directory, "main", "rpi",
            ostree_repo=shop.repo, ref=commit,
        )  # fmt: skip
        author.create_bundle(shop.desk().desk, spec)

        assert shop.judge().accepted
        assert history(shop)[0] == "bundle: ci version 2"


def versions_in(bundle: Path) -> dict[str, int]:
    names = ("snapshot", "timestamp")
    documents = {name: json.loads((bundle / f"tuf/{name}.json").read_bytes()) for name in names}
    return {name: document["signed"]["version"] for name, document in documents.items()}


class TestKeys:
    def test_a_device_that_holds_an_old_root_follows(
        self, shop: FactoryShop, tmp_path: Path
    ) -> None:
        old = tmp_path / "image"
        shutil.copytree(shop.directory / "roots", old)
        shop.add(42)
        shop.wave("spring", 42)
        shop.complete("spring")
        for role in (Role.ROOT, Role.TARGETS, Role.ROOT):
            factory.rotate_key(shop.desk(), shop.directory, role)
        shop.create(prod=True)
        shop.sign()

        assert len(list((shop.directory / "roots/prod").iterdir())) == 7
        assert shop.judge(prod=True, roots=old).accepted
        shutil.rmtree(shop.bundle)
        shop.create()
        assert shop.judge(roots=old).accepted

    @pytest.mark.parametrize("role", [Role.SNAPSHOT, Role.TIMESTAMP])
    def test_an_online_key_is_replaced(self, shop: FactoryShop, tmp_path: Path, role: Role) -> None:
        """Devices with the old root follow; versions go on; offline keys stay where they are."""
        old, safe = tmp_path / "image", tmp_path / "safe"
        shutil.copytree(shop.directory / "roots", old)
        usual = shop.directory / f"keys/online-{role}.tgz"
        before = usual.read_bytes()
        shop.add(42)
        shop.wave("spring", 42)
        shop.complete("spring")
        shop.create()
        first = versions_in(shop.bundle)
        shutil.rmtree(shop.bundle)
        factory.take_offline(shop.desk(), shop.directory, safe)
        version, archive = factory.rotate_key(shop.desk(), shop.directory, role, places=[safe])
        shop.create()

        assert (version, archive) == (5, usual)
        assert usual.read_bytes() != before
        assert len(list((shop.directory / "keys").glob(f"old-{role}-*.tgz"))) == 1
        assert shop.judge(roots=old).accepted
        assert all(new > first[name] for name, new in versions_in(shop.bundle).items())
        root = json.loads((shop.bundle / "tuf/5.root.json").read_bytes())["signed"]
        signer = json.loads((shop.bundle / f"tuf/{role}.json").read_bytes())["signatures"]
        assert root["roles"][role.value]["keyids"] == [entry["keyid"] for entry in signer]
        assert len(root["keys"]) == 5
        shutil.rmtree(shop.bundle)
        shop.create(prod=True)
        shop.sign(safe / "offline-targets.tgz")
        assert shop.judge(prod=True, roots=old).accepted

    def test_a_rotation_of_an_online_key_that_was_killed_is_finished_by_repeating_it(
        self, shop: FactoryShop, tmp_path: Path
    ) -> None:
        shop.add(42)
        kept = tmp_path / "kept"
        shutil.copytree(shop.directory, kept)

        def rotate() -> None:
            factory.rotate_key(shop.desk(), shop.directory, Role.SNAPSHOT)

        total = kills.changes(rotate)
        for at in range(1, total + 1):
            shutil.rmtree(shop.directory)
            shutil.copytree(kept, shop.directory)
            kills.killed_at(rotate, at)
            rotate()
            shop.create()

            assert shop.judge().accepted, f"killed before change {at} of {total}"
            shutil.rmtree(shop.bundle)

    def test_the_old_key_signs_no_more(self, shop: FactoryShop) -> None:
        shop.add(42)
        shop.wave("spring", 42)
        shop.complete("spring")
        old = shop.directory / "keys/offline-targets.tgz"
        kept = shop.path / "stolen.tgz"
        shutil.copy(old, kept)
        factory.rotate_key(shop.desk(), shop.directory, Role.TARGETS)
        shop.create(prod=True)

        with pytest.raises(AuthoringError, match="holds 0 targets keys"):
            shop.sign(kept)

    def test_offline_keys_leave_and_are_used_from_where_they_are(
        self, shop: FactoryShop, tmp_path: Path
    ) -> None:
        safe = tmp_path / "safe"
        shop.add(42)
        factory.take_offline(shop.desk(), shop.directory, safe)
        assert sorted(path.name for path in (shop.directory / "keys").iterdir()) == [
            "online-snapshot.tgz", "online-targets.tgz", "online-timestamp.tgz",
        ]  # fmt: skip
        assert {stat.S_IMODE(path.stat().st_mode) for path in safe.iterdir()} == {0o600}
        with pytest.raises(AuthoringError, match=r"root key .* is not at hand"):
            factory.rotate_key(shop.desk(), shop.directory, Role.ROOT)

        _, archive = factory.rotate_key(shop.desk(), shop.directory, Role.ROOT, places=[safe])
        assert archive.parent == safe
        assert shop.wave("spring", 42, keys=(safe,)) == 0
        places = factory.list_keys(shop.desk(), shop.directory, [safe])
        offline = [place for place in places if place.role and not place.online]
        assert [place.archive and place.archive.name for place in offline] == [
            "offline-root.tgz", "offline-targets.tgz",
        ]  # fmt: skip
        with pytest.raises(AuthoringError, match="are out already"):
            factory.take_offline(shop.desk(), shop.directory, tmp_path / "other")

    def test_a_key_is_not_moved_over_another(self, shop: FactoryShop, tmp_path: Path) -> None:
        safe = tmp_path / "safe"
        safe.mkdir()
        shutil.copy(shop.directory / "keys/offline-root.tgz", safe / "first-root.tgz")
        before = files_below(shop.directory)
        with pytest.raises(AuthoringError, match="keys are never overwritten"):
            factory.take_offline(shop.desk(), shop.directory, safe)

        assert files_below(shop.directory) == before

    def test_nothing_is_said_of_private_halves(
        self, shop: FactoryShop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert usb_update(["keys", "list", "--factory-dir", str(shop.directory)]) == 0
        said = capsys.readouterr().out
        secrets = [
            key.secret_json()["keyval"]["private"]  # type: ignore[index]
            for _, key in keyfiles.read_archives(shop.directory / "keys")
        ]

        assert len(said.splitlines()) == 6
        assert not [secret for secret in secrets if secret in said]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """A factory with a Target in CI, one in production and one in a wave."""
    made = Field(tmp_path_factory.mktemp("field"))
    shop = in_the_field(made)
    factory.init(shop.desk(), shop.directory, keep_keys=True)
    for version in (2, 3, 4):
        shop.add(
            version, target=f"board-lmp-{version}", hardware_id="board",
            ostree_repo=made.origin.origin, ref=made.origin.new_commit(),
        )  # fmt: skip
    ends = shop.now + timedelta(days=365)
    for name, target in (("done", "board-lmp-3"), ("open", "board-lmp-4")):
        wave = books_of.Wave(name, "main", (target,))
        factory.start_wave(shop.desk(), shop.directory, wave, ends)
        if name == "done":
            shop.complete(name)
    return made


def in_the_field(field: Field) -> FactoryShop:
    return FactoryShop(field.workshop.path, datetime.now(UTC), field.workshop.keys.name)


class TestTheAgentInstalls:
    @pytest.mark.parametrize(
        ("version", "asked"), [(2, {}), (3, {"prod": True}), (4, {"wave": "open"})]
    )
    def test_and_it_runs_after_the_reboot(
        self, field: Field, tmp_path: Path, version: int, asked: dict[str, object]
    ) -> None:
        shop = in_the_field(field)
        bundle = tmp_path / "bundle"
        shop.create(version, target=f"board-lmp-{version}", destination=bundle, **asked)
        if asked:
            key = shop.directory / "keys/offline-targets.tgz"
            author.sign_bundle(shop.desk().desk, bundle, key)
        device = field.device(tmp_path / "device")
        device.configure("usb_update", device_type="prod" if asked else "ci")
        device.update(bundle)

        assert device.current()["target"] == f"board-lmp-{version}"


class TestCommands:
    """Typed as a person types them."""

    @pytest.fixture
    def desk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        commit = make_commit(archive_repo(tmp_path / "repo"), {"usr/share/version": b"1\n"})
        assert usb_update(["factory", "init", "factory"]) == 0
        assert self.add(commit) == 0
        return tmp_path

    def add(self, commit: str, name: str = "rpi-lmp-42") -> int:
        return usb_update(
            ["factory", "target", "add", name, "--tag", "main", "--hardware-id", "rpi",
             "--ostree-repo", "repo", "--commit", commit, "--factory-dir", "factory"]
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("tags", "words"),
        [(["devel"], ""), ([], "none is named"), (["a", "b"], "gives the branch 2")],
    )
    def test_the_branch_may_say_the_tag(
        self, desk: Path, tags: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tagging = ", ".join(f"{{tag: {tag}}}" for tag in tags)
        text = f"containers: {{tagging: {{refs/heads/main: [{tagging}]}}}}"
        add_commit(bare_repo(desk / "ci.git"), {"factory-config.yml": text.encode()})
        commit = make_commit(desk / "repo", {"usr/share/version": b"2\n"})
        done = usb_update(
            ["factory", "target", "add", "rpi-lmp-43", "--hardware-id", "rpi", "--ostree-repo",
             "repo", "--commit", commit, "--factory-dir", "factory", "--factory-config", "ci.git",
             "--branch", "main"]
        )  # fmt: skip
        out = capsys.readouterr()

        assert done == (1 if words else 0)
        assert words in out.err
        assert words or "rpi-lmp-43\ttags: devel" in out.out

    def test_a_walk_from_ci_to_production(
        self, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = ["bundle", "create", "rpi-lmp-42"]
        here = ["--factory-dir", "factory"]
        verify = ["--roots", "factory/roots", "--deep", "--tag", "main"]
        assert usb_update([*bundle, "ci", *here, "--tag", "main"]) == 0
        assert usb_update(["bundle", "verify", "ci", "--type", "ci", *verify]) == 0
        assert usb_update(["factory", "wave", "init", "spring", "rpi-lmp-42", *here]) == 0
        assert usb_update([*bundle, "wave", *here, "--wave", "spring"]) == 0
        assert usb_update(["factory", "wave", "complete", "spring", *here]) == 0
        assert usb_update([*bundle, "prod", *here, "--tag", "main", "--prod"]) == 0
        assert usb_update(["keys", "offline", "safe", *here]) == 0
        for made in ("wave", "prod"):
            assert usb_update(["bundle", "sign", made, "-k", "safe/offline-targets.tgz"]) == 0
            assert usb_update(["bundle", "verify", made, "--type", "prod", *verify]) == 0
        capsys.readouterr()
        assert usb_update(["factory", "show", *here, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert [t["name"] for t in shown["production"]["main"]] == ["rpi-lmp-42"]
        assert shown["waves"][0]["state"] == "complete"
        assert usb_update(["factory", "show", *here]) == 0

    def test_the_factory_is_here_unless_named(
        self, desk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(desk / "factory")
        assert usb_update(["factory", "tag", "rpi-lmp-42", "main", "devel"]) == 0
        assert usb_update(["factory", "wave", "init", "w", "rpi-lmp-42", "--tag", "devel",
                           "--expires-at", "2100-01-01"]) == 0  # fmt: skip
        assert usb_update(["factory", "wave", "cancel", "w"]) == 0
        assert usb_update(["keys", "rotate", "--role", "targets"]) == 0
        assert usb_update(["keys", "rotate", "--role", "root", "--type", "rsa"]) == 0

    @pytest.mark.usefixtures("desk")
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["factory", "show"], "is no factory"),
            (["factory", "init", "factory"], "is a factory"),
            (["factory", "tag", "x", "main", "--factory-dir", "factory"], "no Target 'x'"),
            (["factory", "wave", "complete", "x", "--factory-dir", "factory"], "no wave 'x'"),
            (["factory", "wave", "sign", "x", "--factory-dir", "factory"], "no wave 'x'"),
            (["keys", "list", "--factory-dir", "nowhere"], "holds no factory's keys"),
            (["keys", "rotate", "--role", "root"], "is no factory"),
            (["bundle", "create", "x-1", "b", "--factory-dir", "factory", "--wave", "w"],
             "no wave"),
            (["bundle", "create", "x-1", "b", "--factory-dir", "factory", "--wave", "w", "--prod"],
             "exclude each other"),
            (["bundle", "create", "x-1", "b", "--keys", "factory", "--wave", "w"], "--factory-dir"),
            (["bundle", "create", "x-1", "b", "--factory-dir", "factory", "--tag", "main",
              "--app", "d"], "says that already"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_a_sentence(
        self, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        capsys.readouterr()
        assert usb_update(argv) == 1
        err = capsys.readouterr().err

        assert said in err
        assert "internal error" not in err

    def test_help_and_its_examples_are_what_is_understood(
        self, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every command has help; every line of its examples is parsed."""
        from agent.faces.cli import COMMANDS, _parser  # noqa: PLC0415

        examples = 0
        for words in (["factory"], ["factory", "target", "add"], ["factory", "wave", "init"],
                      ["factory", "tag"], ["factory", "init"], ["factory", "show"],
                      ["keys", "rotate"], ["keys", "offline"], ["keys", "list"],
                      ["bundle", "create"], ["bundle", "sign"], ["bundle", "show"],
                      ["bundle", "verify"], ["bundle", "diff"], ["bundle", "pack"],
                      ["bundle", "unpack"], ["stick", "make"], ["stick", "doctor"],
                      ["report"]):  # fmt: skip
            with pytest.raises(SystemExit) as exited:
                usb_update([*words, "--help"])
            text = capsys.readouterr().out
            assert exited.value.code == 0
            for line in text.replace("\\\n", "").splitlines():
                if line.strip().startswith("usb-update ") and not line.startswith("usage"):
                    argv = line.split()[1:]
                    assert _parser("usb-update", "", argv, COMMANDS).parse_args(argv).func
                    examples += 1
        assert examples >= 27

    def test_help_does_not_load_git(self) -> None:
        code = (
            "import sys; from agent.faces.cli import usb_update\n"
            "try: usb_update(['--help'])\n"
            "except SystemExit: pass\n"
            "print([m for m in ('pygit2', 'cryptography') if m in sys.modules])"
        )
        assert finished([sys.executable, "-c", code]).stdout.endswith("[]\n")
