"""Saving beside training: copies, failures that are reported, one run in a folder."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from pytest import MonkeyPatch
from saved import assert_same, small_tree, tiny

from eqids.checkpoints import (
    Retention,
    Saver,
    best_step,
    damaged,
    recover,
    restore,
    restore_sound,
    save,
    saver,
    snapshot,
    steps,
    verify,
)
from eqids.config import UserError
from eqids.fit.signals import StopSignals


class Gate:
    """Holds background saves until it is opened."""

    def __init__(self, monkeypatch: MonkeyPatch):
        write, self._open = saver.write_step, threading.Event()

        def late(*args: Any) -> None:
            assert self._open.wait(60)
            write(*args)

        monkeypatch.setattr(saver, "write_step", late)

    def open(self) -> None:
        self._open.set()


def test_a_save_holds_what_was_there_when_it_was_called(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    tiny(monkeypatch)
    gate = Gate(monkeypatch)
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    host = np.arange(300.0)
    want = {**small_tree(), "updated": jnp.arange(900.0), "host": host.copy()}
    tree = {**want, "updated": jnp.arange(900.0), "host": host}
    with Saver(tmp_path) as saving:
        saving.save(1, tree, {})
        tree["updated"] = double(tree["updated"]).block_until_ready()
        host[:] = -1
        assert steps(tmp_path) == []
        gate.open()
        saving.wait()
        assert steps(tmp_path) == [1]
        # The memory of the copy is used again, and the first save keeps its own.
        saving.save(2, {**want, "updated": tree["updated"]}, {})
    assert verify(tmp_path / "1") == verify(tmp_path / "2") == []
    assert_same(restore(tmp_path / "1", want), want)
    assert_same(
        restore(tmp_path / "2", want), {**want, "updated": jnp.arange(900.0) * 2}
    )


@pytest.mark.parametrize("keep", [True, False])
def test_a_save_that_keeps_arrays_copies_none(
    keep: bool, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    tiny(monkeypatch)
    gate, copied = Gate(monkeypatch), list[int]()
    copy = snapshot.Staging.copy

    def spy(staging: snapshot.Staging, shards: Any) -> Any:
        copied.append(len(shards))
        return copy(staging, shards)

    monkeypatch.setattr(snapshot.Staging, "copy", spy)
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    values = jnp.arange(900.0)
    where = values.unsafe_buffer_pointer()
    with Saver(tmp_path) as saving:
        saving.save(1, {"w": values}, {}, keep=keep)
        # A step that donates all the same must not write into what is being saved.
        doubled = double(values).block_until_ready()
        assert (doubled.unsafe_buffer_pointer() == where) != keep
        gate.open()
    assert copied == ([] if keep else [1])
    assert_same(restore(tmp_path / "1", {"w": doubled}), {"w": jnp.arange(900.0)})


def test_failures_are_reported_and_the_next_save_is_tried(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    write, reported = saver.write_step, list[str]()

    def fails(directory: Path, step: int, *args: Any) -> None:
        if step % 2 == 1:
            raise UserError(f"step {step} could not be saved: no space")
        write(directory, step, *args)

    monkeypatch.setattr(saver, "write_step", fails)
    with Saver(tmp_path, report=reported.append) as saving:
        saving.save(1, {"w": jnp.ones(2)}, {})
        saving.save(2, {"w": jnp.ones(2)}, {})
        assert reported == ["step 1 could not be saved: no space; training continues"]
        saving.save(3, {"w": jnp.ones(2)}, {})
        saving.save(4, {"w": jnp.ones(2)}, {})
    assert steps(tmp_path) == [2, 4]
    assert len(reported) == 2
    with pytest.raises(UserError, match="step 5 .*: no space"), Saver(tmp_path) as last:
        last.save(5, {"w": jnp.ones(2)}, {})
    with (
        pytest.raises(UserError, match="step 7 .*: no space"),
        Saver(tmp_path, report=reported.append) as wait,
    ):
        wait.save(7, {"w": jnp.ones(2)}, {})
        wait.wait()
    assert len(reported) == 2, "an error that was raised is reported again"
    # An error of the run itself is not hidden by one of its last save.
    with pytest.raises(KeyError), Saver(tmp_path, report=reported.append) as ends:
        ends.save(9, {"w": jnp.ones(2)}, {})
        raise KeyError
    assert reported[-1].startswith("step 9 could not be saved")


def test_steps_are_deleted_after_a_newer_one_is_there(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    pruned, prune = list[list[int]](), saver.prune

    def spy(directory: Path, retention: Retention) -> None:
        pruned.append(steps(directory))
        prune(directory, retention)

    monkeypatch.setattr(saver, "prune", spy)
    with Saver(tmp_path, Retention(keep=1)) as saving:
        for step, score in ((1, 0.9), (2, 0.1), (3, 0.2)):
            saving.save(step, {"w": jnp.ones(2)}, {"score": score})
    assert pruned == [[1], [1, 2], [1, 2, 3]]
    assert steps(tmp_path) == [1, 3]


HOLDER = """
import sys, time
from pathlib import Path
from eqids.checkpoints import Saver
saver = Saver(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} of "):
            Saver(tmp_path)
        with pytest.raises(UserError, match=f"in use by process {holder.pid} of "):
            save(tmp_path, 1, {}, {})
    finally:
        holder.kill()
        holder.communicate()
    save(tmp_path, 1, {}, {})
    assert steps(tmp_path) == [1]


def test_damaged_steps_are_set_aside_and_never_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, {"w": jnp.full(3, step)}, {})
    (tmp_path / "2" / "manifest.json").write_text("{}")
    (file,) = (p for p in (tmp_path / "3" / "arrays").rglob("*") if p.name[0] == "m")
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "2.damaged").mkdir()
    reported = list[str]()
    recover(tmp_path, reported.append)
    assert steps(tmp_path) == [1]
    assert {path.name for path in damaged(tmp_path)} == {
        "2.damaged", "2.damaged-2", "3.damaged",
    }  # fmt: skip
    assert [text.split(":")[0] for text in reported] == [
        f"step {step} of {tmp_path}" for step in (2, 3)
    ]
    (tmp_path / "1" / "manifest.json").unlink()
    with pytest.raises(UserError, match="has damaged checkpoints only .1.damaged, 2.d"):
        recover(tmp_path, reported.append)
    with pytest.raises(UserError, match="has damaged checkpoints only"):
        recover(tmp_path, reported.append)


def test_the_best_step_that_is_sound_is_taken(tmp_path: Path) -> None:
    for step, score in ((1, 0.1), (2, 0.3), (3, 0.2)):
        save(tmp_path, step, {"params": {"w": jnp.full(9, step)}}, {"score": score})
    for file in (tmp_path / "2" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    reported, like = list[str](), {"w": jnp.zeros(9, int)}
    step, params = restore_sound(
        tmp_path, best_step, like, like, reported.append, "params"
    )
    assert step == 3 and params["w"][0] == 3
    assert steps(tmp_path) == [1, 3]
    assert len(reported) == 1 and reported[0].startswith(
        f"step 2 of {tmp_path}: array 'params/w'"
    )


def test_the_first_signal_asks_to_stop_and_the_second_ends() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        signals.check(1)
        assert signals.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        signals.check(2)
        assert signals.signal == signal.SIGTERM
        for number in (signal.SIGTERM, signal.SIGINT):
            assert signal.getsignal(number) == signal.SIG_DFL
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    # One that comes after the last step means what it means elsewhere.
    # (A job in the background ignores Ctrl-C from its start, and so do its tests.)
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopSignals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before_it)


def test_minutes_pass(monkeypatch: MonkeyPatch) -> None:
    time = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: time[0])
    signals = StopSignals(save_minutes=2.0)
    for now, due in ((119.0, False), (120.0, True)):
        time[0] = now
        signals.check(1)
        assert signals.save is due
    signals.saved()
    assert not signals.over  # for no bound is given
    time[0] = 239.0
    signals.check(2)
    assert not signals.save
