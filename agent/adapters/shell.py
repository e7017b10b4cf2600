"""Run a program: the only door to other programs in this package.

In: an argument list and a deadline. Out: what it printed. Never a shell, never without a
deadline: a program that hangs is killed with everything it started. The environment is
short and fixed, so that a locale or a proxy of the caller does not change the outcome.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.log import get_logger

log = get_logger()

PASSED_ON = ("PATH", "HOME", "TMPDIR", "DOCKER_HOST", "DOCKER_CONFIG", "OSTREE_SYSROOT_DEBUG")
OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024  # `ostree ls -R` of a large rootfs prints about 8 MiB
WATCH_S = 0.5  # often enough for a progress bar, rare enough to cost nothing
QUOTE_LIMIT = 600  # characters of a program's complaint that a message repeats


class CommandError(Exception):
    """A program failed, was not there, or did not end in time.

    Attributes:
        argv: what was run.
        code: exit status; None when it did not start or was killed at its deadline.
        stderr: what it complained, at most `QUOTE_LIMIT` characters.
    """

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str) -> None:
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr.strip()[-QUOTE_LIMIT:]
        super().__init__(f"'{argv[0]}' failed: {self.stderr or f'exit status {code}'}")


class DeadlineError(CommandError):
    """A program did not end before its deadline and was killed."""


class NotInstalledError(CommandError):
    """There is no such program."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended with status 0.

    Attributes:
        stdout: bytes it printed; at most ``limit_bytes`` of `run`.
        stderr: text it complained, decoded leniently.
    """

    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


def run(  # noqa: PLR0913  all but the first are optional, and named
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    watch: Callable[[int], None] | None = None,
    limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Finished:
    """Run a program to its end.

    Args:
        argv: program and arguments.
        timeout_s: deadline; then its whole process group is killed.
        cwd: directory to run in.
        env: variables beside the short fixed environment.
        stdin: what it reads.
        watch: called with the process id every `WATCH_S` while it runs; what it raises
            ends the program and is passed on.
        limit_bytes: how much of its output is kept.

    Raises:
        NotInstalledError: there is no such program.
        DeadlineError: it was still running at the deadline.
        CommandError: it ended with another status than 0.
    """
    process = _start(argv, cwd, environment(env or {}))
    try:
        out, err = _wait(process, stdin, timeout_s, watch)
    except subprocess.TimeoutExpired as e:
        raise DeadlineError(argv, None, f"no end after {timeout_s:g} s") from e
    finally:
        _kill_group(process)
    complaint = err.decode("utf-8", "replace")
    log.debug("command.ended", argv=list(argv), code=process.returncode)
    if process.returncode != 0:
        raise CommandError(argv, process.returncode, complaint)
    return Finished(out[:limit_bytes], complaint)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the short, fixed environment programs get, with ``extra`` on top."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"LC_ALL": "C.UTF-8", **kept, **extra}


def _start(
    argv: Sequence[str], cwd: Path | None, env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603  a list, never a shell: the one place it happens
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except OSError as e:
        raise NotInstalledError(argv, None, f"{e.strerror}: '{e.filename or argv[0]}'") from e


def _wait(
    process: "subprocess.Popen[bytes]",
    stdin: bytes,
    timeout_s: float,
    watch: Callable[[int], None] | None,
) -> tuple[bytes, bytes]:
    """Talk to the process until it ends, looking at it now and then."""
    if watch is None:
        return process.communicate(stdin, timeout=timeout_s)
    deadline = time.monotonic() + timeout_s
    given: bytes | None = stdin
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(given, timeout=min(WATCH_S, max(left, 0)))
        except subprocess.TimeoutExpired:
            if left <= WATCH_S:
                raise
        given = None  # communicate() goes on with what it was first given
        watch(process.pid)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Leave nothing running, whatever ended the wait."""
    with suppress(ProcessLookupError):  # it has ended, and so has everything it started
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        process.communicate()
