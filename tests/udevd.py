"""A real udevd on a machine that has none, with our rules and one more for loop devices.

Host commands used: systemd-udevd, udevadm.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

UDEVD = Path("/lib/systemd/systemd-udevd")
RULES = Path(__file__).parent.parent / "udev-rules" / "90-usb-update.rules"
RUNTIME_RULES = Path("/run/udev/rules.d")
CONTROL = Path("/run/udev/control")
LAPTOP = ".laptop"  # ending of images that are looked at elsewhere than in the device
# The product's rule leaves loop devices alone; this one stands for the USB bus in tests, and
# looks at nobody else's.
TEST_RULE = f"""\
SUBSYSTEM!="block", GOTO="end"
ACTION=="remove", GOTO="end"
KERNEL!="loop*", GOTO="end"
ATTR{{size}}=="0", GOTO="end"
ATTR{{loop/backing_file}}!="{gettempdir()}/*", GOTO="end"
ATTR{{loop/backing_file}}=="*{LAPTOP}", GOTO="end"
ENV{{DEVTYPE}}=="disk", ENV{{ID_PART_TABLE_TYPE}}=="?*", GOTO="end"
TAG+="usb-update"
LABEL="end"
"""


@contextmanager
def rules_in_place() -> Iterator[None]:
    """Put the product's rule and the test's into ``/run/udev/rules.d``."""
    RUNTIME_RULES.mkdir(parents=True, exist_ok=True)
    product, test = RUNTIME_RULES / RULES.name, RUNTIME_RULES / "91-usb-update-test.rules"
    product.write_bytes(RULES.read_bytes())
    test.write_text(TEST_RULE)
    try:
        yield
    finally:
        product.unlink(missing_ok=True)
        test.unlink(missing_ok=True)


def start() -> "subprocess.Popen[bytes]":
    """Start udevd as a child, so that nothing but this very process is ever stopped."""
    process = subprocess.Popen(
        [str(UDEVD)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(100):
        if CONTROL.exists() and _answers():
            return process
        time.sleep(0.05)
    stop(process)
    raise RuntimeError("udevd does not answer")


def _answers() -> bool:
    ping = ["udevadm", "control", "--ping", "--timeout=1"]
    return subprocess.run(ping, check=False, capture_output=True).returncode == 0


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the udevd that `start` started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running() -> Iterator[None]:
    """Run udevd with the rules, or use the machine's own when there is one."""
    with rules_in_place():
        if CONTROL.exists() and _answers():
            reload = ["udevadm", "control", "--reload"]
            subprocess.run(reload, check=True)
            yield
            return
        process = start()
        try:
            yield
        finally:
            stop(process)


def settle() -> None:
    """Wait until udevd has handled every event so far."""
    subprocess.run(["udevadm", "settle", "--timeout=20"], check=True)
