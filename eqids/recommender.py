"""Recommendations from Python: `eqids.load("runs/…").recommend(histories, k=10)`."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from convert.hf_eqids import is_pair
from eqids.config import OpenConfig, require
from eqids.data.batches import last_positions, query_batch
from eqids.data.ids import shown
from eqids.histories import History, Unknown, listed, read_histories
from eqids.model import Batch, EqIDs
from eqids.model.search import TopK, top_k
from eqids.opening import Opened, open_model
from sharding import placement

_ROWS = 64
"""Histories in a chunk at most."""
_EXCLUDED = 2**18
"""Items that a chunk leaves out at most, padding included, unless one history alone
has more."""
_FEWEST = 64
"""Items that a history of a chunk has space for at least, so that few shapes are
compiled."""


class Recommender:
    """A trained model with its catalog."""

    def __init__(self, opened: Opened):
        """Holds a model; `load` opens one by its path."""
        self.opened = opened
        self.dataset = opened.dataset
        items = opened.dataset.items().set_index("slot")
        self._items, self._titles = items["item"], items["title"]
        self._run = _make_search(opened.dtype)

    def recommend(
        self,
        histories: pd.DataFrame
        | History
        | Sequence[Sequence[Hashable] | History | pd.DataFrame],
        k: int = 10,
        *,
        filter_seen: bool = True,
        allow: Iterable[Hashable] | None = None,
        deny: Iterable[Hashable] | None = None,
        unknown: Unknown = "refuse",
    ) -> pd.DataFrame:
        """Returns the k most probable next items of every history, exactly.

        An empty history is answered by popularity: the items with most training
        events, and as their probability their share of the events. Items that the
        catalog does not hold are left out of `deny`, and out of `allow` with a
        warning.

        Args:
            histories: a list of histories, each a list of item ids, oldest first, a
                `History` (see `of_user`) or a DataFrame; or one DataFrame with the
                columns user, item and, if known, time (seconds, or timestamps).
            k: how many items.
            filter_seen: leave out items of the history.
            allow: the only items to recommend, by default all.
            deny: items never to recommend.
            unknown: what becomes of items of a history that the catalog does not
                hold: "refuse" is an error, "skip" leaves them out.

        Returns:
            A DataFrame with the columns user (the list's index, for lists), rank
            (from 1), item, title and probability; fewer than k rows a user where no
            more items may be recommended. Its `attrs` say what was not as usual:
            `attrs["unknown"]`, how many events of "histories" and how many ids of
            "allow" and "deny" were left out, and `attrs["popularity"]`, the users
            who were answered by popularity.

        Raises:
            UserError: an unknown item, no histories, a missing column, ids where
                lists of ids are wanted, an `allow` of which nothing can be
                recommended, or a k that is no whole number from 1.
        """
        require(
            isinstance(k, int | np.integer) and k >= 1,
            f"k is {k!r}, wanted a whole number of 1 or more",
        )
        asked, left_out = read_histories(self.dataset, histories, unknown)
        counts = {"histories": left_out}
        allowed = self.allowed(allow, deny, counts)
        parts = self.search(asked, int(k), filter_seen=filter_seen, allowed=allowed)
        found = pd.concat(list(parts), ignore_index=True)
        popular = [history.user for history in asked if not len(history.slots)]
        found.attrs = {"unknown": counts, "popularity": popular}
        return found

    def of_user(self, user: Hashable) -> History:
        """Returns all that the dataset knows of a user."""
        row = self.dataset.user_index(user)
        span = slice(self.dataset.offsets[row], self.dataset.offsets[row + 1])
        times = None if self.dataset.times is None else self.dataset.times[span]
        return History(user, self.dataset.slots[span], times)

    def search(
        self,
        histories: Sequence[History],
        k: int,
        *,
        filter_seen: bool,
        allowed: Bool[np.ndarray, "cluster room"],
    ) -> Iterator[pd.DataFrame]:
        """Yields the recommendations of one chunk of histories after the other."""
        k = min(k, self.dataset.num_slots)
        popular = self._popular(k, allowed)
        most = min(_ROWS, len(histories))
        for chunk, width in _chunks(histories, most, filter_seen):
            slots = np.broadcast_to(popular[0], (len(chunk), k)).copy()
            chance = np.broadcast_to(popular[1], (len(chunk), k)).copy()
            known = [row for row, one in enumerate(chunk) if len(one.slots)]
            if known:
                rows = min(most, _num_rows(width))
                some = [chunk[row] for row in known]
                found = self._found(some, rows, width, k, allowed)
                slots[known] = np.asarray(found.slots)[: len(known)]
                chance[known] = np.exp(np.asarray(found.log_probs)[: len(known)])
            yield self._named(chunk, slots, chance)

    def _found(
        self,
        histories: Sequence[History],
        num_rows: int,
        width: int,
        k: int,
        allowed: Bool[np.ndarray, "cluster room"],
    ) -> TopK:
        """Asks the model; rows past the last history repeat the first.

        Args:
            histories: none of them empty.
            num_rows: rows of the arrays.
            width: items that each leaves out at most; 0 for none.
            k: how many items are wanted.
            allowed: places that may be recommended.
        """
        more = [histories[0]] * (num_rows - len(histories))
        rows = [*histories, *more]
        seq_len = self.opened.config.recipe.seq_len
        slots, times = [h.slots for h in rows], [h.times for h in rows]
        arrays = query_batch(slots, times, seq_len, self.opened.words)
        exclude = np.full((num_rows, width), -1, np.int32)
        for row, history in zip(exclude, histories if width else [], strict=False):
            distinct = np.unique(history.slots)
            row[: len(distinct)] = distinct
        asked = _Asked(
            batch=Batch.of(arrays),
            last=jnp.asarray(last_positions(arrays)),
            exclude=jnp.asarray(exclude) if width else None,
            allowed=jnp.asarray(allowed),
        )
        return self._run(self.opened.model, asked, k)

    def _popular(
        self, k: int, allowed: Bool[np.ndarray, "cluster room"]
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """The slots with most training events and their share of these; -1: no more."""
        counts = np.where(self.dataset.item_valid, self.dataset.item_counts, 0)
        shares = counts.reshape(-1) / max(1, int(counts.sum()))
        slots = np.flatnonzero(allowed)
        slots = slots[np.argsort(-shares[slots], kind="stable")][:k]
        padding = (0, k - len(slots))
        shares = np.pad(shares[slots], padding).astype(np.float32)
        return np.pad(slots, padding, constant_values=-1), shares

    def _named(
        self, chunk: Sequence[History], slots: np.ndarray, chance: np.ndarray
    ) -> pd.DataFrame:
        """Turns slots to ids and titles, and drops places that nothing fills."""
        row, rank = np.nonzero(slots >= 0)
        found = slots[row, rank]
        users = pd.Series([history.user for history in chunk], dtype=object)
        return pd.DataFrame(
            {
                "user": users.iloc[row].infer_objects().to_numpy(),
                "rank": rank + 1,
                "item": self._items.loc[found].to_numpy(),
                "title": self._titles.loc[found].to_numpy(),
                "probability": chance[row, rank],
            }
        )

    def allowed(
        self,
        allow: Iterable[Hashable] | None = None,
        deny: Iterable[Hashable] | None = None,
        unknown: dict[str, int] | None = None,
    ) -> Bool[np.ndarray, "cluster room"]:
        """Returns the places that may be recommended; see `recommend`.

        Args:
            allow: the only items, by default all.
            deny: items that are none of them.
            unknown: where to write how many ids of each the catalog does not hold.
        """
        valid, counts = self.dataset.item_valid, {} if unknown is None else unknown
        allowed = valid.copy()
        if allow is not None:
            slots = self._slots_of("allow", allow, counts)
            allowed[:] = False
            allowed.flat[slots] = True
            allowed &= valid
            require(
                bool(allowed.any()),
                f"allow names no item that {self.dataset.path} can recommend, wanted "
                "at least one that its catalog holds and that is not retired",
            )
        if deny is not None:
            allowed.flat[self._slots_of("deny", deny, counts)] = False
        return allowed

    def _slots_of(
        self, name: str, items: Iterable[Hashable], counts: dict[str, int]
    ) -> np.ndarray:
        """The slots of those items that the catalog holds."""
        ids = listed(name, items)
        ids = ids if isinstance(ids, np.ndarray | pd.Series) else list(ids)
        slots = self.dataset.find_items(ids)
        unknown = np.flatnonzero(slots < 0)
        counts[name] = len(unknown)
        if name == "allow" and len(unknown):
            first = shown(np.asarray(ids, object)[unknown[0]])
            warnings.warn(
                f"{len(unknown):,} of {len(slots):,} ids in allow are not in the "
                f"catalog of {self.dataset.path}, the first is {first}",
                stacklevel=4,
            )
        return slots[slots >= 0]


def _num_rows(width: int) -> int:
    """Rows of a chunk whose histories leave out at most so many items each."""
    return max(1, min(_ROWS, _EXCLUDED // max(width, 1)))


def _chunks(
    histories: Sequence[History], most: int, filter_seen: bool
) -> Iterator[tuple[list[History], int]]:
    """Yields histories that are asked together, in order, and their width.

    The width is how many items one of them leaves out at most, rounded up so that few
    shapes are compiled; 0 where none are left out.
    """
    chunk: list[History] = []
    width = 0
    for history in histories:
        own = 0
        if filter_seen:
            own = 1 << (max(_FEWEST, len(np.unique(history.slots))) - 1).bit_length()
        wider = max(width, own)
        if len(chunk) >= min(most, _num_rows(wider)):
            yield chunk, width
            chunk, wider = [], own
        chunk.append(history)
        width = wider
    yield chunk, width


class _Asked(eqx.Module):
    """A chunk of histories as arrays."""

    batch: Batch
    last: Int[Array, " batch"]
    exclude: Int[Array, "batch seen"] | None
    allowed: Bool[Array, "cluster room"]


def _make_search(dtype: DTypeLike) -> Callable[[EqIDs, _Asked, int], TopK]:
    def run(model: EqIDs, asked: _Asked, k: int) -> TopK:
        query = model.queries_at(asked.batch, asked.last, dtype=dtype)
        return top_k(
            model.softmax, query, k, exclude=asked.exclude, allowed=asked.allowed
        )

    return jax.jit(run, static_argnums=2)


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
    tokenizer: Path | str | None = None,
) -> Recommender:
    """Opens a run, one of its checkpoints or what was made of one for recommending.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step; or a folder
            that `eqids-to-hf` wrote.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the folder of the frozen Llama, by default the one of the run.
        tokenizer: the tokenizer.json of a run with words, by default the one of the
            run.

    Raises:
        UserError: see `eqids.opening.open_model`.
    """
    path = Path(checkpoint)
    data, llama, words = (
        None if p is None else Path(p) for p in (data_dir, llama_path, tokenizer)
    )
    pair = is_pair(path)
    config = OpenConfig(
        checkpoint=None if pair else path,
        init_from=path if pair else None,
        data_dir=data,
        llama_path=llama,
        tokenizer=words,
    )
    return Recommender(open_model(config, placement("none")))
