"""`python -m eqids.serve` as a process: mistakes, signals, reloads under load."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, run_python
from pytest import CaptureFixture
from runs import refused

import eqids
from eqids import catalog, serve
from eqids.data import Dataset


def test_mistakes_end_with_one_sentence(
    finished: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    where = ["--checkpoint", str(finished), "--port", "0"]
    nothing, text = str(tmp_path / "nothing"), tmp_path / "text"
    text.write_text("text")
    tls = ["--tls_cert", str(text), "--tls_key", str(text)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for flags, said in (
            ([*where[:3], str(port)], f"--port {port} is in use on 127.0.0.1"),
            ([*where, "--host", "no.such.host.invalid"], "is no address of this"),
            ([*where, "--api_key_file", nothing], f"{nothing} cannot be read"),
            ([*where, *tls], f"--tls_cert {text} holds no BEGIN CERTIFICATE"),
            ([*where, "--tls_cert", nothing], "--tls_cert and --tls_key go together"),
            (["--checkpoint", nothing, "--port", "0"], "no such folder"),
            ([*where, "--events", str(text)], str(text)),
            ([*where, "--max_batch", "0"], "--max_batch is 0, wanted 1 or more"),
            ([*where, "--timeout", "0"], "--timeout is 0.0, wanted more than 0"),
            ([*where[:3], "70000"], "--port is 70000, wanted a port"),
        ):
            assert said in " ".join(refused(serve.main, flags, capsys).split()), flags


def test_a_missing_extra_is_named(
    finished: Path, capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = refused(serve.main, ["--checkpoint", str(finished)], capsys)
    assert "needs starlette, uvicorn, msgspec, prometheus_client" in said
    assert "pip install 'eqids[serve]'" in said


def test_without_the_server_none_of_its_libraries_are_imported() -> None:
    found = run_python(
        # grain imports prometheus_client.
        "import sys, eqids.inference.recommender, eqids.serve\n"
        "print(sorted({'starlette', 'uvicorn', 'msgspec'} & set(sys.modules)))",
        devices=1,
    )
    assert found.strip() == "[]"


@contextmanager
def process(
    flags: Sequence[str], log: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server as a process, and its address once it is ready."""
    command = [sys.executable, "-m", "eqids.serve", *flags, "--port", "0"]
    with log.open("w") as errors:
        job = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert job.stdout is not None
        line = job.stdout.readline()
        assert line.startswith("ready at http://127.0.0.1:"), log.read_text()
        yield job, line.split()[2]
    finally:
        job.kill()
        job.wait()
        job.stdout.close()


HISTORIES = [["item 1", "item 2"], ["item 3"], ["item 4", "item 5", "item 6"], []]


class Load:
    """Clients that send requests until they are stopped."""

    def __init__(self, url: str, num_clients: int = 4):
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.errors: list[Exception] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number,))
            for number in range(num_clients)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            for at in itertools.count(number):
                if self._stop.is_set():
                    return
                which = at % len(HISTORIES)
                # Another deny list each time, so that no cache answers.
                body = {"history": HISTORIES[which], "k": 5, "deny": [f"none {at}"]}
                try:
                    answer = client.post("/v1/recommend", json=body)
                except httpx.HTTPError as error:
                    self.errors.append(error)
                    return
                self.answers.append((which, answer.json()))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.long
def test_reloads_under_load_fail_no_request_and_mix_no_versions(
    finished: Path, tmp_path: Path
) -> None:
    expected = {
        (which, step): eqids.load(finished / str(step)).recommend([history], k=5)
        for which, history in enumerate(HISTORIES)
        for step in (20, 40)
    }
    flags = ["--checkpoint", str(finished / "40"), "--timeout", "60"]
    with process(flags, tmp_path / "log") as (_, url):
        load = Load(url)
        with httpx.Client(base_url=url, timeout=120) as client:
            for step in [20, 40] * 10:
                body = {"checkpoint": str(finished / str(step))}
                assert client.post("/v1/reload", json=body).status_code == 200
            bad = client.post("/v1/reload", json={"checkpoint": str(tmp_path)})
            assert bad.status_code == 409
            load.stop()
            metrics = client.get("/metrics").text
    assert not load.errors
    seen = set()
    for which, answer in load.answers:
        assert "error" not in answer, answer
        step = answer["model"]["step"]
        seen.add(step)
        table = expected[which, step]
        assert [one["item"] for one in answer["items"]] == table["item"].tolist()
        found = [one["probability"] for one in answer["items"]]
        assert found == pytest.approx(table["probability"].tolist(), abs=1e-6)
    assert seen == {20, 40}
    assert "eqids_compilations_after_ready_total 0.0" in metrics


@pytest.mark.long
def test_a_retired_item_is_never_recommended_once_its_catalog_is_served(
    copy: Dataset, finished: Path, tmp_path: Path
) -> None:
    events = str(tmp_path / "e.sqlite")
    flags = ["--checkpoint", str(finished), "--timeout", "60", "--events", events]
    asked = {"history": ["item 1"], "k": 27, "keep_seen": True}
    with process(flags, tmp_path / "log") as (_, url):
        load = Load(url, num_clients=2)
        with httpx.Client(base_url=url, timeout=120) as client:

            def items() -> set[str]:
                found = client.post("/v1/recommend", json=asked).json()["items"]
                return {one["item"] for one in found}

            assert len(items()) == 27
            new = [{"user": "new", "item": "item 5", "time": 1}]
            client.post("/v1/events", json={"events": new}).raise_for_status()
            where = ["--data_dir", str(copy.path)]
            catalog.main(["retire", *where, "--ids", "item 5"])
            run = str(tmp_path / "migrated")
            old = ["--checkpoint", str(finished), "--output", run]
            catalog.main(["migrate", *where, *old])
            body = {"checkpoint": run, "data_dir": str(copy.path)}
            answer = client.post("/v1/reload", json=body).json()
            assert answer["model"]["catalog_version"] == 2
            assert items() == {f"item {i}" for i in range(27)} - {"item 5"}
            assert client.get("/v1/users/new").json()["history"][0]["item"] == "item 5"
            back = client.post("/v1/reload", json={"checkpoint": str(finished)})
            assert back.json()["model"]["catalog_version"] == 1
            load.stop()
    assert not load.errors
    for _, one in load.answers:
        if one["model"]["catalog_version"] == 2:
            assert "item 5" not in [item["item"] for item in one["items"]]
    assert {one["model"]["catalog_version"] for _, one in load.answers} == {1, 2}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_accepted_request(
    number: signal.Signals, finished: Path, tmp_path: Path
) -> None:
    flags = ["--checkpoint", str(finished), "--events", str(tmp_path / "e.sqlite")]
    with process(flags, tmp_path / "log") as (job, url):
        load = Load(url)
        with httpx.Client(base_url=url) as client:
            while len(load.answers) < 50:
                new = [{"user": "user 1", "item": "item 2", "time": 10**9}]
                client.post("/v1/events", json={"events": new}).raise_for_status()
        os.kill(job.pid, number)
        assert job.wait(60) == 128 + number
        load.stop()
    records = [
        json.loads(line)
        for line in (tmp_path / "log").read_text().splitlines()
        if line.startswith("{")
    ]
    answered = [one for one in records if one["path"] == "/v1/recommend"]
    refusals = [answer for _, answer in load.answers if "error" in answer]
    assert {one["status"] for one in answered} <= {200, 503}
    assert all(one["error"] == "the server is shutting down" for one in refusals)
    # Each request that the server took was answered, and its client has the answer.
    assert len(answered) == len(load.answers)


@pytest.mark.long
def test_a_new_best_step_of_a_watched_run_is_served(
    finished: Path, tmp_path: Path
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished / "20", run / "20")
    flags = ["--checkpoint", str(run), "--watch", str(run), "--watch_every", "0.1"]
    with process(flags, tmp_path / "log") as (_, url), httpx.Client() as client:
        assert client.get(f"{url}/v1/model").json()["model"]["step"] == 20
        shutil.copytree(finished / "40", run / "_40")
        shutil.rmtree(run / "20")
        (run / "_40").rename(run / "40")
        for _ in range(600):
            step = client.get(f"{url}/v1/model").json()["model"]["step"]
            if step == 40:
                break
            threading.Event().wait(0.1)
        assert step == 40
