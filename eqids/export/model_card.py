"""The model card of what `eqids-to-hf` writes: README.md as the hub reads it."""

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from convert.hf_eqids import INFO_FILE, TENSORS_FILE
from convert.hub_upload import PLACEHOLDER
from eqids.export.card_facts import CardFacts
from eqids.fit.baseline_ranks import BASELINES

UNKNOWN = "unknown"
"""The hub's identifier of a licence that nobody stated."""
_TAGS = ("recommender-system", "sequential-recommendation", "llama", "jax", "equinox")
_SHOWN = ("recall@10", "ndcg@10", "mrr@10", "recall@50")
_INDEXED = ("recall@10", "ndcg@10", "mrr@10")


def model_card(facts: CardFacts) -> str:
    """Returns a card: metadata of the hub, and what the model is and how to load it."""
    sections = {
        "": _summary(facts),
        "Results": _results(facts),
        "Load": _load(facts),
        "Data": _data(facts),
        "Licence": _licence(facts),
    }
    parts = [f"---\n{_metadata(facts).to_yaml().strip()}\n---\n\n# {facts.name}"]
    for title, lines in sections.items():
        parts += [f"## {title}"] if title else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> ModelCardData:
    indexed = [] if facts.result is None else [*_indexed(facts, facts.result)]
    return ModelCardData(
        license=facts.licence or UNKNOWN,
        library_name="eqids",
        tags=["eqids", *_TAGS],
        datasets=None if facts.public is None else [facts.public],
        base_model=facts.base,
        model_name=facts.name if indexed else None,
        eval_results=indexed or None,
    )


def _indexed(facts: CardFacts, result: Mapping[str, Any]) -> Iterator[EvalResult]:
    for name in _INDEXED:
        yield EvalResult(
            task_type="recommendation",
            task_name="Next-item recommendation",
            dataset_type=facts.public or UNKNOWN,
            dataset_name=facts.data_name,
            dataset_split={"valid": "validation"}.get(result["split"], result["split"]),
            dataset_args={
                "num_users": result["num_users"],
                "candidates": "full catalog",
                "seen_items": "filtered",
                **facts.protocol,
            },
            metric_type=name,
            metric_name=_label(name),
            metric_value=round(result["filtered"][name], 5),
        )


def _label(metric: str) -> str:
    """Returns a metric's usual spelling: Recall@10, NDCG@10."""
    return metric.upper().replace("RECALL", "Recall")


def _summary(facts: CardFacts) -> Iterator[str]:
    sizes, llama = facts.sizes, facts.sizes.llama
    yield (
        "A recommender of EqIDs: a Llama reads a history of items, and a softmax gives "
        "every item of the catalog its exact probability of being next."
    )
    rows = {
        "Llama": f"{llama.num_layers} layers, width {llama.width}, "
        f"vocabulary {llama.vocab:,}; {_training(facts)}",
        "softmax": f"{sizes.num_clusters * sizes.cluster_size:,} places for items in "
        f"{_counted(sizes.num_clusters, 'cluster')}, vectors of {sizes.item_width} "
        "columns",
        "history": f"up to {facts.run.recipe.seq_len} positions",
        "step": f"{facts.manifest.step:,}",
    }
    yield from ("", "| | |", "|---|---|")
    yield from (f"| {name} | {text} |" for name, text in rows.items())


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _training(facts: CardFacts) -> str:
    pretrained = facts.manifest.meta["base"] is not None
    base = "a pretrained Llama" if facts.base is None else facts.base
    if not pretrained:
        if facts.run.strategy == "all":
            return "trained from scratch on items: it cannot write text"
        return "random and frozen: it cannot write text"
    return {
        "heads": f"{base}, frozen",
        "lora": f"{base} with trained low-rank changes, merged",
        "all": f"{base}, all weights trained",
    }[facts.run.strategy]


def _results(facts: CardFacts) -> Iterator[str]:
    result = facts.result
    if result is None:
        yield "The checkpoint was not evaluated."
        return
    yield (
        f"On the {result['split']} split, {result['num_users']:,} users, each target "
        "ranked among all items. Items of the history are filtered:"
    )
    names = " | ".join(map(_label, _SHOWN))
    yield from ("", f"| | {names} |", "|---" * (1 + len(_SHOWN)) + "|")
    rows = {"this model": result}
    rows |= {
        one.label: result[name] for name, one in BASELINES.items() if name in result
    }
    for label, values in rows.items():
        cells = (f"{values['filtered'][name]:.4f}" for name in _SHOWN)
        yield f"| {label} | {' | '.join(cells)} |"
    shown = (f"{_label(one)} {result['unfiltered'][one]:.4f}" for one in _INDEXED)
    yield f"\nWith items of the history kept: {', '.join(shown)}."
    if result["split"] == "valid":
        yield (
            "\nThe run chose this step by its NDCG@10 on this split, so these numbers "
            "are optimistic."
        )
    yield "\nProtocol:\n"
    yield from (f"- {key}: {one}" for key, one in facts.protocol.items())


def _load(facts: CardFacts) -> Iterator[str]:
    data = "DATASET_FOLDER" if facts.public is None else f"data/{facts.public}"
    yield "With EqIDs, as a recommender:"
    yield f"""
```python
import eqids
from huggingface_hub import snapshot_download

folder = snapshot_download("{PLACEHOLDER}")
recommender = eqids.load(folder, data_dir="{data}")
recommender.recommend([[ITEM_ID, ITEM_ID]], k=10)
```

`data_dir` is the dataset that the model was trained on, which has the ids of the items
and is not in this repository. Another catalog is refused. `{TENSORS_FILE}` holds
items, adapters and softmax; `{INFO_FILE}` describes them.

With transformers, as a plain Llama, without items:

```python
from transformers import AutoModelForCausalLM

llama = AutoModelForCausalLM.from_pretrained("{PLACEHOLDER}")
```"""


def _data(facts: CardFacts) -> Iterator[str]:
    info, meta, public = facts.data, facts.manifest.meta, facts.public
    if info is not None:
        yield (
            f"{facts.data_name}: {info.num_users:,} users, {info.num_items:,} items, "
            f"{info.num_events:,} events."
        )
    if public is not None:
        yield (
            "MovieLens belongs to GroupLens Research, whose terms apply: research, no "
            "redistribution; cite Harper and Konstan (2015)."
        )
    yield f"\n- catalog id `{meta['catalog_id']}`"
    yield f"- dataset hash `{meta['dataset_hash']}`"
    if public is not None:
        yield (
            f"\n`python -m eqids.prepare --source {public} --data_dir data/{public}`, "
            "with the flags that the author gave, makes a dataset with this catalog id."
        )


def _licence(facts: CardFacts) -> Iterator[str]:
    if facts.licence is None:
        yield (
            f"Not stated, so the metadata says `license: {UNKNOWN}`. Whoever publishes "
            "this model fills it in, by the terms of the Llama and of the data."
        )
    else:
        yield f"`{facts.licence}`."
    if facts.base_licence is not None:
        yield (
            "The Llama that it was trained over has its own terms: "
            f"`{facts.base_licence}`."
        )
    if facts.sizes.text_width:
        yield "The items' text columns are made of a Llama's encodings of their texts."
    if facts.manifest.meta["base"] is not None and facts.base is None:
        yield (
            "The hub's name of that Llama was not recorded: add `base_model` to the "
            "metadata."
        )
