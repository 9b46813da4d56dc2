"""Requests over HTTPS, with a certificate that the test makes."""

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from pytest import CaptureFixture
from runs import refused
from web_servers import serving

from eqids import serve

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="there is no openssl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Two certificates for 127.0.0.1, signed by themselves, with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    found = []
    for number in range(2):
        cert, key = folder / f"{number}.pem", folder / f"{number}.key"
        subprocess.run(
            [
                str(OPENSSL), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                "-out", str(cert), "-keyout", str(key),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        found.append((cert, key))
    return found


def test_requests_are_answered_over_https(
    finished: Path, pairs: list[tuple[Path, Path]]
) -> None:
    (cert, key), (other, _) = pairs
    asked = {"history": ["item 1", "item 2"], "k": 3}
    with serving(
        finished / "40", tls_cert=cert, tls_key=key, max_batch=1, max_k=16,
        timeout=60.0,
    ) as served:  # fmt: skip
        url = str(served.client.base_url)
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=url, verify=trusting) as client:
            answer = client.post("/v1/recommend", json=asked)
            assert answer.status_code == 200
            assert len(answer.json()["items"]) == 3
        strange = ssl.create_default_context(cafile=str(other))
        with httpx.Client(base_url=url, verify=strange) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                client.post("/v1/recommend", json=asked)
        # A client without TLS gets no answer, and takes none from the others.
        with pytest.raises(httpx.HTTPError):
            httpx.post(url.replace("https", "http") + "/v1/recommend", json=asked)
        with httpx.Client(base_url=url, verify=trusting) as client:
            assert client.get("/health/ready").status_code == 200


def test_certificates_that_cannot_be_used_are_refused(
    finished: Path,
    pairs: list[tuple[Path, Path]],
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    (cert, key), (other, _) = pairs
    nothing, text = tmp_path / "nothing.pem", tmp_path / "text.pem"
    text.write_text("text")
    locked = tmp_path / "locked.key"
    command = [str(OPENSSL), "ec", "-aes128", "-passout", "pass:secret"]
    subprocess.run(
        [*command, "-in", str(key), "-out", str(locked)],
        check=True, capture_output=True,
    )  # fmt: skip
    broken = tmp_path / "broken.pem"
    broken.write_text(cert.read_text()[:200])
    for one, two, said in (
        (nothing, key, f"--tls_cert {nothing} cannot be read: No such file"),
        (cert, nothing, f"--tls_key {nothing} cannot be read: No such file"),
        (tmp_path, key, f"--tls_cert {tmp_path} cannot be read: Is a directory"),
        (text, key, f"--tls_cert {text} holds no BEGIN CERTIFICATE"),
        (cert, text, f"--tls_key {text} holds no PRIVATE KEY"),
        (key, key, f"--tls_cert {key} holds no BEGIN CERTIFICATE"),
        (other, key, f"--tls_key {key} is not the key of --tls_cert {other}"),
        (cert, locked, f"--tls_key {locked} is encrypted, wanted a key without pass"),
        (broken, key, f"--tls_cert {broken} and --tls_key {key} cannot be used"),
    ):
        flags = ["--checkpoint", str(finished), "--port", "0"]
        flags += ["--tls_cert", str(one), "--tls_key", str(two)]
        sentence = " ".join(refused(serve.main, flags, capsys).split())
        assert said in sentence, sentence
