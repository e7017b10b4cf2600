"""Two people, one destination: the second is told whom to wait for, and nothing of it changes."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.adapters.authoring.claims import claimed
from agent.core.authoring import AuthoringError
from agent.core.bundletype import BundleType
from agent.services import author, pack
from tests.authoring_desk import Workshop, files_below, workshop

NOBODY = 65534
ROOT = Path(__file__).parents[2]
# Claims until its standard input ends.
HOLD = """\
import sys
from pathlib import Path
from agent.adapters.authoring.claims import claimed
path = Path(sys.argv[1])
with claimed(path, path / ".lock", "makes 'rpi-lmp-42'"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes ``path`` for the duration."""
    argv = [sys.executable, "-c", HOLD, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def claim(path: Path) -> None:
    with claimed(path, path / ".lock", "tries"):
        pass


class TestClaimed:
    def test_a_second_one_is_told_whom_to_wait_for(self, tmp_path: Path) -> None:
        with held(tmp_path / "bundle") as process, pytest.raises(AuthoringError) as caught:
            claim(tmp_path / "bundle")

        assert f"bundle' is in use: {os.environ.get('USER', '')}" in caught.value.message
        assert caught.value.message.endswith(f" makes 'rpi-lmp-42' (process {process.pid})")
        assert "wait" in caught.value.hint

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        claim(tmp_path / "a/b/bundle")

        assert list(tmp_path.iterdir()) == []

    def test_what_was_put_there_stays(self, tmp_path: Path) -> None:
        place = tmp_path / "a/bundle"
        with claimed(place, place / ".lock", "makes something"):
            (place / "content").touch()

        assert files_below(tmp_path) == {"a/bundle/content": b""}

    def test_who_was_killed_holds_nobody_up(self, tmp_path: Path) -> None:
        with held(tmp_path) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert (tmp_path / ".lock").exists()
            claim(tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_only_one_at_a_time_however_many_try(self, tmp_path: Path) -> None:
        """The file comes and goes, with its directory: nobody may lock one that is gone."""
        inside, most, place = [], [0], tmp_path / "a/bundle"
        refused: list[str] = []

        def work() -> None:
            for _ in range(200):
                try:
                    with claimed(place, place / ".lock", "works"):
                        inside.append(None)
                        most.append(len(inside))
                        inside.pop()
                except AuthoringError as e:
                    refused.append(e.message)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert max(most) == 1
        assert len(most) + len(refused) == 801
        assert all("is in use" in told for told in refused)
        assert files_below(tmp_path) == {}

    def test_a_file_that_somebody_wrote_cannot_play_tricks(self, tmp_path: Path) -> None:
        with held(tmp_path):
            (tmp_path / ".lock").write_bytes(b"\x1b[31m" + b"x" * 10_000)
            with pytest.raises(AuthoringError) as caught:
                claim(tmp_path)

        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 400

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("kept", encoding="utf-8")
        (tmp_path / ".lock").symlink_to("precious")
        with pytest.raises(AuthoringError, match="cannot be written"):
            claim(tmp_path)

        assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"

    def test_a_place_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(AuthoringError, match="Not a directory"):
            claim(tmp_path / "file/bundle")

    @pytest.mark.needs_root
    def test_the_file_of_another_person_who_was_killed(self) -> None:
        with tempfile.TemporaryDirectory() as shared:
            place = Path(shared)
            place.chmod(0o777)
            (place / ".lock").write_text("root was here", encoding="utf-8")
            (place / ".lock").chmod(0o644)

            assert as_nobody(lambda: claim(place)) == 0
            assert list(place.iterdir()) == []


def as_nobody(act: Callable[[], None]) -> int:
    """Do something as an ordinary user; returns 0 when it went well."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        act()
    except BaseException:  # noqa: BLE001  a child of pytest's must not go on as pytest
        os._exit(1)
    os._exit(0)


@pytest.mark.needs_ostree
class TestCommands:
    @pytest.fixture
    def shop(self, tmp_path: Path) -> Workshop:
        return workshop(tmp_path)

    @pytest.mark.parametrize(
        "command",
        [
            lambda shop: shop.create(),
            lambda shop: shop.create(43, allow_multiple_targets=True),
            lambda shop: shop.create(tuf_only=True),
            lambda shop: shop.sign(),
        ],
        ids=["create", "add", "renew", "sign"],
    )
    def test_a_bundle_in_use_is_not_touched(
        self, shop: Workshop, command: Callable[[Workshop], object]
    ) -> None:
        shop.create()
        state = shop.keys / "state.json"
        before = files_below(shop.bundle), state.read_bytes()
        with held(shop.bundle):
            with pytest.raises(AuthoringError, match="makes 'rpi-lmp-42'"):
                command(shop)
            (shop.bundle / ".lock").unlink()

            assert (files_below(shop.bundle), state.read_bytes()) == before

    def test_two_at_the_very_same_time(self, shop: Workshop) -> None:
        """In the midst of the first the second is refused; then the first ends well."""
        refused = []

        def second(*_: object) -> None:
            if not refused:
                with pytest.raises(AuthoringError, match="is in use") as caught:
                    shop.create()
                refused.append(caught.value)

        author.create_bundle(shop.desk(second), shop.spec())

        assert refused
        assert shop.judge(deep=True).accepted
        assert not (shop.bundle / ".lock").exists()

    def test_a_refused_command_leaves_no_directory(self, shop: Workshop) -> None:
        with pytest.raises(AuthoringError):
            shop.create(ref="no-such-ref")

        assert not shop.bundle.exists()

    def test_a_pack_being_made_is_not_made_twice(self, shop: Workshop) -> None:
        shop.create()
        file = shop.path / "bundle.usbu"
        with (
            shop.packs().alone(file, "packs another bundle"),
            pytest.raises(AuthoringError, match="packs another bundle"),
        ):
            shop.pack()

        shop.pack()
        assert [path.name for path in shop.path.glob("*.usbu*")] == ["bundle.usbu"]
        assert not list(shop.path.glob(".*"))

    def test_nobody_signs_a_pack_that_is_being_signed(self, tmp_path: Path) -> None:
        """Else one of two signatures would be lost."""
        shop = workshop(tmp_path)
        shop.create(bundle_type=BundleType.PROD)
        shop.pack()
        file = shop.path / "bundle.usbu"
        with (
            shop.packs().alone(file, "signs it"),
            pytest.raises(AuthoringError, match="signs it"),
        ):
            pack.sign_pack(shop.desk(), shop.packs(), file, shop.offline_key)

    def test_a_directory_in_use_is_not_unpacked_into(self, shop: Workshop) -> None:
        shop.create()
        shop.pack()
        with held(shop.path / "again"), pytest.raises(AuthoringError, match="makes 'rpi-lmp-42'"):
            pack.unpack_bundle(
                shop.desk(), shop.packs(), shop.path / "bundle.usbu", shop.path / "again"
            )
