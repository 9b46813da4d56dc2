"""The event store beside a plain list, under load, kills and damage."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings, strategies as st

from eqids.config import UserError
from eqids.data.event_file import open_event_file
from eqids.inference.events.event_store import Event, EventStore

USERS = [1, "1", (1.0).__repr__(), "", "é\x00'", -(2**63), 2**63 - 1]
"""Ids that a store without types would confuse or lose."""

EVENTS = st.builds(
    Event,
    user=st.sampled_from(USERS),
    item=st.one_of(st.integers(-3, 3), st.sampled_from(["0", "1", "-1", "a"])),
    time=st.integers(-2, 2),
)

WRITER = """
import sys, threading
from pathlib import Path
from eqids.inference.events.event_store import Event, EventStore

path, start = sys.argv[1:]
store = EventStore(Path(path))
lock = threading.Lock()

def write(thread):
    for call in range(int(start), 2**40):
        size = call % 3 + 1
        store.append([Event(f"{thread}", call, n) for n in range(size)]).result()
        with lock:
            print(thread, call, flush=True)

for thread in range(8):
    threading.Thread(target=write, args=(thread,)).start()
"""
"""Eight clients that print what is acknowledged."""


def in_order(events: Sequence[Event], user: str | int) -> list[Event]:
    """The distinct events of a user, by time."""
    own = [event for event in events if event.user == user]
    return sorted(dict.fromkeys(own), key=lambda event: event.time)


@given(st.lists(st.lists(EVENTS, max_size=6) | st.none(), max_size=8))
@settings(max_examples=20)
def test_histories_are_those_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[Event] | None]
) -> None:
    path, written = tmp_path_factory.mktemp("law") / "a ?#%.sqlite", list[Event]()
    store = EventStore(path)
    for call in calls:
        if call is None:
            store.close()
            store = EventStore(path)
            continue
        new = len(set(written + call)) - len(set(written))
        assert store.append(call).result() == new
        written += call
        for user in USERS:
            assert store.history(user) == in_order(written, user)
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    """An empty store."""
    with closing(EventStore(tmp_path / "events.sqlite")) as store:
        yield store


def test_calls_that_wait_share_one_transaction(store: EventStore) -> None:
    begun: list[str] = []
    store._file.set_trace_callback(begun.append)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the writer waits for this
        calls = [store.append([Event(n, 0, 0), Event(n, 1, 1)]) for n in range(50)]
        withdrawn = store.append([Event("w", 0, 0)])
        assert withdrawn.cancel()
        assert not any(call.done() for call in calls) and store.history(0) == []
        other.execute("ROLLBACK")
    assert [call.result() for call in calls] == [2] * 50
    assert begun.count("BEGIN IMMEDIATE") <= 2
    assert len(store.history(49)) == 2 and store.history("w") == []


def test_many_threads_append(store: EventStore) -> None:
    def write(user: int) -> None:
        for time in range(30):
            store.append([Event(user, "a", time)]).result()
            assert len(store.history(user)) == time + 1

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(store.history(n)) == 30 for n in range(8))


def test_a_full_disk_refuses_a_call_as_a_whole(store: EventStore) -> None:
    store.append([Event(1, "a", 0)]).result()
    (pages,) = store._file.execute("PRAGMA page_count").fetchone()
    store._file.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = store.append([Event(1, "b" * 100, n) for n in range(1000)])
    with pytest.raises(UserError, match="events.sqlite, .* is full"):
        many.result()
    assert store.history(1) == [Event(1, "a", 0)]
    assert store.append([Event(1, "c", 1)]).result() == 1


@pytest.mark.parametrize(
    ("event", "match"),
    [
        (
            Event(2**63, "a", 0),
            r"events\[1\]: user is 9223372036854775808, wanted an int",
        ),
        (Event("a", "\ud800", 0), r"events\[1\]: item is '\\ud800', wanted Unicode"),
        (Event("a", 1, -(2**63) - 1), r"events\[1\]: time is -9223372036854775809"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    store: EventStore, event: Event, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        store.append([Event(1, "a", 0), event])
    assert store.history(1) == [] and store.history(event.user) == []


def test_close_writes_what_waits(store: EventStore) -> None:
    calls = [store.append([Event(1, "a", n)]) for n in range(100)]
    store.close()
    assert all(call.done() for call in calls)
    with pytest.raises(RuntimeError, match="is closed"):
        store.append([])
    with closing(EventStore(store.path)) as again:
        assert len(again.history(1)) == 100


def test_writes_are_synced(store: EventStore) -> None:
    values = [
        store._file.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    ]
    assert values == ["wal", 2]  # 2 is FULL


def test_another_process_is_refused(store: EventStore) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from eqids.inference.events.event_store import EventStore\n"
        "EventStore(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "events.sqlite is in use by another process, wanted" in done.stderr
    store.append([Event(1, "a", 0)]).result()  # the refused one took no lock away
    with pytest.raises(UserError, match="is in use"):
        EventStore(store.path)


def test_another_process_may_read(store: EventStore) -> None:
    store.append([Event(1, "a", 0)]).result()
    store.record_dataset(Path("data")).result()
    with closing(open_event_file(store.path)) as file:
        assert file.execute("SELECT user, item, time FROM events").fetchall() == [
            (1, "a", 0)
        ]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            file.execute("DELETE FROM events")


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.sqlite", tmp_path / "e.sqlite"
    with closing(EventStore(whole)) as store:
        store.append([Event(n, "a" * 50, n) for n in range(2000)]).result()
    content = whole.read_bytes()

    def refused(match: str) -> None:
        before = path.read_bytes()
        for open_file in (EventStore, open_event_file):
            with pytest.raises(UserError, match=f"e.sqlite.*{match}"):
                open_file(path)
        assert path.read_bytes() == before

    path.write_text("user,item,time\n" * 100)
    refused("file is not a database")
    path.write_bytes(content[: len(content) // 2])
    refused("malformed|damaged")
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(8192) + content[middle + 8192 :])
    refused("malformed|damaged")
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE events (user, item, time)")
    refused("is no file of events of EqIDs")
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    refused("the version of its schema is 7, wanted 1")
    path.unlink()
    with pytest.raises(UserError, match="e.sqlite.* unable to open"):
        open_event_file(path)
    with pytest.raises(UserError, match="missing/e.sqlite cannot be made or opened"):
        EventStore(tmp_path / "missing" / "e.sqlite")
    path.write_bytes(b"")  # as a kill during the first start leaves it
    EventStore(path).close()
    assert path.read_bytes()


def kill_writers(path: Path, num_kills: int, seed: int) -> None:
    """Kills a process that writes again and again, and checks what it left."""
    rng = random.Random(seed)
    acknowledged: set[tuple[int, int]] = set()
    for number in range(num_kills):
        command = [sys.executable, "-c", WRITER, str(path), str(number * 2**20)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as job:
            assert job.stdout is not None
            lines = [job.stdout.readline() for _ in range(rng.randrange(200))]
            job.send_signal(signal.SIGKILL)
            lines += job.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):  # the last one may be cut off
                thread, call = map(int, line.split())
                acknowledged.add((thread, call))
        found: dict[tuple[int, int], list[int]] = {}
        with closing(EventStore(path)) as store:
            for thread in range(8):
                for event in store.history(f"{thread}"):
                    assert isinstance(event.item, int)
                    found.setdefault((thread, event.item), []).append(event.time)
        assert acknowledged <= found.keys(), f"kill {number} of seed {seed}"
        for (_, call), times in found.items():
            assert times == list(range(call % 3 + 1)), f"kill {number} of seed {seed}"
    assert acknowledged


def test_acknowledged_events_survive_a_kill(tmp_path: Path) -> None:
    kill_writers(tmp_path / "events.sqlite", 2, seed=0)


@pytest.mark.long
def test_acknowledged_events_survive_many_kills(tmp_path: Path) -> None:
    kill_writers(tmp_path / "events.sqlite", 15, seed=1)
