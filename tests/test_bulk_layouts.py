"""Recommendations of a file by several devices are those of one."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_python
from pytest import CaptureFixture
from runs import refused
from test_bulk import bulk_flags, events

from eqids import recommend
from eqids.data import Dataset

ON_DEVICES = """
import json
import os
from eqids import recommend
from eqids.inference.engine import shapes

flags, folder = json.loads(os.environ["JOB"])
for layout in ("data", "fsdp"):
    for masked in (0, 2**16):
        # Filters are lists of slots, or masks.
        shapes._MASKED = masked
        at = f"{folder}/{layout}{masked}"
        recommend.main([*flags, "--layout", layout, "--output", at])
"""


@pytest.mark.long
def test_devices_share_a_batch(
    dataset: Dataset, finished: Path, tmp_path: Path
) -> None:
    source, alone = tmp_path / "in.parquet", tmp_path / "alone"
    events(dataset, 40, 0).to_parquet(source)
    flags = bulk_flags(finished, source, alone)
    recommend.main(flags)
    at = flags.index("--output")
    del flags[at : at + 2]
    run_python(ON_DEVICES, JOB=json.dumps([flags, str(tmp_path)]))
    wanted = pd.read_parquet(alone)
    for name in ("data0", "data65536", "fsdp0", "fsdp65536"):
        found = pd.read_parquet(tmp_path / name)
        pd.testing.assert_frame_equal(found, wanted, atol=1e-6)


def test_a_layout_is_for_recommendations(capsys: CaptureFixture[str]) -> None:
    flags = ["--checkpoint", "run", "--layout", "data", "--similar", "1"]
    said = refused(recommend.main, flags, capsys)
    assert "--layout data is for recommendations, wanted no --score" in said
