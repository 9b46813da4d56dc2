"""Kills and stops servers under load, and counts what they lose.

    python tests/sweep_server.py --kills 50 --stops 20

Each takes about 8 seconds of one CPU core; tests/test_sweeps.py does a few.
"""

import http.client
import json
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro
from conftest import make_dataset
from runs import small
from server_processes import LIMITS, Client, NoAnswer, port_of, server, threads

from eqids import train

NUM_WRITERS = 4
NUM_CLIENTS = 8
_ITEMS = [f"item {number}" for number in range(27)]


Event = tuple[str, str, int]
"""User, item and time."""


@dataclass
class Writer:
    """A client that stores events of one user, no two of them equal.

    Attributes:
        user: whose.
        rng: draws them.
        stored: the requests that were acknowledged.
        open: those that were sent, perhaps more than once, and never acknowledged.
    """

    user: str
    rng: random.Random
    stored: list[Sequence[Event]] = field(default_factory=list)
    open: list[Sequence[Event]] = field(default_factory=list)

    def write(self, port: int) -> None:
        """Sends requests until one has no whole answer.

        First those that had no answer, as a client would, and one that had.
        """
        client = Client(port)
        again = [(one, True) for one in self.open]
        if self.stored:
            again.append((self.rng.choice(self.stored), False))
        try:
            while True:
                events, is_open = again.pop(0) if again else (self._events(), True)
                if is_open and events not in self.open:
                    self.open.append(events)
                body = [dict(zip(_NAMES, one, strict=True)) for one in events]
                status, said = client.send("POST", "/v1/events", {"events": body})
                assert (status, said.get("stored")) == (200, len(events)), said
                if is_open:
                    assert said["new"] in (0, len(events)), said
                    self.open.remove(events)
                    self.stored.append(events)
                else:
                    assert said["new"] == 0, said
        except (NoAnswer, http.client.IncompleteRead):
            pass
        finally:
            client.close()

    def check(self, client: Client) -> None:
        """Holds what a server has of the user to what was sent."""
        status, said = client.send("GET", f"/v1/users/{self.user}")
        if status == 404:
            assert not self.stored, said
            return
        found = Counter(
            (self.user, one["item"], one["time"]) for one in said["history"]
        )
        assert set(found.values()) == {1}, "an event is stored twice"
        for events in self.stored:
            assert found.keys() >= set(events), "an acknowledged event is lost"
        for events in self.open:
            assert len(found.keys() & set(events)) in (0, len(events)), "a torn request"
        sent = {one for events in (*self.stored, *self.open) for one in events}
        assert found.keys() <= sent, "an event that nobody sent"
        asked = {"user": self.user, "k": 3}
        status, said = client.send("POST", "/v1/recommend", asked)
        assert status == 200, said

    def _events(self) -> Sequence[Event]:
        first = self.rng.randrange(2**60)
        number = self.rng.choice((1, 2, 3, 50))
        return [
            (self.user, self.rng.choice(_ITEMS), first + at) for at in range(number)
        ]


_NAMES = ("user", "item", "time")


@dataclass(frozen=True)
class Kill:
    """A server that was killed."""

    moment: str
    """"during the start" or "under load"."""
    seconds: float
    """From the start of the process, or of the load."""
    stored: int
    """Requests that were acknowledged so far, by all starts."""
    open: int
    """Requests that were sent and not acknowledged."""


def kill_servers(
    checkpoint: Path,
    folder: Path,
    num_kills: int,
    seed: int,
    *,
    report: Callable[[str], None] = lambda text: None,
) -> list[Kill]:
    """Kills a server by SIGKILL while clients store events, and starts it again.

    Args:
        checkpoint: what it serves.
        folder: an empty one, for its file of events and its log.
        num_kills: how often.
        seed: of the moments and the events.
        report: receives a line after every kill.

    Raises:
        AssertionError: an acknowledged event is lost or stored twice, a part of a
            request is stored, or a server does not start or answer.
    """
    rng, log, file = random.Random(seed), folder / "log", folder / "events.sqlite"
    flags = ["--checkpoint", str(checkpoint), "--events", str(file), *LIMITS]
    flags.append("--no_access_log")
    writers = [
        Writer(f"writer-{number}", random.Random(rng.random()))
        for number in range(NUM_WRITERS)
    ]
    kills, longest = list[Kill](), 5.0
    for number in range(num_kills + 1):
        began = time.monotonic()
        moment, seconds = "under load", rng.choice((rng.uniform(0, 0.1), rng.random()))
        with server(flags, log) as job:
            if number < num_kills and rng.random() < 0.15:
                moment, seconds = "during the start", rng.uniform(0, longest)
                time.sleep(seconds)
            else:
                port = port_of(job, log)
                longest = time.monotonic() - began
                with closing(Client(port)) as client:
                    for one in writers:
                        one.check(client)
                if number == num_kills:
                    break
                with threads([partial(one.write, port) for one in writers]):
                    time.sleep(seconds)
                    job.send_signal(signal.SIGKILL)
        stored = sum(len(one.stored) for one in writers)
        open_ = sum(len(one.open) for one in writers)
        kills.append(Kill(moment, round(seconds, 3), stored, open_))
        report(f"kill {number + 1} of {num_kills}: {kills[-1]}")
    with closing(sqlite3.connect(file)) as stored_events:
        assert stored_events.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return kills


@dataclass(frozen=True)
class Stop:
    """A server that was stopped under load."""

    answered: int
    """Requests that were answered 200."""
    refused: int
    """Requests that were answered 503 after the signal."""
    late: int
    """Requests that were sent after the signal and had no answer."""
    seconds: float
    """From the signal to the end of the process."""


def stop_servers(
    checkpoint: Path,
    folder: Path,
    num_stops: int,
    seed: int,
    *,
    report: Callable[[str], None] = lambda text: None,
) -> list[Stop]:
    """Stops servers by SIGTERM at random moments while clients ask them.

    Args:
        checkpoint: what they serve.
        folder: an empty one, for the log.
        num_stops: how often.
        seed: of the moments and requests.
        report: receives a line after every stop.

    Raises:
        AssertionError: a request that was sent before the signal, or that the server
            accepted, has no whole answer; or the process ends with another code.
    """
    rng, log, stops = random.Random(seed), folder / "log", list[Stop]()
    flags = ["--checkpoint", str(checkpoint), "--answer_cache_mb", "0", *LIMITS]
    for number in range(num_stops):
        found: Counter[int] = Counter()
        unanswered: list[float] = []
        with server(flags, log) as job:
            port = port_of(job, log)

            asking = partial(_ask, port, rng, found, unanswered)
            with threads([asking] * NUM_CLIENTS):
                time.sleep(rng.choice((rng.uniform(0, 0.1), rng.uniform(0, 2))))
                signaled = time.monotonic()
                job.send_signal(signal.SIGTERM)
                code = job.wait(60)
                took = time.monotonic() - signaled
        assert code == 128 + signal.SIGTERM, (seed, code, log.read_text()[-4000:])
        assert found.keys() <= {200, 503}, (seed, found)
        assert min(unanswered) > signaled, (seed, "a request has no answer")
        lines = [line for line in log.read_text().splitlines() if line[:1] == "{"]
        logged = Counter(json.loads(line)["status"] for line in lines)
        assert logged == found, (seed, logged, found)
        stops.append(Stop(found[200], found[503], len(unanswered), round(took, 2)))
        report(f"stop {number + 1} of {num_stops}: {stops[-1]}")
    return stops


def _ask(
    port: int, rng: random.Random, found: Counter[int], unanswered: list[float]
) -> None:
    """Asks until there is no answer; counts statuses, and notes when that was sent."""
    own, client = random.Random(rng.random()), Client(port)
    try:
        while True:
            body = {"history": own.choices(_ITEMS, k=own.randrange(9))}
            status, _ = client.send("POST", "/v1/recommend", body)
            found[status] += 1
    except NoAnswer:
        unanswered.append(client.sent)
    finally:
        client.close()


@dataclass(frozen=True)
class ServerSweep:
    """How much is swept."""

    kills: int = 50
    """Starts of a server that is killed while events are stored."""
    stops: int = 20
    """Starts of a server that is stopped while it is asked."""
    seed: int = 0
    """Of the moments."""


def main(argv: Sequence[str] | None = None) -> None:
    """Sweeps, and prints what was lost."""
    flags = tyro.cli(ServerSweep, args=argv, description=__doc__)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_dataset(folder / "data")
        train.main(small(data.path, folder / "run"))
        kills = kill_servers(
            folder / "run", folder, flags.kills, flags.seed, report=_say
        )
        stops = stop_servers(
            folder / "run", folder, flags.stops, flags.seed, report=_say
        )
    moments = Counter(kill.moment for kill in kills)
    if kills:
        _say(
            f"{len(kills)} kills ({', '.join(f'{n} {m}' for m, n in moments.items())})"
            f": events of {kills[-1].stored:,} acknowledged requests are stored once"
        )
    if stops:
        _say(
            f"{len(stops)} stops: {sum(stop.answered for stop in stops):,} requests "
            f"answered, {sum(stop.refused for stop in stops):,} refused at "
            f"shutdown, {sum(stop.late for stop in stops):,} sent after the signal "
            "had no connection any more; none was lost"
        )
    _say(f"{(time.monotonic() - started) / 60:.0f} minutes")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
