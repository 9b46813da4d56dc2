"""Opens a trained model for recommendations."""

from pathlib import Path

from convert.hf_eqids import is_pair
from eqids.config import OpenConfig
from eqids.inference.compilation_cache import keep_compiled_programs
from eqids.inference.open import open_model
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
    path = Path(checkpoint)
    data, llama, tokens = (
        None if p is None else Path(p) for p in (data_dir, llama_path, tokenizer)
    )
    pair = is_pair(path)
    config = OpenConfig(
        checkpoint=None if pair else path,
        init_from=path if pair else None,
        data_dir=data,
        llama_path=llama,
        tokenizer=tokens,
    )
    return Recommender(open_model(config, placement("none")))
