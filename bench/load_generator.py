"""Sends requests to a server: in a closed loop, or at a rate that it does not choose.

In a closed loop every client sends its next request when it has its answer. In an open
loop requests are sent at random times, whether or not there are answers, as those of
independent users are (Schroeder et al. 2006); their latency counts from the time at
which they were due.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class HttpTarget:
    """Where requests go.

    Attributes:
        host: its address.
        port: its port.
        path: what is posted to.
    """

    host: str
    port: int
    path: str = "/v1/recommend"

    def request(self, body: bytes) -> bytes:
        """Returns the bytes of a request with this JSON body."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class LoadResult:
    """What came of a load.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: of the requests that were answered 200, in seconds, ascending.
        failed: how many had another answer or none.
    """

    seconds: float
    latencies: Sequence[float]
    failed: int

    @classmethod
    def of_parts(cls, parts: "Sequence[LoadResult]") -> "LoadResult":
        """Returns loads that came one after the other as one."""
        return cls(
            sum(part.seconds for part in parts),
            sorted(itertools.chain(*(part.latencies for part in parts))),
            sum(part.failed for part in parts),
        )

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Returns the latency that this share of the good answers do not exceed."""
        if not self.latencies:
            return math.nan
        return self.latencies[math.ceil(share * len(self.latencies)) - 1]


def closed_loop(
    target: HttpTarget, bodies: Sequence[bytes], clients: int, seconds: float
) -> LoadResult:
    """Lets clients send one request after the other, each on a connection of its own.

    Args:
        target: where requests go.
        bodies: sent in turn, again and again.
        clients: number of clients.
        seconds: no request is sent after this time.
    """
    requests = itertools.cycle([target.request(body) for body in bodies])
    return asyncio.run(_closed(target, requests, clients, seconds))


def open_loop(
    target: HttpTarget, bodies: Sequence[bytes], rate: float, seconds: float, seed: int
) -> LoadResult:
    """Sends requests at the times of a Poisson process.

    Args:
        target: where requests go.
        bodies: sent in turn, again and again.
        rate: requests a second, on average.
        seconds: no request is due after this time.
        seed: of the times.
    """
    requests = itertools.cycle([target.request(body) for body in bodies])
    draw, due, times = random.Random(seed), 0.0, list[float]()
    while (due := due + draw.expovariate(rate)) < seconds:
        times.append(due)
    return asyncio.run(_open(target, requests, times))


async def _closed(
    target: HttpTarget, requests: Iterator[bytes], clients: int, seconds: float
) -> LoadResult:
    latencies, failed = list[float](), 0
    connections = [await _Connection.to(target) for _ in range(clients)]
    start = time.perf_counter()

    async def client(connection: "_Connection") -> None:
        nonlocal failed
        while (sent := time.perf_counter()) < start + seconds:
            if await connection.good(next(requests)):
                latencies.append(time.perf_counter() - sent)
            else:
                failed += 1

    await asyncio.gather(*map(client, connections))
    took = time.perf_counter() - start
    for connection in connections:
        await connection.close()
    return LoadResult(took, sorted(latencies), failed)


async def _open(
    target: HttpTarget, requests: Iterator[bytes], times: Sequence[float]
) -> LoadResult:
    latencies, failed = list[float](), 0
    idle: list[_Connection] = []
    start = time.perf_counter()

    async def one(due: float) -> None:
        nonlocal failed
        connection = idle.pop() if idle else await _Connection.to(target)
        if await connection.good(next(requests)):
            latencies.append(time.perf_counter() - start - due)
        else:
            failed += 1
        idle.append(connection)

    sent = list[asyncio.Task[None]]()
    for due in times:
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        sent.append(asyncio.create_task(one(due)))
    await asyncio.gather(*sent)
    took = time.perf_counter() - start
    for connection in idle:
        await connection.close()
    return LoadResult(took, sorted(latencies), failed)


class _Connection:
    """A connection that is kept open, and opened again if the server closed it."""

    def __init__(self, target: HttpTarget):
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @staticmethod
    async def to(target: HttpTarget) -> "_Connection":
        connection = _Connection(target)
        await connection._opened()
        return connection

    async def good(self, request: bytes) -> bool:
        """Sends a request, and returns whether the answer is 200."""
        try:
            reader, writer = await self._opened()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return False
        return head.startswith(b"http/1.1 200")

    async def close(self) -> None:
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            target = self._target
            self._streams = await asyncio.open_connection(target.host, target.port)
        return self._streams
