"""Text columns of items that a catalog gained since a checkpoint was made."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from eqids.config import ChangeConfig, RunConfig, require
from eqids.config.slots import cluster_of, place_of, slot_of
from eqids.data import Dataset
from eqids.data.catalog.lineage import Change, Lineage
from eqids.runs.text_features import LlamaEncoder, text_llama
from eqids.runs.text_vectors import Projection
from sharding import Placement

_TEXT, _MEAN, _AXES = (
    f"params/{name}" for name in ("softmax/text", "text_axes/mean", "text_axes/axes")
)
_LEARNED = {"params/softmax/table", "params/input_table"}
"""Names of arrays in a checkpoint."""


def added_since(lineage: Lineage, version: int, change: Change | None = None) -> bool:
    """Returns whether a catalog gains items after a version.

    Args:
        lineage: of the catalog.
        version: the older version.
        change: what happens to the present version, if anything does.
    """
    changes = [*lineage.changes[version - 1 :], *([] if change is None else [change])]
    return any(len(one.added) for one in changes)


class NewTexts:
    """Encodes the texts of new items as a run encoded those of the others."""

    def __init__(self, path: Path, config: RunConfig, change: ChangeConfig):
        """Takes the paths of Llama and tokenizer.

        Args:
            path: of the checkpoint, for messages.
            config: the config of its run.
            change: the command's flags, which say where they are now.
        """
        flags = config.flags
        self._path, self._config = path, config
        self._flags = dataclasses.replace(
            flags,
            text_llama_path=change.text_llama_path or flags.text_llama_path,
            llama_path=change.llama_path or flags.llama_path,
            tokenizer=change.tokenizer or flags.tokenizer,
        )

    def encoder(self) -> LlamaEncoder:
        """Returns the encoder of the run's texts.

        Raises:
            UserError: the Llama no longer exists, or is another than the run's.
        """
        folder = text_llama(self._flags)
        require(
            folder is not None and folder.is_dir(),
            f"new items need the Llama that encoded the texts for {self._path}, and "
            f"{folder} no longer exists: add --text_llama_path DIR",
        )
        found = LlamaEncoder.of_run(self._flags, None, None)
        require(
            found.source == self._config.text_encoder,
            f"{folder} holds another Llama or tokenizer than the one that encoded the "
            f"texts for {self._path}; wanted the same, see --text_llama_path",
        )
        return found

    def written(
        self,
        arrays: Mapping[str, np.ndarray],
        dataset: Dataset,
        version: int,
        put: Placement,
        report: Callable[[str], None],
    ) -> dict[str, np.ndarray]:
        """Returns arrays with the text columns of new items.

        The learned columns of a new item are those of the other item in its cluster
        whose text is most similar, as in training for items that nobody has used.

        Args:
            arrays: of the checkpoint, after `remap_arrays`, by name.
            dataset: with the present version of the catalog.
            version: of the catalog that the checkpoint was made with.
            put: where Llama computes.
            report: receives messages about slow steps.
        """
        new = _new_slots(dataset, version)
        if not len(new):
            return dict(arrays)
        dtype = jnp.dtype(self._config.dtype)
        encodings = self.encoder().encodings(dataset, dtype, put, report, new)[new]
        axes = Projection(arrays[_MEAN], arrays[_AXES])
        rows = axes(encodings)
        out = {**arrays, _TEXT: _with_rows(arrays[_TEXT], new, rows)}
        others = dataset.item_valid.copy()
        others.reshape(-1)[new] = False
        known = new[rows.any(axis=1)]
        similar = _most_similar(out[_TEXT], others, known)
        for name in _LEARNED & arrays.keys():
            copied = arrays[name].reshape(-1, arrays[name].shape[-1])[similar]
            out[name] = _with_rows(arrays[name], known, copied)
        return out


def _most_similar(
    text: Float[np.ndarray, "cluster place text_width"],
    others: Bool[np.ndarray, "cluster place"],
    slots: Int[np.ndarray, " item"],
) -> Int[np.ndarray, " item"]:
    """The slot of the other item in each item's cluster whose text is most similar.

    It is the item's own slot if no other has a text.
    """
    found, size = slots.copy(), others.shape[1]
    candidates = others & text.any(axis=-1)
    for row, slot in enumerate(slots.tolist()):
        cluster, place = cluster_of(slot, size), place_of(slot, size)
        places = np.flatnonzero(candidates[cluster])
        if len(places):
            near = text[cluster, places]
            cosine = near @ text[cluster, place] / np.linalg.norm(near, axis=1)
            found[row] = slot_of(cluster, int(places[cosine.argmax()]), size)
    return found


def _with_rows(
    table: Float[np.ndarray, "cluster place columns"],
    slots: Int[np.ndarray, " item"],
    rows: Float[np.ndarray, "item columns"],
) -> Float[np.ndarray, "cluster place columns"]:
    """A copy of a table with other rows at some slots."""
    out = table.copy()
    out.reshape(-1, table.shape[-1])[slots] = rows
    return out


def _new_slots(dataset: Dataset, version: int) -> Int[np.ndarray, " item"]:
    """The slots of items that were added after a version, retired ones included."""
    slots = dataset.items()["slot"].to_numpy()
    return slots[dataset.lineage.slots_at(version)[slots] < 0]
