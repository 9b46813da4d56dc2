"""Text columns of item vectors: whether a run has them, and from which Llama."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from jax.typing import DTypeLike
from jaxtyping import Float, Int

import convert
from eqids.config import (
    LLAMA_PRESETS,
    ModelConfig,
    Recipe,
    RunConfig,
    TrainConfig,
    require,
    with_adapter,
)
from eqids.data import Dataset
from eqids.data.batches.item_texts import TOKENIZER_FILE, tokenizer_file, tokens_of
from eqids.data.batches.tokens import ItemTokens
from eqids.data.files import ITEMS_FILE, read_parquet
from eqids.io.digests import file_sha256
from eqids.model import Llama, TextFeatures
from eqids.model.item_vectors import TEXT_STD
from eqids.runs.recipe import scratch_sizes, wants_hub
from eqids.runs.run_tokens import check_vocab
from eqids.runs.text_encodings import cached_encodings
from eqids.runs.text_vectors import DEPTH, MOST_TOKENS, Projection, text_vectors
from sharding import Placement

TEXT_WIDTH = 128
"""Text columns by default; at most half of --item_width, if that is given."""


def with_text_features(
    config: RunConfig, dataset: Dataset, recorded: RunConfig | None
) -> RunConfig:
    """Returns a run's config with its decision on text features, and its widths.

    Args:
        config: the run's config.
        dataset: the dataset that it trains on.
        recorded: the config of the checkpoint that the run goes on from or starts
            from, whose text columns it keeps; or None.

    Raises:
        UserError: flags ask for text features, and there is no Llama, no text or no
            tokenizer; or the widths do not fit together.
    """
    flags = config.flags
    reason = _why_not(flags, dataset, recorded)
    wanting = "text_llama_path", "text_width", "text_features"
    named = [name for name in wanting if getattr(flags, name)]
    require(
        reason is None or not named,
        f"--{''.join(named[:1])} is for text columns of items, and {reason}",
    )
    has = reason is None
    config = dataclasses.replace(
        config, flags=dataclasses.replace(flags, text_features=has)
    )
    if not has:
        return config
    if recorded is None:
        return dataclasses.replace(
            config,
            recipe=_with_widths(config, TEXT_WIDTH),
            encoding_width=_encoding_width(flags),
        )
    return dataclasses.replace(
        config,
        recipe=_with_widths(config, recorded.recipe.text_width),
        encoding_width=recorded.encoding_width,
        text_encoder=recorded.text_encoder,
    )


def _with_widths(config: RunConfig, usual: int) -> Recipe:
    """The recipe with the whole width of an item's vector and of its text columns.

    Args:
        config: the run's; the recipe's width is that of the learned columns, unless
            the flags give the whole width.
        usual: text columns if the flags do not say how many.
    """
    flags, recipe = config.flags, config.recipe
    if flags.item_width is None:
        text = flags.text_width or usual
        whole = recipe.item_width + text
    else:
        whole = flags.item_width
        text = flags.text_width or min(usual, whole // 2)
        require(
            0 < text < whole,
            f"--item_width is {whole} and there are {text} text columns, wanted an "
            "item width above --text_width: it includes the text columns",
        )
    recipe = dataclasses.replace(recipe, item_width=whole, text_width=text)
    return with_adapter(recipe, scratch_sizes(flags))


def _why_not(
    flags: TrainConfig, dataset: Dataset, recorded: RunConfig | None
) -> str | None:
    """Why a run has no text columns, or None if it has."""
    if flags.text_features is False:
        return "--no_text_features is given; wanted one of them"
    if recorded is not None:
        has = recorded.recipe.text_width > 0
        return None if has else "the checkpoint that the run starts from has none"
    if flags.init_items == "text":
        return "--init_items text makes item vectors of texts; wanted one of them"
    folder = text_llama(flags)
    if folder is None and not wants_hub(flags):
        return "there is no pretrained Llama; wanted --text_llama_path DIR"
    if folder is not None and not folder.is_dir():
        return f"{folder} does not exist; wanted the folder of a Llama"
    if folder is not None and _tokenizer(flags) is None:
        return f"{folder} has no {TOKENIZER_FILE}; wanted one there"
    texts = read_parquet(dataset.path / ITEMS_FILE, columns=["text"])["text"]
    if not pc.any(pc.not_equal(texts.fill_null(""), "")).as_py():
        return (
            f"no item of {dataset.path} has a text; prepare it with --items and --text"
        )
    return None


def text_llama(flags: TrainConfig) -> Path | None:
    """Returns the folder of the Llama that encodes a run's texts, if it is in files."""
    return flags.text_llama_path or flags.llama_path


def _tokenizer(flags: TrainConfig) -> Path | None:
    """The tokenizer of the Llama that encodes texts, if there is one."""
    folder = text_llama(flags)
    if folder is not None and (folder / TOKENIZER_FILE).is_file():
        return folder / TOKENIZER_FILE
    if flags.tokenizer is None or flags.text_llama_path is not None:
        return None
    return tokenizer_file(flags.tokenizer, None)


def _encoding_width(flags: TrainConfig) -> int:
    """Returns the size of the encodings of a new run's texts."""
    folder = text_llama(flags)
    if folder is None:
        assert flags.llama_size is not None, "text features without a Llama"
        return LLAMA_PRESETS[flags.llama_size].width
    return convert.read_config(folder).width


class LlamaEncoder(NamedTuple):
    """Encodes the texts of items with a Llama, which it loads if the cache needs it."""

    folder: Path
    """The Llama's folder."""
    tokenizer: Path
    """Its tokenizer.json."""
    fingerprint: str
    """Of the Llama's files."""
    loaded: Llama | None
    """The Llama, if it is in memory."""

    @staticmethod
    def of_run(
        flags: TrainConfig, llama: Llama | None, base: str | None
    ) -> "LlamaEncoder":
        """Returns the encoder of a run; all processes call it.

        Args:
            flags: the run's.
            llama: the run's own pretrained Llama, if it has one.
            base: the fingerprint of that.
        """
        folder, tokenizer = text_llama(flags), _tokenizer(flags)
        assert folder is not None and tokenizer is not None, "see with_text_features"
        if flags.text_llama_path in (None, flags.llama_path) and base is not None:
            return LlamaEncoder(folder, tokenizer, base, llama)
        convert.check_llama(folder)
        return LlamaEncoder(folder, tokenizer, convert.fingerprint(folder), None)

    @property
    def source(self) -> str:
        """Returns the SHA-256 of all that makes an encoding besides its text."""
        said = file_sha256(self.tokenizer), self.fingerprint, DEPTH, MOST_TOKENS
        return hashlib.sha256(" ".join(map(str, said)).encode()).hexdigest()

    def encodings(
        self,
        dataset: Dataset,
        dtype: DTypeLike,
        put: Placement,
        report: Callable[[str], None],
        slots: Int[np.ndarray, " some"] | None = None,
    ) -> Float[np.ndarray, "slot encoding"]:
        """Returns the encodings of a dataset's texts; see `cached_encodings`.

        Args:
            dataset: whose items.
            dtype: Llama's compute dtype.
            put: places the Llama and the texts.
            report: receives messages about slow steps.
            slots: items to encode, by default all; the others get zeros.

        Raises:
            UserError: no item has a text, or a token is none of the Llama's.
        """
        tokens = tokens_of(dataset, self.tokenizer, "", MOST_TOKENS, report)
        if slots is not None:
            length = np.zeros_like(tokens.length)
            length[slots] = tokens.length[slots]
            tokens = dataclasses.replace(tokens, length=length)
        sizes = convert.read_config(self.folder)
        check_vocab(tokens, sizes)
        key = hashlib.sha256(f"{self.source} {np.dtype(dtype)}".encode()).hexdigest()

        def encode(missing: ItemTokens) -> np.ndarray:
            if self.loaded is not None:
                return text_vectors(self.loaded, missing, dtype, put)
            whole = _unsplit(put)
            llama = convert.load_llama(self.folder, dtype, whole, head=False)
            return text_vectors(llama, missing, dtype, whole)

        return cached_encodings(dataset, tokens, key, sizes.width, encode, report)


def _unsplit(put: Placement) -> Placement:
    """The same mesh, with whole weights on every device: it may divide no axis of the
    Llama that encodes."""
    if put.layout is None:
        return put
    layout = dataclasses.replace(put.layout, storage={})
    return dataclasses.replace(put, layout=layout)


def text_features(
    encodings: Float[np.ndarray, "slot encoding"], sizes: ModelConfig
) -> TextFeatures:
    """Returns text columns: whitened axes of the encodings, scaled to `TEXT_STD`.

    Args:
        encodings: by slot, zeros for an item without a text.
        sizes: the model's.
    """
    axes = Projection.of(encodings, sizes.text_width).whitened(encodings)
    columns = axes(encodings)
    size = float(np.std(columns[columns.any(axis=1)])) or 1.0
    scaled = Projection(axes.mean, (axes.axes * (TEXT_STD / size)).astype(np.float32))
    places = sizes.num_clusters, sizes.cluster_size, sizes.text_width
    return TextFeatures(scaled(encodings).reshape(places), *scaled)
