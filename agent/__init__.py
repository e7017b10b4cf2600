"""Offline updates from a USB stick for OSTree devices with Docker Compose Apps."""

__version__ = "0.1.0"
