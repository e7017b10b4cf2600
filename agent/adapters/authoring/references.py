"""Image references: what ``busybox:1.36`` means in full.

Source: the reference grammar of github.com/distribution/reference.
"""

import re
from dataclasses import dataclass

from agent.core.authoring import AuthoringError

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_NAME = re.compile(
    r"(?P<path>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)",
    re.ASCII,
)
DOMAIN = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image reference in full.

    Attributes:
        domain: registry host, with its port when it names one.
        path: repository.
        tag: never empty unless ``digest`` is set.
        digest: ``sha256:<64 hex>``; empty when the reference is not pinned.
    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``<domain>/<path>``."""
        return f"{self.domain}/{self.path}"

    @property
    def tagged(self) -> str:
        """``<domain>/<path>:<tag>``."""
        return f"{self.repository}:{self.tag}"

    def pinned(self, digest: str) -> str:
        """``<domain>/<path>@<digest>``: what a compose file of a bundle says."""
        return f"{self.repository}@{digest}"


def parse_reference(text: str) -> ImageRef:
    """Read an image reference as Docker does.

    Raises:
        AuthoringError: it is none, or it holds a variable.
    """
    if "$" in text:
        raise AuthoringError(
            f"image {text[:120]!r} holds a variable; an App's images must be known when it is made",
            hint="write the reference out",
        )
    rest, at, digest = text.partition("@")
    name, colon, tag = _split_tag(rest)
    domain, path = _split_domain(name)
    sound = _NAME.fullmatch(path) and DOMAIN.fullmatch(domain)
    if not sound or (colon and not _TAG.fullmatch(tag)) or (at and not _DIGEST.fullmatch(digest)):
        raise AuthoringError(
            f"{text[:120]!r} is not an image reference: expected name[:tag][@sha256:<64 hex>]"
        )
    return ImageRef(domain, path, tag or ("" if digest else DEFAULT_TAG), digest)


def _split_tag(text: str) -> tuple[str, str, str]:
    head, colon, tail = text.rpartition(":")
    return (head, colon, tail) if colon and "/" not in tail else (text, "", "")


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return DEFAULT_DOMAIN, name if slash else f"library/{name}"
