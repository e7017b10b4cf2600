"""The documents of a bundle: to the byte, and as `verify` sees them."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import authoring
from agent.core.authoring import (
    BUNDLE_FILE,
    TARGETS_FILE,
    AuthoringError,
    BundleFacts,
    ChainKeys,
    Descriptor,
    NewTarget,
    OnlineKeys,
)
from agent.core.bundle import RawBundle, TrustedDocuments, VerifiedBundle
from agent.core.bundletype import BundleType
from agent.core.canonical import parse_strict
from agent.core.errors import BundleSignatureError, MetadataExpiredError
from agent.core.keys import ed25519_from_seed, key_id
from agent.core.target import AppRef
from agent.core.verify import verify_bundle, verify_roots
from tests.factory.keys import key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
END = NOW + timedelta(days=3650)
CHAIN = ChainKeys(
    key("first-root"),
    key("root"),
    key("targets"),
    key("offline-targets"),
    key("snapshot"),
    key("timestamp"),
)
ONLINE = OnlineKeys(CHAIN.targets, CHAIN.snapshot, CHAIN.timestamp)
TARGET = NewTarget("rpi-lmp-42", 42, "a" * 64, "rpi", "main", NOW)
DATES = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def roots(bundle_type: BundleType) -> dict[int, bytes]:
    return dict(enumerate(authoring.root_chain(CHAIN, bundle_type, END), 1))


def documents(bundle_type: BundleType = BundleType.CI, **changes: object) -> dict[str, bytes]:
    """A whole bundle's metadata, as `create_bundle` writes it."""
    entries = {TARGET.name: authoring.target_entry(TARGET)}
    targets = authoring.sign(
        authoring.issue_targets(entries, 7, NOW + authoring.ROLE_LIFETIME), (CHAIN.targets,)
    )
    facts = BundleFacts(bundle_type, "main", (TARGET.name,), NOW + timedelta(days=30), 7)
    facts = replace(facts, **changes)
    issued = authoring.issue(targets, facts, ONLINE, version=7, final=bundle_type is BundleType.CI)
    return {f"{n}.root.json": data for n, data in roots(bundle_type).items() if n > 2} | issued


def judged(
    metadata: dict[str, bytes], bundle_type: BundleType, *, now: datetime = NOW
) -> VerifiedBundle:
    trusted = TrustedDocuments(roots=verify_roots(roots(bundle_type)))
    return verify_bundle(
        RawBundle(metadata, "test"),
        trusted,
        device_type=bundle_type,
        device_tags=("main",),
        now=now,
    )


class TestGoldenVector:
    """bundle-format.md, "A file to compare with"."""

    ONE = ed25519_from_seed(bytes(range(32)))
    TWO = ed25519_from_seed(bytes(range(32, 64)))
    FACTS = BundleFacts(
        BundleType.PROD,
        "main",
        ("intel-corei7-64-lmp-42",),
        datetime(2030, 1, 1, tzinfo=UTC),
        42,
    )

    def test_key_ids(self) -> None:
        assert key_id(self.ONE.public) == (
            "a050837d85070582ccf7394b0988847cc312cb88259b894899f6f239cf1791a5"
        )
        assert key_id(self.TWO.public) == (
            "824c89aa8efb95ef93629b4519599129cace4adac9a6180daba31ceed41ecee6"
        )

    def test_what_is_signed(self) -> None:
        document = authoring.sign(authoring.issue_bundle(self.FACTS), (self.ONE,))
        message = authoring.read_signed(document, "the vector").message

        assert len(message) == 154
        assert hashlib.sha256(message).hexdigest() == (
            "c6fcd59e14f597c6c09c50eac153778aa1c1d61b85da95e887af9779bcefe7e8"
        )

    def test_the_whole_file_signed_twice(self) -> None:
        document = authoring.sign(authoring.issue_bundle(self.FACTS), (self.ONE, self.TWO))

        assert len(document) == 566
        assert hashlib.sha256(document).hexdigest() == (
            "b4dec898efc4f2afd06b92978a50d9f02f5ffd26406fbb7fcfca5887997c4c54"
        )


class TestRootChains:
    def test_both_types_share_versions_1_and_2_and_part_at_3(self) -> None:
        ci, prod = roots(BundleType.CI), roots(BundleType.PROD)

        assert [ci[n] == prod[n] for n in (1, 2, 3, 4)] == [True, True, False, False]

    @pytest.mark.parametrize("bundle_type", list(BundleType))
    def test_a_device_follows_the_whole_chain(self, bundle_type: BundleType) -> None:
        assert [n for n, _ in verify_roots(roots(bundle_type))] == [1, 2, 3, 4]

    @pytest.mark.parametrize("bundle_type", list(BundleType))
    def test_no_version_asks_for_more_signatures_than_it_has_keys(
        self, bundle_type: BundleType
    ) -> None:
        for document in roots(bundle_type).values():
            for role in authoring.read_root(document, "root").roles.values():
                assert role.threshold <= len(role.keyids)

    def test_production_alone_asks_for_two_targets_signatures(self) -> None:
        def thresholds(bundle_type: BundleType) -> list[int]:
            chain = roots(bundle_type).values()
            return [int(_roles(document)["targets"]["threshold"]) for document in chain]

        assert thresholds(BundleType.CI) == [1, 1, 1, 1]
        assert thresholds(BundleType.PROD) == [1, 1, 1, 2]

    def test_the_first_root_key_signs_nothing_after_the_hand_over(self) -> None:
        last = authoring.read_signed(roots(BundleType.CI)[4], "root")

        assert [entry[0] for entry in last.signatures] == [key_id(CHAIN.root.public)]

    def test_the_latest_root_is_the_last_of_the_run_from_3(self) -> None:
        found = {"1.root.json": b"1", "3.root.json": b"3", "4.root.json": b"4", "6.root.json": b"6"}

        assert authoring.latest_root(found) == b"4"
        assert authoring.latest_root({"2.root.json": b"2"}) is None


def _roles(document: bytes) -> dict[str, dict[str, int]]:
    roles: dict[str, dict[str, int]] = authoring.read_signed(document, "root").signed["roles"]
    return roles


class TestABundle:
    def test_a_ci_device_believes_it(self) -> None:
        verified = judged(documents(), BundleType.CI)

        assert [target.name for target in verified.targets] == ["rpi-lmp-42"]
        assert verified.expires == NOW + timedelta(days=30)

    def test_a_production_device_waits_for_the_offline_signature(self) -> None:
        with pytest.raises(BundleSignatureError):
            judged(documents(BundleType.PROD), BundleType.PROD)

    def test_a_production_device_believes_both_signatures(self) -> None:
        metadata = documents(BundleType.PROD)
        for name in (TARGETS_FILE, BUNDLE_FILE):
            metadata[name] = authoring.add_signature(metadata[name], CHAIN.offline_targets)

        assert judged(metadata, BundleType.PROD).tag == "main"

    def test_it_ends_when_it_says(self) -> None:
        with pytest.raises(MetadataExpiredError):
            judged(documents(), BundleType.CI, now=NOW + timedelta(days=30, seconds=1))

    def test_every_document_is_canonical_ascii(self) -> None:
        for data in documents().values():
            assert data.isascii()
            assert authoring.canonical_bytes(parse_strict(data)) == data

    def test_the_same_facts_give_the_same_bytes(self) -> None:
        assert documents() == documents()


class TestSigning:
    def test_a_key_signs_once(self) -> None:
        with pytest.raises(AuthoringError, match="has signed this already"):
            authoring.add_signature(documents()[BUNDLE_FILE], CHAIN.targets)

    def test_one_key_under_two_names_counts_once(self) -> None:
        document = authoring.read_signed(documents()[BUNDLE_FILE], BUNDLE_FILE)
        keyid, method, text = document.signatures[0]
        twice = replace(document, signatures=((keyid, method, text), ("other", method, text)))
        names = {keyid: CHAIN.targets.public, "other": CHAIN.targets.public}

        assert authoring.valid_signers(twice, names) == (keyid,)

    def test_a_changed_document_has_no_valid_signers(self) -> None:
        document = authoring.read_signed(documents()[BUNDLE_FILE], BUNDLE_FILE)
        changed = replace(document, signed={**document.signed, "version": 8})
        names = {key_id(CHAIN.targets.public): CHAIN.targets.public}

        assert authoring.valid_signers(document, names)
        assert not authoring.valid_signers(changed, names)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{}",
            b"[]",
            b'{"signatures":[],"signed":{}}',
            b'{"signatures":[{}],"signed":{"version":1,"expires":"2030-01-01T00:00:00Z"}}',
            b'{"signatures":[],"signed":{"version":1,"expires":"tomorrow"}}',
        ],
    )
    def test_junk_is_named(self, data: bytes) -> None:
        with pytest.raises(AuthoringError, match="the file is not signed metadata"):
            authoring.read_signed(data, "the file")


class TestTargets:
    def test_the_wire_spelling(self) -> None:
        apps = (AppRef("shop", "hub.local/factory/shop@sha256:" + "b" * 64),)
        entry = authoring.target_entry(replace(TARGET, apps=apps, arch="arm64"))

        assert entry == {
            "custom": {
                "arch": "arm64",
                "createdAt": "2026-01-02T03:04:05Z",
                "docker_compose_apps": {"shop": {"uri": apps[0].uri}},
                "hardwareIds": ["rpi"],
                "name": "rpi-lmp",
                "tags": ["main"],
                "targetFormat": "OSTREE",
                "version": "42",
            },
            "hashes": {"sha256": "a" * 64},
            "length": 0,
        }

    @pytest.mark.parametrize(
        "changes", [{"name": "a<b"}, {"tag": ""}, {"tag": "a&b"}, {"hardware_id": "rpi 4"}]
    )
    def test_names_that_writers_spell_differently_are_refused(
        self, changes: dict[str, str]
    ) -> None:
        with pytest.raises(AuthoringError):
            authoring.target_entry(replace(TARGET, **changes))  # type: ignore[arg-type]

    def test_a_name_stands_for_one_content(self) -> None:
        old = {TARGET.name: authoring.target_entry(TARGET)}
        later = authoring.target_entry(replace(TARGET, created=NOW + timedelta(days=1)))
        other = authoring.target_entry(replace(TARGET, commit="b" * 64))

        assert authoring.merge_entries(old, TARGET.name, later) == {TARGET.name: later}
        with pytest.raises(AuthoringError, match="another commit"):
            authoring.merge_entries(old, TARGET.name, other)

    @given(st.dictionaries(st.from_regex(r"[a-z]{1,8}-lmp-[0-9]{1,3}", fullmatch=True), st.none()))
    def test_merging_keeps_every_older_target(self, names: dict[str, None]) -> None:
        entry = authoring.target_entry(TARGET)
        old = dict.fromkeys(names, entry)

        assert set(authoring.merge_entries(old, TARGET.name, entry)) == {*names, TARGET.name}

    @pytest.mark.parametrize(("name", "version"), [("rpi-lmp-42", 42), ("a-1-7", 7), ("x-0", 0)])
    def test_the_version_is_the_number_the_name_ends_in(self, name: str, version: int) -> None:
        assert authoring.version_of(name) == version

    def test_a_name_without_a_number_needs_a_version(self) -> None:
        with pytest.raises(AuthoringError) as caught:
            authoring.version_of("rpi-lmp")

        assert caught.value.hint == "give --version"


class TestExpiry:
    def test_it_is_what_was_asked_for(self) -> None:
        assert authoring.expiry(NOW, 30, root=END, targets=END, refresh="") == NOW + timedelta(30)

    @pytest.mark.parametrize(("late", "word"), [("root", "Root"), ("targets", "Targets")])
    def test_an_impossible_wish_names_both_dates_and_what_to_do(self, late: str, word: str) -> None:
        limits = {"root": END, "targets": END, late: NOW + timedelta(days=10)}

        with pytest.raises(AuthoringError) as caught:
            authoring.expiry(NOW, 30, refresh="mend it", **limits)

        assert caught.value.message == (
            f"{word} metadata expire (2026-01-12T03:04:05Z) before the specified expiration time "
            "(2026-02-01T03:04:05Z)"
        )
        assert caught.value.hint.startswith("ask for at most 10 days, or ")

    @pytest.mark.parametrize("days", [0, -1, 10**9])
    def test_a_number_of_days_that_is_none(self, days: int) -> None:
        with pytest.raises(AuthoringError):
            authoring.expiry(NOW, days, root=END, targets=END, refresh="")

    @given(DATES, st.integers(1, 4000), DATES, DATES)
    def test_a_bundle_never_outlives_a_role(
        self, now: datetime, days: int, root: datetime, targets: datetime
    ) -> None:
        wanted = now.replace(microsecond=0) + timedelta(days=days)
        possible = wanted <= min(root, targets)
        try:
            ends = authoring.expiry(now, days, root=root, targets=targets, refresh="")
        except AuthoringError:
            assert not possible
        else:
            assert possible
            assert ends == wanted

    @given(DATES)
    def test_dates_are_read_as_they_are_written(self, when: datetime) -> None:
        assert authoring.read_date(authoring.write_date(when)) == when.replace(microsecond=0)


class TestAppManifest:
    ARCHIVE = Descriptor("application/octet-stream", "sha256:" + "c" * 64, 10)
    INDEX = Descriptor("application/json", "sha256:" + "d" * 64, 20)

    def test_what_every_reader_looks_for(self) -> None:
        manifest = parse_strict(authoring.app_manifest(self.ARCHIVE, self.INDEX))

        assert isinstance(manifest, dict)
        assert manifest["annotations"] == {"compose-app": "v1"}
        assert manifest["layers"] == [
            {
                "annotations": {
                    "org.foundries.app.bundle.index.digest": self.INDEX.digest,
                    "org.foundries.app.bundle.index.size": "20",
                },
                "digest": self.ARCHIVE.digest,
                "mediaType": "application/octet-stream",
                "size": 10,
            }
        ]
