"""`bundle create` cut short anywhere, and repeated: the same bytes, and nothing read twice."""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters import files, shell
from agent.adapters.authoring import store
from agent.adapters.authoring.store import AppStore
from agent.services import author
from agent.services.author import BundleSpec
from tests.app_store import make_image, tar_of
from tests.authoring_desk import Workshop, files_below, workshop
from tests.image_files import oci_layout
from tests.ostree_device import make_commit, object_path, ostree

pytestmark = pytest.mark.needs_ostree

ROOT = Path(__file__).parents[2]
WEB = "docker.io/library/web:1"
KILLS = 6
EVERYTHING = 10**9
MIB = 1024 * 1024

# Waits for a line, so that the time to the kill does not count Python's start.
RUN = """\
import json, sys
from pathlib import Path
from agent.services import author
from agent.services.author import BundleSpec
from tests.authoring_desk import Workshop
asked = json.loads(sys.argv[1])
for name in ("destination", "keys", "ostree_repo"):
    asked[name] = Path(asked[name])
asked["apps"] = tuple(map(Path, asked["apps"]))
asked["images"] = tuple(asked["images"])
shop = Workshop(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
author.create_bundle(shop.desk(), BundleSpec(**asked))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def asked(shop: Workshop) -> dict[str, object]:
    """A Target with a rootfs of a hundred files and an App of a few MiB."""
    image = make_image([tar_of({f"layer{n}": os.urandom(MIB)}) for n in range(3)])
    layout = oci_layout(shop.path / "layout", {WEB: image})
    app = shop.path / "shop"
    app.mkdir()
    (app / "docker-compose.yml").write_text("services: {web: {image: 'web:1'}}", encoding="utf-8")
    content = {f"usr/lib/f{n}": os.urandom(40_000) for n in range(100)}
    commit = make_commit(shop.repo, content)
    return {
        "target": "rpi-lmp-42",
        "tag": "main",
        "hardware_id": "rpi",
        "ostree_repo": shop.repo,
        "ref": commit,
        "apps": (app,),
        "images": (str(layout),),
    }


@pytest.fixture(scope="module")
def whole(shop: Workshop, asked: dict[str, object]) -> dict[str, bytes]:
    """What a run nobody interrupts makes."""
    return files_below(made(shop, trial(shop, asked)))


def trial(shop: Workshop, asked: dict[str, object]) -> BundleSpec:
    """Ask for the same bundle anew, with the keys and counters as they were."""
    base = shop.path / f"trial-{time.time_ns()}"
    shutil.copytree(shop.keys, base / "keys")
    return BundleSpec(**asked, destination=base / "bundle", keys=base / "keys")  # type: ignore[arg-type]


def made(shop: Workshop, spec: BundleSpec) -> Path:
    author.create_bundle(shop.desk(), spec)
    return spec.destination


class PowerCutError(BaseException):
    """Not an Exception: no handler may swallow a power cut."""


class Cut:
    """Counts effects, of all threads; after so many of them nothing happens any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.numbers, self.at = itertools.count(1), at
        self.count = 0
        monkeypatch.setattr(files, "write_atomic", self.around(files.write_atomic))
        monkeypatch.setattr(files, "remove_durably", self.around(files.remove_durably))
        monkeypatch.setattr(shell, "run", self.around(shell.run))
        monkeypatch.setattr(Path, "rename", self.around(Path.rename, every=40))
        monkeypatch.setattr(AppStore, "_write_blob", self.around(AppStore._write_blob))
        monkeypatch.setattr(store, "copy_file", self.around(store.copy_file))

    def around(self, effect: Callable[..., object], *, every: int = 1) -> Callable[..., object]:
        """Count an effect, or each ``every``-th of those there are many of."""
        calls = itertools.count()

        def cut(*arguments: object, **options: object) -> object:
            counts = next(calls) % every == 0
            number = next(self.numbers) if counts else self.count
            self.count = max(self.count, number)
            if number > self.at:
                raise PowerCutError
            done = effect(*arguments, **options)
            if counts and number == self.at:
                raise PowerCutError
            return done

        return cut


def cut_short(monkeypatch: pytest.MonkeyPatch, shop: Workshop, spec: BundleSpec, at: int) -> None:
    with monkeypatch.context() as patch:
        Cut(patch, at)
        with pytest.raises(PowerCutError):
            made(shop, spec)


class TestCutShort:
    def test_after_every_effect(
        self, shop: Workshop, asked: dict[str, object], whole: dict[str, bytes],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        with monkeypatch.context() as patch:
            counted = Cut(patch, EVERYTHING)
            made(shop, trial(shop, asked))
        effects = counted.count
        assert effects > 20
        for at in range(1, effects - 1):  # the last ones read the finished bundle
            spec = trial(shop, asked)
            cut_short(monkeypatch, shop, spec, at)
            assert files_below(made(shop, spec)) == whole, f"cut after effect {at} of {effects}"
            shutil.rmtree(spec.destination.parent)

    def test_killed_at_random(
        self, shop: Workshop, asked: dict[str, object], whole: dict[str, bytes]
    ) -> None:
        took = self.killed(shop, trial(shop, asked), None)
        seed = time.time_ns()
        chance = random.Random(seed)  # noqa: S311  no secret
        for _ in range(KILLS):
            spec, after_s = trial(shop, asked), chance.uniform(0, took)
            self.killed(shop, spec, after_s)
            told = f"killed after {after_s:.3f} of {took:.3f} s, seed {seed}"
            # Killed when all was done, it leaves a lock that nobody holds, and looks no more.
            finished = (spec.destination / "tuf/bundle-targets.json").is_file()
            if not finished or (spec.destination / ".unfinished").exists():
                made(shop, spec)
            (spec.destination / ".lock").unlink(missing_ok=True)
            assert files_below(spec.destination) == whole, told

    def killed(self, shop: Workshop, spec: BundleSpec, after_s: float | None) -> float:
        """Make a bundle in another process; kill it, with all it started, in the midst."""
        names = ("target", "tag", "hardware_id", "ostree_repo", "ref", "apps", "images",
                 "destination", "keys")  # fmt: skip
        asked = {name: getattr(spec, name) for name in names}
        argv = [sys.executable, "-c", RUN, json.dumps(asked, default=str), str(shop.path)]
        process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            try:
                process.communicate("\n", timeout=after_s)
            except subprocess.TimeoutExpired:
                process.kill()
        return time.monotonic() - began

    def test_another_target_does_not_take_over_what_was_begun(
        self, shop: Workshop, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = trial(shop, asked)
        cut_short(monkeypatch, shop, spec, 6)

        with pytest.raises(author.AuthoringError, match="already"):
            made(shop, replace(spec, target="rpi-lmp-43"))


class TestMerging:
    """A second Target in one bundle: what is there is not read again, at either end."""

    @pytest.fixture
    def merged(self, shop: Workshop, asked: dict[str, object]) -> BundleSpec:
        """A bundle, and the wish to add a Target that changes one file of a hundred."""
        first = trial(shop, asked)
        made(shop, first)
        with_one_more = Path(shop.path, "more")
        ostree("checkout", "--user-mode", f"--repo={shop.repo}", str(asked["ref"]), with_one_more)
        (with_one_more / "usr/lib/f0").write_bytes(os.urandom(40_000))
        commit = ostree(
            "commit", f"--repo={shop.repo}", "--orphan", "--canonical-permissions",
            f"--tree=dir={with_one_more}",
        ).strip()  # fmt: skip
        shutil.rmtree(with_one_more)
        return replace(first, target="rpi-lmp-43", ref=commit, allow_multiple_targets=True)

    def test_few_bytes_are_read(self, shop: Workshop, merged: BundleSpec) -> None:
        content = sum(len(data) for data in files_below(merged.destination).values())
        before = bytes_read()
        made(shop, merged)

        assert content > 6 * MIB
        assert bytes_read() - before < content / 4

    def test_what_is_there_need_not_be_at_the_source(
        self, shop: Workshop, merged: BundleSpec
    ) -> None:
        """Nothing is proven better not to be read than what is gone."""
        there = {path.name for path in (merged.destination / "ostree_repo").rglob("*.filez")}
        source = shop.path / "source-without"
        shutil.copytree(shop.repo, source)
        gone = [path for path in source.rglob("*.filez") if path.name in there]
        for path in gone:
            path.unlink()
        made(shop, replace(merged, ostree_repo=source))
        objects = merged.destination / "ostree_repo"

        assert len(gone) >= 100
        assert object_path(objects, merged.ref, "commit").is_file()
        ostree("fsck", f"--repo={objects}")


def bytes_read() -> int:
    """Return what this process and the children it has waited for have read."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))
