"""Who may import whom, and the few things that happen in one place only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "agent"
MODULES = sorted(AGENT.rglob("*.py"))

MAY_IMPORT = {
    "core": {"core"},
    "log": set(),
    "lean": set(),
    "ports": {"core"},
    "adapters": {"core", "ports", "adapters", "log"},
    "services": {"core", "ports", "services", "log"},
    "wiring": {"core", "ports", "adapters", "services", "wiring", "log"},
    "faces": {"core", "services", "wiring", "faces", "log"},
}
SHARED_TOOLS = {
    "shell",
    "files",
    "durably",
    "journal",
    "packfile",
    "sticktree",
}  # what one adapter may know of others
IMPURE = {"os", "sys", "time", "subprocess", "logging", "structlog", "pathlib", "docker", "pyudev"}


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path, package: str) -> set[str]:
    """Return the names directly below ``package`` that a module imports."""
    prefix = f"{package}."
    return {name.removeprefix(prefix).partition(".")[0] for name in imports(path)
            if name.startswith(prefix)}  # fmt: skip


def layer_of(name: str) -> str:
    """Return the layer of a module or directory of ``agent``; ``wiring_x`` is wiring."""
    stem = name.removesuffix(".py")
    return "wiring" if stem.startswith("wiring_") else stem


def below(directory: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(AGENT).parts[0] == directory]


def name_of(path: Path) -> str:
    return str(path.relative_to(AGENT))


def containing(text: str) -> set[str]:
    return {name_of(path) for path in MODULES if text in path.read_text()}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_inward(path: Path) -> None:
    layer = layer_of(path.relative_to(AGENT).parts[0])
    ours = {layer_of(name) for name in imported(path, "agent")} - {"__version__"}

    assert ours <= MAY_IMPORT.get(layer, set(MAY_IMPORT))


@pytest.mark.parametrize("path", below("core"), ids=name_of)
def test_core_touches_nothing(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(path)} & IMPURE


@pytest.mark.parametrize("path", below("adapters"), ids=name_of)
def test_adapters_do_not_know_each_other(path: Path) -> None:
    itself = path.relative_to(AGENT / "adapters").parts[0].removesuffix(".py")

    assert imported(path, "agent.adapters") <= SHARED_TOOLS | {itself}


def test_programs_are_run_in_one_place() -> None:
    assert {
        name_of(path)
        for path in MODULES
        if "subprocess" in {name.partition(".")[0] for name in imports(path)}
    } == {"adapters/shell.py"}


def test_a_verified_bundle_is_made_by_verification_alone() -> None:
    # `VerifiedBundle(` is also how the class statement would look with a base; it has none.
    assert containing("VerifiedBundle(") == {"core/verify.py"}


def test_an_image_is_named_by_its_seal_alone() -> None:
    assert containing("SealedImage(") == {"core/pack.py"}


def test_everything_else_is_caught_in_one_place() -> None:
    assert containing("except Exception") <= {"faces/cli.py"}
