"""The Debian packages, built by the project's own script, looked at, put into a root, removed."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from agent.adapters.installation import SHIPPED, Installation

ROOT = Path(__file__).parents[2]
TOOLS = ("dpkg-buildpackage", "dh", "dh_python3")
missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")
BUILT = "1790000000"  # a time in 2026, UTC
SOURCES = (
    *("agent", "debian", "docs", "packaging", "systemd", "udev-rules"),
    *("scripts/deb.sh", "README.md", "LICENSE"),
)
AGENT, DROP_IN = "usb-update-agent", "usb-update-aklite-offline"
MODULES = "usr/share/usb-update-agent"
WANTS = "etc/systemd/system/multi-user.target.wants"
STATE = "var/sota/sql.db"


def run(*argv: str | Path, **environment: str) -> str:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both packages; return their files by name."""
    dist = tmp_path_factory.mktemp("dist")
    said = run(ROOT / "scripts/deb.sh", dist, SOURCE_DATE_EPOCH=BUILT)
    return {Path(line).name.partition("_")[0]: Path(line) for line in said.splitlines()}


@pytest.fixture(scope="module")
def unpacked(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both packages put into a system."""
    root = tmp_path_factory.mktemp("root")
    for package in packages.values():
        run("dpkg-deb", "--extract", package, root)
    return root


def test_two_packages_of_the_programs_version_are_built(packages: dict[str, Path]) -> None:
    assert {path.name for path in packages.values()} == {
        f"{name}_{__version__}_all.deb" for name in (AGENT, DROP_IN)
    }


def test_lintian_finds_nothing(packages: dict[str, Path]) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("no lintian here")
    argv = ["lintian", "--allow-root", "--fail-on", "error,warning", *map(str, packages.values())]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_package_holds_the_service_as_install_would_make_it(
    unpacked: Path, tmp_path: Path
) -> None:
    """Same names, same content; in a package's own directories instead of /etc."""
    Installation(tmp_path).install()

    for file in SHIPPED:
        packaged = unpacked / file.packaged / file.name
        assert packaged.read_bytes() == (tmp_path / file.local / file.name).read_bytes()
        assert stat.S_IMODE(packaged.stat().st_mode) == 0o644
    assert Installation(unpacked).install() == ()  # nothing is left to do but to enable


def test_a_package_puts_nothing_where_a_device_keeps_its_own(packages: dict[str, Path]) -> None:
    """/usr only: what an OSTree image replaces, and no name of anybody else's modules."""
    listed = [
        line.split(maxsplit=5)[5].partition(" -> ")[0]
        for package in packages.values()
        for line in run("dpkg-deb", "--contents", package).splitlines()
    ]
    files = [path for path in listed if not path.endswith("/")]

    assert all(path.startswith("./usr/") for path in files)
    assert not [path for path in files if "dist-packages" in path or "__pycache__" in path]


def test_the_programs_start_isolated(unpacked: Path) -> None:
    for program in ("usb-update", "aklite-offline"):
        text = (unpacked / "usr/bin" / program).read_text()
        assert text.startswith("#!/usr/bin/python3 -I\n")  # debhelper may rewrite it


def test_every_module_is_in_the_package(unpacked: Path) -> None:
    ours = {path.relative_to(ROOT) for path in (ROOT / "agent").rglob("*.py")}

    packaged = {path.relative_to(unpacked / MODULES) for path in unpacked.rglob("*.py")}

    assert ours == packaged


def test_the_service_files_are_found_from_the_modules(unpacked: Path) -> None:
    """`usb-update service` compares with what the package itself put in place."""
    for file in SHIPPED:
        link = unpacked / MODULES / "agent/shipped" / file.source / file.name
        assert link.resolve() == (unpacked / file.packaged / file.name).resolve()


def test_a_unit_names_a_document_that_is_there(unpacked: Path) -> None:
    for file in SHIPPED:
        text = (unpacked / file.packaged / file.name).read_text()
        for line in text.splitlines():
            if line.startswith("Documentation=file://"):
                assert (unpacked / line.partition("file:///")[2]).is_file()


def test_the_same_commit_gives_the_same_bytes(packages: dict[str, Path], tmp_path: Path) -> None:
    """In another place, checked out at another time, in another time zone."""
    for name in SOURCES:
        copy(ROOT / name, tmp_path / "tree" / name)

    script = tmp_path / "tree/scripts/deb.sh"
    again = run("bash", script, SOURCE_DATE_EPOCH=BUILT, TZ="Asia/Tokyo", LC_ALL="C")

    for line in again.splitlines():
        first = packages[Path(line).name.partition("_")[0]]
        assert Path(line).read_bytes() == first.read_bytes()


def copy(source: Path, destination: Path) -> None:
    """Copy the content and nothing else, no time and no mode."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, destination)


# --- put into a root, and taken out -----------------------------------------------------

# Maintainer scripts run inside the root. This one is made of the machine's own programs, so
# nothing is fetched, and has a package database of its own. Dependencies are not in it.
USRMERGED = ("bin", "sbin", "lib", "lib64")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root with a package database of its own, whose programs are the machine's."""
    if os.geteuid() != 0:
        pytest.skip("not root, and chroot needs it")
    if not Path("/bin").is_symlink() or shutil.which("deb-systemd-helper") is None:
        pytest.skip("needs a Debian with a merged /usr and init-system-helpers")
    root, upper, work = (tmp_path / name for name in ("root", "upper", "work"))
    for directory in (
        upper,
        work,
        *(root / name for name in ("usr", "etc", "dev", "var/lib/dpkg")),
    ):
        directory.mkdir(parents=True)
    for name in USRMERGED:
        (root / name).symlink_to(f"usr/{name}")
    for name in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / name).mkdir()
    (root / "var/lib/dpkg/status").touch()
    (root / "dev/null").touch()
    options = f"lowerdir=/usr,upperdir={upper},workdir={work}"
    try:
        run("mount", "-t", "overlay", "-o", options, "overlay", root / "usr")
    except AssertionError as e:
        pytest.skip(f"no overlay file system here: {e}")
    try:
        yield root
    finally:
        run("umount", root / "usr")


def dpkg(root: Path, *argv: str | Path) -> str:
    return run("dpkg", f"--root={root}", "--force-depends", *argv, DPKG_FORCE="depends")


@pytest.fixture
def installed(root: Path, packages: dict[str, Path]) -> Path:
    dpkg(root, "--install", *packages.values())
    return root


def test_installed_both_units_start_at_boot_and_the_programs_run(installed: Path) -> None:
    links = {link.name: str(link.readlink()) for link in (installed / WANTS).iterdir()}

    assert set(links) == {"usb-update.service", "usb-update-run.service"}
    assert all((installed / link.lstrip("/")).is_file() for link in links.values())
    assert Installation(installed).enabled()
    assert "Offline updates" in run("chroot", installed, "/usr/bin/usb-update", "--help")
    assert "offline" in run("chroot", installed, "/usr/bin/aklite-offline", "--help")
    assert list(installed.glob(f"{MODULES}/agent/__pycache__/*.pyc"))


def test_purged_nothing_is_left_but_the_devices_state(installed: Path) -> None:
    state = installed / STATE
    state.parent.mkdir(parents=True)
    state.write_bytes(b"what the device trusts")

    said = dpkg(installed, "--purge", AGENT, DROP_IN)

    assert "/var/sota is left as it is" in said
    assert state.read_bytes() == b"what the device trusts"
    assert not list((installed / WANTS).glob("usb-update*"))
    assert not (installed / MODULES).exists()
    assert not list((installed / "usr/bin").glob("usb-update"))


def test_a_unit_the_owner_disabled_stays_disabled_over_an_upgrade(
    installed: Path, packages: dict[str, Path]
) -> None:
    Installation(installed).uninstall()

    dpkg(installed, "--install", *packages.values())

    assert not Installation(installed).enabled()
