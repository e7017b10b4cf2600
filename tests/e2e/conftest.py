"""Scenarios on a whole device: which driver runs them, and the table at the end.

Without more said (``make test``) every scenario runs in systemd-nspawn. ``E2E=some make test``
runs those marked ``with_every_change`` on QEMU too, last of all and only while there is time;
each takes about five minutes. ``E2E=all`` (``make e2e``) runs everything everywhere.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.e2e.device import Device
from tests.e2e.factory import Factory
from tests.e2e.image import DeviceImage, device_image, why_no_image
from tests.e2e.machine import Machine
from tests.e2e.nspawn import NspawnMachine, why_no_nspawn
from tests.e2e.qemu import QemuMachine, why_no_qemu

HERE = Path(__file__).parent
EVERYTHING = os.environ.get("E2E") == "all"
SOME = os.environ.get("E2E") == "some"
DRIVERS: dict[str, Callable[[], str | None]] = {"nspawn": why_no_nspawn, "qemu": why_no_qemu}
TIMEOUT_S = 3600.0  # an emulated processor on a busy machine
BEGAN = time.monotonic()
QEMU_UNTIL_S = 16 * 60.0  # a scenario begun later would not end within CI's 25 minutes
Make = Callable[..., Device]


# --- which scenarios run ------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a scenario with every driver, or with those that ``only_on`` names."""
    if "driver" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only_on")
        metafunc.parametrize("driver", only.args[0] if only else list(DRIVERS), scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, or is left to ``make e2e``, with the reason; QEMU comes last."""
    items.sort(key=lambda item: (HERE in item.path.parents, _driver(item) == "qemu"))
    for item in filter(lambda item: HERE in item.path.parents, items):
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        if reason := _why_not(item):
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_not(item: pytest.Item) -> str | None:
    driver = _driver(item)
    if (driver == "qemu" or item.get_closest_marker("cuts")) and not (
        EVERYTHING or (SOME and item.get_closest_marker("with_every_change"))
    ):
        return "too slow for every change; `make e2e` runs it"
    return _why_no_image() or _why_no_driver(driver)


_why_no_image = cache(why_no_image)


@cache
def _why_no_driver(name: str) -> str | None:
    return DRIVERS[name]() if name in DRIVERS else None


def _driver(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("driver", "")) if callspec else ""


# --- what a scenario may ask for ----------------------------------------------------------------


@pytest.fixture(scope="session")
def image() -> DeviceImage:
    return device_image()


@pytest.fixture(scope="session")
def factory(image: DeviceImage, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return Factory(image, tmp_path_factory.mktemp("factory"))


@pytest.fixture(scope="module")
def make_device(image: DeviceImage, driver: str) -> Iterator[Make]:
    """Make devices fresh from the factory, switched off; they go with the module."""
    machines: list[Machine] = []

    def make(**options: object) -> Device:
        place = Path(mkdtemp(prefix="device-"))  # a socket's path must be short
        machine = _machine(driver, image, place, options)
        machines.append(machine)
        return Device(machine, place)

    try:
        yield make
    finally:
        for machine in machines:
            machine.close()


def _machine(driver: str, image: DeviceImage, place: Path, options: dict[str, object]) -> Machine:
    if driver == "qemu":
        if not EVERYTHING and time.monotonic() - BEGAN > QEMU_UNTIL_S:
            pytest.skip("no time left; `make e2e` runs it")
        return QemuMachine(image, place, **options)  # type: ignore[arg-type]
    return NspawnMachine(image.disk, place, **options)  # type: ignore[arg-type]


@pytest.fixture
def device(make_device: Make) -> Iterator[Device]:
    """A device that is up, fresh from the factory."""
    made = make_device()
    made.switch_on()
    yield made
    made.machine.power_cut()


# --- the table ----------------------------------------------------------------------------------


class Table:
    """Scenario, driver, result, seconds: a line for each."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    def add(self, report: pytest.TestReport) -> None:
        """Take a report: the scenario's own, or one of a step around it that went wrong."""
        if report.when != "call" and report.passed:
            return
        name, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
        words = parameters.rstrip("]").split("-")
        driver = next((word for word in words if word in DRIVERS), "")
        rest = " ".join(word for word in words if word not in DRIVERS)
        scenario = f"{name.removeprefix('test_').replace('_', ' ')} {rest}".strip()
        self.lines[report.nodeid] = [scenario, driver, _result(report), f"{report.duration:.0f}"]


def _result(report: pytest.TestReport) -> str:
    if not report.skipped:
        return report.outcome
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ").join(("skipped: ", ""))


TABLE = Table()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep a line of the table."""
    if "tests/e2e/" in report.nodeid:
        TABLE.add(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if not TABLE.lines:
        return
    terminalreporter.section("scenarios on a whole device")
    rows = [["scenario", "driver", "result", "seconds"], *sorted(TABLE.lines.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        terminalreporter.write_line("  ".join([*cells, row[3].rjust(7)]))
