"""The examples run, and show what they promise; the notebook has no outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from smollm2 import smollm2_gguf

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "python_use.ipynb"


def run_example(path: Path, *words: str, folder: Path) -> str:
    """Runs a script in a folder, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(path), *words],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES),
             "PYTHONWARNINGS": "error::UserWarning"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def scores(printed: str) -> dict[str, float]:
    """NDCG@10 with seen items filtered, by the names in the printed table."""
    filtered = printed[printed.index("seen filtered") : printed.index("seen kept")]
    rows = re.findall(r"^  (\w+) +[\d.]+ +([\d.]+)", filtered, re.M)
    return {name: float(ndcg) for name, ndcg in rows}


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    tested = Path(__file__).read_text()
    for path in sorted(EXAMPLES.iterdir()):
        if path.suffix in (".py", ".ipynb"):
            assert path.name in listed
            assert path.name in tested or path.name == "listening_data.py"


def test_the_notebook_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert all(not cell["outputs"] for cell in code)
    assert all(cell["execution_count"] is None for cell in code)


@pytest.mark.long
def test_own_data_from_csv_to_recommendations(tmp_path: Path) -> None:
    printed = run_example(EXAMPLES / "own_data.py", folder=tmp_path)
    found = scores(printed)
    assert found["EqIDs"] > 3 * found["popularity"]
    # The album goes on.
    assert re.search(r"^ +1 +[\d.]+%  103  \w+ album 10, track 3$", printed, re.M)


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n".join([*code, "print(found.to_csv())"]))
    printed = run_example(script, folder=tmp_path)
    assert '0,0,1,103,"electro album 10, track 3"' in printed
    ours, popular = (
        float(re.search(rf"^{name} ([\d.]+)$", printed, re.M)[1])  # type: ignore[index]
        for name in ("EqIDs", "popularity")
    )
    assert ours > 3 * popular


@pytest.mark.long
def test_a_frozen_llama_reads_texts(tmp_path: Path) -> None:
    gguf = str(smollm2_gguf())
    printed = run_example(
        EXAMPLES / "frozen_llama.py", gguf, str(tmp_path), "2", folder=tmp_path
    )
    assert "heads: " in printed and "tokens: " in printed
    manifest = tmp_path / "frozen_llama" / "run" / "2"
    stored = sum(f.stat().st_size for f in manifest.rglob("*") if f.is_file())
    assert stored < 100e6  # without the 134.5 million weights of the Llama


@pytest.mark.long
def test_a_large_catalog_has_clusters(tmp_path: Path) -> None:
    """The example's command, with a tenth of its items."""
    printed = run_example(
        EXAMPLES / "million_items.py", str(tmp_path), "100000", "3", folder=tmp_path
    )
    clusters = re.search(r"100,000 items, ([\d,]+) clusters", printed)
    assert clusters is not None and int(clusters[1].replace(",", "")) > 100
    assert "lazy_adam updates item tables" in printed


@pytest.mark.long
def test_feedback_becomes_training_data(tmp_path: Path) -> None:
    printed = run_example(EXAMPLES / "feedback_loop.py", folder=tmp_path)
    assert "100 users became 101" in printed
    assert "after one track: [" in printed and "after five tracks: [" in printed
