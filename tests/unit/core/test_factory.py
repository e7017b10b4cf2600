"""A factory's books: Targets, waves, production, keys; what is refused and why."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent.core import authoring, factory
from agent.core.authoring import AuthoringError, ChainKeys, IssuedVersions, NewTarget
from agent.core.bundletype import BundleType
from agent.core.errors import BundleError
from agent.core.factory import CI_FILE, Wave, WaveState
from agent.core.keys import key_id
from agent.core.tuf import Role
from agent.core.verify import verify_roots
from tests.factory.keys import key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
CHAIN = ChainKeys(
    key("first-root"),
    key("root"),
    key("targets"),
    key("offline-targets"),
    key("snapshot"),
    key("timestamp"),
)
BOTH = (CHAIN.targets, CHAIN.offline_targets)
END = NOW + timedelta(days=3650)


def new_books() -> dict[str, bytes]:
    roots = {
        kind: {f"{n}.root.json": d for n, d in enumerate(authoring.root_chain(CHAIN, kind, END), 1)}
        for kind in BundleType
    }
    state = authoring.write_versions(IssuedVersions())
    return factory.new_books(roots, state, "hub.local/factory")


def entry(version: int, *, commit: str = "", tag: str = "main") -> dict[str, Any]:
    name = f"rpi-lmp-{version}"
    commit = commit or f"{version:064x}"
    return authoring.target_entry(NewTarget(name, version, commit, "rpi", tag, NOW))


def add(books: dict[str, bytes], version: int, **changes: str) -> None:
    factory.add_target(books, f"rpi-lmp-{version}", entry(version, **changes), CHAIN.targets, NOW)


def wave(name: str, version: int, tag: str = "main") -> Wave:
    return Wave(name, tag, (f"rpi-lmp-{version}",))


@pytest.fixture
def books() -> dict[str, bytes]:
    made = new_books()
    add(made, 1)
    add(made, 2)
    return made


def version_of(books: dict[str, bytes], path: str) -> int:
    return authoring.read_signed(books[path], path).version


class TestCiTargets:
    def test_a_target_there_stays_with_its_tags_and_all_last_longer(
        self, books: dict[str, bytes]
    ) -> None:
        factory.tag_target(books, "rpi-lmp-1", ["devel"], CHAIN.targets, NOW)
        factory.add_target(books, "rpi-lmp-1", entry(1), CHAIN.targets, LATER)
        ci = authoring.read_signed(books[CI_FILE], CI_FILE)

        assert ci.signed["targets"]["rpi-lmp-1"]["custom"]["tags"] == ["devel"]
        assert ci.expires == LATER + authoring.ROLE_LIFETIME
        assert ci.version == 4

    def test_a_name_stands_for_one_content(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match="another commit"):
            add(books, 1, commit="f" * 64)

    def test_a_tag_must_be_a_word(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match=r"tag '\.\./x'"):
            factory.tag_target(books, "rpi-lmp-1", ["../x"], CHAIN.targets, NOW)

    def test_an_unknown_target_is_named(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match="no Target 'other'"):
            factory.tag_target(books, "other", ["main"], CHAIN.targets, NOW)


class TestWaves:
    def test_production_keeps_what_it_has(self, books: dict[str, bytes]) -> None:
        for number in (1, 2):
            factory.start_wave(books, wave(f"w{number}", number), END, BOTH)
            factory.complete_wave(books, f"w{number}")
        names = factory.entries_of(books, factory.production_file("main"))

        assert list(names) == ["rpi-lmp-1", "rpi-lmp-2"]
        assert [w.state for w in factory.waves_of(books)] == [WaveState.COMPLETE] * 2
        assert factory.wave_file("w1") not in books

    def test_a_wave_has_its_own_expiry_and_the_one_tag(self, books: dict[str, bytes]) -> None:
        factory.tag_target(books, "rpi-lmp-1", ["a", "b"], CHAIN.targets, NOW)
        factory.start_wave(books, wave("w", 1, "b"), LATER, BOTH)
        held = authoring.read_signed(books[factory.wave_file("w")], "wave")

        assert held.expires == LATER
        assert held.signed["targets"]["rpi-lmp-1"]["custom"]["tags"] == ["b"]

    def test_one_active_wave_per_tag(self, books: dict[str, bytes]) -> None:
        factory.start_wave(books, wave("one", 1), END, BOTH)
        before = dict(books)
        with pytest.raises(AuthoringError, match="has the active wave 'one'"):
            factory.start_wave(books, wave("two", 2), END, BOTH)
        assert books == before

        factory.start_wave(books, wave("other-tag", 2, "devel"), END, BOTH)
        factory.cancel_wave(books, "one")
        factory.start_wave(books, wave("two", 2), END, BOTH)

    def test_a_name_is_given_once(self, books: dict[str, bytes]) -> None:
        factory.start_wave(books, wave("w", 1), END, BOTH)
        factory.cancel_wave(books, "w")

        with pytest.raises(AuthoringError, match=r"wave 'w' already \(cancelled\)"):
            factory.start_wave(books, wave("w", 1), END, BOTH)

    def test_a_cancelled_wave_leaves_production_alone(self, books: dict[str, bytes]) -> None:
        factory.start_wave(books, wave("w", 1), END, BOTH)
        factory.cancel_wave(books, "w")

        assert factory.production_tags(books) == ()
        with pytest.raises(AuthoringError, match="wave 'w' is cancelled"):
            factory.complete_wave(books, "w")

    def test_without_the_offline_signature_it_is_not_production(
        self, books: dict[str, bytes]
    ) -> None:
        factory.start_wave(books, wave("w", 1), END, BOTH[:1])
        with pytest.raises(AuthoringError, match="lacks 1 signature") as caught:
            factory.complete_wave(books, "w")

        assert "factory wave sign w" in caught.value.hint
        factory.sign_wave(books, "w", CHAIN.offline_targets)
        factory.complete_wave(books, "w")

    @pytest.mark.parametrize("name", ["", "../w", "a/b", "w" * 65, ".w"])
    def test_a_name_is_a_word(self, books: dict[str, bytes], name: str) -> None:
        with pytest.raises(AuthoringError, match="wave name"):
            factory.start_wave(books, Wave(name, "main", ("rpi-lmp-1",)), END, BOTH)

    def test_when_it_ends(self) -> None:
        ends = factory.wave_expiry
        assert ends(NOW, days=None, at="") == NOW + timedelta(days=365)
        assert ends(NOW, days=3, at="") == NOW + timedelta(days=3)
        assert ends(NOW, days=None, at="2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
        assert ends(NOW, days=None, at="2026-03-01T10:00:00Z").hour == 10

    @pytest.mark.parametrize(
        ("days", "at"), [(0, ""), (-1, ""), (10**9, ""), (None, "soon"), (None, "2025-12-31")]
    )
    def test_no_time_to_end_at(self, days: int | None, at: str) -> None:
        with pytest.raises(AuthoringError, match="wave"):
            factory.wave_expiry(NOW, days=days, at=at)


class TestOffers:
    def test_what_there_is_is_named(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match="among the CI Targets") as caught:
            factory.offer(books, "rpi-lmp-9", tag="main", prod=False, wave="")
        assert caught.value.hint == "there is rpi-lmp-1, rpi-lmp-2"

        with pytest.raises(AuthoringError, match="no production Targets of tag 'main'"):
            factory.offer(books, "rpi-lmp-1", tag="main", prod=True, wave="")
        with pytest.raises(AuthoringError, match="no wave 'w'"):
            factory.offer(books, "rpi-lmp-1", tag="", prod=False, wave="w")

    def test_a_ci_target_of_another_tag_is_not_offered(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match="with tag 'devel'"):
            factory.offer(books, "rpi-lmp-1", tag="devel", prod=False, wave="")

    def test_a_wave_is_production_of_its_tag(self, books: dict[str, bytes]) -> None:
        factory.start_wave(books, wave("w", 1), END, BOTH)
        found = factory.offer(books, "rpi-lmp-1", tag="", prod=False, wave="w")

        assert (found.bundle_type, found.tag) == (BundleType.PROD, "main")


class TestRotation:
    def rotated(self, books: dict[str, bytes], role: Role) -> None:
        old = {Role.ROOT: CHAIN.root, Role.TARGETS: CHAIN.offline_targets}[role]
        new = key(f"new-{role}")
        signers = (CHAIN.root, new) if role is Role.ROOT else (CHAIN.root,)
        factory.rotate(books, role, key_id(old.public), new, signers=signers)

    @pytest.mark.parametrize("role", [Role.ROOT, Role.TARGETS])
    @pytest.mark.parametrize("kind", list(BundleType))
    def test_devices_follow(self, books: dict[str, bytes], role: Role, kind: BundleType) -> None:
        self.rotated(books, role)
        roots = dict(enumerate(factory.roots_of(books, kind).values(), 1))
        newest = factory.newest_root(books, kind)

        assert [version for version, _ in verify_roots(roots)] == [1, 2, 3, 4, 5]
        assert key_id(key(f"new-{role}").public) in newest.roles[role].keyids
        assert len(newest.keys) == 5

    def test_a_root_that_the_old_key_did_not_sign_is_not_followed(
        self, books: dict[str, bytes]
    ) -> None:
        new = key("new-root")
        factory.rotate(books, Role.ROOT, key_id(CHAIN.root.public), new, signers=(new,))
        roots = dict(enumerate(factory.roots_of(books, BundleType.CI).values(), 1))

        with pytest.raises(BundleError, match="signed by 0 of the 1"):
            verify_roots(roots)

    def test_production_and_waves_are_signed_again(self, books: dict[str, bytes]) -> None:
        factory.start_wave(books, wave("done", 1), END, BOTH)
        factory.complete_wave(books, "done")
        factory.start_wave(books, wave("open", 2), END, BOTH)
        paths = (factory.production_file("main"), factory.wave_file("open"))
        before = {path: authoring.read_signed(books[path], path).signed for path in paths}
        self.rotated(books, Role.TARGETS)
        root = factory.newest_root(books, BundleType.PROD)

        for path in paths:
            assert authoring.read_signed(books[path], path).signed == before[path]
            assert factory.missing_signatures(books[path], root) == 0

    def test_a_key_that_somebody_else_rotated_is_named(self, books: dict[str, bytes]) -> None:
        self.rotated(books, Role.TARGETS)

        with pytest.raises(AuthoringError, match="does not list targets key"):
            self.rotated(books, Role.TARGETS)

    def test_only_a_root_rotation_makes_roots_last_longer(self, books: dict[str, bytes]) -> None:
        self.rotated(books, Role.TARGETS)
        assert factory.newest_root(books, BundleType.CI).expires == END


class TestForward:
    """What `demand_forward` refuses: everything devices may have seen already."""

    def test_a_counter_does_not_go_back(self, books: dict[str, bytes]) -> None:
        after = {**books, "state.json": authoring.write_versions(IssuedVersions({"ci": 1}))}

        with pytest.raises(AuthoringError, match="ci versions would go back from 2"):
            factory.demand_forward(books, after)

    def test_a_root_does_not_change(self, books: dict[str, bytes]) -> None:
        path = "roots/ci/3.root.json"
        for after in (books | {path: b"{}"}, {p: d for p, d in books.items() if p != path}):
            with pytest.raises(AuthoringError, match="would change; devices may have it"):
                factory.demand_forward(books, after)

    def test_targets_do_not_go_back_or_change_under_their_version(
        self, books: dict[str, bytes]
    ) -> None:
        older = new_books()
        add(older, 1)
        with pytest.raises(AuthoringError, match="back from version 2 to 1"):
            factory.demand_forward(books, {**books, CI_FILE: older[CI_FILE]})

        signed = authoring.issue_targets({}, 2, END)
        other = {**books, CI_FILE: authoring.sign(signed, (CHAIN.targets,))}
        with pytest.raises(AuthoringError, match="change within version 2"):
            factory.demand_forward(books, other)

    def test_targets_are_not_removed(self, books: dict[str, bytes]) -> None:
        with pytest.raises(AuthoringError, match="is not signed metadata"):
            factory.demand_forward(books, {p: d for p, d in books.items() if p != CI_FILE})

    def test_a_branch_that_was_moved_back_takes_no_version_again(
        self, books: dict[str, bytes]
    ) -> None:
        factory.raise_versions(books, {"ci": 7})

        assert factory.take_version(books, BundleType.CI) == 8


@pytest.mark.parametrize("content", [b"", b"[]", b'{"tag": "main"}', b'{"state": "gone"}'])
def test_a_broken_wave_is_named(books: dict[str, bytes], content: bytes) -> None:
    books["waves/w/wave.json"] = content

    with pytest.raises(AuthoringError, match=r"waves/w/wave\.json"):
        factory.waves_of(books)


def test_the_books_are_plain_json(books: dict[str, bytes]) -> None:
    factory.start_wave(books, wave("w", 1), END, BOTH)

    for path, data in books.items():
        assert isinstance(json.loads(data), dict), path
