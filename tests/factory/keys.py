"""Throw-away keys, the same in every run: a name is all it takes."""

import hashlib
from functools import cache

from agent.core.keys import PrivateKey, ed25519_from_seed, generate_rsa


@cache
def key(name: str) -> PrivateKey:
    """Return the key of that name; names that start with ``rsa`` give RSA 2048."""
    if name.startswith("rsa"):
        return generate_rsa(2048)  # once per test run: it takes some 50 ms
    return ed25519_from_seed(hashlib.sha256(name.encode()).digest())


class KeyFactory:
    """Hand out the keys of one factory; another prefix is another factory.

    ``keys["targets"]`` is the same key in every test; ``keys["targets-2"]`` is another one.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def __getitem__(self, name: str) -> PrivateKey:
        return key(self.prefix + name)
