"""Sends random requests to a server: sound ones, malformed ones, and what is neither.

    python tests/sweep_requests.py --answers 1000 --requests 10000

Answers are held to those of `recommend`; and no request may be answered 500, compile a
program or let the memory grow. tests/test_sweeps.py sends a few.
"""

import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tyro
from conftest import make_dataset
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from runs import small
from server_processes import LIMITS, Client, port_of, server
from sweep_server_load import process_size

import eqids
from eqids import train

_ITEMS = [f"item {number}" for number in range(27)]
_USERS = [f"user {number}" for number in range(40)]


@contextmanager
def _serving(checkpoint: Path, folder: Path) -> Iterator[tuple[Client, int]]:
    """A server with all that requests may name, and its process."""
    filters, log = folder / "filters.json", folder / "log"
    filters.write_text(json.dumps({"in stock": _ITEMS[:20], "none": []}))
    events = str(folder / "requests.sqlite")
    flags = ["--checkpoint", str(checkpoint), "--compare", str(checkpoint), *LIMITS]
    flags += ["--filters", str(filters), "--events", events, "--answer_cache_mb", "1"]
    with server([*flags, "--max_body_mb", "1"], log) as job:
        with closing(Client(port_of(job, log))) as client:
            yield client, job.pid
        assert job.poll() is None, log.read_text()[-4000:]


def compare_answers(checkpoint: Path, folder: Path, number: int, seed: int) -> float:
    """Holds answers over HTTP to those of `Recommender.recommend`.

    Args:
        checkpoint: what answers.
        folder: for the server's files.
        number: of requests.
        seed: of histories, k and filters.

    Returns:
        The largest difference of two probabilities.

    Raises:
        AssertionError: an item or the order differs, or a probability by over 1e-6.
    """
    rng, recommender = random.Random(seed), eqids.load(checkpoint)
    largest = 0.0
    with _serving(checkpoint, folder) as (client, _):
        for first in range(0, number, 20):
            histories = [
                rng.choices(_ITEMS, k=rng.choice((0, 1, 3, 9, 30)))
                for _ in range(min(20, number - first))
            ]
            k, seen = rng.randint(1, 20), rng.random() < 0.5
            lists: dict[str, Any] = {}
            for name in ("allow", "deny"):
                if rng.random() < 0.5:
                    lists[name] = rng.sample(_ITEMS, k=rng.randint(1, 20))
            found = recommender.recommend(
                histories, k, filter_seen=not seen, **lists
            ).groupby("user")
            for number_, history in enumerate(histories):
                asked = {"history": history, "k": k, "keep_seen": seen, **lists}
                status, said = client.send("POST", "/v1/recommend", asked)
                assert status == 200, (asked, said)
                items = [one["item"] for one in said["items"]]
                if number_ not in found.groups:
                    assert items == [], asked
                    continue
                wanted = found.get_group(number_)
                assert items == wanted["item"].tolist(), (asked, said, wanted)
                given = np.array([one["probability"] for one in said["items"]])
                gap = np.abs(given - wanted["probability"].to_numpy()).max()
                largest = max(largest, float(gap))
                assert gap <= 1e-6, (asked, said, wanted)
    return largest


def _json(leaves: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        ),
        max_leaves=6,
    )


_ANY = _json(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_ITEM = st.sampled_from(_ITEMS)
_IDS = st.lists(_ITEM, max_size=40)
_ID = _ITEM | st.sampled_from(["x", "", 3, 2.5, 10**30, -1])
_SECONDS = st.integers(-(2**62), 2**62)
_WHO = st.fixed_dictionaries({"user": st.sampled_from(_USERS)}) | st.fixed_dictionaries(
    {
        "history": _IDS
        | st.lists(st.fixed_dictionaries({"item": _ITEM, "time": _SECONDS}), max_size=9)
    }
)
_MORE = st.fixed_dictionaries(
    {},
    optional={
        "k": st.integers(1, 20),
        "keep_seen": st.booleans(),
        "explain": st.booleans(),
        "deny": st.lists(_ID, max_size=40),
        "allow": st.lists(_ITEM, min_size=1, max_size=40),
        "filter": st.sampled_from(["in stock", "none"]),
        "unknown": st.sampled_from(["refuse", "skip"]),
    },
)
_RECOMMEND = st.builds(lambda who, more: who | more, _WHO, _MORE)
_BATCH = st.fixed_dictionaries(
    {"requests": st.lists(_RECOMMEND, min_size=1, max_size=4)}
)
_SCORE = st.builds(
    lambda who, items: who | {"items": items},
    _WHO,
    st.lists(_ITEM, min_size=1, max_size=20),
)
_EVENT = st.fixed_dictionaries(
    {"user": st.sampled_from([*_USERS, "new"]), "item": _ITEM, "time": _SECONDS}
)
_EVENTS = st.fixed_dictionaries({"events": st.lists(_EVENT, min_size=1, max_size=5)})
_POSTED = {
    "recommend": _RECOMMEND | _BATCH,
    "compare": _RECOMMEND,
    "score": _SCORE,
    "events": _EVENTS,
}
"""Sound bodies by path."""

Sent = tuple[str, str, bytes | None, bool]
"""Method, path, body, and whether the request is sound."""


@st.composite
def _sound(draw: Any) -> Sent:
    path = draw(st.sampled_from([*_POSTED]))
    body = json.dumps(draw(_POSTED[path])).encode()
    return "POST", f"/v1/{path}", body, True


@st.composite
def _looked_up(draw: Any) -> Sent:
    item, user = quote(draw(_ITEM)), quote(draw(st.sampled_from(_USERS)))
    words, k = quote(draw(st.text(max_size=9)), safe=""), draw(st.integers(1, 20))
    path = draw(
        st.sampled_from(
            [f"/v1/similar?item={item}&k={k}", f"/v1/items?q={words}&k={k}",
             f"/v1/users/{user}", "/v1/model", "/v1/map", "/metrics", "/openapi.json",
             "/health/live", "/health/ready", "/"]
        )
    )  # fmt: skip
    return "GET", path, None, True


@st.composite
def _changed(draw: Any) -> Sent:
    """A sound body with a field of any value, or with other bytes."""
    path = draw(st.sampled_from([*_POSTED]))
    body = draw(_POSTED[path])
    if draw(st.booleans()):
        name = draw(st.sampled_from([*body, "user", "history", "k", "deny", "x"]))
        body = {**body, name: draw(_ANY | st.lists(_ID, max_size=5))}
        return "POST", f"/v1/{path}", json.dumps(body).encode(), False
    text = json.dumps(body).encode()
    first, second = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    other = draw(st.binary(max_size=5))
    return "POST", f"/v1/{path}", text[:first] + other + text[second:], False


@st.composite
def _strange(draw: Any) -> Sent:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]))
    path = draw(
        st.sampled_from(
            ["/v1/recommend", "/v1/reload", "/v1/score", "/v1/events", "/v1/users/",
             "/v1/similar", "/v1/items", "/v1", "/metrics", "/page"]
        )
        | st.text(max_size=20).map(lambda text: f"/{quote(text, safe='/')}")
    )  # fmt: skip
    query = draw(st.text(max_size=12).map(lambda text: f"?{quote(text, safe='=&')}"))
    body = draw(
        st.none()
        | st.binary(max_size=50)
        | _ANY.map(lambda value: json.dumps(value).encode())
    )
    return method, path + query, body, False


def random_requests(
    checkpoint: Path, folder: Path, number: int, first_seed: int
) -> tuple[Counter[int], Sequence[float]]:
    """Sends random requests.

    Args:
        checkpoint: what is asked.
        folder: for the server's files.
        number: of requests.
        first_seed: of the requests.

    Returns:
        How many had each status, and the server's memory in MB, ten times.

    Raises:
        AssertionError: a request was answered 500, or a sound one not 200 or 404, or a
            program was compiled.
    """
    statuses: Counter[int] = Counter()
    sizes: list[float] = []
    with _serving(checkpoint, folder) as (client, pid):

        @seed(first_seed)
        @settings(
            max_examples=number,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(sent=_sound() | _looked_up() | _changed() | _strange())
        def send(sent: Sent) -> None:
            method, path, body, sound = sent
            status, said = client.send_bytes(method, path, body)
            statuses[status] += 1
            assert status < 500, (sent, said)
            # An allowed item may be retired, or the filter may leave none.
            assert not sound or status == 200, (sent, said)
            if status != 200 and method != "HEAD":
                assert list(json.loads(said)) == ["error"], (sent, said)
            if statuses.total() % max(1, number // 10) == 0:
                sizes.append(process_size(pid)[0])

        send()
        status, text = client.send_bytes("GET", "/metrics")
        (count,) = re.findall(rb"(?m)^eqids_compilations_after_ready_total (.+)$", text)
        assert float(count) == 0
    return statuses, sizes


@dataclass(frozen=True)
class RequestSweep:
    """How much is sent."""

    answers: int = 1000
    """Requests whose answers are held to those of `recommend`."""
    requests: int = 10_000
    """Requests of all kinds."""
    seed: int = 0
    """Of the requests."""


def main(argv: Sequence[str] | None = None) -> None:
    """Sends requests, and prints what came back."""
    flags = tyro.cli(RequestSweep, args=argv, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train.main(small(make_dataset(folder / "data").path, folder / "run"))
        gap = compare_answers(folder / "run", folder, flags.answers, flags.seed)
        print(f"{flags.answers:,} answers are those of recommend, to {gap:.1e}")
        found, sizes = random_requests(
            folder / "run", folder, flags.requests, flags.seed
        )
    print(f"{found.total():,} requests by status: {dict(sorted(found.items()))}")
    print(f"memory in MB: {' '.join(f'{size:.0f}' for size in sizes)}")


if __name__ == "__main__":
    main()
