"""Build keys and bundle metadata in memory; a test says only what differs.

raw = bundle(tag="devel").raw
bundle(expires={"timestamp": PAST}).write(stick / "tuf")
device = bundle().trusted        # what a device knows after it took this bundle
"""

from tests.factory.keys import KeyFactory, key
from tests.factory.metadata import (
    FUTURE,
    HARDWARE_ID,
    NOW,
    PAST,
    BundleFactory,
    SignedBundle,
    bundle,
    dump,
    sign,
    target_entry,
)
from tests.factory.verdict import NO_TRUST, verified

__all__ = [
    "FUTURE",
    "HARDWARE_ID",
    "NOW",
    "NO_TRUST",
    "PAST",
    "BundleFactory",
    "KeyFactory",
    "SignedBundle",
    "bundle",
    "dump",
    "key",
    "sign",
    "target_entry",
    "verified",
]
