"""The three ways into a system say the same: pyproject, the Debian package, the Yocto recipe."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from agent import __version__
from agent.adapters.installation import SHIPPED

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEBIAN = ROOT / "debian"
LAYER = ROOT / "packaging/yocto/meta-usb-update"
(RECIPE,) = LAYER.rglob("*.bb")
# Names that differ from `python3-` and PyPI's name in lower case.
DEBIAN_NAMES = {"pyyaml": "python3-yaml"}
AUTHORING = {"pygit2"}  # needed where bundles are made, not on a device
UNITS = [file.name for file in SHIPPED if file.name.endswith(".service")]


def requirements() -> dict[str, str]:
    """Return the libraries pyproject names, lower case, with their lowest version."""
    found = (re.match(r"([A-Za-z0-9]+)>=([0-9.]+)$", line) for line in _dependencies())
    return {match[1].lower(): match[2] for match in found if match}


def _dependencies() -> list[str]:
    return PYPROJECT["project"]["dependencies"]


def field(package: str, name: str) -> list[str]:
    """Return a relation of a Debian package, one entry a line, substitutions left out."""
    (stanza,) = re.findall(
        rf"^Package: {package}$.*?(?=\n\n|\Z)",
        (DEBIAN / "control").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    folded = re.search(rf"^{name}: (.*(?:\n .*)*)", stanza, re.MULTILINE)
    entries = folded[1].split(",") if folded else []
    return [
        entry.strip() for entry in entries if "${misc" not in entry and "${python3" not in entry
    ]


def variable(name: str) -> list[str]:
    """Return the words of a variable of the recipe, all its assignments together."""
    text = re.sub(r"\\\n", " ", RECIPE.read_text())
    values = re.findall(rf"^{re.escape(name)} [?+:]*= \"(.*)\"$", text, re.MULTILINE)
    return " ".join(values).split()


def test_every_requirement_has_its_lowest_version() -> None:
    assert len(requirements()) == len(_dependencies())


def test_the_version_is_written_once() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "agent/__init__.py"
    assert RECIPE.name == f"usb-update-agent_{__version__}.bb"
    assert not (DEBIAN / "changelog").exists()  # made by scripts/deb.sh


def test_debian_depends_on_what_pyproject_needs() -> None:
    needed = {
        f"{DEBIAN_NAMES.get(name, f'python3-{name}')} (>= {version})"
        for name, version in requirements().items()
        if name not in AUTHORING
    }
    python = PYPROJECT["project"]["requires-python"].removeprefix(">=")

    depends = {entry for entry in field("usb-update-agent", "Depends") if "python3" in entry}

    assert depends == {*needed, f"python3 (>= {python})"}


@pytest.mark.parametrize("name", sorted(AUTHORING))
def test_debian_suggests_what_only_authors_need(name: str) -> None:
    assert f"python3-{name} (>= {requirements()[name]})" in field("usb-update-agent", "Suggests")


def test_the_recipe_depends_on_what_pyproject_needs() -> None:
    needed = {f"python3-{name}" for name in requirements() if name not in AUTHORING}

    depends = {word for word in variable("RDEPENDS:${PN}") if word.startswith("python3-")}

    assert depends == {*needed, "python3-modules"}
    assert {f"python3-{name}" for name in AUTHORING} <= set(variable("RSUGGESTS:${PN}"))


def test_both_depend_on_the_programs_the_agent_starts() -> None:
    assert {"ostree", "udev"} <= set(field("usb-update-agent", "Depends"))
    assert {"ostree", "udev"} <= set(variable("RDEPENDS:${PN}"))


def test_the_recipe_enables_the_units_and_ships_every_file() -> None:
    assert variable("SYSTEMD_SERVICE:${PN}") == UNITS
    packaged = {word.rpartition("/")[2] for word in variable("FILES:${PN}")}
    assert packaged == {file.name for file in SHIPPED}
    for file in SHIPPED:
        assert f"${{S}}/{file.source}/{file.name} " in RECIPE.read_text()


def test_debian_ships_every_file() -> None:
    rules, links = ((DEBIAN / name).read_text() for name in ("rules", "usb-update-agent.links"))
    for file in SHIPPED:
        assert f"{file.source}/{file.name} " in rules
        assert f"{file.packaged}/{file.name} " in links


def test_every_program_of_pyproject_is_in_a_package_of_its_own_name() -> None:
    installed = "".join(path.read_text() for path in DEBIAN.glob("*.install"))
    for name in PYPROJECT["project"]["scripts"]:
        assert f"packaging/bin/{name} usr/bin\n" in installed
        assert f"{name}.1" in RECIPE.read_text()
    assert variable("FILES:${PN}-aklite-offline") == ["${bindir}/aklite-offline"]


def test_a_program_calls_what_pyproject_calls() -> None:
    for name, place in PYPROJECT["project"]["scripts"].items():
        module, _, function = place.partition(":")
        assert f"from {module} import {function}\n" in (ROOT / "packaging/bin" / name).read_text()


def test_the_licence_is_the_one_that_was_read() -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    checksum = hashlib.md5(licence, usedforsecurity=False).hexdigest()  # BitBake's choice
    assert variable("LIC_FILES_CHKSUM") == [f"file://LICENSE;md5={checksum}"]
    assert variable("LICENSE") == [PYPROJECT["project"]["license"]] == ["MIT"]
    copyright_file = (DEBIAN / "copyright").read_text()
    grant = copyright_file.partition("\nLicense: Expat\n ")[2].replace("\n .\n", "\n\n")
    assert grant.split() == licence.decode().partition("contributors\n")[2].split()


def test_the_recipe_belongs_to_the_layer() -> None:
    layer = (LAYER / "conf/layer.conf").read_text()
    assert RECIPE.relative_to(LAYER).match("recipes-*/*/*.bb")
    assert "${LAYERDIR}/recipes-*/*/*.bb " in layer
