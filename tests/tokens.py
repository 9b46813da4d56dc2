"""A tokenizer that is trained in a moment, and datasets whose items have texts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from eqids.data import Dataset, write_dataset
from eqids.data.files import HISTORIES_FILE, ITEMS_FILE, USERS_FILE, read_tensors

BOS = "<|begin|>"
TEXTS = ("", "Heat", "The Third Man (1949), Film-Noir, Thriller", "Amélie ★ 2001", "Up")


def write_tokenizer(
    path: Path, texts: Iterable[str] = TEXTS, *, bos: bool = True, vocab: int = 300
) -> Path:
    """Trains a byte-level BPE, as Llama 3's is, and writes its tokenizer.json."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    if bos:
        engine.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, engine.token_to_id(BOS))]
        )
    engine.enable_truncation(3)  # a file may say so; words are cut by us only
    engine.save(str(path))
    return path


def with_texts(dataset: Dataset, path: Path, texts: Sequence[str]) -> Dataset:
    """A copy of a dataset whose items have these texts, one after the other."""
    items = pq.read_table(dataset.path / ITEMS_FILE)
    column = [texts[row % len(texts)] for row in range(items.num_rows)]
    items = items.set_column(
        items.column_names.index("text"), "text", pa.array(column, pa.string())
    )
    vectors = dataset.item_vectors.reshape(dataset.num_slots, -1)
    return write_dataset(
        path,
        dataset.info,
        read_tensors(dataset.path / HISTORIES_FILE),
        pq.read_table(dataset.path / USERS_FILE),
        items,
        vectors[items["slot"].to_numpy()],
        overwrite=True,
    )
