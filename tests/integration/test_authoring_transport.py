"""HTTP for authors: whom it speaks to, through whom, and what it keeps to itself."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.adapters.authoring.transport import (
    BrokenError,
    CertificateError,
    Patience,
    Request,
    Transport,
    is_loopback,
    origin,
    plain_url,
)
from agent.core.authoring import AuthoringError
from tests.loopback import Fault, Loopback, Said

HASTY = Patience(
    attempts=3, pause_s=0.001, longest_pause_s=0.001, connect_s=5, silence_s=0.3, answer_s=0.6
)
SECRET = {"OSF-TOKEN": "s3cret-1"}


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(HASTY)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(lambda _: Said(b"here")) as running:
        yield running


def get(transport: Transport, url: str, **more: object) -> bytes:
    return transport.fetch(Request(url, **more), limit=1000).body  # type: ignore[arg-type]


def certificate(path: Path) -> Path:
    """Make a key and a certificate of its own for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class TestEncryption:
    def test_a_certificate_nobody_knows(self, tmp_path: Path, transport: Transport) -> None:
        """The token is not sent to find out."""
        pem = certificate(tmp_path / "pem")
        with Loopback(lambda _: Said(b"here"), pem=pem) as server:
            with pytest.raises(CertificateError, match="cannot be verified") as caught:
                get(transport, server.url, secrets=SECRET)
            assert not server.asked

        assert "REQUESTS_CA_BUNDLE" in caught.value.hint

    def test_an_authority_of_ones_own(
        self, tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pem = certificate(tmp_path / "pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        with Loopback(lambda _: Said(b"here"), pem=pem) as server:
            assert get(transport, server.url, secrets=SECRET) == b"here"
            assert server.asked[0].headers["OSF-TOKEN"] == "s3cret-1"

    def test_a_redirect_never_leaves_encryption(
        self,
        tmp_path: Path,
        transport: Transport,
        server: Loopback,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pem = certificate(tmp_path / "pem")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        moved = Said(b"", 302, {"Location": f"{server.url}/x?signature=s3cret"})
        with (
            Loopback(lambda _: moved, pem=pem) as secure,
            pytest.raises(AuthoringError, match="not encrypted") as caught,
        ):
            get(transport, secure.url)

        assert "s3cret" not in caught.value.message
        assert not server.asked

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/",
            "http://10.0.0.1/",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "http://user:password@127.0.0.1/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "https:///nowhere",
            "https://[::1",
            "https://example.com:port/",
            "http://127.0.0.1:99999/",
            "",
        ],
    )
    def test_what_is_not_asked(self, transport: Transport, url: str) -> None:
        with pytest.raises(AuthoringError) as caught:
            get(transport, url)

        assert "password" not in caught.value.message


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_secret_stays_with_its_host(
        self, transport: Transport, server: Loopback, status: int
    ) -> None:
        moved = Said(b"", status, {"Location": f"{server.url}/there"})
        with Loopback(lambda _: moved) as first:
            assert get(transport, first.url, secrets=SECRET) == b"here"
            assert "OSF-TOKEN" in first.asked[0].headers

        assert "OSF-TOKEN" not in server.asked[0].headers

    def test_a_secret_comes_along_on_its_own_host(self, transport: Transport) -> None:
        def answer(ask: object) -> Said:
            return Said(b"here") if ask.path == "/b" else Said(b"", 302, {"Location": "/b"})  # type: ignore[attr-defined]

        with Loopback(answer) as server:
            assert get(transport, f"{server.url}/a", secrets=SECRET) == b"here"
            assert all("OSF-TOKEN" in ask.headers for ask in server.asked)

    def test_without_end(self, transport: Transport) -> None:
        with (
            Loopback(lambda _: Said(b"", 302, {"Location": "/again"})) as server,
            pytest.raises(AuthoringError, match="without end"),
        ):
            get(transport, server.url)

    @pytest.mark.parametrize("target", ["https://[", "file:///etc/passwd", "//x:y/", "http://:0/"])
    def test_to_what_is_no_url(self, transport: Transport, target: str) -> None:
        moved = Said(b"", 302, {"Location": target})
        with Loopback(lambda _: moved) as server, pytest.raises(AuthoringError):
            get(transport, server.url)

    def test_the_body_of_a_redirect_is_not_read(
        self, transport: Transport, server: Loopback
    ) -> None:
        moved = Said(b"x" * 1000, 302, {"Location": f"{server.url}/there"})
        with Loopback(lambda _: moved) as first:
            first.faults.append(Fault("", stall=0))
            assert get(transport, first.url) == b"here"

    def test_a_question_with_a_body_is_not_sent_elsewhere(
        self, transport: Transport, server: Loopback
    ) -> None:
        moved = Said(b"", 307, {"Location": server.url})
        with Loopback(lambda _: moved) as first, pytest.raises(AuthoringError, match="elsewhere"):
            get(transport, first.url, method="POST", json={"secret": 1})

        assert not server.asked


class TestTheMachinesSettings:
    def test_a_proxy(
        self, transport: Transport, server: Loopback, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        transport.allow_plain("registry.example.com")

        assert get(transport, "http://registry.example.com/v2/") == b"here"
        assert server.asked[0].path == "http://registry.example.com/v2/"

    def test_this_machine_needs_no_proxy(
        self, transport: Transport, server: Loopback, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

        assert get(transport, server.url) == b"here"

    def test_netrc_is_not_read(
        self,
        tmp_path: Path,
        transport: Transport,
        server: Loopback,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        get(transport, server.url)

        assert "Authorization" not in server.asked[0].headers


class TestPatience:
    def test_a_longer_pause_than_anybody_waits_is_not_taken(self) -> None:
        patience = Patience(pause_s=1, longest_pause_s=30)

        assert [patience.pause_after_s(n) for n in (1, 2, 3)] == [1, 2, 4]
        assert patience.pause_after_s(1, 7) == 7
        assert patience.pause_after_s(1, 3600) == 30
        assert patience.pause_after_s(60) == 30

    def test_nobody_tries_again_after_a_stop(self, transport: Transport, server: Loopback) -> None:
        server.faults.append(Fault("", times=99, drop=True))
        transport.stop()
        with pytest.raises(AuthoringError, match="stopped"):
            get(transport, server.url)

        assert len(server.asked) == 1

    def test_a_short_answer_has_a_deadline(self, server: Loopback) -> None:
        """A server that always sends one more byte is not waited for."""
        steady = Patience(attempts=1, silence_s=60, answer_s=0.3)
        server.faults.append(Fault("", times=99, trickle=0))
        server.answer = lambda _: Said(b"x" * 900)
        transport = Transport(steady)
        with pytest.raises(AuthoringError, match=r"no whole answer within 0\.3 s"):
            get(transport, server.url)
        transport.close()

    @pytest.mark.parametrize(
        "headers", [{}, {"Content-Range": "bytes x-"}, {"Content-Range": "lines 2-"}]
    )
    def test_a_part_that_does_not_say_which(
        self, transport: Transport, server: Loopback, headers: dict[str, str]
    ) -> None:
        server.answer = lambda _: Said(b"part", 206, headers)
        with transport.open(Request(server.url)) as reply, pytest.raises(BrokenError):
            assert reply.start


class TestAnswersOfUnknownLength:
    CHUNKED = {"Transfer-Encoding": "chunked"}  # noqa: RUF012  a constant

    def test_whole(self, transport: Transport, server: Loopback) -> None:
        server.answer = lambda _: Said(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, self.CHUNKED)

        assert get(transport, server.url) == b"abcde"

    @pytest.mark.parametrize("body", [b"3\r\nabc\r\n", b"3\r\nab", b"3\r\nabc\r\n2", b"x\r\n", b""])
    def test_cut(self, transport: Transport, server: Loopback, body: bytes) -> None:
        server.answer = lambda _: Said(body, 200, self.CHUNKED)
        with pytest.raises(AuthoringError, match="cannot be fetched"):
            get(transport, server.url)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("registry.localhost", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::1", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_url_for_messages() -> None:
    assert plain_url("https://me:s3cret@x.org:1/a?b=s3cret#c") == "https://x.org:1/a"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x", "https://a:443/y", True),
        ("https://a/", "http://a/", False),
        ("https://a/", "https://a:444/", False),
        ("https://a/", "https://b.a/", False),
        ("https://A/", "https://a/", True),
    ],
)
def test_whom_a_secret_is_for(one: str, other: str, *, same: bool) -> None:
    assert (origin(one) == origin(other)) is same
