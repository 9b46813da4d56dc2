"""A server in a process of its own, and a model with random weights for it."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from bench.load_generator import HttpTarget
from convert import save_llama
from eqids.config import LLAMA_PRESETS, LlamaSize, UserError
from eqids.model import Llama

_READY = re.compile(r"ready at http://([^:/]+):(\d+)")


@dataclass(frozen=True)
class ServerProcess:
    """A running server.

    Attributes:
        target: where it answers.
        pid: its process.
    """

    target: HttpTarget
    pid: int

    def resident_bytes(self) -> int | None:
        """Returns the memory that the process holds, on Linux."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"^VmRSS:\s*(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else None


@contextmanager
def server(flags: Sequence[str]) -> Iterator[ServerProcess]:
    """Runs `python -m eqids.serve` with these flags until the block ends.

    Raises:
        UserError: the server ended before it was ready.
    """
    command = [sys.executable, "-m", "eqids.serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := _READY.search(line):
                break
        else:
            raise UserError(f"the server ended with exit code {process.wait()}")
        # What it prints later must not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield ServerProcess(HttpTarget(found[1], int(found[2])), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def random_run(folder: Path, size: LlamaSize, data: Path, seed: int) -> Path:
    """Writes a run whose weights are random but for one step; returns its folder.

    Args:
        folder: an empty folder.
        size: of the Llama; `nano` trains from scratch, others are frozen.
        data: the dataset folder.
        seed: of the weights.

    Raises:
        UserError: the run ended with an error, which it has printed.
    """
    flags = ["--llama_size", "nano"]
    if size != "nano":
        llama = Llama(LLAMA_PRESETS[size], key=jax.random.key(seed))
        save_llama(llama, folder / "llama")
        flags = ["--llama_path", str(folder / "llama"), "--train", "heads"]
    flags += f"--num_steps 1 --warmup_steps 0 --test_users 50 --seed {seed}".split()
    flags += ["--eval_users", "50", "--data_dir", str(data)]
    flags += ["--checkpoint_dir", str(folder / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "eqids.train", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(f"a run of random weights failed: {done.stdout[-2000:]}")
    return folder / "run"
