"""Train: `python -m eqids.train`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eqids.config import TrainConfig, require
from eqids.data import Dataset, open_dataset
from eqids.data.batches import BatchConfig, TrainingBatches
run = lambda f: f()
from eqids.fit.checkpoint import best_step, prune, restore, save, steps
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.log import Log
from eqids.fit.optimizer import make_optimizer
from eqids.fit.recipe import resolved
from eqids.fit.runs import initial_model, model_config, resume, run_meta
from eqids.fit.step import make_step, start
from eqids.model import Batch, Llama
from sharding import make_mesh, named_layout, place


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, evaluates and leaves checkpoints."""
    asked = tyro.cli(TrainConfig, args=argv, use_underscores=True)
    config = resolved(asked)
    dataset = open_dataset(config.data_dir or Path("data/ml-100k"))
    llama = None
    layout = named_layout(config.layout, jax.device_count())
    mesh = make_mesh(layout)
    put = lambda t: place(t, layout, mesh)
    folder = config.checkpoint_dir
    dtype = jnp.dtype(config.dtype)
    sizes = model_config(config, dataset, llama)
    meta = lambda v: run_meta(config, sizes, dataset, None, v)
    with jax.set_mesh(mesh):
        k1, k2 = jax.random.split(jax.random.key(config.seed))
        model = put(initial_model(sizes, dataset, llama, k1))
        optimizer = make_optimizer(num_steps=config.num_steps, learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, weight_decay=config.weight_decay, grad_clip=config.grad_clip)
        state, frozen = start(model, config.train, optimizer)
        del model
        found = resume(folder, state, meta(None))
        if found: state, _ = found
        step = make_step(optimizer, dtype=dtype, remat=config.remat)
        rank = make_ranker(config.seq_len, dtype, put)
        batches = TrainingBatches(dataset, BatchConfig(config.seq_len, config.batch_size, config.seed, config.gap_dropout, config.shuffle_ties))
        done = int(state.step)
        losses=[]; best=0
        with Log(folder, done, config.stop_at) as log:
            for arrays in batches.iterate(done, config.stop_at):
                done += 1
                state, metrics = step(state, frozen, put(Batch(**arrays)), k2)
                losses.append(metrics.loss)
                log.advance()
                if done % config.log_every == 0:
                    l = np.asarray(jax.device_get(losses)); losses = []
                    log.write(done, {"loss": float(l.mean()), "grad_norm": float(metrics.grad_norm)})
                v = None
                if done % config.eval_every == 0 or done == config.stop_at:
                    v = evaluate(eqx.combine(state.params, frozen), dataset, "valid", rank)
                    log.write(done, {"valid_ndcg": v["filtered"]["ndcg@10"], "valid_recall": v["filtered"]["recall@10"], "nll": v["nll"]})
                    if v["filtered"]["ndcg@10"] > best:
                        best=v["filtered"]["ndcg@10"]
                        bestp = jax.tree.map(np.asarray, state.params)
        t = evaluate(eqx.combine(put(bestp), frozen), dataset, "test", rank)
        print("RESULT valid", best, "test ndcg", t["filtered"]["ndcg@10"], "recall", t["filtered"]["recall@10"], "nll", t["nll"], "unf", t["unfiltered"]["ndcg@10"], "n50", t["filtered"]["ndcg@50"])

if __name__ == "__main__":
    run(main)
