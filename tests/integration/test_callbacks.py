"""The owner's program, the file it reads, and what else tells about this device."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.adapters import shell
from agent.adapters.callbacks import CurrentTargetFile, ProgramCallbacks
from agent.adapters.clock import SystemClock
from agent.adapters.devicecert import device_type
from agent.adapters.provisioned import ROOT_LIMIT_BYTES, provisioned_roots
from agent.core.bundletype import BundleType
from agent.core.errors import StateError
from agent.core.target import target_from_custom

CURRENT = Path("/var/sota/current-target")


def program(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "on update"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


class TestProgram:
    @pytest.fixture
    def told(self, tmp_path: Path) -> tuple[ProgramCallbacks, Path]:
        out = tmp_path / "out"
        script = program(tmp_path, f"env -0 | sort -z | tr '\\0' '\\n' > '{out}'")
        return ProgramCallbacks(script, CURRENT), out

    def facts(self, out: Path) -> dict[str, str]:
        names = (
            "MESSAGE",
            "CURRENT_TARGET",
            "CURRENT_TARGET_NAME",
            "INSTALL_TARGET_NAME",
            "RESULT",
        )
        pairs = (line.partition("=") for line in out.read_text().splitlines())
        return {name: value for name, _, value in pairs if name in names}

    def test_before_a_step_it_is_told_no_result(self, told: tuple[ProgramCallbacks, Path]) -> None:
        callbacks, out = told
        callbacks.notify("download-pre", current="lmp-1", target="lmp-2")

        assert self.facts(out) == {
            "MESSAGE": "download-pre",
            "CURRENT_TARGET": str(CURRENT),
            "CURRENT_TARGET_NAME": "lmp-1",
            "INSTALL_TARGET_NAME": "lmp-2",
        }

    def test_after_a_step_it_is_told_the_result(self, told: tuple[ProgramCallbacks, Path]) -> None:
        callbacks, out = told
        callbacks.notify("install-post", current="lmp-1", result="FAILED: a\x00b")

        assert self.facts(out)["RESULT"] == "FAILED: ab"
        assert "INSTALL_TARGET_NAME" not in self.facts(out)

    def test_no_shell_reads_what_it_is_told(
        self, told: tuple[ProgramCallbacks, Path], tmp_path: Path
    ) -> None:
        callbacks, out = told
        evil = f'"; touch {tmp_path}/owned; $(touch {tmp_path}/owned) "'
        callbacks.notify("install-post", current=evil, target=evil, result=evil)

        assert self.facts(out)["RESULT"] == evil
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize(
        ("body", "cause"), [("exit 3", "exit status 3"), ("sleep 60", "no end after 0.2 s")]
    )
    def test_its_failure_changes_nothing(self, tmp_path: Path, body: str, cause: str) -> None:
        callbacks = ProgramCallbacks(program(tmp_path, body), CURRENT, timeout_s=0.2)

        with structlog.testing.capture_logs() as logs:
            callbacks.notify("download-pre", current="lmp-1")

        failed = [entry for entry in logs if entry["event"] == "callback.failed"]
        assert [cause in entry["cause"] for entry in failed] == [True]

    def test_a_program_that_is_not_there_is_told_once_and_passed_over(self, tmp_path: Path) -> None:
        with structlog.testing.capture_logs() as logs:
            callbacks = ProgramCallbacks(tmp_path / "none", CURRENT)
            callbacks.notify("download-pre", current="lmp-1")

        assert [entry["event"] for entry in logs] == ["callback.missing"]

    def test_without_a_program_nobody_is_told(self) -> None:
        with structlog.testing.capture_logs() as logs:
            ProgramCallbacks(None, CURRENT).notify("download-pre", current="lmp-1")

        assert logs == []


class TestCurrentTarget:
    def test_a_shell_reads_it(self, tmp_path: Path) -> None:
        custom = {
            "version": "42",
            "tags": ["main", "devel"],
            "containers-sha": "abc",
            "lmp-manifest-sha": "",
        }
        path = tmp_path / "current-target"

        CurrentTargetFile(path).write(target_from_custom("lmp-42", "a" * 64, custom))

        assert path.read_text() == (
            'TARGET_NAME="lmp-42"\nCUSTOM_VERSION="42"\nCONTAINERS_SHA="abc"\nTAG="main,devel"\n'
        )
        assert path.stat().st_mode & 0o777 == 0o644

    def test_nothing_in_it_is_carried_out(self, tmp_path: Path) -> None:
        evil = '$(touch owned)`touch owned`"; touch owned\n'
        path = tmp_path / "current-target"
        custom = {"version": evil, "tags": [evil], "containers-sha": evil}

        CurrentTargetFile(path).write(target_from_custom("Initial Target", "a" * 64, custom))
        sh = shutil.which("sh")
        assert sh
        shell.run([sh, "-c", ". ./current-target; true"], timeout_s=9, cwd=tmp_path)

        assert not (tmp_path / "owned").exists()

    def test_a_full_or_missing_disk_is_no_failure(self, tmp_path: Path) -> None:
        with structlog.testing.capture_logs() as logs:
            CurrentTargetFile(tmp_path / "no" / "file").write(
                target_from_custom("lmp-1", "a" * 64, {})
            )

        assert [entry["event"] for entry in logs] == ["current_target.failed"]


def certificate(*, category: str | None, der: bool = False) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")]
    if category is not None:
        names.append(x509.NameAttribute(x509.NameOID.BUSINESS_CATEGORY, category))
    name, now = x509.Name(names), datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.DER if der else serialization.Encoding.PEM
    return made.public_bytes(encoding)


class TestDeviceType:
    @pytest.mark.parametrize(
        ("category", "expected"),
        [("production", BundleType.PROD), ("development", BundleType.CI), (None, BundleType.CI)],
    )
    @pytest.mark.parametrize("der", [False, True])
    def test_the_certificate_tells(
        self,
        tmp_path: Path,
        category: str | None,
        expected: BundleType,
        der: bool,  # noqa: FBT001
    ) -> None:
        path = tmp_path / "client.pem"
        path.write_bytes(certificate(category=category, der=der))

        assert expected is device_type([path])

    def test_without_one_the_type_is_not_known(self, tmp_path: Path) -> None:
        assert device_type([tmp_path / "none"]) is None
        assert device_type([]) is None

    @pytest.mark.parametrize(
        "data", [b"", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\n", b"x" * 99_999]
    )
    def test_one_that_cannot_be_read_is_none(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "client.pem"
        path.write_bytes(data)

        assert device_type([path]) is None

    def test_the_database_is_asked_before_the_files(self, tmp_path: Path) -> None:
        path = tmp_path / "client.pem"
        path.write_bytes(certificate(category=None))

        assert device_type([path], lambda: certificate(category="production")) is BundleType.PROD

    def test_the_next_one_is_tried(self, tmp_path: Path) -> None:
        path = tmp_path / "client.pem"
        path.write_bytes(certificate(category="production"))

        assert device_type([tmp_path / "none", path], lambda: b"broken") is BundleType.PROD


class TestProvisionedRoots:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        for kind, last in (("ci", 4), ("prod", 3)):
            (tmp_path / kind).mkdir()
            for version in range(1, last + 1):
                (tmp_path / kind / f"{version}.root.json").write_text(f"{kind} {version}\n")
        return tmp_path

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (BundleType.CI, ("ci", 4)),
            (BundleType.PROD, ("prod", 3)),
            (None, ("ci", 2)),
        ],
    )
    def test_each_type_has_its_chain(
        self, directory: Path, kind: BundleType | None, expected: tuple[str, int]
    ) -> None:
        name, last = expected

        assert provisioned_roots(directory, kind) == tuple(
            (version, f"{name} {version}\n".encode()) for version in range(1, last + 1)
        )

    def test_a_gap_ends_the_chain(self, directory: Path) -> None:
        (directory / "ci" / "2.root.json").unlink()

        assert [version for version, _ in provisioned_roots(directory, BundleType.CI)] == [1]

    def test_a_device_that_was_not_provisioned_has_none(self, tmp_path: Path) -> None:
        assert provisioned_roots(tmp_path / "none", BundleType.PROD) == ()

    @pytest.mark.parametrize("damage", ["link", "directory", "long"])
    def test_a_root_that_cannot_be_read_is_never_passed_over(
        self, directory: Path, damage: str
    ) -> None:
        path = directory / "ci" / "1.root.json"
        path.unlink()
        make = {
            "link": lambda: path.symlink_to("/etc/hostname"),
            "directory": path.mkdir,
            "long": lambda: path.write_bytes(b" " * (ROOT_LIMIT_BYTES + 1)),
        }
        make[damage]()

        with pytest.raises(StateError, match=r"1\.root\.json"):
            provisioned_roots(directory, None)


def test_the_clock_knows_its_zone() -> None:
    before = datetime.now(UTC)

    now = SystemClock().now()

    assert now.tzinfo is UTC
    assert before <= now <= datetime.now(UTC)
