"""Processes that wait for one another name the missing ones, and none aborts."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from runs import small
from test_processes import ending, free_port, start

import sharding.connecting as module
from eqids.data import Dataset
from sharding import ProcessesError
from sharding.connecting import connect
from sharding.joining import _check_address
from sharding.rendezvous import Rendezvous, is_own

Start = tuple[int, int]
"""A process that starts: its number, and its --num_processes."""


def connected(starts: Sequence[Start], timeout: float, port: int) -> list[str]:
    """Returns 'met' for each that connected, or the sentence of its error."""
    found = [""] * len(starts)

    def one(at: int) -> None:
        number, size = starts[at]
        place = Rendezvous(f"localhost:{port}", size, timeout)
        try:
            connect(place, number, lambda text: None)
            found[at] = "met"
        except ProcessesError as error:
            found[at] = str(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


@pytest.mark.long
@settings(max_examples=8)
@given(data=st.data())
def test_all_connect_or_all_name_the_missing(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    others = data.draw(st.sets(st.integers(1, size - 1)))
    order = data.draw(st.permutations([0, *sorted(others)]))
    missing = [n for n in range(1, size) if n not in others]
    timeout = 1.5 if missing else 30.0
    found = connected([(n, size) for n in order], timeout, free_port())
    if not missing:
        assert found == ["met"] * size
        return
    word = "process" if len(missing) == 1 else "processes"
    named = (
        f"{word} {', '.join(map(str, missing))} of {size} did not connect to localhost"
    )
    # All give the same names, but for one whose time was up just before.
    assert found[order.index(0)].startswith(named)
    for said in found:
        assert said.startswith(named) or "process 0 of" in said
        assert "--join_timeout" in said and "--coordinator" in said


def test_two_of_one_number_and_two_sizes_are_named() -> None:
    for said in connected([(0, 3), (1, 3), (1, 3)], 20.0, free_port()):
        assert "two processes were started with --process_id 1: process " in said
    found = connected([(0, 2), (1, 3)], 20.0, free_port())
    for said in found:
        assert "with --num_processes 3, and process 0 with 2; wanted the same" in said


def test_a_process_whose_process_0_never_starts() -> None:
    (said,) = connected([(1, 2)], 0.5, port := free_port())
    assert said.startswith(f"process 0 of 2 was not found at localhost:{port} within")
    assert "0.5 s (--join_timeout): nothing listens there" in said
    with pytest.raises(
        ProcessesError, match="the name 'no.invalid' cannot be resolved"
    ):
        connect(Rendezvous("no.invalid:1234", 2, 0.5), 1, print)


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """Something else that listens: it answers with these bytes, or never does."""
    with socket.create_server(("localhost", 0)) as server:
        server.settimeout(0.1)
        over, kept = threading.Event(), list[socket.socket]()

        def serve() -> None:
            while not over.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue
                kept[-1].sendall(answer or b"")
                if answer is not None:
                    kept[-1].close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()
            for one in kept:
                one.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not process 0 of this run"),
        (b"{}\n[1]\n", "is not process 0 of this run"),
        (b"", "is not process 0 of this run"),
        (b"\x00\xff" * 9000, "is not process 0 of this run"),
        (None, "it does not answer"),
    ],
)
def test_another_program_on_the_port(answer: bytes | None, why: str) -> None:
    with listening(answer) as port:
        (said,) = connected([(1, 2)], 1.0, port)
        assert why in said and f"localhost:{port}" in said
        with pytest.raises(ProcessesError) as caught:
            connect(Rendezvous(f"localhost:{port}", 2, 1.0), 0, print)
    assert f"port {port} of this machine is in use, by another" in str(caught.value)
    assert "see --coordinator" in str(caught.value)


def test_strangers_do_not_disturb_a_connected() -> None:
    port, said = free_port(), list[str]()
    leader = threading.Thread(
        target=lambda: said.extend(connected([(0, 2), (1, 2)], 30.0, port))
    )
    leader.start()
    for tokens in (b"GET / HTTP/1.1\r\n\r\n", b'{"process": "x"}\n', b""):
        with socket.socket() as stranger:
            if stranger.connect_ex(("localhost", port)) == 0:
                stranger.sendall(tokens)
    leader.join(60)
    assert said == ["met", "met"]


def test_the_missing_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPORT_AFTER", 0.3)
    port, reports = free_port(), [list[str]() for _ in range(3)]

    def join(number: int, size: int, timeout: float) -> None:
        place = Rendezvous(f"localhost:{port}", size, timeout)
        with pytest.raises(ProcessesError):
            connect(place, number, reports[number].append)

    threads = [
        threading.Thread(target=join, args=(0, 3, 2.0)),
        threading.Thread(target=join, args=(2, 3, 5.0)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (of_first,) = reports[0]
    assert of_first.startswith(f"waiting for process 1 of 3 at localhost:{port}, for ")
    assert reports[2] == ["process 0 answers; waiting for process 1 of 3"]
    join(1, 2, 1.0)
    (alone,) = reports[1]
    assert alone.startswith(
        f"waiting for process 0 of 2 at localhost:{port} (nothing listens there), for"
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_a_command_that_waits_in_vain_ends_with_a_sentence(
    number: int, dataset: Dataset, tmp_path: Path
) -> None:
    where, log = f"localhost:{free_port()}", tmp_path / "log"
    flags = ["--coordinator", where, "--num_processes", "2", "--join_timeout", "12"]
    tokens = ["-m", "eqids.train", *small(dataset.path, tmp_path / "run", *flags)]
    job = start([*tokens, "--process_id", str(number)], 1, log)
    with ending([job]):
        assert job.wait(120) == 2
    said = log.read_text().splitlines()
    other = 1 - number
    assert len(said) == 2 and said[1].startswith(f"error: process {other} of 2 ")
    assert said[0].startswith(f"waiting for process {other} of 2 at {where}")
    assert not (tmp_path / "run").exists()


LAST = """
import sys, time
from eqids.config import Stopped
from eqids.cli import run
from sharding import barrier, exchange, initialize

def main():
    initialize(sys.argv[1], 2, int(sys.argv[2]), heartbeat=10)
    barrier("saved")
    if sys.argv[2] == "1":
        time.sleep(4)
        from jax._src import distributed
        distributed.global_state.client.key_value_dir_get("saved/")
    raise Stopped("stopped", 15)

run(main)
"""
"""Two processes that end together, of which the second still needs the first."""


def test_process_0_ends_after_the_others(tmp_path: Path) -> None:
    where, logs = f"localhost:{free_port()}", [tmp_path / f"{n}.log" for n in range(2)]
    jobs = [start(["-c", LAST, where, str(n)], 1, logs[n]) for n in range(2)]
    with ending(jobs):
        codes = [job.wait(120) for job in jobs]
    assert codes == [143, 143], [log.read_text()[-2000:] for log in logs]


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.1", True), (socket.gethostname(), True),
     ("192.0.2.7", False), ("no.invalid", False)],
)  # fmt: skip
def test_the_host_of_another_machine_is_recognised(host: str, own: bool) -> None:
    assert is_own(host) is own


@pytest.mark.parametrize(
    "address",
    ["http://localhost:1", "localhost", ":1", "a:0", "a:65536", "a:\u0663", "::1:2",
     "a b:1", "", "u@h:1"],
)  # fmt: skip
def test_a_malformed_coordinator_is_said_at_once(address: str) -> None:
    with pytest.raises(ProcessesError, match="wanted HOST:PORT"):
        _check_address(address)


@pytest.mark.parametrize("address", ["a:1", "10.0.0.1:65535", "[::1]:80", "a-b.c:22"])
def test_a_coordinator_is_a_host_and_a_port(address: str) -> None:
    _check_address(address)
