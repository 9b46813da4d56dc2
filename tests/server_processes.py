"""Servers as processes, and clients that notice what gets no answer."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import ROOT

LIMITS = ["--max_batch", "4", "--max_k", "20", "--timeout", "60"]
"""Flags of servers that are ready soon."""


class NoAnswer(Exception):
    """The connection was refused, or ended before the first byte of an answer."""


class Client:
    """Sends requests to a server, on one connection while that lasts.

    Attributes:
        sent: when the last request was sent whole, by `time.monotonic`.
    """

    def __init__(self, port: int):
        self.sent = 0.0
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns the status and the JSON of an answer; see `send_bytes`."""
        sent = None if body is None else json.dumps(body).encode()
        status, content = self.send_bytes(method, path, sent)
        return status, json.loads(content)

    def send_bytes(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Returns the status and the body of an answer.

        Raises:
            NoAnswer: there was none.
            http.client.IncompleteRead: there was a part of one.
        """
        self.sent = float("inf")
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=60
            )
        try:
            self._connection.request(method, path, body)
            self.sent = time.monotonic()
            answer = self._connection.getresponse()
        except (OSError, http.client.BadStatusLine) as error:
            self.close()
            raise NoAnswer from error
        content = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, content

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def server(flags: Sequence[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that starts; it is killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "eqids.serve", "--port", "0", *flags]
    with log.open("w") as errors:
        job = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        yield job
    finally:
        job.kill()
        job.wait()
        assert job.stdout is not None
        job.stdout.close()


def port_of(job: subprocess.Popen[str], log: Path) -> int:
    """Waits until a server is ready, and returns its port."""
    assert job.stdout is not None
    line = job.stdout.readline()
    assert line.startswith("ready at http://127.0.0.1:"), (line, log.read_text())
    return int(line.split()[2].rpartition(":")[2])


@contextmanager
def threads(works: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Runs functions beside the block; they must end by themselves after it."""
    failures: list[Exception] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    running = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for thread in running:
            thread.join()
    if failures:
        raise failures[0]
