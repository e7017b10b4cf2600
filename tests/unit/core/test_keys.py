"""Which keys count, and which signatures are theirs."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from agent.core import keys
from tests.factory import key

MESSAGE = b"what is signed"
ORDER = 2**252 + 27742317777372353535851937790883648493


def ed25519_json(public: str, **more: object) -> dict[str, object]:
    return {"keytype": "ED25519", "keyval": {"public": public}, **more}


def rsa_json(public: str, **more: object) -> dict[str, object]:
    return {"keytype": "RSA", "keyval": {"public": public}, **more}


def rsa_pem() -> str:
    return str(key("rsa").public.to_json()["keyval"]["public"])  # type: ignore[index]


def test_key_ids_and_signatures_of_the_golden_vector() -> None:
    """Bundle-format §2.7: other tools come to the same."""
    first = keys.ed25519_from_seed(bytes(range(0x20)))
    second = keys.ed25519_from_seed(bytes(range(0x20, 0x40)))
    signed = (
        b'{"_type":"Targets","expires":"2030-01-01T00:00:00Z","version":42,"x-fio-offline-bundle":'
        b'{"tag":"main","targets":["intel-corei7-64-lmp-42"],"type":"prod"}}'
    )

    assert first.public.to_json() == ed25519_json(
        "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    )
    assert (
        keys.key_id(first.public)
        == "a050837d85070582ccf7394b0988847cc312cb88259b894899f6f239cf1791a5"
    )
    assert (
        keys.key_id(second.public)
        == "824c89aa8efb95ef93629b4519599129cace4adac9a6180daba31ceed41ecee6"
    )
    assert first.sign(signed) == (
        "ed25519",
        "yzDIIjlN3a6/TE0SW5nxhEG0wNE4ldfIBchgXWvYxbTbR5H7ttq/dxBB2cNNefQPiF0f4yirZZLNAtILD24MDg==",
    )
    assert second.sign(signed)[1] == (
        "y/k9fu2RKSKHXufMUDdZufAmWT/24weLv60T22szossZTaJPl9eIVOIyQxh4/esUgZPwFzg+Z+1HmkBwvVHIDw=="
    )


@pytest.mark.parametrize("name", ["ed", "rsa"])
def test_a_signature_is_of_one_key_and_one_message(name: str) -> None:
    method, sig = key(name).sign(MESSAGE)
    signature = keys.signature_from_base64(sig)
    public = keys.key_from_json(key(name).public.to_json())

    assert public == key(name).public
    assert method in key(name).public.methods
    assert key(name).public.verify(signature, MESSAGE)
    assert not key(name).public.verify(signature, MESSAGE + b".")
    assert not key("other").public.verify(signature, MESSAGE)
    assert not key("rsa-other").public.verify(signature, MESSAGE)


@pytest.mark.parametrize("name", ["ed", "rsa"])
def test_no_private_part_shows_in_the_repr(name: str) -> None:
    assert "PrivateKey(public=PublicKey(" in repr(key(name))
    assert "_key" not in repr(key(name))


def test_generated_keys_are_usable_and_new() -> None:
    assert keys.generate_ed25519().public != keys.generate_ed25519().public
    assert keys.generate_rsa(2048).public.keytype == keys.RSA


def test_rsa_takes_any_salt_length() -> None:
    """Some writers use the longest salt there can be; the reference takes any."""
    private = rsa.generate_private_key(65537, 2048)
    public = keys.private_key(private).public
    for salt in (0, 20, 32, padding.PSS.MAX_LENGTH):
        pss = padding.PSS(padding.MGF1(SHA256()), salt)

        assert public.verify(private.sign(MESSAGE, pss, SHA256()), MESSAGE), salt


def test_tuf_attack_rows_55_56_only_pss_with_sha256_counts() -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = keys.private_key(private).public

    def pss(mgf: Any) -> padding.PSS:
        return padding.PSS(padding.MGF1(mgf), 32)

    assert not public.verify(private.sign(MESSAGE, padding.PKCS1v15(), SHA256()), MESSAGE)
    sha1 = SHA1()  # noqa: S303 - that it is refused is the test
    assert not public.verify(private.sign(MESSAGE, pss(sha1), sha1), MESSAGE)
    assert not public.verify(private.sign(MESSAGE, pss(SHA512()), SHA512()), MESSAGE)
    assert not public.verify(private.sign(MESSAGE, pss(sha1), SHA256()), MESSAGE)


@pytest.mark.parametrize(("exponent", "bits"), [(65537, 1024), (3, 2048)])
def test_tuf_attack_row_58_weak_rsa_keys_never_count(exponent: int, bits: int) -> None:
    weak = rsa.generate_private_key(exponent, bits)
    pem = weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    assert keys.key_from_json(rsa_json(pem.decode())) is None
    with pytest.raises(ValueError, match="no device would count this key"):
        keys.private_key(weak)


def test_tuf_attack_row_59_ed25519_signatures_have_one_form() -> None:
    public = key("ed").public
    good = keys.signature_from_base64(key("ed").sign(MESSAGE)[1])
    scalar = int.from_bytes(good[32:], "little") + ORDER
    malleated = good[:32] + scalar.to_bytes(32, "little")

    assert public.verify(good, MESSAGE)
    assert not public.verify(malleated, MESSAGE)
    assert not public.verify(good + b"\0", MESSAGE)
    assert not public.verify(good[:-1], MESSAGE)
    assert not public.verify(b"", MESSAGE)


P = 2**255 - 19
SMALL_ORDER = [0, 1, P - 1, keys._ORDER_8_Y, P - keys._ORDER_8_Y]


@pytest.mark.parametrize("y", [*SMALL_ORDER, P, P + 1, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_tuf_attack_row_59_points_that_make_forging_easy_never_count(y: int, sign: int) -> None:
    public = (y | sign << 255).to_bytes(32, "little").hex()

    assert keys.key_from_json(ed25519_json(public)) is None


def test_tuf_attack_row_59_the_forgery_that_a_small_order_key_allows() -> None:
    """The library alone would take it: this is why the points are listed."""
    identity = (1).to_bytes(32, "little")
    forged = identity + bytes(32)  # R = identity, S = 0 holds for A = identity, any message

    Ed25519PublicKey.from_public_bytes(identity).verify(forged, MESSAGE)  # does not raise
    assert keys.key_from_json(ed25519_json(identity.hex())) is None


def row_60() -> dict[str, str]:
    pem = rsa_pem()
    private = rsa.generate_private_key(65537, 2048)
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = Ed25519PrivateKey.generate().public_key()
    spki = PublicFormat.SubjectPublicKeyInfo
    pkcs1 = private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    pkcs8 = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {
        "junk before": "junk\n" + pem,
        "junk after": pem + "junk",
        "two": pem + pem,
        "certificate": pem.replace("PUBLIC KEY", "CERTIFICATE"),
        "private": pkcs8,
        "private, called public": pkcs8.replace("PRIVATE KEY", "PUBLIC KEY"),
        "PKCS#1": pkcs1,
        "PKCS#1, called PKIX": pkcs1.replace("RSA PUBLIC KEY", "PUBLIC KEY"),
        "curve": curve.public_bytes(Encoding.PEM, spki).decode(),
        "Ed25519": point.public_bytes(Encoding.PEM, spki).decode(),
        "hex": "ab" * 32,
        "nothing": "",
        "no base64": "-----BEGIN PUBLIC KEY-----\n=A=\n-----END PUBLIC KEY-----\n",
        "bad DER": "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
        "cut": pem[:200] + "\n-----END PUBLIC KEY-----\n",
    }


@pytest.mark.parametrize(("what", "public"), row_60().items(), ids=row_60().keys())
def test_tuf_attack_row_60_only_one_rsa_public_key_is_an_rsa_key(what: str, public: str) -> None:
    assert keys.key_from_json(rsa_json(public)) is None, what


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"keytype": "ED25519"},
        {"keytype": "ED25519", "keyval": "ab" * 32},
        {"keytype": 1, "keyval": {"public": "ab" * 32}},
        ed25519_json("ab" * 31),
        ed25519_json("ab" * 33),
        ed25519_json("٣" * 64),  # digits, but not ours
        ed25519_json("zz" * 32),
        {"keytype": "ED25519", "keyval": {"public": 7}},
        {"keytype": "ecdsa-sha2-nistp256", "keyval": {"public": "ab" * 32}},
        ed25519_json("ab" * 32, scheme="ed25519ph"),
        ed25519_json("ab" * 32, scheme=None),
        ed25519_json("ab" * 32, scheme=["ed25519"]),
        rsa_json(rsa_pem(), scheme="rsa-pkcs1v15-sha256"),
    ],
)
def test_tuf_attack_row_61_what_is_no_usable_key_never_counts(value: dict[str, object]) -> None:
    assert keys.key_from_json(value) is None


def test_tuf_attack_row_6_one_key_is_one_key_however_it_is_spelt() -> None:
    public = key("ed").public
    text = public.to_json()["keyval"]["public"]  # type: ignore[index]
    pem = rsa_pem()
    spelt = [pem, pem.replace("\n", "\r\n"), pem + "\n", pem.rstrip("\n")]

    assert {public} == {keys.key_from_json(ed25519_json(t)) for t in (text, text.upper())}
    assert {key("rsa").public} == {keys.key_from_json(rsa_json(t)) for t in spelt}
    assert keys.key_from_json({"keytype": "ed25519", "keyval": {"public": text}}) == public
    assert keys.key_from_json(ed25519_json(text, scheme="ed25519")) == public


def test_tuf_attack_row_62_base64_has_one_spelling() -> None:
    signature = bytes(range(0xC0, 0x100))
    text = base64.b64encode(signature).decode()

    assert signature == keys.signature_from_base64(text)
    for other in (
        " " + text,
        text + "\n",
        text[:10] + "\n" + text[10:],
        text.rstrip("="),
        base64.urlsafe_b64encode(signature).decode(),
        text.replace("w==", "x=="),  # the same bytes, but for bits that nobody reads
        signature.hex(),
        "é",
        "",
    ):
        assert keys.signature_from_base64(other) != signature, other


def test_hex_signatures_are_lowercase_hex() -> None:
    assert keys.signature_from_hex("00ff") == b"\x00\xff"
    assert keys.signature_from_hex("00FF") == b""
    assert keys.signature_from_hex("0 ff") == b""
    assert keys.signature_from_hex("") == b""


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys.ed25519_from_seed(bytes(31))


def test_the_private_half_is_spelt_as_key_files_spell_it() -> None:
    """Bundle-format §2.4: a seed in hex, or PKCS#1."""
    seed = bytes(range(32))
    pem = key("rsa").secret_json()["keyval"]["private"]  # type: ignore[index]

    assert keys.ed25519_from_seed(seed).secret_json() == {
        "keytype": "ED25519",
        "keyval": {"private": seed.hex()},
    }
    assert pem.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
