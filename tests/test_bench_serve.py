"""The load that the bench sends to a server, held to what the server saw."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pytest import CaptureFixture, approx

from bench import __main__ as command, serve_speed
from bench.load_generator import HttpTarget, LoadResult, closed_loop, open_loop


@contextmanager
def answering(seen: list[bytes]) -> Iterator[HttpTarget]:
    """A server that keeps the bodies; it fails b"fail", and hangs up on b"hang up"."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                seen.append(body)
                if body == b"hang up":
                    break
                status = b"429 Too Many" if body == b"fail" else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async def serve() -> None:
        server, over = await asyncio.start_server(answer, "127.0.0.1"), asyncio.Event()
        port = server.sockets[0].getsockname()[1]
        started.set_result((asyncio.get_running_loop(), over, port))
        await over.wait()
        server.close()
        await server.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, over, port = started.result()
    try:
        yield HttpTarget("127.0.0.1", port)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def test_clients_send_in_turn_and_answers_are_counted() -> None:
    seen: list[bytes] = []
    bodies = [b"a", b"fail", b"b", b"hang up"]
    with answering(seen) as target:
        found = closed_loop(target, bodies, clients=3, seconds=0.2)
    good = sum(body in (b"a", b"b") for body in seen)
    assert len(found.latencies) == good > 0
    assert found.failed == len(seen) - good > 0
    assert list(found.latencies) == sorted(found.latencies)
    for number, body in enumerate(bodies):
        assert seen.count(body) == approx(len(seen) / 4, abs=3), number


def test_requests_of_an_open_loop_do_not_wait_for_answers() -> None:
    """The same seed sends the same number of requests, whatever the server does."""
    counts = []
    for body in (b"a", b"fail"):
        seen: list[bytes] = []
        with answering(seen) as target:
            found = open_loop(target, [body], rate=200, seconds=0.3, seed=1)
        counts.append(len(seen))
        assert len(found.latencies) + found.failed == len(seen)
        assert found.seconds > 0
    assert counts[0] == counts[1] == approx(60, abs=25)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_quantiles_are_latencies_that_were_measured(
    share: float, expected: float
) -> None:
    found = LoadResult(2.0, [1.0, 2.0, 3.0, 4.0], 1)
    assert found.quantile(share) == expected
    assert found.rate == 2.0


@pytest.mark.long
def test_the_quick_bench_of_a_generated_catalog(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    argv = "serve --quick --repetitions 2 --items 300 --clients 1 2 --users 8".split()
    more = ["--max_batch", "4", "--seconds", "0.5", "--json", str(path)]
    command.main([*argv, *more])
    found, text = json.loads(path.read_text())["serve"], capsys.readouterr().out
    for key in serve_speed.MEANINGS:
        assert f"serve.{key} " in text
    works = [row["work"] for row in found["rows"]]
    for name in (serve_speed.DENIED, serve_speed.ALLOWED, serve_speed.NAMED):
        assert name.format("2 clients") in works
    assert {row["case"]["items"] for row in found["rows"]} == {300}
    assert all(row["facts"].get("failed", 0) == 0 for row in found["rows"])
    for key in ("deny_ratio", "allow_ratio", "filter_ratio"):
        assert found[key] > 0
