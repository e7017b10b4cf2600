"""What every test may ask for: capabilities of the machine, engines, samples, a tidy end.

A mark is a capability. `CAPABILITIES` says once what it needs; a test whose machine lacks it is
skipped with that reason, and ``pytest`` lists the reasons at the end.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.docker_engine import (
    FLAVOURS,
    Engine,
    Engines,
    NoEngineError,
    mounts_below,
    unmount_below,
    why_no_engine,
)
from tests.registry import Registry, why_no_registry

ROOT = Path(__file__).parents[1]

# Deployments stay mutable, so that a temporary directory can be removed again.
os.environ["OSTREE_SYSROOT_DEBUG"] = "mutable-deployments"
# mke2fs, losetup and dockerd are there; not every user has it in PATH.
os.environ["PATH"] += ":/usr/sbin:/sbin"
# The machine's own settings decide nothing here.
for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "NOTIFY_SOCKET", "NO_COLOR"):
    os.environ.pop(name, None)

# A busy machine is not a failure; what is slow shows in `--durations`.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


# --- Capabilities ----------------------------------------------------------------------------


def _why_no_program(*names: str) -> str | None:
    absent = [name for name in names if not shutil.which(name)]
    return f"no {', '.join(absent)} here" if absent else None


def _why_no_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    return _why_no_program("losetup", "mount", "mke2fs")


def _why_no_udev() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/lib/systemd/systemd-udevd").exists():
        return "no systemd-udevd here"
    return _why_no_program("udevadm")


def _samples() -> Path:
    """Return where the bundles of another implementation may lie."""
    beside = ROOT.parent / "shared/data/sample-bundles.tar.xz"
    return Path(os.environ.get("USB_UPDATE_SAMPLES", beside))


def _why_no_samples() -> str | None:
    return None if _samples().is_file() else "no sample bundles; USB_UPDATE_SAMPLES names them"


CAPABILITIES: dict[str, Callable[[], str | None]] = {
    "needs_ostree": lambda: _why_no_program("ostree"),
    "needs_docker": why_no_engine,
    "needs_root": _why_no_root,
    "needs_udev": _why_no_udev,
    "needs_samples": _why_no_samples,
    "needs_registry": why_no_registry,
    "needs_chromium": lambda: _why_no_program("chromium"),
}
FIXTURES = {  # asking for the fixture is asking for the capability
    "docker_engine": "needs_docker",
    "docker_engines": "needs_docker",
    "locked_registry": "needs_registry",
    "registry": "needs_registry",
    "samples": "needs_samples",
}


@cache
def why_not(mark: str) -> str | None:
    """Return why this machine lacks a capability; None when it has it."""
    return CAPABILITIES[mark]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the machine cannot do, with the reason."""
    for item in items:
        asked = {FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES}
        marks = asked | {mark.name for mark in item.iter_markers()}
        for reason in filter(None, map(why_not, sorted(marks & CAPABILITIES.keys()))):
            item.add_marker(pytest.mark.skip(reason=reason))


# --- Docker ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def engine_pool() -> Iterator[Engines]:
    """Every engine of this session, each started when it is first asked for."""
    with Engines() as engines:
        yield engines


@pytest.fixture
def docker_engine(engine_pool: Engines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A private engine, empty, that ``DOCKER_HOST`` names."""
    yield from _empty_engine(engine_pool.any, monkeypatch)


@pytest.fixture(params=list(FLAVOURS))
def docker_engines(
    request: pytest.FixtureRequest, engine_pool: Engines, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Each engine in turn, as `docker_engine`."""
    yield from _empty_engine(lambda: engine_pool.get(request.param), monkeypatch)


def _empty_engine(get: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    try:
        engine = get()
    except NoEngineError as error:
        pytest.skip(str(error))
    for name, value in engine.env.items():
        monkeypatch.setenv(name, value)
    yield engine
    engine.wipe()


# --- Registries ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A real registry that is open to all; tests push under names of their own."""
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A real registry that asks for a name and a password."""
    with Registry(tmp_path_factory.mktemp("locked"), locked=True) as running:
        yield running


# --- Samples ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles that another implementation made: ``bundles/NAME``, ``initial``, ``commits.json``.

    Shared by all tests: copy what you change.
    """
    directory = tmp_path_factory.mktemp("samples")
    with tarfile.open(_samples()) as archive:
        archive.extraction_filter = lambda member, _: member  # Debian 12's Python has no filters
        archive.extractall(directory)  # noqa: S202  ours
    return directory / "sample-bundles"


# --- A tidy end ------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _tidy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave no mount, loop device or immutable directory below the temporary directory."""
    yield
    base = tmp_path_factory.getbasetemp()
    if os.geteuid() != 0 or not base.exists():
        return
    if mounts_below(base):
        unmount_below(base)
    for line in _printed("losetup", "--list", "--noheadings", "-O", "NAME,BACK-FILE"):
        device, _, image = line.partition(" ")
        if image.strip().startswith(f"{base}/"):
            _printed("losetup", "--detach", device)
    # A deployment is immutable when a test ran `ostree` without the variable above.
    prune = ["(", "-name", "objects", "-o", "-name", "blobs", ")", "-prune"]
    deployment = ["-path", "*/ostree/deploy/*/deploy/*.[0-9]", "-print", "-prune"]
    if deployments := _printed("find", str(base), "-type", "d", *prune, "-o", *deployment):
        _printed("chattr", "-i", *deployments)


def _printed(*argv: str) -> list[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
