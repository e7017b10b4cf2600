"""Public keys and signatures: whether a key vouches for given bytes.

In: keys as root metadata spells them, signatures as bytes. Out: yes or no; never a
traceback, whatever the bytes. Key ids are labels that nobody checks (three ways to derive
them are in the field): a key *is* its SubjectPublicKeyInfo, and counts once under
however many labels. The signing half serves authoring and tests; it reads no files.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

ED25519 = "ED25519"
RSA = "RSA"
ED25519_METHODS = frozenset({"ed25519"})
RSA_METHODS = frozenset({"rsassa-pss-sha256", "rsassa-pss"})
METHODS = ED25519_METHODS | RSA_METHODS

ED25519_SEED_BYTES = 32
ED25519_SIGNATURE_BYTES = 64
RSA_BITS = range(2048, 8192 + 1)
RSA_EXPONENT = 65537  # small exponents have a history of forged signatures
RSA_DEFAULT_BITS = 4096
PSS_SALT_BYTES = 32  # what every known writer uses; any length is accepted

_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
# Exactly one block of exactly one kind: the library would take junk around it, the first
# of two, and PKCS#1.
_PEM = re.compile(
    r"-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END PUBLIC KEY-----\s*", re.ASCII
)
# With these points as key, signatures can be forged for any message (RFC 8032 §8, and
# "Taming the many EdDSAs", 2020, table 6): y of the eight points of small order.
_P = 2**255 - 19
_ORDER_8_Y = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
_PSS = padding.PSS(padding.MGF1(SHA256()), padding.PSS.AUTO)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that can be counted.

    Attributes:
        keytype: `ED25519` or `RSA`, as metadata spells it.
        identity: its SubjectPublicKeyInfo, DER; two keys are the same when this is.
    """

    keytype: str
    identity: bytes
    _key: Ed25519PublicKey | rsa.RSAPublicKey = field(compare=False, repr=False)

    @property
    def methods(self) -> frozenset[str]:
        """Names of the signature methods that fit this key."""
        return ED25519_METHODS if self.keytype == ED25519 else RSA_METHODS

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``.

        Source: RFC 8032 for Ed25519; RFC 8017 §8.1 with SHA-256 for RSA.
        """
        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                self._key.verify(signature, message, _PSS, SHA256())
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_json(self) -> dict[str, object]:
        """Spell the key as root metadata and ``.pub`` files do."""
        return {"keytype": self.keytype, "keyval": {"public": self._public_text()}}

    def _public_text(self) -> str:
        if isinstance(self._key, Ed25519PublicKey):
            return self._key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs. Its ``repr`` shows the public half only.

    Attributes:
        public: the other half.
    """

    public: PublicKey
    _key: Ed25519PrivateKey | rsa.RSAPrivateKey = field(compare=False, repr=False)

    def sign(self, message: bytes) -> tuple[str, str]:
        """Return the method's name and the signature over ``message``, base64."""
        method, signature = self._sign(message)
        return method, base64.b64encode(signature).decode()

    def secret_json(self) -> dict[str, object]:
        """Spell the key as ``.sec`` files do: a seed in hex or PKCS#1 PEM, not encrypted."""
        return {"keytype": self.public.keytype, "keyval": {"private": self._secret_text()}}

    def _secret_text(self) -> str:
        plain = NoEncryption()
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, plain).hex()
        pem = PrivateFormat.TraditionalOpenSSL
        return self._key.private_bytes(Encoding.PEM, pem, plain).decode()

    def _sign(self, message: bytes) -> tuple[str, bytes]:
        if isinstance(self._key, Ed25519PrivateKey):
            return "ed25519", self._key.sign(message)
        pss = padding.PSS(padding.MGF1(SHA256()), PSS_SALT_BYTES)
        return "rsassa-pss-sha256", self._key.sign(message, pss, SHA256())


def key_id(public: PublicKey) -> str:
    """Derive the label that fioctl gives a key: SHA-256 of its DER, lowercase hex."""
    return hashlib.sha256(public.identity).hexdigest()


def key_from_json(value: Mapping[str, object]) -> PublicKey | None:
    """Read a key of root metadata.

    Returns:
        None when the key is of no use: an unknown type or scheme, not exactly one public
        key, RSA outside of 2048..8192 bits or with an exponent other than 65537, an Ed25519
        point that makes forging easy. Such a key never counts; its neighbours do.
    """
    keyval = value.get("keyval")
    public = keyval.get("public") if isinstance(keyval, Mapping) else None
    keytype = value.get("keytype")
    if not isinstance(public, str) or not isinstance(keytype, str):
        return None
    key = _READERS.get(keytype.lower(), _no_key)(public)
    # Standard TUF names a scheme beside the type; one that we do not speak is no key to us.
    fits = key and ("scheme" not in value or value["scheme"] in tuple(key.methods))
    return key if fits else None


def private_key(key: Ed25519PrivateKey | rsa.RSAPrivateKey) -> PrivateKey:
    """Wrap a key that was read from a file.

    Raises:
        ValueError: its signatures would not count on any device, see `key_from_json`.
    """
    public = _usable(key.public_key())
    if public is None:
        raise ValueError("no device would count this key: RSA needs 2048..8192 bits and e = 65537")
    return PrivateKey(public, key)


def ed25519_from_seed(seed: bytes) -> PrivateKey:
    """Make the key of a 32-byte seed.

    Raises:
        ValueError: the seed has another length.
    """
    return private_key(Ed25519PrivateKey.from_private_bytes(seed))


def generate_ed25519() -> PrivateKey:
    """Make a new Ed25519 key."""
    return private_key(Ed25519PrivateKey.generate())


def generate_rsa(bits: int = RSA_DEFAULT_BITS) -> PrivateKey:
    """Make a new RSA key of ``bits`` bits, 2048..8192."""
    return private_key(rsa.generate_private_key(RSA_EXPONENT, bits))


def signature_from_base64(text: str) -> bytes:
    """Decode a signature; empty, hence never valid, when it is not plain base64.

    Blanks, the URL alphabet, missing padding and stray bits at the end are refused: one
    signature has one spelling.
    """
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return value if base64.b64encode(value).decode() == text else b""


def signature_from_hex(text: str) -> bytes:
    """Decode a signature of standard TUF; empty when it is not lowercase hex."""
    return bytes.fromhex(text) if re.fullmatch(r"(?:[0-9a-f]{2})+", text, re.ASCII) else b""


def _no_key(_: str) -> None:
    return None


def _ed25519_key(public: str) -> PublicKey | None:
    if not _HEX_KEY.fullmatch(public):
        return None
    return _usable(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))


def _rsa_key(public: str) -> PublicKey | None:
    pem = _PEM.fullmatch(public)
    if not pem:
        return None
    try:
        der = base64.b64decode(re.sub(r"[\r\n]", "", pem.group(1)), validate=True)
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        return None
    usable = _usable(key) if isinstance(key, rsa.RSAPublicKey) else None
    return usable if usable and usable.identity == der else None  # PKCS#1 loads as well


_READERS = {"ed25519": _ed25519_key, "rsa": _rsa_key}


def _usable(key: Ed25519PublicKey | rsa.RSAPublicKey) -> PublicKey | None:
    if isinstance(key, Ed25519PublicKey):
        sound, keytype = _is_sound_point(key), ED25519
    else:
        sound, keytype = _is_sound_modulus(key), RSA
    identity = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(keytype, identity, key) if sound else None


def _is_sound_point(key: Ed25519PublicKey) -> bool:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    y = int.from_bytes(raw, "little") & (2**255 - 1)  # the top bit is the sign of x
    return y < _P and y not in _SMALL_ORDER_Y


def _is_sound_modulus(key: rsa.RSAPublicKey) -> bool:
    return key.key_size in RSA_BITS and key.public_numbers().e == RSA_EXPONENT
