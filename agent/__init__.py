"""Offline updates from a USB stick for OSTree devices with Docker Compose Apps."""

from agent import lean

__version__ = "0.1.0"

lean.put_off(*lean.PUT_OFF)  # before any module imports them
