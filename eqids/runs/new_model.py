"""The model that a new run starts from: its sizes, its keys and its first weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from eqids.config import InitItems, LlamaConfig, ModelConfig, RunConfig, require
from eqids.data import Dataset
from eqids.data.batches.event_gaps import NUM_GAPS
from eqids.model import EqIDs, Llama, SuccessorCounts, TextFeatures


def model_config(
    config: RunConfig, dataset: Dataset, llama: LlamaConfig
) -> ModelConfig:
    """Returns the model's sizes: from the flags, the catalog and the Llama.

    Raises:
        UserError: LoRA's rank is larger than the Llama's width.
    """
    flags, recipe = config.flags, config.recipe
    lora = flags.lora if config.strategy == "lora" else None
    require(
        lora is None or lora.rank <= llama.width,
        f"--lora_rank is {flags.lora_rank}, wanted at most the Llama's width, "
        f"{llama.width}",
    )
    return ModelConfig(
        llama=llama,
        num_clusters=dataset.info.num_clusters,
        cluster_size=dataset.info.cluster_size,
        item_width=recipe.item_width,
        text_width=recipe.text_width,
        encoding_width=config.encoding_width,
        adapter=recipe.adapter,
        tied_items=flags.tied_items,
        skip=flags.skip,
        num_gaps=NUM_GAPS,
        dropout=recipe.dropout,
        id_dropout=flags.id_dropout if recipe.text_width else 0.0,
        lora=lora,
        request_time=flags.request_time,
        num_successors=dataset.successors.width if flags.counts else 0,
    )


def initial_model(
    config: ModelConfig,
    dataset: Dataset,
    llama: Llama | None,
    key: PRNGKeyArray,
    init_items: InitItems = "interactions",
    text: Float[np.ndarray, "cluster place encoding"] | None = None,
    features: TextFeatures | None = None,
) -> EqIDs:
    """Returns the model that a run starts from.

    Args:
        config: its sizes.
        dataset: the catalog, how often its items are used, and their vectors.
        llama: a pretrained one, or None for random weights.
        key: randomness of the weights.
        init_items: whether item vectors start from the dataset's vectors, from vectors
            of texts, or at random.
        text: vectors of texts, if item vectors start from them.
        features: the text columns, if items have any.
    """
    starts = {"interactions": dataset.item_vectors, "text": text, "random": None}
    return EqIDs(
        config,
        valid=dataset.item_valid,
        counts=dataset.item_counts,
        vectors=starts[init_items],
        text=features,
        llama=llama,
        successors=counts_of(dataset) if config.num_successors else None,
        key=key,
    )


def counts_of(dataset: Dataset) -> SuccessorCounts:
    """Returns the counts of a dataset, with a gate of 0."""
    table = dataset.successors.table(dataset.item_valid)
    counts = SuccessorCounts.zeros(*table.slot.shape)
    slot, weight = jnp.asarray(table.slot), jnp.asarray(table.weight)
    return dataclasses.replace(counts, slot=slot, weight=weight)


def sizes_for(sizes: ModelConfig, dataset: Dataset) -> ModelConfig:
    """Returns a model's sizes with counts, if it has some, of a dataset's width.

    Args:
        sizes: what a run recorded.
        dataset: may have other histories of the run's catalog.
    """
    if not sizes.num_successors:
        return sizes
    return dataclasses.replace(sizes, num_successors=dataset.successors.width)
