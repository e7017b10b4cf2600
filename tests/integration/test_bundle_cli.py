"""``usb-update keys`` and ``usb-update bundle``, typed as a person types them."""

import json
from pathlib import Path

import pytest

from agent.core.outcome import CheckExit
from agent.faces.cli import usb_update
from agent.faces.progress import ProgressBar, amount, pace
from tests.ostree_device import archive_repo, make_commit


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    commit = make_commit(archive_repo(tmp_path / "repo"), {"usr/share/version": b"1\n"})
    (tmp_path / "commit").write_text(commit, encoding="ascii")
    assert usb_update(["keys", "init", "factory"]) == 0
    return tmp_path


def create(*more: str, name: str = "rpi-lmp-42", destination: str = "bundle") -> int:
    commit = Path("commit").read_text(encoding="ascii")
    return usb_update(
        ["bundle", "create", name, destination, "--keys", "factory", "--tag", "main",
         "--hardware-id", "rpi", "--ostree-repo", "repo", "--commit", commit, *more]
    )  # fmt: skip


def verify(*more: str) -> int:
    return usb_update(["bundle", "verify", "bundle", "--roots", "factory/roots", *more])


def test_keys_init_says_what_goes_where(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usb_update(["keys", "init", "other"])
    said = capsys.readouterr().out

    for word in ("keep", "offline", "/usr/lib/sota/tuf/{ci,prod}/", "state.json"):
        assert word in said


@pytest.mark.usefixtures("desk")
class TestWalks:
    def test_a_ci_bundle(self) -> None:
        assert create() == 0
        assert verify("--type", "ci", "--tag", "main", "--hardware-id", "rpi", "--deep") == 0

    def test_a_production_bundle(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert create("--prod") == 0
        assert "Missing:\t1" in capsys.readouterr().out
        assert verify("--type", "prod") == CheckExit.BUNDLE_INVALID
        assert (
            usb_update(["bundle", "sign", "bundle", "-k", "factory/keys/offline-targets.tgz"]) == 0
        )
        assert "Missing" not in capsys.readouterr().out
        assert verify("--type", "prod") == 0

    def test_show_is_fioctls_rendering(self, capsys: pytest.CaptureFixture[str]) -> None:
        create("--prod")
        capsys.readouterr()
        usb_update(["bundle", "show", "bundle"])
        lines = capsys.readouterr().out.splitlines()

        assert lines[:3] == ["Bundle Targets info:", "\tType:\t\tprod", "\tTag:\t\tmain"]
        assert lines[3].startswith("\tExpires:\t20")
        assert lines[4:7] == ["\tTargets:", "\t\t\trpi-lmp-42", "\tSignatures:"]
        assert lines[8] == "\tAllowed keys:"
        assert lines[-2] == "\tThreshold:\t2"

    def test_show_for_programs(self, capsys: pytest.CaptureFixture[str]) -> None:
        create()
        capsys.readouterr()
        usb_update(["bundle", "show", "bundle", "--json"])
        shown = json.loads(capsys.readouterr().out)

        assert (shown["type"], shown["missing"], shown["root_version"]) == ("ci", 0, 4)
        assert shown["targets"][0]["name"] == "rpi-lmp-42"

    def test_verify_for_programs(self, capsys: pytest.CaptureFixture[str]) -> None:
        create()
        capsys.readouterr()
        code = verify("--tag", "devel", "--json")
        said = json.loads(capsys.readouterr().out)

        assert (code, said["exit"], said["accepted"]) == (15, 15, False)
        assert said["reason"] == "bundle_tag"

    def test_without_apps(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert create("--no-apps", "--app", "nowhere") == 0
        usb_update(["bundle", "show", "bundle", "--json"])

        assert '"apps": 0' in capsys.readouterr().out

    def test_strays_are_warned_about(self, capsys: pytest.CaptureFixture[str]) -> None:
        create()
        Path("bundle/apps/apps").mkdir(parents=True)
        Path("bundle/apps/apps/._shop").write_bytes(b"")

        assert verify() == 0
        assert "warning: 'bundle/apps/apps/._shop' is no App directory" in capsys.readouterr().out


@pytest.mark.usefixtures("desk")
class TestRefusals:
    def test_a_second_create_says_how_to_go_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        create()
        capsys.readouterr()

        assert create(name="rpi-lmp-43") == 1
        assert "--allow-multiple-targets" in capsys.readouterr().err
        assert create("--allow-multiple-targets", name="rpi-lmp-43") == 0

    def test_an_impossible_wish_gives_the_facts(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert create("-e", "366") == 1
        said = capsys.readouterr().err

        assert "Targets metadata expire (" in said
        assert "before the specified expiration time (" in said
        assert "ask for at most 36" in said

    @pytest.mark.parametrize(
        "argv",
        [
            ["keys"],
            ["bundle"],
            ["bundle", "create", "a-1"],
            ["bundle", "create", "a-1", "d", "--keys", "factory"],
            ["bundle", "sign", "b"],
            ["bundle", "verify", "b", "--type", "other"],
            [
                "bundle",
                "create",
                "a-1",
                "d",
                "--keys",
                "k",
                "--tag",
                "t",
                "--ref",
                "r",
                "--commit",
                "c",
            ],
        ],
    )
    def test_bad_usage_exits_1_with_the_usage_line(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exited:
            usb_update(argv)

        assert exited.value.code == 1
        assert capsys.readouterr().err.startswith("usage: usb-update ")

    @pytest.mark.parametrize(
        "argv",
        [
            ["bundle", "show", "nowhere"],
            ["bundle", "sign", "nowhere", "-k", "x"],
            ["bundle", "verify", "nowhere"],
            ["keys", "init", "factory"],
            ["keys", "init", "new", "--expires-in-days", "0"],
        ],
    )
    def test_what_cannot_be_done_is_a_sentence(
        self, argv: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert usb_update(argv) == 1
        said = capsys.readouterr().err

        assert "internal error" not in said
        assert said.strip()


class Terminal:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


class TestProgress:
    MIB = 1024 * 1024

    def test_a_bar_with_rate_and_time_left(self) -> None:
        terminal, times = Terminal(), iter([0.0, 10.0])
        bar = ProgressBar(terminal, clock=lambda: next(times))  # type: ignore[arg-type]
        bar("Apps", 0, 100 * self.MIB)
        bar("Apps", 50 * self.MIB, 100 * self.MIB)
        bar.close()
        last = terminal.text.rpartition("\r")[2]

        assert last == (
            "\x1b[KApps  [############............]  50.0/100.0 MiB  5.0 MiB/s  11 s left\n"
        )

    def test_it_does_not_draw_more_often_than_an_eye_follows(self) -> None:
        terminal = Terminal()
        bar = ProgressBar(terminal, clock=lambda: 1.0)  # type: ignore[arg-type]
        for done in range(1000):
            bar("Apps", done, 1000)

        assert terminal.text.count("\r") == 1

    def test_what_is_not_known_is_not_guessed(self) -> None:
        assert amount(self.MIB, 0) == "1.0 MiB"
        assert pace(0, 0, 5.0) == "0.0 MiB/s"

    def test_without_a_terminal_nothing_is_drawn(
        self, desk: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        create()

        assert capfd.readouterr().err == ""
