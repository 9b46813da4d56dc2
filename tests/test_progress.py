"""What is said while a command waits: nothing for short waits, few lines for long."""

import sys
import time

import pytest
from pytest import CaptureFixture, MonkeyPatch

from eqids.cli import (
    Counted,
    first_call_announced,
    loading,
    messages_to,
    progress,
    waiting,
)
from eqids.cli.progress import shown_seconds


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: MonkeyPatch) -> None:
    """The waits of which nothing is said are those of commands, not of tests."""
    monkeypatch.setattr(progress, "SILENT_SECONDS", 2.0)


def test_short_waits_say_nothing_and_long_ones_a_line(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    with waiting("compiling"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    with waiting("compiling"):
        time.sleep(0.2)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "compiling …\n")


def test_a_log_gets_no_line_before_processes_meet(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    """Each of a run's processes would write it."""
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    with loading():
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with loading():
        time.sleep(0.2)
    assert "loading libraries … 00:00" in capsys.readouterr().err


def test_only_the_first_call_is_announced(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)

    def slow(number: int) -> int:
        time.sleep(0.1)
        return number + 1

    step = first_call_announced(slow, "compiling the step")
    assert step(step(1)) == 3
    assert capsys.readouterr().err == "compiling the step …\n"


def test_lines_of_a_long_count_become_rarer(capsys: CaptureFixture[str]) -> None:
    clock = [0.0]
    with Counted("evaluating", 1000, "users", now=lambda: clock[0]) as counted:
        for _ in range(1000):
            clock[0] += 0.5
            counted.update()
    lines = capsys.readouterr().err.splitlines()
    # After 2, 6, 18, 54, 162 and 486 seconds of the 500.
    assert [line.split()[1] for line in lines] == ["4", "12", "36", "108", "324", "972"]
    assert lines[0] == "evaluating: 4 of 1,000 users, about 8 min left"


def test_a_short_count_says_nothing(capsys: CaptureFixture[str]) -> None:
    clock = [0.0]
    with Counted("evaluating", 3, "users", now=lambda: clock[0]) as counted:
        for _ in range(3):
            clock[0] += 0.6
            counted.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_no_lines(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    with Counted("evaluating", 10, "users") as counted:
        time.sleep(0.2)
        counted.update(4)
        counted.update(4)
    shown = capsys.readouterr().err
    assert "evaluating" in shown and "4/10" in shown and "left" not in shown
    with waiting("compiling"):
        time.sleep(0.2)
    assert "compiling … 00:00" in capsys.readouterr().err


def test_python_code_gets_messages_and_bars_only_if_it_wants_them(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.01)
    heard: list[str] = []
    with messages_to(heard.append), waiting("compiling"):
        time.sleep(0.2)
    assert heard == ["compiling …"]
    assert capsys.readouterr().err == ""
    with messages_to(heard.append, bars=True), Counted("reading", 2, "rows") as counted:
        time.sleep(0.1)
        counted.update()
    assert "reading" in capsys.readouterr().err and len(heard) == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "1 s"), (89.0, "89 s"), (100.0, "2 min"), (7200.0, "2.0 h")],
)
def test_durations_are_short_texts(seconds: float, shown: str) -> None:
    assert shown_seconds(seconds) == shown
