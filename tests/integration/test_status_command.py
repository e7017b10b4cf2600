"""``usb-update status``, ``history`` and ``report`` as a person types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.resultfiles import DeviceResults, StickLetterbox
from agent.adapters.signals import Followers, StatusFile
from agent.core.feedback import Progress, Stage, signal_from_stage
from agent.core.record import to_json
from agent.faces.cli import usb_update
from tests.factory.records import circumstances, record

ROOT = Path(__file__).parents[2]


def usb_update_process(*words: object, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture
def agent(tmp_path):
    """Stand in for the daemon: its status file and its socket."""
    StatusFile(tmp_path / "status.json").show(
        signal_from_stage(Stage.COPYING, progress=Progress("ostree", 3 << 20, 8 << 20))
    )
    followers = Followers(tmp_path / "events.sock")
    yield followers
    followers.close()


@pytest.mark.usefixtures("agent")
def test_status_says_it_in_a_line(tmp_path, capsys):
    status = usb_update(["status", "--runtime", str(tmp_path)])
    said = capsys.readouterr().out

    assert status == 0
    assert "Copying - do not remove the stick. ostree: 3 of 8 MiB. Leave the stick in." in said


@pytest.mark.usefixtures("agent")
def test_status_json_is_the_file_and_whether_the_agent_runs(tmp_path, capsys):
    assert usb_update(["status", "--json", "--runtime", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)

    assert said.pop("running") is True
    assert said == json.loads((tmp_path / "status.json").read_text())


def test_status_of_an_agent_that_ended_says_so(tmp_path, agent, capsys):
    agent.close()

    assert usb_update(["status", "--runtime", str(tmp_path)]) == 1
    assert "(the agent is not running)" in capsys.readouterr().out


def test_status_before_the_agent_said_anything(tmp_path, capsys):
    assert usb_update(["status", "--runtime", str(tmp_path)]) == 1
    assert "said nothing since this boot" in capsys.readouterr().err


def test_status_of_a_file_that_is_none_of_ours(tmp_path, capsys):
    (tmp_path / "status.json").write_text("{")

    assert usb_update(["status", "--runtime", str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_follow_prints_json_lines_until_the_agent_ends(tmp_path, agent):
    agent.show(signal_from_stage(Stage.LOOKING))
    follower = subprocess.Popen(
        [sys.executable, "-m", "agent", "status", "--follow", "--json", "--runtime", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not agent.count:
        agent.accept()
    agent.show(signal_from_stage(Stage.SAFE_TO_REMOVE))
    agent.close()
    out, err = follower.communicate(timeout=30)

    assert [json.loads(line)["stage"] for line in out.splitlines()] == ["looking", "safe-to-remove"]
    assert err == "the agent ended\n"
    assert follower.returncode == 1


def test_follow_without_an_agent_says_how_to_start_it(tmp_path, capsys):
    assert usb_update(["status", "--follow", "--runtime", str(tmp_path)]) == 1
    assert "systemctl start usb-update.service" in capsys.readouterr().err


@pytest.fixture
def device(tmp_path) -> Path:
    """A configuration whose storage is here."""
    config = tmp_path / "device.toml"
    config.write_text(f'[storage]\npath = "{tmp_path}/sota"\n')
    return config


def test_history_lists_what_this_device_went_through(tmp_path, device, capsys):
    results = DeviceResults(tmp_path / "sota" / "usb-update" / "results")
    kept = results.keep(record(events=[{"event": "bundle.found"}]))

    assert usb_update(["history", "--config", str(device)]) == 0
    assert "install 100" in capsys.readouterr().out
    assert usb_update(["history", "--config", str(device), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [json.loads(to_json(kept))]


def test_history_of_a_new_device(device, capsys):
    assert usb_update(["history", "--config", str(device)]) == 0
    assert capsys.readouterr().out == "No attempt is on record.\n"


def test_report_merges_two_sticks_into_table_csv_and_page(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        StickLetterbox(tmp_path / name).put(record())
    StickLetterbox(tmp_path / "two").put(record(around=circumstances(device="pump-08")))
    csv, page = tmp_path / "fleet.csv", tmp_path / "fleet.html"
    sticks = [str(tmp_path / "one"), str(tmp_path / "two")]

    assert usb_update(["report", *sticks, "--csv", str(csv), "--html", str(page)]) == 0
    assert "2 devices, 2 attempts:" in capsys.readouterr().out
    assert csv.read_text(encoding="utf-8-sig").count("\npump-0") == 2
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_report_reads_on_when_one_stick_is_not_there(tmp_path, capsys):
    StickLetterbox(tmp_path).put(record())

    assert usb_update(["report", str(tmp_path / "gone"), str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "'" + str(tmp_path / "gone") + "' cannot be read" in said.err
    assert "pump-07" in said.out


def test_report_into_a_directory_that_is_not_there(tmp_path, capsys):
    assert usb_update(["report", str(tmp_path), "--csv", str(tmp_path / "no" / "x.csv")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_report_without_a_stick_is_a_usage_error():
    done = usb_update_process("report")

    assert done.returncode == 1
    assert "usage: usb-update report" in done.stderr


def test_report_and_status_load_nothing_heavy():
    code = (
        "import sys, agent.faces.status; "
        "print([m for m in ('docker', 'pygit2', 'yaml', 'cryptography', 'sqlite3', 'pyudev') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
