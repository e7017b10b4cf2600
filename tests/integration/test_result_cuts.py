"""A record is whole or absent on the stick, wherever its writer is cut off."""

import os
import sys
from itertools import count
from pathlib import Path

from agent.adapters.resultfiles import (
    RESULTS_DIRECTORY,
    DeviceResults,
    StickLetterbox,
    read_results,
)
from agent.core.record import from_json, to_text
from tests.factory.records import record

EFFECTS = ("open", "os.mkdir", "os.remove", "os.rename", "ctypes.dlopen", "ctypes.dlsym")


def cut_at(number: int, work) -> bool:
    """Do ``work`` in a process that dies before its ``number``-th effect; say if it died."""
    child = os.fork()
    if child == 0:
        left = iter(range(number, -1, -1))

        def die(event: str, _args: object) -> None:
            if event in EFFECTS and next(left) == 0:
                os._exit(9)

        sys.addaudithook(die)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_cut_anywhere_leaves_whole_records_and_the_next_visit_completes_them(tmp_path):
    for number in count():
        stick = tmp_path / str(number)
        stick.mkdir()
        died = cut_at(number, lambda stick=stick: StickLetterbox(stick).put(record()))

        assert read_results(stick).skipped == (), number
        assert StickLetterbox(stick).put(record()).arrived, number
        assert_complete(stick, number)
        if not died:
            break
    assert number > 8


def assert_complete(stick: Path, number: int) -> None:
    (device,) = (stick / RESULTS_DIRECTORY).iterdir()
    (found,) = device.glob("*.json")
    assert from_json(found.read_bytes()) == record(), number
    assert found.with_suffix(".txt").read_bytes() == to_text(record()), number
    assert len(list(device.iterdir())) == 2, number


def test_a_cut_while_keeping_loses_at_most_the_record_that_was_being_kept(tmp_path):
    for number in count():
        directory = tmp_path / str(number)
        first = DeviceResults(directory).keep(record())
        died = cut_at(number, lambda directory=directory: DeviceResults(directory).keep(record()))
        after = DeviceResults(directory)

        assert after.history()[0] == first, number
        assert after.owed()[0] == first, number
        assert set(after.history()) <= set(after.owed()), number
        newest = after.owed()[-1].sequence
        assert after.keep(record()).sequence == newest + 1, number
        if not died:
            break
    assert number > 4
