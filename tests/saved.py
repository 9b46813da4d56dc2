"""Trees to save, and how to compare them to the bit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqids.checkpoints import chunks, save, store


def bits(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Returns dtype, shape and bytes of an array, which tell NaN and -0 apart too."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (
            str(leaf.dtype),
            leaf.shape,
            np.asarray(jax.random.key_data(leaf)).tobytes(),
        )
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_same(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert type(a) is type(b)
        assert bits(a) == bits(b)


def small_tree(seed: int = 0) -> dict[str, Any]:
    """Returns arrays of every awkward kind; `tiny` makes several chunks and parts."""
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "wide": jnp.asarray(rng.standard_normal((40, 20)), jnp.float32),
            "half": jnp.asarray(rng.standard_normal((7, 9)), jnp.bfloat16),
            "zero": jnp.zeros(1500),
        },
        "state": [jnp.asarray(seed, jnp.int32), jnp.zeros((3, 0)), None],
        "valid": jnp.asarray(rng.random(11) < 0.5),
        "key": jax.random.split(jax.random.key(seed), 2),
    }


def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes chunks and parts of a few KiB, some outside of OCDBT's nodes."""
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 1024)
    monkeypatch.setattr(store, "_PART_BYTES", 3000)
    monkeypatch.setattr(store, "_ALONE_BYTES", 1000)
    monkeypatch.setattr(store, "_INLINE_BYTES", 700)


def run_of(folder: Path, scores: dict[int, float | None]) -> Path:
    for step, score in scores.items():
        save(folder, step, {"w": jnp.full(3, step)}, {"score": score})
    return folder
