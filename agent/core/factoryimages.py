"""Which image a compose file of a factory means, once it is built.

A factory's CI fills ``${FACTORY}`` and ``${TAG}`` in, and pins the images it builds itself
to the tag of that build, ``<version>_<commit>``: in the sources they may only say that
tag, ``${TAG}``, ``latest`` or nothing. References to other images stay as they are.

Source: spec "Compose Apps as published", §5.1.
"""

import re
from dataclasses import dataclass

from agent.core.authoring import AuthoringError

COMMIT_DIGITS = 7  # of the containers' commit in a tag, as git abbreviates it
MOVING = frozenset({"", "latest"})

_VARIABLE = re.compile(r"\$(?:\{(FACTORY|TAG)\}|(FACTORY|TAG)\b)", re.ASCII)


@dataclass(frozen=True, slots=True)
class FactoryImages:
    """How one build names its images.

    Attributes:
        prefix: ``<host>/<factory>``.
        tag: of the images that this build makes.
    """

    prefix: str
    tag: str

    def meant(self, text: str) -> str:
        """Return the reference to look for where a compose file says ``text``.

        Raises:
            AuthoringError: it is one of the factory's own images with another tag.
        """
        filled = _VARIABLE.sub(self._value, text)
        own = filled.startswith(f"{self.prefix}/") and "@" not in filled
        return self._tagged(filled) if own else filled

    def _value(self, match: re.Match[str]) -> str:
        word = match[1] or match[2]
        return self.tag if word == "TAG" else self.prefix.rpartition("/")[2]

    def _tagged(self, reference: str) -> str:
        path, _, tag = reference.removeprefix(f"{self.prefix}/").partition(":")
        if tag not in MOVING | {self.tag}:
            raise AuthoringError(
                f"image {reference!r} of the factory itself has tag {tag!r}; expected ${{TAG}}, "
                f"'latest' or '{self.tag}'",
                hint="CI refuses it as well: its images are those of the same build. "
                "--image-tag says which tag that is",
            )
        return f"{self.prefix}/{path}:{self.tag}"


def build_tag(version: int, commit: str) -> str:
    """Return the tag a factory's CI gives what it builds."""
    return f"{version}_{commit[:COMMIT_DIGITS]}"
