"""The type of a device by its client certificate.

In: the certificate a registered device has, in a file or in ``sql.db``. Out: production
when its subject's businessCategory says so, CI for any other certificate, None without one.

Source: reference-behaviour §3.3.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.adapters import files
from agent.core.bundletype import BundleType
from agent.log import get_logger

log = get_logger()

LIMIT_BYTES = 64 * 1024  # a certificate with its chain has a few kB
PRODUCTION = "production"


def device_type(
    paths: Iterable[Path], stored: Callable[[], bytes | None] = lambda: None
) -> BundleType | None:
    """Return the type the first readable certificate tells.

    Args:
        paths: where certificates may lie, the most trusted first.
        stored: gives the certificate kept in ``sql.db``; asked before the files.
    """
    for certificate in _certificates(paths, stored):
        category = _business_category(certificate)
        if category is not None:
            return BundleType.PROD if category == PRODUCTION else BundleType.CI
    return None


def _certificates(paths: Iterable[Path], stored: Callable[[], bytes | None]) -> Iterator[bytes]:
    kept = stored()
    if kept:
        yield kept
    for path in paths:
        try:
            # Links are followed: this is the device's own file, often kept elsewhere.
            yield files.read_bounded(path.resolve(), limit=LIMIT_BYTES)
        except FileNotFoundError:
            continue
        except (files.NotRegularError, files.TooLargeError, OSError, RuntimeError) as e:
            log.warning("certificate.skipped", path=str(path), message=str(e))


def _business_category(certificate: bytes) -> str | None:
    """Return the subject's businessCategory, empty when it has none; None when unreadable."""
    from cryptography import x509  # noqa: PLC0415  heavy, and most devices have no certificate

    load = (
        x509.load_pem_x509_certificate
        if b"-----BEGIN" in certificate
        else x509.load_der_x509_certificate
    )
    try:
        names = load(certificate).subject.get_attributes_for_oid(x509.NameOID.BUSINESS_CATEGORY)
    except ValueError as e:
        log.warning("certificate.skipped", message=str(e))
        return None
    return str(names[0].value) if names else ""
