"""Keeps a server under mixed load, and watches its memory and its open files.

    python tests/sweep_server_load.py --minutes 20

Clients ask, score, look up and store events; checkpoints are reloaded; connections
idle, and others send half a request.
"""

import itertools
import random
import re
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from conftest import make_dataset
from runs import small
from server_processes import Client, NoAnswer, port_of, server, threads

from eqids import train

NUM_ITEMS, NUM_USERS = 1000, 1000
NUM_IDLE = 100
_MIX = {"recommend": 10, "events": 4, "similar": 2, "score": 2, "users": 1, "items": 1}


@dataclass(frozen=True)
class Reading:
    """A look at the server."""

    seconds: float
    """Since the load began."""
    resident_mb: float
    """Memory of the process."""
    files: int
    """Its open files and connections."""
    answers: int
    """Good answers so far."""
    reloads: int
    """Checkpoints that were loaded so far."""


@dataclass
class MixedLoad:
    """Clients of one server.

    Attributes:
        port: where it listens.
        pause: seconds between two requests of a client, on average.
        over: set to stop them.
        good: answers 200, by kind of request.
        failures: other answers, or none.
    """

    port: int
    pause: float
    over: threading.Event
    good: Counter[str]
    failures: list[Any]

    def ask(self, rng: random.Random) -> None:
        """Sends requests of all kinds, one after the other."""
        with closing(Client(self.port)) as client:
            while not self.over.wait(rng.expovariate(1 / self.pause)):
                (kind,) = rng.choices([*_MIX], [*_MIX.values()])
                self._send(client, kind, *_request(kind, rng))

    def reload(self, checkpoints: Sequence[Path], every: float) -> None:
        """Loads checkpoints in turn."""
        for checkpoint in itertools.cycle(checkpoints):
            if self.over.wait(every):
                return
            asked = {"checkpoint": str(checkpoint)}
            # The server closes connections that are idle for longer than a minute.
            with closing(Client(self.port)) as client:
                self._send(client, "reload", "POST", "/v1/reload", asked)

    def idle(self) -> None:
        """Holds connections that send nothing or a part, and opens closed ones anew."""
        held: list[socket.socket] = []
        while not self.over.wait(0.5):
            held = [one for one in held if _is_open(one)]
            while len(held) < NUM_IDLE:
                one = socket.create_connection(("127.0.0.1", self.port), timeout=60)
                if len(held) % 3 == 0:
                    one.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: a\r\n")
                if len(held) % 3 == 1:
                    one.sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                held.append(one)
        for one in held:
            one.close()

    def _send(
        self, client: Client, kind: str, method: str, path: str, body: Any
    ) -> None:
        try:
            status, said = client.send(method, path, body)
        except NoAnswer as error:
            self.failures.append((kind, repr(error.__cause__)))
            return
        if status == 200:
            self.good[kind] += 1
        else:
            self.failures.append((kind, status, said))


def _request(kind: str, rng: random.Random) -> tuple[str, str, Any]:
    """Returns method, path and body."""

    def items(most: int) -> list[str]:
        number = rng.randint(1, most)
        return [f"item {rng.randrange(NUM_ITEMS)}" for _ in range(number)]

    user = f"user {rng.randrange(NUM_USERS)}"
    (item,) = items(1)
    match kind:
        case "recommend":
            asked = rng.choice([{"user": user}, {"history": items(40)}])
            more = rng.choice([{}, {"deny": items(300)}, {"allow": items(300)}])
            return "POST", "/v1/recommend", {**asked, **more, "k": rng.randint(1, 20)}
        case "score":
            asked = {"history": items(40), "items": items(20)}
            return "POST", "/v1/score", asked
        case "events":
            event = {"user": user, "item": item, "time": rng.randrange(2**33)}
            return "POST", "/v1/events", {"events": [event]}
    path = {
        "similar": f"similar?item={item.replace(' ', '+')}",
        "users": f"users/{user.replace(' ', '%20')}",
        "items": f"items?q={rng.randrange(99)}",
    }[kind]
    return "GET", f"/v1/{path}", None


def _is_open(one: socket.socket) -> bool:
    """Returns whether the server has not closed a connection; closes it if so."""
    one.setblocking(False)
    try:
        while one.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    one.close()
    return False


def mixed_load(
    run: Path,
    folder: Path,
    *,
    seconds: float,
    reload_every: float,
    clients: int = 8,
    pause: float = 0.2,
    seed: int = 0,
    report: Callable[[Reading], None] = lambda reading: None,
) -> tuple[list[Reading], Counter[str], list[Any]]:
    """Keeps a server under load.

    Args:
        run: a run whose steps 20 and 40 are loaded in turn.
        folder: an empty one, for its file of events and its log.
        seconds: how long.
        reload_every: seconds between two reloads.
        clients: that send requests of all kinds.
        pause: seconds between two requests of a client, on average.
        seed: of the requests.
        report: receives each reading.

    Returns:
        Readings, every 30 seconds and at the end; the number of good answers by kind;
        and what failed.
    """
    rng, over, log = random.Random(seed), threading.Event(), folder / "log"
    events = str(folder / "events.sqlite")
    flags = ["--checkpoint", str(run), "--events", events, "--timeout", "60"]
    flags += ["--max_batch", "16", "--max_k", "20"]
    readings: list[Reading] = []
    with server(flags, log) as job:
        load = MixedLoad(port_of(job, log), pause, over, Counter(), [])
        began = time.monotonic()

        def client() -> None:
            load.ask(random.Random(rng.random()))

        def read() -> None:
            answers = load.good.total()
            took, reloads = time.monotonic() - began, load.good["reload"]
            one = Reading(round(took), *process_size(job.pid), answers, reloads)
            readings.append(one)
            report(one)

        steps = [run / "20", run / "40"]
        works = [client] * clients
        with threads([*works, lambda: load.reload(steps, reload_every), load.idle]):
            try:
                while (left := seconds - (time.monotonic() - began)) > 0:
                    time.sleep(min(30.0, left))
                    read()
            finally:
                over.set()
        assert job.poll() is None, log.read_text()[-4000:]
    return readings, load.good, load.failures


def process_size(pid: int) -> tuple[float, int]:
    """Returns the memory of a process in MB, and the number of its open files."""
    proc = Path(f"/proc/{pid}")
    found = re.search(r"^VmRSS:\s*(\d+) kB", (proc / "status").read_text(), re.M)
    assert found is not None
    return round(int(found[1]) / 1000, 1), len(list((proc / "fd").iterdir()))


@dataclass(frozen=True)
class LoadSweep:
    """How long."""

    minutes: float = 20.0
    """Length of the load."""
    reload_every: float = 120.0
    """Seconds between two reloads."""
    pause: float = 0.2
    """Seconds between two requests of a client, on average."""
    seed: int = 0
    """Of the requests."""


def main(argv: Sequence[str] | None = None) -> None:
    """Keeps a server under load, and prints what was seen."""
    flags = tyro.cli(LoadSweep, args=argv, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder)
        _, good, failures = mixed_load(
            run, folder, seconds=60 * flags.minutes, reload_every=flags.reload_every,
            pause=flags.pause, seed=flags.seed,
            report=lambda reading: print(reading, flush=True),
        )  # fmt: skip
    print(f"good answers: {dict(good)}; failures: {failures[:5] or 'none'}")


def make_run(folder: Path) -> Path:
    """Makes a dataset and a run, and returns the run's folder."""
    sizes = {"num_users": NUM_USERS, "num_items": NUM_ITEMS, "num_clusters": 12}
    data = make_dataset(folder / "data", **sizes, cluster_size=90)
    train.main(small(data.path, folder / "run"))
    return folder / "run"


if __name__ == "__main__":
    main()
