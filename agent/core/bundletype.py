"""The two kinds of bundles and devices; a module of its own, since settings need no bundle."""

from enum import StrEnum


class BundleType(StrEnum):
    """Type of a bundle's Targets, and of a device."""

    CI = "ci"
    PROD = "prod"
