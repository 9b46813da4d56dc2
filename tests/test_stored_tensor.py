"""Tensors of safetensors files: rows are read to their place, cast and checked."""

import itertools
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert import stored_tensor
from convert.hf_files import safetensors_slices
from eqids.config import UserError
from eqids.io import reading

FLOATS = [np.dtype(name) for name in ("float64", "float32", "float16", "bfloat16")]


def _values(dtype: np.dtype) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (9 * rng.standard_normal((40, 3, 7))).astype(dtype)


@pytest.mark.parametrize(
    ("stored", "wanted"), list(itertools.product(FLOATS, FLOATS)), ids=str
)
def test_rows_are_read_and_cast_as_numpy_casts_them(
    stored: np.dtype, wanted: np.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    monkeypatch.setattr(stored_tensor, "_JOB_BYTES", 3 * 21 * stored.itemsize)
    values, path = _values(stored), tmp_path / "model.safetensors"
    # Names are stored in order: the tensor begins at an odd place.
    save_file({"a": np.zeros(5, np.int8), "x": values}, path)
    with safetensors_slices([path]) as found:
        one, rows = found["x"], slice(3, 38)
        out = np.zeros((35, 3, 7), wanted)
        jobs = list(one.jobs(rows))
        assert [job.stop - job.start for job in jobs] == [3] * 11 + [2]
        for job in jobs:
            target = out[job.start - 3 : job.stop - 3]
            assert one.num_values(job) == target.size
            assert one.fill(job, target)
    assert out.tobytes() == values[rows].astype(wanted).tobytes()


@pytest.mark.parametrize("place", [0, 31, 32, 419, 839])
@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("wanted", ["float32", "float16"])
def test_values_that_are_not_finite_after_the_cast_are_found(
    wanted: str, odd: float, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    values = _values(np.dtype(ml_dtypes.bfloat16))
    values.reshape(-1)[place] = odd
    path = tmp_path / "model.safetensors"
    save_file({"x": values}, path)
    with safetensors_slices([path]) as found:
        fine = found["x"].fill(slice(0, 40), np.empty((40, 3, 7), wanted))
    assert fine is (odd == 1e30 and wanted == "float32")


@pytest.mark.parametrize("wanted", ["bfloat16", "float32"])
def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(
    wanted: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": _values(np.dtype(ml_dtypes.bfloat16))}, path)
    with safetensors_slices([path]) as found:
        os.truncate(path, path.stat().st_size - 1)
        out = np.empty((40, 3, 7), wanted)
        with pytest.raises(UserError, match=r"x cannot be read \(the file is shorter"):
            found["x"].fill(slice(0, 40), out)
