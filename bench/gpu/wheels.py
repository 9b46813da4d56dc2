"""Downloads what `python -m bench gpu` needs beside jax, for a machine without network.

    python -m bench.gpu.wheels wheels --python 3.12

It needs pip and a network, no GPU. bench/gpu.md says what to do with the folder.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eqids.cli import parse, run_as_process, say
from eqids.config import UserError, require

WHEELS = (
    "equinox", "jaxtyping", "wadler-lindig", "optax", "absl-py", "tensorstore",
    "safetensors", "tqdm", "typing-extensions",
)  # fmt: skip
"""What the parts import beside jax and numpy, with all that these import."""
SERVE_WHEELS = (
    "starlette", "uvicorn", "anyio", "idna", "sniffio", "click", "h11", "msgspec",
    "prometheus-client",
)  # fmt: skip
"""What the part `serve` needs too, beside pandas, pyarrow, ibis and what prepares data;
without these it is left out."""
PLATFORMS = "manylinux_2_28", "manylinux_2_17", "manylinux2014", "linux"
MOST_BYTES = 60_000_000
"""Largest size of the folder."""


@dataclass(frozen=True)
class WheelsOptions:
    """Download the wheels into a folder."""

    folder: Path = Path("wheels")
    """Folder to download to; it is made if it does not exist."""
    python: str = "3.12"
    """Python's version on the machine with the GPU."""
    machine: str = "x86_64"
    """That machine's processor, as `uname -m` prints it."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"3\.\d+", self.python) is not None,
            f"--python is {self.python!r}, wanted a version such as 3.12",
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Downloads them, and prints the command that installs them."""
    options = parse(WheelsOptions, argv, "bench.gpu.wheels", __doc__ or "")
    size = download(options)
    say(f"{size / 1e6:.1f} MB in {options.folder}; on the machine with the GPU:")
    say(f"    {install_command(options.folder)}")


def download(options: WheelsOptions) -> int:
    """Downloads the wheels, and returns the bytes of the folder.

    Raises:
        UserError: pip found no wheel for that Python, or the folder is too large.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", *pip_arguments(options)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        raise UserError(f"pip download failed: {' '.join(lines[-1:]) or done.stderr}")
    size = sum(path.stat().st_size for path in options.folder.glob("*.whl"))
    require(
        size <= MOST_BYTES,
        f"{options.folder} has {size / 1e6:.0f} MB, wanted at most "
        f"{MOST_BYTES / 1e6:.0f}; wanted an empty folder",
    )
    return size


def pip_arguments(options: WheelsOptions) -> list[str]:
    """Returns pip's arguments: wheels of that Python and system only, no others."""
    short = options.python.replace(".", "")
    words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    words += ["--dest", str(options.folder), "--python-version", short]
    words += ["--implementation", "cp", "--abi", f"cp{short}", "--abi", "abi3"]
    words += ["--abi", "none"]
    for platform in PLATFORMS:
        words += ["--platform", f"{platform}_{options.machine}"]
    return [*words, *WHEELS, *SERVE_WHEELS]


def install_command(folder: Path) -> str:
    """Returns the command that installs them; what is installed already stays."""
    return f"pip install --no-index --find-links {folder} {' '.join(WHEELS)}"


if __name__ == "__main__":
    run_as_process(main)
