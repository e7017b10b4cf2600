"""A command that is killed in the midst: no handler runs, nothing is cleaned up, locks fall.

The command runs in a child of its own, which ends at once, as by SIGKILL, before the
so-many-th thing that Python changes on a disk or has a program do.
"""

import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator

CHANGES = frozenset(
    {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "subprocess.Popen"}
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KILLED, FAILED = 99, 98
NEVER = 10**9


def killed_at(act: Callable[[], object], at: int) -> bool:
    """Run ``act`` and kill it before its ``at``-th change; false when it had ended before.

    Raises:
        AssertionError: it failed of its own.
    """
    return _ended(act, at)[0] == KILLED


def changes(act: Callable[[], object]) -> int:
    """Run ``act`` to its end in a child; return how many changes it made."""
    return _ended(act, NEVER)[1]


def some(total: int, count: int) -> Iterator[tuple[int, str]]:
    """Yield points at random to be killed at, and how to get the same ones again."""
    seed = time.time_ns()
    chance = random.Random(seed)  # noqa: S311  no secret
    for at in sorted(chance.sample(range(1, total + 1), min(count, total))):
        yield at, f"killed before change {at} of {total}, seed {seed}"


def _ended(act: Callable[[], object], at: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run(act, at, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        counted = int(pipe.read() or b"0")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"ended with {status}; see the captured standard error"
    return status, counted


def _run(act: Callable[[], object], at: int, writing: int) -> None:
    """Be the child: count what is done; never return."""
    counted = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal counted
        if event in CHANGES or (event == "open" and _writes(arguments)):
            counted += 1
            if counted == at:
                os._exit(KILLED)

    sys.addaudithook(hook)
    try:
        act()
        os.write(writing, str(counted).encode())
        os._exit(0)
    except BaseException:  # noqa: BLE001  a child of pytest's must not go on as pytest
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(FAILED)


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & WRITING)
