"""The virtual device on this terminal, to try the agent by hand (``make vm``).

A stick with an update is ready; QEMU's monitor, one Ctrl-A C away, plugs it in.
"""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e import qemu
from tests.e2e.factory import Factory
from tests.e2e.image import device_image, why_no_image
from tests.field import SLEEPS

HOWTO = """\
The device starts; root logs in by itself. Ctrl-A C changes between it and QEMU's monitor:

  (qemu) device_add usb-storage,id=usb-stick,drive=stick,bus=usb.0,removable=on
  (qemu) device_del usb-stick        pull the stick
  (qemu) quit                        cut the power

On the device:  usb-update status --follow,  journalctl -fu usb-update,  ostree admin status
The stick's image, to be read afterwards:  {stick}
"""


def main() -> None:
    """Build what is missing, make a stick, and hand the terminal to QEMU."""
    if reason := why_no_image() or qemu.why_no_qemu():
        raise SystemExit(reason)
    image = device_image()
    with TemporaryDirectory(prefix="vm-") as scratch:
        factory = Factory(image, Path(scratch))
        stick = factory.stick("vfat", factory.bundle(2, app=SLEEPS)).image
        overlay = Path(scratch, "disk.qcow2")
        qemu.make_overlay(image.disk, overlay)
        print(HOWTO.format(stick=stick))  # noqa: T201
        sticks = ["-blockdev", f"driver=raw,node-name=stick,file.driver=file,file.filename={stick}"]
        argv = [*qemu.command(image, overlay), *sticks, "-serial", "mon:stdio"]
        subprocess.run(argv, check=False)


if __name__ == "__main__":
    main()
