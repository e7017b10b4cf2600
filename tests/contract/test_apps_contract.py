"""The Apps in memory and the real ones keep one contract."""

import shutil
from pathlib import Path

import pytest

from agent.adapters.apps import ComposeApps
from agent.core.target import AppRef
from tests.app_store import busybox_layer, make_app, make_image, tar_of
from tests.contract.apps_contract import AppsContract
from tests.docker_engine import Engine
from tests.fakes.apps import MemoryApps

COMPOSE = """services:
  main:
    image: "{web}"
    network_mode: none
    stop_grace_period: 0s
"""


class MemoryBench:
    def __init__(self) -> None:
        self.apps = MemoryApps()
        self.store = Path("stick/apps")

    def offer(
        self, name: str, version: str = "1", *, starts: bool = True, valid: bool = True
    ) -> AppRef:
        app = AppRef(name, f"registry.example.com/factory/{name}@sha256:{version * 64}")
        self.apps.offer(self.store, [app])
        if not starts:
            self.apps.break_app(app)
        if not valid:
            self.apps.invalid.add(app)
        return app

    def lose_containers(self, name: str) -> None:
        self.apps.lose_containers(name)


class RealBench:
    def __init__(self, root: Path, engine: Engine) -> None:
        self._engine = engine
        self.store = root / "stick/apps"
        self.apps = ComposeApps(
            root / "reset-apps",
            root / "compose-apps",
            compose_bin=Path(shutil.which("docker") or "docker"),
            docker_host=engine.host,
            engine_root=root,
            watermark=95,
        )

    def offer(
        self, name: str, version: str = "1", *, starts: bool = True, valid: bool = True
    ) -> AppRef:
        command = ["/bin/sleep", "3600"] if starts else ["/bin/absent"]
        image = make_image([busybox_layer(), tar_of({"v": version.encode()})], cmd=command)
        compose = COMPOSE if valid else COMPOSE + "    env_file: [absent.env]\n"
        return make_app(self.store, name, compose, {"web": image})

    def lose_containers(self, name: str) -> None:
        self._engine.run("rm", "--force", f"{name}-main-1")


class TestMemoryApps(AppsContract):
    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class TestComposeApps(AppsContract):
    @pytest.fixture
    def bench(self, tmp_path: Path, docker_engine: Engine) -> RealBench:
        return RealBench(tmp_path, docker_engine)
