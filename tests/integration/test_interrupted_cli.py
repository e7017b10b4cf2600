"""Somebody stops a command: Ctrl-C, ``kill``, a connection that breaks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.field import ROOT, Field, FieldDevice
from tests.service import until

pytestmark = pytest.mark.needs_ostree

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def bundle(field: Field) -> Path:
    return field.bundle(2)


@pytest.fixture
def device(field: Field, tmp_path: Path) -> FieldDevice:
    return field.device(tmp_path / "device")


@pytest.fixture
def endless_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``ostree`` whose pull never ends; return the file that holds its process id."""
    pid = tmp_path / "pid"
    program = tmp_path / "bin" / "ostree"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = pull-local ]; then\necho $$ > {pid}; exec sleep 300\nfi\n'
        'exec /usr/bin/ostree "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return pid


def not_under_nohup() -> None:
    """Whoever starts the tests may ignore SIGHUP, and what it starts would as well."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_program_goes_on_behind_an_interrupted_install(
    number: signal.Signals,
    bundle: Path,
    device: FieldDevice,
    endless_pull: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = device.argv("install", "-s", bundle)
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=not_under_nohup,  # noqa: PLW1509  this process has no thread that matters
    ) as install:
        try:
            until(lambda: endless_pull.exists() and endless_pull.read_text(), "a pull")
            install.send_signal(number)
            _, told = install.communicate(timeout=PATIENCE_S)
        finally:
            install.kill()

    assert install.returncode == 1
    assert "interrupted" in told.splitlines()[-1]
    assert not Path("/proc", endless_pull.read_text().strip()).exists()
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(":")[2])
    assert device.install(bundle).code == 100


PRESSED_WHILE_LOADING = """\
import sys
class Finger:
    def find_spec(self, name, *_):
        if name == "agent.core.keys":
            raise KeyboardInterrupt
from agent.faces.cli import usb_update
sys.meta_path.insert(0, Finger())
sys.exit(usb_update(["bundle", "show", "x"]))
"""


def test_ctrl_c_while_a_command_is_loaded_is_no_traceback() -> None:
    argv = [sys.executable, "-c", PRESSED_WHILE_LOADING]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "interrupted; type the same command again to go on\n"
