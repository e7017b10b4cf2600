"""Run ``usb-update`` as ``python -m agent``."""

from agent.faces.cli import usb_update

if __name__ == "__main__":
    raise SystemExit(usb_update())
