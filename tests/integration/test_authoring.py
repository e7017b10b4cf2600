"""Bundles from real keys and a real OSTree repository, judged by the device's own code."""

import json
import stat
import subprocess
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest

from agent.adapters import files, keyfiles
from agent.adapters.authoring.destination import BundleDirectory
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.core.keys import RSA, generate_ed25519
from agent.services import author
from tests.authoring_desk import Workshop, files_below, workshop


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


class TestKeys:
    def test_secrets_are_their_owners_alone(self, shop: Workshop) -> None:
        for archive in (shop.keys / "keys").iterdir():
            assert stat.S_IMODE(archive.stat().st_mode) == 0o600
            with tarfile.open(archive) as tar:
                assert {entry.mode for entry in tar} == {0o600}

    def test_names_and_content_are_fioctls(self, shop: Workshop) -> None:
        with tarfile.open(shop.offline_key) as tar:
            names = tar.getnames()
            public = json.loads(tar.extractfile(names[0]).read())  # type: ignore[union-attr]
            secret = json.loads(tar.extractfile(names[1]).read())  # type: ignore[union-attr]

        keyid = names[0].removeprefix("tufrepo/keys/fioctl-targets-").removesuffix(".pub")
        assert names == [f"tufrepo/keys/fioctl-targets-{keyid}{s}" for s in (".pub", ".sec")]
        assert (public["keytype"], len(public["keyval"]["public"])) == ("ED25519", 64)
        assert (secret["keytype"], len(secret["keyval"]["private"])) == ("ED25519", 64)

    def test_keys_are_never_overwritten(self, shop: Workshop) -> None:
        before = files_below(shop.keys)

        with pytest.raises(AuthoringError, match="is not empty"):
            author.make_keys(shop.desk(), shop.keys)
        assert files_below(shop.keys) == before

    def test_rsa_keys_make_bundles_too(self, tmp_path: Path) -> None:
        shop = workshop(tmp_path / "ed25519")
        author.make_keys(shop.desk(), tmp_path / "rsa", keytype=RSA, rsa_bits=2048)
        shop.create(keys=tmp_path / "rsa", bundle_type=BundleType.PROD)
        shop.sign(tmp_path / "rsa/keys/offline-targets.tgz")

        assert shop.judge(roots=tmp_path / "rsa/roots", bundle_type=BundleType.PROD).accepted

    def test_a_seed_with_its_public_half_is_read(self, tmp_path: Path) -> None:
        """Go keeps 64 bytes of an Ed25519 private key: the seed and the public key."""
        key = generate_ed25519()
        secret = key.secret_json()
        public = key.public.to_json()
        secret["keyval"]["private"] += public["keyval"]["public"]  # type: ignore[index]

        assert keyfiles.private_from_json(secret).public == key.public

    @pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00junk"])
    def test_a_broken_archive_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "keys.tgz"
        path.write_bytes(content)

        with pytest.raises(AuthoringError, match=str(path)):
            keyfiles.read_archive(path)

    def test_halves_that_do_not_belong_together_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "keys.tgz"
        one, other = generate_ed25519(), generate_ed25519()
        with tarfile.open(path, "w:gz") as tar:
            keyfiles._add(tar, "a.pub", one.public.to_json())
            keyfiles._add(tar, "a.sec", other.secret_json())

        with pytest.raises(AuthoringError, match="not the private half") as caught:
            keyfiles.read_archive(path)
        assert other.secret_json()["keyval"]["private"] not in str(caught.value)  # type: ignore[index]


class TestCiBundles:
    def test_a_ci_device_accepts_it(self, shop: Workshop) -> None:
        shop.create()

        assert shop.judge(deep=True).accepted

    def test_an_unregistered_device_accepts_it(self, shop: Workshop) -> None:
        shop.create()

        assert shop.judge(bundle_type=None).accepted

    def test_the_tree_is_what_fioctl_writes(self, shop: Workshop) -> None:
        shop.create()
        top = sorted(path.name for path in shop.bundle.iterdir())
        metadata = sorted(path.name for path in (shop.bundle / "tuf").iterdir())

        assert top == ["ostree_repo", "tuf"]
        assert metadata == [
            "3.root.json",
            "4.root.json",
            "bundle-targets.json",
            "snapshot.json",
            "targets.json",
            "timestamp.json",
        ]

    def test_a_device_without_roots_needs_the_initial_ones(self, shop: Workshop) -> None:
        shop.create()
        without = shop.judge(roots=None)
        shop.create(tuf_only=True, with_initial_roots=True)

        assert int(without.outcome.exit) == 14
        assert shop.judge(roots=None).accepted

    def test_nothing_but_files_and_directories(self, shop: Workshop) -> None:
        shop.create()
        found = list(shop.bundle.rglob("*"))

        assert not [path for path in found if path.is_symlink()]
        assert not [path for path in found if path.is_file() and path.stat().st_nlink > 1]
        assert not [path for path in found if ":" in path.name]

    def test_the_commit_can_be_pulled(self, shop: Workshop, tmp_path: Path) -> None:
        commit = shop.commit()
        shop.create(ref=commit)
        target = tmp_path / "device"
        for argv in (
            ["ostree", "init", f"--repo={target}", "--mode=bare-user-only"],
            ["ostree", "pull-local", "--untrusted", f"--repo={target}",
             str(shop.bundle / "ostree_repo"), commit],
            ["ostree", "fsck", f"--repo={target}"],
        ):  # fmt: skip
            subprocess.run(argv, check=True, capture_output=True)

    @pytest.mark.parametrize(
        ("device", "code"),
        [
            ({"tags": ("devel",)}, 15),
            ({"bundle_type": BundleType.PROD}, 15),
            ({"hardware_id": "x86"}, 6),
        ],
    )
    def test_what_other_devices_answer(
        self, shop: Workshop, device: dict[str, object], code: int
    ) -> None:
        shop.create()

        assert int(shop.judge(**device).outcome.exit) == code

    def test_it_expires(self, shop: Workshop) -> None:
        info = shop.create(expires_in_days=3)
        shop.later(4)

        assert info.ends == shop.now - timedelta(days=1)
        assert int(shop.judge().outcome.exit) == 12

    def test_a_missing_commit_is_8(self, shop: Workshop) -> None:
        shop.create()
        for commit in shop.bundle.rglob("*.commit"):
            commit.unlink()

        assert int(shop.judge().outcome.exit) == 8

    def test_no_metadata_is_14(self, shop: Workshop) -> None:
        shop.create()
        (shop.bundle / "tuf/timestamp.json").unlink()

        assert int(shop.judge().outcome.exit) == 14

    def test_targets_of_another_bundle_are_11(self, shop: Workshop) -> None:
        shop.create(41, destination=shop.path / "other")
        shop.create(42)
        foreign = (shop.path / "other/tuf/targets.json").read_bytes()
        (shop.bundle / "tuf/targets.json").write_bytes(foreign)

        assert int(shop.judge().outcome.exit) == 11

    def test_a_damaged_object_is_found_by_reading_it(self, shop: Workshop) -> None:
        shop.create()
        damaged = next(shop.bundle.rglob("*.filez"))
        data = damaged.read_bytes()
        damaged.write_bytes(data[:-4] + bytes([data[-4] ^ 0xFF]) + data[-3:])

        assert shop.judge().accepted
        assert int(shop.judge(deep=True).outcome.exit) == 50


class TestProductionBundles:
    @pytest.fixture
    def prod(self, shop: Workshop) -> Workshop:
        shop.create(bundle_type=BundleType.PROD)
        return shop

    def accepted(self, shop: Workshop) -> bool:
        return shop.judge(bundle_type=BundleType.PROD).accepted

    def test_it_waits_for_the_offline_key(self, prod: Workshop) -> None:
        info = author.show_bundle(prod.desk(), prod.bundle)

        assert info.signers
        assert (info.signers.missing, info.targets_missing) == (1, 1)
        assert not self.accepted(prod)

    def test_signed_it_is_accepted(self, prod: Workshop) -> None:
        info = prod.sign()

        assert info.signers
        assert (info.signers.missing, info.targets_missing) == (0, 0)
        assert self.accepted(prod)

    def test_a_ci_device_refuses_it(self, prod: Workshop) -> None:
        prod.sign()

        assert int(prod.judge().outcome.exit) == 15

    def test_one_key_cannot_sign_twice(self, prod: Workshop) -> None:
        prod.sign()
        before = files_below(prod.bundle)

        with pytest.raises(AuthoringError, match="has signed this already"):
            prod.sign()
        assert files_below(prod.bundle) == before

    def test_a_stranger_cannot_sign(self, prod: Workshop) -> None:
        before = files_below(prod.bundle)
        for name in ("offline-root", "online-snapshot"):
            with pytest.raises(AuthoringError, match="holds 0 targets keys"):
                prod.sign(prod.keys / f"keys/{name}.tgz")
        assert files_below(prod.bundle) == before

    def test_two_keys_in_one_archive_are_refused(self, prod: Workshop) -> None:
        both = [
            key
            for name in ("offline-targets", "online-targets")
            for key in keyfiles.read_archive(prod.keys / f"keys/{name}.tgz")
        ]
        keyfiles.write_archive(prod.path / "both.tgz", [("targets", key) for key in both])

        with pytest.raises(AuthoringError) as caught:
            prod.sign(prod.path / "both.tgz")
        assert caught.value.hint == "two keys in one archive defeat the threshold"

    def test_an_expired_bundle_is_not_signed(self, prod: Workshop) -> None:
        prod.later(31)

        with pytest.raises(AuthoringError, match="expired at 2026-02-01"):
            prod.sign()

    def test_a_spoilt_signature_is_not_covered_up(self, prod: Workshop) -> None:
        path = prod.bundle / "tuf/bundle-targets.json"
        document = json.loads(path.read_bytes())
        document["signed"]["version"] = 99
        path.write_text(json.dumps(document), encoding="ascii")

        with pytest.raises(AuthoringError, match="bad or strange signature"):
            prod.sign()

    def test_an_interrupted_signing_is_finished_by_repeating_it(self, prod: Workshop) -> None:
        unsigned = (prod.bundle / "tuf/bundle-targets.json").read_bytes()
        prod.sign()
        (prod.bundle / "tuf/bundle-targets.json").write_bytes(unsigned)
        prod.sign()

        assert self.accepted(prod)

    def test_renewing_keeps_the_targets_signatures(self, prod: Workshop) -> None:
        prod.sign()
        targets = (prod.bundle / "tuf/targets.json").read_bytes()
        prod.later(20)
        info = prod.create(bundle_type=BundleType.PROD, tuf_only=True)

        assert (prod.bundle / "tuf/targets.json").read_bytes() == targets
        assert info.signers
        assert (info.signers.missing, info.targets_missing) == (1, 0)
        prod.sign()
        prod.later(20)
        assert self.accepted(prod)

    def test_renewing_past_the_targets_metadata_is_refused(self, prod: Workshop) -> None:
        prod.sign()
        prod.later(360)
        with pytest.raises(
            AuthoringError, match=r"Targets metadata expire \(2027-01-02T"
        ) as caught:
            prod.create(bundle_type=BundleType.PROD, tuf_only=True)

        assert caught.value.hint.startswith("ask for at most 5 days, or create the bundle anew")


class TestDestination:
    def test_what_is_there_is_not_touched_without_leave(self, shop: Workshop) -> None:
        shop.create()
        before = files_below(shop.bundle)

        with pytest.raises(AuthoringError, match="holds tuf, ostree_repo already"):
            shop.create(43)
        assert files_below(shop.bundle) == before

    def test_two_targets_in_one_bundle(self, shop: Workshop) -> None:
        shop.create(42)
        info = shop.create(43, allow_multiple_targets=True)
        newest, both = shop.judge(deep=True), info.listed
        newer = next(t.commit for t in info.targets if t.version == 43)
        (shop.bundle / f"ostree_repo/objects/{newer[:2]}/{newer[2:]}.commit").unlink()

        assert both == ("rpi-lmp-42", "rpi-lmp-43")
        assert newest.outcome.target == "rpi-lmp-43"
        assert shop.judge(deep=True).outcome.target == "rpi-lmp-42"

    def test_hardware_ids_side_by_side(self, shop: Workshop) -> None:
        shop.create(42)
        shop.create(target="x86-lmp-50", hardware_id="x86", allow_multiple_targets=True)

        assert shop.judge(hardware_id="rpi").outcome.target == "rpi-lmp-42"
        assert shop.judge(hardware_id="x86").outcome.target == "x86-lmp-50"

    @pytest.mark.parametrize("changes", [{"tag": "devel"}, {"bundle_type": BundleType.PROD}])
    def test_one_bundle_has_one_type_and_one_tag(
        self, shop: Workshop, changes: dict[str, object]
    ) -> None:
        shop.create()
        before = files_below(shop.bundle)

        with pytest.raises(AuthoringError, match="is of type 'ci' with tag 'main'"):
            shop.create(43, allow_multiple_targets=True, **changes)
        assert files_below(shop.bundle) == before

    def test_a_strangers_bundle_is_not_vouched_for(self, shop: Workshop, tmp_path: Path) -> None:
        stranger = workshop(tmp_path / "stranger")
        stranger.create(destination=shop.bundle)

        with pytest.raises(AuthoringError, match="not signed by this factory"):
            shop.create(43, allow_multiple_targets=True)

    def test_renewing_needs_a_bundle(self, shop: Workshop) -> None:
        with pytest.raises(AuthoringError, match="no bundle to renew"):
            shop.create(tuf_only=True)
        assert not shop.bundle.exists()

    def test_an_impossible_wish_touches_nothing(self, shop: Workshop) -> None:
        with pytest.raises(AuthoringError, match="Targets metadata expire"):
            shop.create(expires_in_days=366)
        with pytest.raises(AuthoringError, match="Root metadata expire"):
            shop.create(expires_in_days=3651)
        assert not shop.bundle.exists()

    def test_a_commit_that_is_not_there_touches_nothing(self, shop: Workshop) -> None:
        with pytest.raises(AuthoringError, match="has no commit"):
            shop.create(ref="f" * 64)
        assert not shop.bundle.exists()

    def test_too_little_room_is_said_before_anything_is_written(
        self, shop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = shop.spec()
        monkeypatch.setattr("agent.adapters.authoring.destination.free_bytes", lambda _: 1024)

        with pytest.raises(AuthoringError, match="MiB free"):
            author.create_bundle(shop.desk(), spec)
        assert not shop.bundle.exists()

    def test_a_first_bundle_cut_short_lists_nothing(
        self, shop: Workshop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = shop.spec()
        cut_at(monkeypatch, "bundle-targets.json")
        with pytest.raises(PowerCutError):
            author.create_bundle(shop.desk(), spec)
        monkeypatch.undo()

        assert not (shop.bundle / "tuf/bundle-targets.json").exists()
        assert int(shop.judge().outcome.exit) == 15
        shop.create(allow_multiple_targets=True)
        assert shop.judge(deep=True).accepted

    @pytest.mark.parametrize("at", ["targets.json", "bundle-targets.json"])
    def test_a_merge_cut_short_leaves_the_old_list(
        self, shop: Workshop, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        shop.create(42)
        before = (shop.bundle / "tuf/bundle-targets.json").read_bytes()
        spec = shop.spec(43, allow_multiple_targets=True)
        cut_at(monkeypatch, at)
        with pytest.raises(PowerCutError):
            author.create_bundle(shop.desk(), spec)
        monkeypatch.undo()

        assert (shop.bundle / "tuf/bundle-targets.json").read_bytes() == before
        assert shop.judge().outcome.target == "rpi-lmp-42"
        shop.create(43, allow_multiple_targets=True)
        assert shop.judge(deep=True).outcome.target == "rpi-lmp-43"


class PowerCutError(BaseException):
    """Not an Exception: no handler may swallow a power cut."""


def cut_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write = files.write_atomic

    def cut(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        if path.name == name:
            raise PowerCutError
        write(path, data, mode=mode)

    monkeypatch.setattr(files, "write_atomic", cut)


class TestVersions:
    def test_they_never_go_back(self, shop: Workshop) -> None:
        versions = []
        for number in (1, 2, 3):
            shop.create(number, destination=shop.path / f"b{number}")
            timestamp = json.loads((shop.path / f"b{number}/tuf/timestamp.json").read_bytes())
            versions.append(timestamp["signed"]["version"])

        assert versions == [1, 2, 3]

    def test_each_type_counts_for_itself(self, shop: Workshop) -> None:
        shop.create(1, destination=shop.path / "a")
        shop.create(2, destination=shop.path / "b", bundle_type=BundleType.PROD)
        state = json.loads((shop.keys / "state.json").read_bytes())

        assert state["versions"] == {"ci": 1, "prod": 1}

    def test_a_bundle_that_is_ahead_of_the_counter_is_overtaken(self, shop: Workshop) -> None:
        shop.create(1)
        shop.create(2, allow_multiple_targets=True)
        (shop.keys / "state.json").write_text('{"schema":1,"versions":{}}', encoding="ascii")
        shop.create(3, allow_multiple_targets=True)
        timestamp = json.loads((shop.bundle / "tuf/timestamp.json").read_bytes())

        assert timestamp["signed"]["version"] == 3

    @pytest.mark.parametrize("content", [None, "", "{}", '{"versions":[]}'])
    def test_a_lost_counter_is_not_started_anew(self, shop: Workshop, content: str | None) -> None:
        state = shop.keys / "state.json"
        state.unlink() if content is None else state.write_text(content, encoding="ascii")

        with pytest.raises(AuthoringError, match="does not hold the versions"):
            shop.create()
        assert not shop.bundle.exists()

    def test_two_authors_do_not_get_one_version(self, shop: Workshop) -> None:
        keys = keyfiles.KeysDirectory(shop.keys)
        with (
            files.locked(shop.keys / keyfiles.LOCK_FILE),
            pytest.raises(AuthoringError, match="another process"),
        ):
            keys.reserve_version(BundleType.CI, 0)

        assert [keys.reserve_version(BundleType.CI, 0) for _ in range(2)] == [1, 2]


class TestDeterminism:
    def test_the_same_inputs_give_the_same_documents(self, shop: Workshop, tmp_path: Path) -> None:
        commit = shop.commit()
        shop.create(ref=commit)
        first = files_below(shop.bundle / "tuf")
        (shop.keys / "state.json").write_text('{"schema":1,"versions":{}}', encoding="ascii")
        shop.create(ref=commit, destination=tmp_path / "again")

        assert files_below(tmp_path / "again/tuf") == first


def test_strays_are_named(tmp_path: Path) -> None:
    apps = tmp_path / "apps/apps"
    uri = apps / "shop" / ("a" * 64) / "uri"
    uri.parent.mkdir(parents=True)
    uri.write_text("hub.local/factory/shop@sha256:" + "a" * 64 + "\n", encoding="ascii")
    (apps / "._shop").write_bytes(b"")
    stray, line_end = BundleDirectory(tmp_path).strays()

    assert str(apps / "._shop") in stray
    assert str(uri) in line_end
