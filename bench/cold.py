"""Evaluates recommendations of items without any events: `python -m bench.cold`.

    python -m bench.cold --text_llama_path llamas/smollm2 --folder runs/cold \\
        --data_dir data/beauty --num_users 3000 --starts random copy features
    python -m bench.cold --llama_path llamas/smollm2 --folder runs/cold \\
        --train="--num_steps 300 --batch_size 8 --seq_len 64"

Some items of a dataset are withheld: they stay in its catalog, and their events are
removed from its histories. A run is trained for each way to place them, with
everything else equal. Then each event of a withheld item is ranked in the whole
catalog, and so is each test target of the run, which is a used item.
"""

import shlex
import types
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import convert
from bench.cold_options import ColdOptions, ColdStart
from bench.withheld_items import TEXT_WIDTH, Withheld, withheld_events, withhold
from eqids.cli import parse, run_as_process, say
from eqids.config import TrainConfig
from eqids.data import open_dataset
from eqids.fit.evaluation import evaluate, make_ranker
from eqids.fit.ranking import metrics
from eqids.inference.open import open_checkpoint
from eqids.io.atomic import write_json
from eqids.model import EqIDs
from eqids.runs.text_vectors import text_start, texts_to_read
from eqids.train import main as train
from sharding import placement

_FLAGS: Mapping[ColdStart, tuple[str, ...]] = types.MappingProxyType(
    {
        "random": ("--init_items", "random", "--no_text_features"),
        "copy": ("--init_items", "random", "--no_text_features"),
        "text": ("--init_items", "text"),
        "features": (),
    }
)


def measure(options: ColdOptions) -> dict[str, dict[str, float]]:
    """Trains and evaluates a run for each start of the item vectors."""
    put = placement("none")
    path = options.llama_path or options.text_llama_path
    assert path is not None
    llama = convert.load_llama(path, "float32", put, head=False)
    whole = open_dataset(options.data_dir)
    flags = TrainConfig(llama_path=path, init_items="text")
    tokens = texts_to_read(flags, whole, llama.config, say)
    assert tokens is not None
    text = text_start(tokens, whole, llama, TEXT_WIDTH, jnp.float32, put)
    del llama
    withheld = withhold(whole, text.reshape(whole.num_slots, -1), options)
    return {start: train_and_rank(withheld, start, options) for start in options.starts}


def train_and_rank(
    withheld: Withheld, start: ColdStart, options: ColdOptions
) -> dict[str, float]:
    """Trains a run, and ranks the withheld and the used items with its best step."""
    folder = options.folder / ("random" if start == "copy" else start)
    if start != "copy":
        train(
            [*_llama_flags(start, options), *_FLAGS[start],
             "--data_dir", str(withheld.rest.path), "--checkpoint_dir", str(folder),
             *shlex.split(options.train)]
        )  # fmt: skip
    put = placement("none")
    opened = open_checkpoint(folder, None, None, put)
    model = opened.model
    if start == "copy":
        model = with_copies(model, withheld.nearest)
    seq_len = opened.config.recipe.seq_len
    ranker = make_ranker(seq_len, opened.dtype, put, opened.tokens, opened.prefix)
    parts = [ranker(model, chunk) for chunk in withheld_events(withheld)]
    ranked = np.concatenate(parts).astype(np.float64)
    used = evaluate(model, opened.dataset, "test", ranker)["filtered"]
    return {
        "events": float(len(ranked)),
        **metrics(ranked[:, 0]),
        **{f"used {name}": value for name, value in used.items()},
    }


def _llama_flags(start: ColdStart, options: ColdOptions) -> list[str]:
    if options.llama_path is not None:
        return ["--llama_path", str(options.llama_path)]
    if start != "features":
        return []
    return ["--text_llama_path", str(options.text_llama_path)]


def with_copies(model: EqIDs, pairs: np.ndarray) -> EqIDs:
    """Returns a model in which some items are copies of others.

    Args:
        model: the model.
        pairs: int [item, 2], slots of an item and of the one to copy.
    """
    to, of = pairs.T

    def copied(table: jax.Array) -> jax.Array:
        rows = table.reshape(-1, *table.shape[2:])
        return rows.at[to].set(rows[of]).reshape(table.shape)

    def tables(model: EqIDs) -> list[jax.Array]:
        found = [model.softmax.table, model.softmax.bias]
        return found if model.input_table is None else [*found, model.input_table]

    return eqx.tree_at(tables, model, [copied(x) for x in tables(model)])


def table_of(results: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the results as a table."""
    names = ("recall@10", "recall@50", "ndcg@50", "used ndcg@10", "used recall@50")
    lines = [f"{'placed by':14}{'events':>10}" + "".join(f"{n:>16}" for n in names)]
    for start, found in results.items():
        cells = "".join(f"{found[name]:16.4f}" for name in names)
        lines.append(f"{start:14}{found['events']:10,.0f}{cells}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures once, and prints and writes the result."""
    options = parse(ColdOptions, argv, "bench.cold", __doc__)
    options.folder.mkdir(parents=True, exist_ok=True)
    results = measure(options)
    print(table_of(results))
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    run_as_process(main)
