"""The ranks of baselines, kept on the user's machine so that each is computed once."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from eqids.config import UserError
from eqids.data import Dataset
from eqids.fit.evaluation import Split, targets_of
from eqids.io.atomic import new_file
from eqids.io.cache_folder import cache_folder

DEFINITION = 1
"""Version of the baselines: increase it whenever a change may change their ranks."""

_DIGEST_BYTES = 32


def ranks_key(name: str, dataset: Dataset, split: Split) -> str:
    """Returns a hash of all that the ranks of a baseline depend on.

    These are its name and definition, the dataset, and the targets that are ranked.

    Args:
        name: the baseline's.
        dataset: the dataset, perhaps with the targets of some users only.
        split: the split that has the targets.
    """
    about = [DEFINITION, name, dataset.info.dataset_hash, split]
    digest = hashlib.sha256(json.dumps(about).encode())
    for array in targets_of(dataset, split):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def read_ranks(key: str) -> Float32[np.ndarray, "user 2"] | None:
    """Returns the ranks of a key, or None if the cache lacks or cannot read them.

    Args:
        key: from `ranks_key`.
    """
    try:
        content = _file(key).read_bytes()
    except (OSError, UserError):
        return None
    digest, ranks = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if digest != _digest(key, ranks):
        return None  # damaged
    return np.frombuffer(ranks, "<f4").astype(np.float32).reshape(-1, 2)


def write_ranks(key: str, ranks: Float32[np.ndarray, "user 2"]) -> None:
    """Keeps the ranks of a key, if the cache can be written to.

    Args:
        key: from `ranks_key`.
        ranks: what `read_ranks` is to return.
    """
    content = ranks.astype("<f4").tobytes()
    # Without a cache, ranks are only computed again.
    with suppress(OSError, UserError):
        file = _file(key)
        file.parent.mkdir(exist_ok=True)
        with new_file(file) as partial:
            partial.write_bytes(_digest(key, content) + content)


def _file(key: str) -> Path:
    return cache_folder() / "baselines" / f"{key}.ranks"


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()
