"""Apps in git: found as CI finds them, read from bare clones, bounded, packed the same always."""

import os
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pygit2
import pytest

from agent.adapters import gitsource
from agent.adapters.authoring.composefile import read_compose
from agent.adapters.authoring.directory import DirectoryApp
from agent.adapters.authoring.packing import PackedFiles, pack
from agent.adapters.gitsource import GitRevision, open_revision, parse_place
from agent.core.appfiles import AppSource
from agent.core.authoring import AuthoringError
from tests.git_repos import (
    AUTHOR,
    Link,
    Program,
    Submodule,
    add_commit,
    bare_repo,
    raw_tree,
    write_tree,
)

COMPOSE = b"services: {web: {image: 'web:1'}}\n"
POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return bare_repo(tmp_path / "containers.git")


def revision(repo: pygit2.Repository, ref: str = "") -> GitRevision:
    return open_revision(repo.path.rstrip("/") + (f"@{ref}" if ref else ""))


def names(found: tuple[AppSource, ...]) -> list[str]:
    return [app.name for app in found]


def packed(repo: pygit2.Repository, path: Path, ref: str = "") -> PackedFiles:
    (app,) = revision(repo, ref).apps()
    return pack(app, COMPOSE, path / f"{len(list(path.iterdir()))}.tgz")


def shop(**files: object) -> dict[str, object]:
    return {
        "shop/docker-compose.yml": COMPOSE,
        **{f"shop/{name}": data for name, data in files.items()},
    }


def git(*arguments: object, cwd: Path | None = None) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "protocol.file.allow=always", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class TestPlaces:
    def test_the_ref_follows_the_last_at(self, tmp_path: Path) -> None:
        assert parse_place("a@b.git@main") == (Path("a@b.git"), "main")
        assert parse_place("containers.git") == (Path("containers.git"), "")

    def test_a_path_that_exists_may_hold_an_at(self, tmp_path: Path) -> None:
        place = tmp_path / "me@home"
        place.mkdir()

        assert parse_place(str(place)) == (place, "")

    @pytest.mark.parametrize("text", ["", "@main", "repo@"])
    def test_half_a_place(self, text: str) -> None:
        with pytest.raises(AuthoringError, match="is not PATH"):
            parse_place(text)


class TestRefs:
    def test_without_a_ref_it_is_head(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        found = revision(repo)

        assert (found.commit, found.branch) == (commit, "refs/heads/main")

    @pytest.mark.parametrize("ref", ["devel", "refs/heads/devel", "feature/x"])
    def test_a_branch(self, repo: pygit2.Repository, ref: str) -> None:
        add_commit(repo, shop())
        name = ref.removeprefix("refs/heads/")
        commit = add_commit(repo, shop(more=b"1"), branch=name)
        found = revision(repo, ref)

        assert (found.commit, found.branch) == (commit, f"refs/heads/{name}")

    def test_tags_both_kinds(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        repo.create_reference("refs/tags/light", commit)
        repo.create_tag("v1", pygit2.Oid(hex=commit), pygit2.enums.ObjectType.COMMIT,
                        repo.get(commit).author, "one")  # fmt: skip

        for tag in ("light", "v1", "refs/tags/v1"):
            found = revision(repo, tag)
            assert (found.commit, found.branch) == (commit, "")

    def test_commits_and_what_revisions_say(self, repo: pygit2.Repository) -> None:
        first = add_commit(repo, shop())
        add_commit(repo, shop(more=b"1"), parents=[first])

        for ref in (first, first[:9], "main~1", "HEAD^"):
            found = revision(repo, ref)
            assert (found.commit, found.branch) == (first, "")

    def test_a_detached_head(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        repo.set_head(pygit2.Oid(hex=commit))

        assert (revision(repo).commit, revision(repo).branch) == (commit, "")

    def test_a_branch_of_a_remote_is_that_branch(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        repo.create_reference("refs/remotes/origin/feature/x", commit)

        assert revision(repo, "origin/feature/x").branch == "refs/heads/feature/x"

    def test_heads_stand_for_their_branches(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        repo.create_reference("refs/remotes/origin/devel", commit)
        head, branch = "refs/remotes/origin/HEAD", "refs/remotes/origin/devel"
        repo.create_reference_symbolic(head, branch, force=False)

        assert revision(repo, "HEAD").branch == "refs/heads/main"
        assert revision(repo, "origin/HEAD").branch == "refs/heads/devel"
        assert revision(repo, "origin").branch == "refs/heads/devel"

    @pytest.mark.parametrize("ref", ["nope", "0" * 40, "abcd", "main..devel", "-x", "a b", ":/x"])
    def test_a_missing_one_is_told_with_what_there_is(
        self, repo: pygit2.Repository, ref: str
    ) -> None:
        add_commit(repo, shop())

        with pytest.raises(AuthoringError, match="has no commit") as caught:
            revision(repo, ref)
        assert "heads/main" in caught.value.hint

    def test_a_tree_is_no_commit(self, repo: pygit2.Repository) -> None:
        add_commit(repo, shop())

        with pytest.raises(AuthoringError, match="has no commit"):
            revision(repo, "main:shop")

    def test_an_empty_repository(self, repo: pygit2.Repository) -> None:
        with pytest.raises(AuthoringError, match="no commit at its HEAD") as caught:
            revision(repo)
        assert "no branches or tags" in caught.value.hint

    def test_a_name_of_both_a_branch_and_a_tag(self, repo: pygit2.Repository) -> None:
        commit = add_commit(repo, shop())
        repo.create_reference("refs/tags/main", commit)

        with pytest.raises(AuthoringError, match="both a branch and a tag 'main'"):
            revision(repo, "main")
        assert revision(repo, "refs/heads/main").commit == commit

    def test_no_repository(self, tmp_path: Path) -> None:
        for place in (tmp_path, tmp_path / "nothing"):
            with pytest.raises(AuthoringError, match="cannot be opened as a git repository"):
                open_revision(str(place))

    def test_a_directory_within_a_repository_is_none(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        git("init", "-q", tmp_path / "work")
        (tmp_path / "work/below").mkdir()

        with pytest.raises(AuthoringError, match="cannot be opened"):
            open_revision(str(tmp_path / "work/below"))


class TestOrdinaryClones:
    """What people have on their machines beside bare clones."""

    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        inner = bare_repo(tmp_path / "inner.git")
        add_commit(inner, {"docker-compose.yml": COMPOSE})
        git("init", "-q", "-b", "main", tmp_path / "work")
        (tmp_path / "work/shop").mkdir()
        (tmp_path / "work/shop/docker-compose.yml").write_bytes(COMPOSE)
        git("submodule", "--quiet", "add", inner.path, "vendor", cwd=tmp_path / "work")
        git("add", ".", cwd=tmp_path / "work")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one",
            cwd=tmp_path / "work")  # fmt: skip
        return tmp_path / "work"

    @pytest.mark.parametrize("place", ["", ".git"])
    @pytest.mark.parametrize("clone", ["vendor", ".git/modules/vendor", "../inner.git"])
    def test_a_checkout_and_its_submodule(self, work: Path, place: str, clone: str) -> None:
        found = open_revision(str(work / place)).apps(submodules={"vendor": work / clone})

        assert names(found) == ["shop", "vendor"]

    def test_what_is_not_committed_is_not_there(self, work: Path) -> None:
        (work / "shop/docker-compose.yml").write_bytes(b"services: {}\n")
        (work / "shop/more").write_bytes(b"1")
        (app, _) = open_revision(str(work)).apps(submodules={"vendor": work / "vendor"})

        assert [file.name for file in app.files()] == ["docker-compose.yml"]
        assert app.read("docker-compose.yml", 1000) == COMPOSE

    def test_a_shallow_clone_is_enough(self, work: Path, tmp_path: Path) -> None:
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "two",
            "--allow-empty", cwd=work)  # fmt: skip
        git("clone", "-q", "--bare", "--depth=1", f"file://{work}", tmp_path / "s.git")

        assert len(open_revision(str(tmp_path / "s.git")).commit) == 40

    def test_a_clone_without_blobs_says_so(self, work: Path, tmp_path: Path) -> None:
        git("config", "uploadpack.allowFilter", "true", cwd=work)
        git("clone", "-q", "--bare", "--filter=blob:none", f"file://{work}", tmp_path / "p.git")
        apps = open_revision(str(tmp_path / "p.git")).apps(submodules={"vendor": work / "vendor"})

        with pytest.raises(AuthoringError, match="cannot be read") as caught:
            apps[0].read("docker-compose.yml", 1000)
        assert "neither partial" in caught.value.hint

    def test_a_repository_of_another_hash_is_one_sentence(self, tmp_path: Path) -> None:
        git("init", "-q", "--bare", "--object-format=sha256", tmp_path / "new.git")

        with pytest.raises(AuthoringError):
            open_revision(str(tmp_path / "new.git"))


def test_git_is_loaded_only_when_it_is_used() -> None:
    text = "import sys; from agent import wiring; from agent.faces import authoring; "
    text += "wiring.author_desk(); print('pygit2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


class TestFindingApps:
    def test_as_ci_does(self, repo: pygit2.Repository) -> None:
        """Top-level directories with the file of that very name; no others, no deeper ones."""
        add_commit(
            repo,
            {
                "README.md": b"",
                "docker-compose.yml": COMPOSE,
                "shop/docker-compose.yml": COMPOSE,
                "db/docker-compose.yml": COMPOSE,
                "old.disabled/docker-compose.yml": COMPOSE,
                "image/Dockerfile": b"",
                "deep/er/docker-compose.yml": COMPOSE,
                "LATEST": Link(b"README.md"),
            },
        )

        assert names(revision(repo).apps()) == ["db", "shop"]

    def test_a_misspelt_file_is_refused_as_by_ci(self, repo: pygit2.Repository) -> None:
        add_commit(repo, {"shop/docker-compose.yaml": COMPOSE})

        with pytest.raises(AuthoringError, match=r"has 'docker-compose\.yaml' and no"):
            revision(repo).apps()

    def test_a_disabled_directory_may_be_misspelt(self, repo: pygit2.Repository) -> None:
        add_commit(repo, {"shop.disabled/docker-compose.yaml": COMPOSE})

        assert revision(repo).apps() == ()

    def test_a_link_to_an_app_is_refused(self, repo: pygit2.Repository) -> None:
        """CI follows it and would publish a second App."""
        add_commit(repo, {**shop(), "again": Link(b"./shop/")})

        with pytest.raises(AuthoringError, match=r"'again' .* is a link to './shop/', which holds"):
            revision(repo).apps()

    def test_a_compose_file_that_is_a_link_is_refused(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        add_commit(repo, {"shop/docker-compose.yml": Link(b"real.yml"), "shop/real.yml": COMPOSE})
        (app,) = revision(repo).apps()

        with pytest.raises(AuthoringError, match="is not a regular file"):
            app.read("docker-compose.yml", 1000)
        with pytest.raises(AuthoringError, match="is not a regular file"):
            pack(app, COMPOSE, tmp_path / "a.tgz")


class TestSubmodules:
    @pytest.fixture
    def inner(self, tmp_path: Path) -> pygit2.Repository:
        return bare_repo(tmp_path / "inner.git")

    def test_at_the_top_nobody_knows_what_it_is(self, repo: pygit2.Repository) -> None:
        add_commit(repo, {"vendor": Submodule("1" * 40)})

        with pytest.raises(AuthoringError, match=r"'vendor' .* is a submodule") as caught:
            revision(repo).apps()
        assert "--submodule vendor=PATH" in caught.value.hint

    def test_a_clone_answers(self, repo: pygit2.Repository, inner: pygit2.Repository) -> None:
        commit = add_commit(inner, {"docker-compose.yml": COMPOSE})
        add_commit(repo, {"vendor": Submodule(commit)})

        found = revision(repo).apps(submodules={"vendor": Path(inner.path)})

        assert names(found) == ["vendor"]

    def test_inside_an_app(
        self, repo: pygit2.Repository, inner: pygit2.Repository, tmp_path: Path
    ) -> None:
        commit = add_commit(inner, {"lib/a": b"1", "b": Program(b"2")})
        add_commit(repo, shop(vendor=Submodule(commit)))
        (bare,) = revision(repo).apps()
        (whole,) = revision(repo).apps(submodules={"shop/vendor": Path(inner.path)})
        pack(whole, COMPOSE, tmp_path / "a.tgz")

        with pytest.raises(AuthoringError, match=r"'vendor' .* is a submodule"):
            pack(bare, COMPOSE, tmp_path / "b.tgz")
        with tarfile.open(tmp_path / "a.tgz") as tar:
            assert tar.getnames() == ["docker-compose.yml", "vendor", "vendor/b", "vendor/lib",
                                      "vendor/lib/a"]  # fmt: skip

    def test_in_a_submodule(
        self, repo: pygit2.Repository, inner: pygit2.Repository, tmp_path: Path
    ) -> None:
        innermost = bare_repo(tmp_path / "innermost.git")
        deep = add_commit(innermost, {"a": b"1"})
        commit = add_commit(inner, {"docker-compose.yml": COMPOSE, "deep": Submodule(deep)})
        add_commit(repo, {"vendor": Submodule(commit)})
        clones = {"vendor": Path(inner.path), "vendor/deep": Path(innermost.path)}
        (app,) = revision(repo).apps(submodules=clones)

        assert [file.name for file in app.files()] == ["deep", "deep/a", "docker-compose.yml"]

    def test_an_ignored_one_needs_no_clone(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        add_commit(repo, shop(vendor=Submodule("1" * 40), **{".composeappignores": b"vendor\n"}))

        assert packed(repo, tmp_path).index

    def test_a_clone_without_the_commit(
        self, repo: pygit2.Repository, inner: pygit2.Repository
    ) -> None:
        add_commit(inner, {"docker-compose.yml": COMPOSE})
        add_commit(repo, {"vendor": Submodule("1" * 40)})

        with pytest.raises(AuthoringError, match=r"'vendor' .* cannot be read") as caught:
            revision(repo).apps(submodules={"vendor": Path(inner.path)})
        assert "git fetch" in caught.value.hint

    def test_a_path_without_a_submodule(
        self, repo: pygit2.Repository, inner: pygit2.Repository
    ) -> None:
        add_commit(repo, shop())

        with pytest.raises(AuthoringError, match="has no submodule at 'shop'"):
            revision(repo).apps(submodules={"shop": Path(inner.path)})


class TestPacking:
    FILES = shop(
        **{
            "run.sh": Program(b"#!/bin/sh\n"),
            "cfg/deep/a": b"a",
            "cfg/b": b"",
            "link": Link(b"cfg/b"),
            "cfg/up": Link(b"../run.sh"),
            "notes.txt": b"stay",
            ".composeappignores": b"*.txt\n",
        }
    )

    def test_a_checkout_packs_to_the_same_app(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        add_commit(repo, self.FILES)
        git("clone", "-q", repo.path, tmp_path / "checkout")
        (tmp_path / "checkout/shop/run.sh").chmod(0o700)  # another umask

        assert (
            pack(DirectoryApp(tmp_path / "checkout/shop"), COMPOSE, tmp_path / "b.tgz").descriptor
            == packed(repo, tmp_path).descriptor
        )

    def test_a_clone_packs_to_the_same_app_whenever(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        """Loose objects here, one pack there; another branch name, another time of day."""
        add_commit(repo, self.FILES)
        first = packed(repo, tmp_path).descriptor
        git("clone", "-q", "--bare", f"file://{repo.path}", tmp_path / "clone.git")
        git("-C", tmp_path / "clone.git", "repack", "-adq")
        clone = pygit2.Repository(str(tmp_path / "clone.git"))

        assert packed(clone, tmp_path).descriptor == first

    def test_only_the_owners_bit_of_a_mode_counts(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        add_commit(repo, self.FILES)
        with tarfile.open(packed(repo, tmp_path).path) as tar:
            modes = {m.name: m.mode for m in tar if m.isfile()}
            links = {m.name: m.linkname for m in tar.getmembers() if m.issym()}

        assert modes == {"docker-compose.yml": 0o644, "run.sh": 0o755, "cfg/deep/a": 0o644,
                         "cfg/b": 0o644}  # fmt: skip
        assert links == {"link": "cfg/b", "cfg/up": "../run.sh"}

    @pytest.mark.parametrize(
        "target", [b"/etc/passwd", b"../other/a", b"cfg/../../x", b"", b"cfg/../run.sh"]
    )
    def test_a_link_that_leaves_the_app(
        self, repo: pygit2.Repository, tmp_path: Path, target: bytes
    ) -> None:
        add_commit(repo, {**shop(link=Link(target)), "other/a": b""})

        with pytest.raises(AuthoringError, match=r"'link' .* leads outside of the App"):
            packed(repo, tmp_path)

    @pytest.mark.parametrize("target", [b"\xff", b"a\0b"])
    def test_a_link_that_is_no_text(
        self, repo: pygit2.Repository, tmp_path: Path, target: bytes
    ) -> None:
        add_commit(repo, shop(link=Link(target)))

        with pytest.raises(AuthoringError, match="'link' in App 'shop'"):
            packed(repo, tmp_path)
        add_commit(repo, shop(link=Link(target), **{".composeappignores": b"link"}), branch="b")
        assert packed(repo, tmp_path, "b").index

    @pytest.mark.parametrize("name", ["model.bin", "docker-compose.yml"])
    def test_an_lfs_pointer_is_refused(
        self, repo: pygit2.Repository, tmp_path: Path, name: str
    ) -> None:
        add_commit(repo, {**shop(), f"shop/{name}": POINTER})
        (app,) = revision(repo).apps()

        with pytest.raises(AuthoringError, match=f"'{name}' .* is a pointer of Git LFS") as caught:
            _compose_and_pack(app, tmp_path)
        assert "--app" in caught.value.hint

    def test_an_ignored_lfs_pointer_stays_behind(
        self, repo: pygit2.Repository, tmp_path: Path
    ) -> None:
        add_commit(repo, shop(**{"a.bin": POINTER, ".composeappignores": b"*.bin"}))

        assert packed(repo, tmp_path).index

    @pytest.mark.parametrize("name", [b"..", b".", b"a/b"])
    def test_a_name_that_is_none(
        self, repo: pygit2.Repository, tmp_path: Path, name: bytes
    ) -> None:
        blob = repo.create_blob(b"evil")
        inner = raw_tree(repo, [(b"docker-compose.yml", 0o100644, repo.create_blob(COMPOSE)),
                                (name, 0o100644, blob)])  # fmt: skip
        _commit_tree(repo, raw_tree(repo, [(b"shop", 0o40000, inner)]))

        with pytest.raises(AuthoringError, match=r"cannot be read|has an entry"):
            packed(repo, tmp_path)

    def test_a_name_twice(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        blob = repo.create_blob(b"evil")
        lines = [(b"a", 0o100644, blob), (b"a", 0o100644, blob),
                 (b"docker-compose.yml", 0o100644, repo.create_blob(COMPOSE))]  # fmt: skip
        _commit_tree(repo, raw_tree(repo, [(b"shop", 0o40000, raw_tree(repo, lines))]))

        with pytest.raises(AuthoringError, match=r"cannot be read|two entries 'a'"):
            packed(repo, tmp_path)

    @pytest.mark.parametrize("name", ["bell\a", "\x1b[31m", "half\udce4"])
    def test_a_name_that_is_no_text_does_not_reach_a_terminal(
        self, repo: pygit2.Repository, name: str
    ) -> None:
        add_commit(repo, {name: Submodule("1" * 40)})

        with pytest.raises(AuthoringError, match="is a submodule") as caught:
            revision(repo).apps()
        assert (caught.value.message + caught.value.hint).isprintable()

    def test_a_name_beyond_ascii(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        add_commit(repo, shop(grün=b""))

        with pytest.raises(AuthoringError, match="beyond printable ASCII"):
            packed(repo, tmp_path)


class TestBounds:
    def test_a_file_is_sized_before_it_is_read(
        self, repo: pygit2.Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gitsource, "FILE_LIMIT_BYTES", 1000)
        add_commit(repo, shop(big=b"x" * 1001, small=b"x" * 1000))

        with pytest.raises(AuthoringError, match=r"'shop/big' .* has 1001 bytes, more than 1000"):
            packed(repo, tmp_path)

    @pytest.mark.parametrize("inside", [False, True])
    def test_a_directory_is_sized_before_it_is_read(
        self, repo: pygit2.Repository, *, inside: bool, tmp_path: Path
    ) -> None:
        tree = write_tree(repo, {f"{n:0>120}": b"x" for n in range(30_000)})
        _bomb(repo, tree) if inside else _commit_tree(repo, tree)

        with pytest.raises(AuthoringError, match="bytes, more than 4194304"):
            packed(repo, tmp_path)

    def test_one_tree_listed_without_end(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        """Ten trees of ten entries each make ten thousand million files."""
        tree = write_tree(repo, {f"f{n}": b"x" for n in range(10)})
        for _ in range(9):
            lines = [(b"d%d" % n, 0o40000, tree) for n in range(10)]
            tree = raw_tree(repo, lines)
        _bomb(repo, tree)

        with pytest.raises(AuthoringError, match="more than 50000 entries"):
            packed(repo, tmp_path)

    def test_directories_in_directories(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        tree = write_tree(repo, {"f": b"x"})
        for _ in range(3000):
            tree = raw_tree(repo, [(b"d", 0o40000, tree)])
        _bomb(repo, tree)

        with pytest.raises(AuthoringError, match="nested too deep"):
            packed(repo, tmp_path)

    def test_a_clone_that_lacks_a_blob(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        add_commit(repo, shop(data=b"some content"))
        oid = str(pygit2.hash(b"some content"))
        (Path(repo.path) / "objects" / oid[:2] / oid[2:]).unlink()

        with pytest.raises(AuthoringError, match=r"'shop/data' .* cannot be read") as caught:
            packed(repo, tmp_path)
        assert "neither partial nor damaged" in caught.value.hint

    def test_a_damaged_blob(self, repo: pygit2.Repository, tmp_path: Path) -> None:
        add_commit(repo, shop(data=b"some content"))
        oid, other = (str(pygit2.hash(data)) for data in (b"some content", COMPOSE))
        objects = Path(repo.path) / "objects"
        place = objects / oid[:2] / oid[2:]
        place.chmod(0o644)
        place.write_bytes((objects / other[:2] / other[2:]).read_bytes())

        with pytest.raises(AuthoringError, match="cannot be read"):
            packed(repo, tmp_path)


def _compose_and_pack(app: AppSource, path: Path) -> None:
    pack(app, read_compose(app), path / "a.tgz")


def _bomb(repo: pygit2.Repository, tree: pygit2.Oid) -> None:
    compose = repo.create_blob(COMPOSE)
    app = raw_tree(repo, [(b"bomb", 0o40000, tree), (b"docker-compose.yml", 0o100644, compose)])
    _commit_tree(repo, raw_tree(repo, [(b"shop", 0o40000, app)]))


def _commit_tree(repo: pygit2.Repository, tree: pygit2.Oid) -> None:
    repo.create_commit("refs/heads/main", AUTHOR, AUTHOR, "a commit", tree, [])


def test_a_pygit2_that_cannot_size_objects_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attributes of a C type cannot be taken away: an older pygit2 stands in by name."""
    old = types.ModuleType("pygit2")
    old.Odb = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pygit2", old)

    with pytest.raises(AuthoringError, match=r"is too old, expected 1\.19\.2"):
        open_revision(str(tmp_path))


def test_without_pygit2_the_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygit2", None)

    with pytest.raises(AuthoringError, match="are read with pygit2") as caught:
        open_revision(str(tmp_path))
    assert "pip install" in caught.value.hint
