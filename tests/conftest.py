"""What all tests share: keys, tolerances, a tiny dataset, 8 fake devices."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
"""XLA compiles in a fifth of the time, and what it compiles runs for seconds only.
`XLA_FLAGS= python -m pytest` compiles as users do."""

os.environ.setdefault("XLA_FLAGS", QUICK)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# Small programs too: the tests compile thousands of them, most in more than one file.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("EQIDS_CACHE", str(ROOT / ".cache" / "data"))

if sys.dont_write_bytecode:
    # Or else each worker and each process compiles all modules from their sources.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(ROOT / ".cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import jax
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from eqids.cli import progress
from eqids.data import (
    ClustersInfo,
    Counts,
    Dataset,
    DatasetInfo,
    Protocol,
    open_dataset,
)
from eqids.data.write import write_dataset

# A busy machine shall not add lines about waits to what tests compare.
progress.SILENT_SECONDS = 3600.0

# The collector looks at what tests make, and not at all modules again and again.
gc.freeze()
gc.set_threshold(20_000, 20, 20)

settings.register_profile(
    "eqids",
    deadline=None,
    max_examples=50,  # of the default, 100, half: each run has new ones
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("eqids")

TOLERANCE: Mapping[str, float] = {
    "float32": 1e-5,  # one sum or product of order 1
    "logits": 1e-4,  # relative to the largest logit, against another implementation
    "mesh": 1e-5,  # the same losses on other devices
    "gradient": 2e-5,  # sums over targets in another order
    "large": 5e-4,  # logits of 1e4, which float32 holds to 1e-3
    "bfloat16": 1e-2,  # products of bfloat16, summed in float32
}


def assert_close(ours: Any, theirs: Any, tolerance: str) -> None:
    """Holds two trees to a row of the table, relative to 1 or the largest value."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(1.0, float(np.max(np.abs(b), initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[tolerance] * scale)


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function that returns a new key at every call, the same in every run."""
    keys = iter(jax.random.split(jax.random.key(5678), 1000))
    return lambda: next(keys)


def fake_devices(num: int) -> str:
    """The XLA_FLAGS of a process with so many fake CPU devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num}"


def run_python(code: str, *, devices: int = 8, **env: str) -> str:
    """Runs code in a process with so many fake CPU devices; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_FLAGS": fake_devices(devices), **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def make_dataset(
    path: Path,
    *,
    num_users: int = 40,
    num_clusters: int = 5,
    cluster_size: int = 6,
    num_items: int = 27,
    max_length: int = 30,
    seed: int = 0,
    item_of: Callable[[int], str | int] = lambda i: f"item {i}",
    title_of: Callable[[int], str] = lambda i: f"Film {i}",
) -> Dataset:
    """Writes a dataset of random histories with ties in time, split leave-one-out."""
    rng = np.random.default_rng(seed)
    slot = np.sort(rng.permutation(num_clusters * cluster_size)[:num_items]).astype(
        np.int32
    )
    length = rng.integers(1, max_length, num_users)
    length[0] = max_length
    offsets = np.concatenate([[0], np.cumsum(length)])
    item = rng.integers(0, num_items, offsets[-1])
    steps = [rng.integers(0, 3, n) * 50 for n in length]
    times = np.concatenate([1_000_000 + np.cumsum(s) for s in steps])
    split = length >= 3
    train = np.where(split, length - 2, length)
    event = np.arange(offsets[-1]) - np.repeat(offsets[:-1], length)
    training = event < np.repeat(train, length)
    users = {
        "user": [f"user {i}" for i in range(num_users)],
        "train_length": train.astype(np.int32),
        "valid_at": np.where(split, length - 2, -1).astype(np.int32),
        "test_at": np.where(split, length - 1, -1).astype(np.int32),
    }
    items = {
        "item": [item_of(i) for i in range(num_items)],
        "slot": slot,
        "title": [title_of(i) for i in range(num_items)],
        "text": [f"Film {i}" for i in range(num_items)],
        "count": np.bincount(item[training], minlength=num_items),
    }
    evaluated = int(split.sum())
    info = DatasetInfo(
        source="test",
        num_users=num_users,
        num_items=num_items,
        num_events=len(item),
        num_clusters=num_clusters,
        cluster_size=cluster_size,
        protocol=Protocol("leave_one_out", "file_order", "kept"),
        counts=Counts(len(item), users_valid=evaluated, users_test=evaluated),
        clusters=ClustersInfo("random", 4, 0, 0, cluster_size, 0.0),
    )
    histories = {
        "slots": slot[item],
        "times": times.astype(np.int64),
        "offsets": offsets.astype(np.int64),
    }
    vectors = rng.standard_normal((num_items, 4)).astype(np.float32)
    return write_dataset(
        path, info, histories, pa.table(users), pa.table(items), vectors
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """One small dataset for all tests that only read it."""
    return make_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def copy(dataset: Dataset, tmp_path: Path) -> Dataset:
    """A dataset that a test may change."""
    shutil.copytree(dataset.path, tmp_path / "d")
    return open_dataset(tmp_path / "d")


@pytest.fixture(scope="session")
def finished(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 40 steps, which trains all and logs each step."""
    from runs import small

    from eqids import train

    folder = tmp_path_factory.mktemp("runs") / "whole"
    train.main(small(dataset.path, folder, "--log_every", "1"))
    return folder


@pytest.fixture(scope="session")
def text_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a random Llama that has the tokens of the titles of `loyal`."""
    from text_runs import write_llama

    return write_llama(tmp_path_factory.mktemp("llama") / "hf")


@pytest.fixture(scope="session")
def loyal(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who use items of one kind, which titles tell; for tests that only read."""
    from text_runs import with_unused_items

    return with_unused_items(tmp_path_factory.mktemp("loyal"))


FRUGAL_SPARK = {
    "spark.master": "local[2]",
    "spark.driver.memory": "1g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.log.level": "OFF",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "3",
    # Small data: interpreting a plan is faster than compiling it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A session of Spark, which takes long to start: all tests share it."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for name, value in FRUGAL_SPARK.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()
