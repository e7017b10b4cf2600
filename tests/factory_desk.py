"""A factory in a directory for tests: real git, real ostree, a clock that stands still."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from agent import wiring
from agent.core.factory import Wave
from agent.services import author, factory
from agent.services.author import BundleInfo, BundleSpec, DeviceGuess, Verdict
from agent.services.factory import FactoryBundle, FactoryDesk, FactoryInfo
from tests.authoring_desk import NOW, workshop
from tests.ostree_device import make_commit

TYPES = {False: author.BundleType.CI, True: author.BundleType.PROD}


@dataclass
class FactoryShop:
    """A factory at ``path / name`` and the bundles that are made of it."""

    path: Path
    now: datetime = NOW
    name: str = "factory"

    @property
    def directory(self) -> Path:
        return self.path / self.name

    @property
    def repo(self) -> Path:
        return self.path / "repo"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    def desk(self, progress: Callable[[str, int, int], None] = lambda *_: None) -> FactoryDesk:
        made = wiring.factory_desk(progress)
        return replace(made, desk=replace(made.desk, now=lambda: self.now))

    def add(self, version: int = 42, **changes: object) -> FactoryInfo:
        """Add a Target of a rootfs of its own."""
        asked: dict[str, object] = {
            "target": f"rpi-lmp-{version}",
            "destination": self.directory,
            "keys": self.directory,
            "tag": "main",
            "hardware_id": "rpi",
            "ostree_repo": self.repo,
            "registry_prefix": "",
            **changes,
        }
        if "ref" not in asked:
            asked["ref"] = make_commit(self.repo, {"usr/share/version": f"{version}\n".encode()})
        return factory.add_target(self.desk(), self.directory, BundleSpec(**asked))  # type: ignore[arg-type]

    def wave(
        self, name: str, *versions: int, days: int = 365, tag: str = "", keys: tuple[Path, ...] = ()
    ) -> int:
        wave = Wave(name, tag, tuple(f"rpi-lmp-{version}" for version in versions))
        ends = self.now + timedelta(days=days)
        return factory.start_wave(self.desk(), self.directory, wave, ends, keys)

    def complete(self, name: str) -> None:
        factory.complete_wave(self.desk(), self.directory, name)

    def create(self, version: int = 42, *, wave: str = "", **changes: object) -> BundleInfo:
        asked: dict[str, object] = {
            "target": f"rpi-lmp-{version}",
            "destination": self.bundle,
            "tag": "" if wave else "main",
            "wave": wave,
            **changes,
        }
        return factory.create_bundle(self.desk(), FactoryBundle(self.directory, **asked))  # type: ignore[arg-type]

    def sign(self, archive: Path | None = None) -> BundleInfo:
        key = archive or self.directory / "keys/offline-targets.tgz"
        return author.sign_bundle(self.desk().desk, self.bundle, key)

    def judge(self, *, prod: bool = False, roots: Path | None = None) -> Verdict:
        """What a device says that was provisioned with the factory's roots, or with others."""
        guess = DeviceGuess(roots or self.directory / "roots", TYPES[prod], ("main",), "rpi")
        return author.check_bundle(self.desk().desk, self.bundle, guess, deep=True)

    def files(self) -> dict[str, bytes]:
        """The books, as of the newest act."""
        return self.desk().books(self.directory).read()


def factory_shop(path: Path) -> FactoryShop:
    """Make a factory and an empty repository below ``path``."""
    shop = FactoryShop(path)
    kept = workshop(path)
    kept.keys.rename(shop.directory)
    factory.init(shop.desk(), shop.directory, keep_keys=True)
    return shop
