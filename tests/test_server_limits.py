"""What clients send that is too large, too slow, too many or no HTTP."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_servers import until

from eqids.config import ServeConfig, UserError
from eqids.inference.server.api_keys import has_key, read_keys
from eqids.inference.server.application import Application
from eqids.inference.server.connections import http_server
from eqids.inference.server.listening import bound_socket
from eqids.inference.server.service import Service

Address = tuple[str, int]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    """A server whose model is never ready."""
    config = ServeConfig(
        checkpoint=Path("none"), port=0, read_timeout=1.0, max_body_mb=1,
        max_connections=20,
    )  # fmt: skip
    server = http_server(config, Application(Service(config, print), (), None))
    with bound_socket(config) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        until(lambda: server.started)
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def exchange(address: Address, *parts: bytes) -> tuple[int, bytes]:
    """Sends bytes; returns the status and the body, or 0 if there is no answer."""
    with socket.create_connection(address, timeout=60) as one:
        for part in parts:
            one.sendall(part)
        with one.makefile("rb") as answer:
            first = answer.readline()
            if not first:
                return 0, b""
            length = 0
            while (line := answer.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            return int(first.split()[1]), answer.read(length)


def posted(*headers: bytes) -> bytes:
    lines = [b"POST /v1/recommend HTTP/1.1", b"host: a", *headers, b"", b""]
    return b"\r\n".join(lines)


def length(body: bytes) -> bytes:
    return b"content-length: %d" % len(body)


BODIES = {
    "deep": b'{"history":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep and unknown": b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "NaN": b'{"k": NaN}',
    "infinite": b'{"user": 1e999}',
    "huge": b'{"k": 1' + b"0" * 5_000 + b"}",
    "not UTF-8": b'{"user": "\xff\xfe"}',
    "a lone surrogate": b'{"user": "\\ud800"}',
    "cut off": b'{"user": "a',
    "two values": b'{"user": "a"} {}',
    "a text": b'"user"',
    "nothing": b"",
    "packed": b"\x1f\x8b\x08\x00\x00\x00",
    "an unfinished escape": b'{"user": "\\u00',
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_requests_are_answered_400(
    name: str, address: Address
) -> None:
    status, answer = exchange(address, posted(length(BODIES[name])), BODIES[name])
    assert status == 400, answer
    assert list(json.loads(answer)) == ["error"]


def test_without_a_model_requests_are_answered_503(address: Address) -> None:
    body = b'{"user": 1}'
    status, answer = exchange(address, posted(length(body)), body)
    assert (status, json.loads(answer)) == (
        503,
        {"error": "the model is not ready yet"},
    )
    head = b"GET /health/%s HTTP/1.1\r\nhost: a\r\n\r\n"
    assert exchange(address, head % b"live")[0] == 200
    assert exchange(address, head % b"ready")[0] == 503


def test_large_bodies_are_answered_413(address: Address) -> None:
    said = {"error": "the body is larger than 1 MiB, the limit by --max_body_mb"}
    claimed = exchange(address, posted(b"content-length: 104857600"))
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    streamed = exchange(
        address, posted(b"transfer-encoding: chunked"), part * 17, b"0\r\n\r\n"
    )
    for status, answer in (claimed, streamed):
        assert (status, json.loads(answer)) == (413, said)
    body = b" " * 2**20
    assert exchange(address, posted(length(body)), body)[0] == 400


def test_a_body_that_stops_is_answered_408(address: Address) -> None:
    status, answer = exchange(address, posted(b"content-length: 50"), b'{"user"')
    assert status == 408
    assert "did not arrive within 1 seconds" in json.loads(answer)["error"]


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/recommend HTTP/1.1\r\nhost", b"\x16\x03\x01\x02"]
)
def test_a_head_that_stops_is_closed(sent: bytes, address: Address) -> None:
    with socket.create_connection(address, timeout=60) as one:
        one.sendall(sent)
        try:
            assert one.recv(1000)[:12] in (b"", b"HTTP/1.1 400")
        except ConnectionResetError:
            pass


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        posted(b"content-length: -5"),
        posted(b"content-length: 5", b"content-length: 6"),
        posted(b"x: " + b"y" * 100_000)[:-4],
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_400(sent: bytes, address: Address) -> None:
    status, answer = exchange(address, sent)
    assert status == 400
    assert "no valid HTTP" in json.loads(answer)["error"]


def test_idle_connections_make_place(address: Address) -> None:
    idle = [socket.create_connection(address, timeout=60) for _ in range(60)]
    head = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    assert exchange(address, head)[0] == 200
    for one in idle:
        one.close()


def test_keys_are_read_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the shop\nabc-1\n\n  def_2  \n")
    keys = read_keys(path)
    assert keys == [b"abc-1", b"def_2"]
    for given, good in (
        (b"Bearer abc-1", True), (b"bearer  def_2", True), (b"Bearer abc", False),
        (b"abc-1", False), (b"", False), (b"Basic abc-1", False), (b"Bearer", False),
    ):  # fmt: skip
        assert has_key(given, keys) == good
    for text, said in (
        ("# none\n", "holds no key"),
        ("a b\n", "line 1 is no key"),
        ("schl\xfcssel\n", "line 1 is no key"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_keys(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "nothing")
