"""An author's desk for tests: real adapters, a clock that stands still."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent import wiring
from agent.adapters import authoring, gitsource, keyfiles
from agent.adapters.provisioned import provisioned_roots
from agent.core.bundletype import BundleType
from agent.services import author, pack
from agent.services.author import BundleInfo, BundleSpec, DeviceGuess, Verdict
from agent.services.desk import Desk
from agent.services.pack import PackFiles, PackInfo
from tests.ostree_device import archive_repo, make_commit

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Workshop:
    """A factory in a directory: keys, an OSTree repository, and one Target after another.

    Attributes:
        warned: what a person was warned of, hints included.
    """

    path: Path
    now: datetime = NOW
    warned: list[str] = field(default_factory=list)

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def repo(self) -> Path:
        return self.path / "repo"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def offline_key(self) -> Path:
        return self.keys / "keys/offline-targets.tgz"

    def desk(self, progress: Callable[[str, int, int], None] = lambda *_: None) -> Desk:
        return Desk(
            keys=keyfiles.KeysDirectory,
            read_archive=keyfiles.read_archive,
            bundle=authoring.bundle_files,
            commits=authoring.OstreeCommits,
            plan_apps=authoring.plan_apps,
            medium=wiring.bundle_medium,
            roots=provisioned_roots,
            now=lambda: self.now,
            revision=gitsource.open_revision,
            progress=progress,
            warn=lambda message, hint: self.warned.append(f"{message}|{hint}"),
        )

    def commit(self, version: str = "1") -> str:
        return make_commit(self.repo, {"usr/share/version": f"{version}\n".encode()})

    def spec(self, version: int = 42, **changes: object) -> BundleSpec:
        """What a test asks for: say only what matters."""
        asked: dict[str, object] = {
            "target": f"rpi-lmp-{version}",
            "destination": self.bundle,
            "keys": self.keys,
            "tag": "main",
            "hardware_id": "rpi",
            "ostree_repo": self.repo,
            **changes,
        }
        if "ref" not in asked:
            asked["ref"] = self.commit(str(version))
        return BundleSpec(**asked)  # type: ignore[arg-type]

    def create(self, version: int = 42, **changes: object) -> BundleInfo:
        return author.create_bundle(self.desk(), self.spec(version, **changes))

    def sign(self, archive: Path | None = None) -> BundleInfo:
        return author.sign_bundle(self.desk(), self.bundle, archive or self.offline_key)

    def packs(
        self, progress: Callable[[str, int, int], None] = lambda *_: None, **changes: Any
    ) -> PackFiles:
        return authoring.PackDirectory(progress, **changes)

    def pack(self, name: str = "bundle.usbu") -> PackInfo:
        """Pack the bundle into a file beside it."""
        desk, packs = self.desk(), self.packs()
        return pack.pack_bundle(desk, packs, self.bundle, self.path / name, self.keys)

    def judge(self, *, deep: bool = False, **device: object) -> Verdict:
        """What a provisioned device says; give another one's facts by name."""
        guess = {"roots": self.keys / "roots", "bundle_type": BundleType.CI, **device}
        return author.check_bundle(
            self.desk(),
            self.bundle,
            DeviceGuess(**guess),
            deep=deep,  # type: ignore[arg-type]
        )

    def later(self, days: int) -> None:
        self.now += timedelta(days=days)


def workshop(path: Path) -> Workshop:
    """Make keys and an empty repository below ``path``."""
    made = Workshop(path)
    author.make_keys(made.desk(), made.keys)
    archive_repo(made.repo)
    return made


def files_below(path: Path) -> dict[str, bytes]:
    """Return every file below ``path`` by its relative name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
