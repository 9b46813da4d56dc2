"""How the process of a command ends."""

import subprocess
import sys

import pytest

COMMAND = """
import atexit
import sys
from eqids.cli import run_as_process
from eqids.config import UserError

class TakenApart:
    def __del__(self):
        print("taken apart")

def refuse():
    raise UserError("no such file")

def fail():
    raise RuntimeError("a mistake of ours")

sys.kept = TakenApart()
atexit.register(print, "first")
main = {
    "returns": lambda: print("done"),
    "exits": lambda: sys.exit(3),
    "says": lambda: sys.exit("a sentence"),
    "refuses": refuse,
    "fails": fail,
}[sys.argv[1]]

def registers():
    atexit.register(print, "last")
    main()

run_as_process(registers)
"""


@pytest.mark.parametrize(
    ("how", "code", "out", "error"),
    [
        ("returns", 0, "done\nlast\n", ""),
        ("exits", 3, "last\n", ""),
        ("says", 1, "last\n", "a sentence\n"),
        ("refuses", 2, "last\n", "error: no such file\n"),
        ("fails", 1, "last\n", "RuntimeError: a mistake of ours\n"),
    ],
)
def test_a_process_ends_before_the_interpreter_is_taken_apart(
    how: str, code: int, out: str, error: str
) -> None:
    job = subprocess.run(
        [sys.executable, "-c", COMMAND, how], capture_output=True, text=True
    )
    assert job.returncode == code
    assert job.stdout == out
    assert job.stderr.endswith(error) and bool(job.stderr) == bool(error)
