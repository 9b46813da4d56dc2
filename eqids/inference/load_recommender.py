"""Opens a trained model for recommendations."""

from pathlib import Path

from eqids.inference.compilation_cache import keep_compiled_programs
from eqids.inference.open import open_path
from eqids.inference.recommender import Recommender
from sharding import placement


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
    compilation_cache: bool = True,
) -> Recommender:
    """Opens a trained model for recommendations; see `eqids.load`."""
    if compilation_cache:
        keep_compiled_programs()
    data, llama, tokens = (
        None if p is None else Path(p) for p in (data_dir, llama_path, tokenizer)
    )
    put = placement("none")
    return Recommender(open_path(Path(checkpoint), data, llama, put, tokens))
