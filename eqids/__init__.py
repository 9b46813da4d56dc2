"""EqIDs: a pretrained Llama, turned into a recommender."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eqids.inference.recommender import Recommender


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
) -> "Recommender":
    """Opens a trained model; see `eqids.inference.recommender.load`."""
    # Imported here, so that preparing data does not pay for importing JAX.
    from eqids.inference import recommender

    return recommender.load(checkpoint, data_dir, llama_path, tokenizer)
