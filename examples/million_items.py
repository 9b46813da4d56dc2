"""A catalog of a million items: clusters, a two-level softmax, sparse updates.

    python examples/million_items.py [OUT] [ITEMS] [STEPS]

A step computes the clusters and the items of those clusters that the batch uses, and
never a million logits. The data is random, so there is nothing to learn.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

import eqids

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out") / "million_items"
num_items = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
num_steps = int(sys.argv[3]) if len(sys.argv) > 3 else 20
num_users, length = max(100, num_items // 20), 25

rng = np.random.default_rng(0)
# Every item is used at least once, and some are used far more often than others.
popular = np.minimum(rng.zipf(1.3, num_users * length - num_items) - 1, num_items - 1)
items = rng.permutation(np.concatenate([np.arange(num_items), popular]))
events = pa.table(
    {
        "user_id": np.repeat(np.arange(num_users), length),
        "item_id": items,
        "timestamp": np.tile(np.arange(length) * 60, num_users) + 1_700_000_000,
    }
)
dataset = eqids.prepare(
    events,
    out / "data",
    cluster_vectors="interactions",
    vector_width=16,
    overwrite=True,
    report=print,
)
info = dataset.info
print(
    f"{info.num_items:,} items, {info.num_clusters:,} clusters of {info.cluster_size}"
)
run = eqids.train(
    dataset,
    out / "run",
    llama_size="nano",
    item_width=16,
    batch_size=16,
    seq_len=32,
    num_steps=num_steps,
    eval_every=num_steps,
    eval_users=64,
    test_users=64,
    report=print,
)
found = eqids.load(run.checkpoint_dir).recommend([[1, 2, 3]], k=5)
print(found)
