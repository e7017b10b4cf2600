"""Ask the verifier about a bundle, with a device that has nothing special about it."""

from datetime import datetime

from agent.core.bundle import TrustedDocuments, VerifiedBundle
from agent.core.bundletype import BundleType
from agent.core.verify import verify_bundle
from tests.factory.metadata import NOW, SignedBundle

NO_TRUST = TrustedDocuments()


def verified(
    bundle: SignedBundle,
    trusted: TrustedDocuments = NO_TRUST,
    *,
    device_type: BundleType | None = None,
    tags: tuple[str, ...] = ("main",),
    now: datetime = NOW,
    required: bool = True,
) -> VerifiedBundle:
    """Verify ``bundle`` on a device with tag ``main`` that trusts ``trusted``."""
    return verify_bundle(
        bundle.raw,
        trusted,
        device_type=device_type,
        device_tags=tags,
        now=now,
        require_bundle_metadata=required,
    )
