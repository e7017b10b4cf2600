"""Two commands at once on one bundle: the second is told, and changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters import files
from agent.core.authoring import AuthoringError
from agent.services import pack
from tests.authoring_desk import Workshop, files_below, workshop

pytestmark = pytest.mark.needs_ostree

HOLD = """\
import sys
from pathlib import Path
from agent.adapters import files
with files.locked_directory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return workshop(tmp_path)


def test_a_second_command_is_told_and_changes_nothing(shop: Workshop) -> None:
    shop.create()
    before = files_below(shop.bundle)

    with files.locked_directory(shop.bundle), pytest.raises(AuthoringError) as told:
        shop.create(43, allow_multiple_targets=True)

    assert told.value.message == f"another command is writing to '{shop.bundle}'"
    assert files_below(shop.bundle) == before


def test_a_command_that_was_killed_keeps_nobody_out(shop: Workshop) -> None:
    shop.create()
    argv = [sys.executable, "-c", HOLD, shop.bundle]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AuthoringError, match="another command"):
            shop.create(43, allow_multiple_targets=True)
        holder.kill()
    shop.create(43, allow_multiple_targets=True)

    assert shop.judge(deep=True).accepted


def test_unpacking_to_where_somebody_writes(shop: Workshop) -> None:
    shop.create()
    shop.pack()
    place = shop.path / "again"
    place.mkdir()

    with files.locked_directory(place), pytest.raises(AuthoringError, match="another command"):
        pack.unpack_bundle(shop.desk(), shop.packs(), shop.path / "bundle.usbu", place)

    assert files_below(place) == {}


def test_a_refused_command_leaves_no_directory(shop: Workshop) -> None:
    with pytest.raises(AuthoringError):
        shop.create(ref="no-such-branch", destination=shop.path / "nowhere")

    assert not (shop.path / "nowhere").exists()
