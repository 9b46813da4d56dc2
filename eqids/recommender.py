"""Recommendations from Python: `eqids.load("runs/…").recommend(histories, k=10)`."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from convert.hf_eqids import is_pair
from eqids.config import OpenConfig, require
from eqids.data.batches import last_positions, query_batch
from eqids.model import Batch, EqIDs
from eqids.model.search import TopK, top_k
from eqids.opening import Opened, open_model
from sharding import placement

_ROWS = 64
"""Histories in a chunk at most."""


@dataclass(frozen=True)
class History:
    """What one user did: slots and, if known, unix seconds, oldest first."""

    user: Hashable
    slots: np.ndarray
    times: np.ndarray | None = None


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
        histories: pd.DataFrame | Sequence[Sequence[Hashable]],
        k: int = 10,
        *,
        filter_seen: bool = True,
        allow: Iterable[Hashable] | None = None,
        deny: Iterable[Hashable] | None = None,
    ) -> pd.DataFrame:
        """Returns the k most probable next items of every history, exactly.

        Args:
            histories: lists of item ids, oldest first; or a DataFrame with the
                columns user, item and, if known, time (seconds, or timestamps).
            k: how many items.
            filter_seen: leave out items of the history.
            allow: the only items to recommend, by default all.
            deny: items never to recommend.

        Returns:
            A DataFrame with the columns user (the list's index, for lists), rank
            (from 1), item, title and probability; fewer than k rows a user where no
            more items may be recommended.

        Raises:
            UserError: an unknown item, an empty history, a missing column, ids
                where lists of ids are wanted, or a k that is no whole number from 1.
        """
        require(
            isinstance(k, int | np.integer) and k >= 1,
            f"k is {k!r}, wanted a whole number of 1 or more",
        )
        if isinstance(histories, pd.DataFrame):
            asked = self.of_frame(histories)
        else:
            asked = [
                History(row, self._slots_of(f"histories[{row}]", items))
                for row, items in enumerate(_listed("histories", histories))
            ]
        allowed = self.allowed(allow, deny)
        require(len(asked) > 0, "there are no histories, wanted at least one")
        parts = self.search(asked, int(k), filter_seen=filter_seen, allowed=allowed)
        return pd.concat(parts, ignore_index=True)

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
        for history in histories:
            require(
                len(history.slots) > 0,
                f"the history of user {history.user!r} is empty, wanted at least one "
                "item",
            )
        k = min(k, self.dataset.num_slots)
        size = min(_ROWS, len(histories))
        seq_len = self.opened.config.recipe.seq_len
        seen = _distinct(histories) if filter_seen else None
        for first in range(0, len(histories), size):
            chunk = list(histories[first : first + size])
            rows = chunk + chunk[:1] * (size - len(chunk))
            slots, times = [h.slots for h in rows], [h.times for h in rows]
            arrays = query_batch(slots, times, seq_len, self.opened.words)
            asked = _Asked(
                batch=Batch.of(arrays),
                last=jnp.asarray(last_positions(arrays)),
                exclude=None if seen is None else _padded(seen, first, size),
                allowed=jnp.asarray(allowed),
            )
            found = self._run(self.opened.model, asked, k)
            yield self._named(
                chunk, np.asarray(found.slots), np.asarray(found.log_probs)
            )

    def _named(
        self, chunk: Sequence[History], slots: np.ndarray, log_probs: np.ndarray
    ) -> pd.DataFrame:
        """Turns slots to ids and titles, and drops places that nothing fills."""
        slots, log_probs = slots[: len(chunk)], log_probs[: len(chunk)]
        row, rank = np.nonzero(slots >= 0)
        found = slots[row, rank]
        users = pd.Series([history.user for history in chunk], dtype=object)
        return pd.DataFrame(
            {
                "user": users.iloc[row].infer_objects().to_numpy(),
                "rank": rank + 1,
                "item": self._items.loc[found].to_numpy(),
                "title": self._titles.loc[found].to_numpy(),
                "probability": np.exp(log_probs[row, rank]),
            }
        )

    def allowed(
        self,
        allow: Iterable[Hashable] | None = None,
        deny: Iterable[Hashable] | None = None,
    ) -> Bool[np.ndarray, "cluster room"]:
        """Returns the places that may be recommended; see `recommend`."""
        valid = self.dataset.item_valid
        allowed = np.full(valid.shape, allow is None)
        if allow is not None:
            allowed.flat[self._slots_of("allow", allow)] = True
        if deny is not None:
            allowed.flat[self._slots_of("deny", deny)] = False
        return allowed & valid

    def _slots_of(self, name: str, items: Iterable[Hashable]) -> np.ndarray:
        return self.dataset.slot_of(_listed(name, items))

    def of_frame(self, frame: pd.DataFrame) -> list[History]:
        """Returns the histories in a table, users in order of their first event."""
        for name in ("user", "item"):
            require(
                name in frame.columns,
                f"histories have no column {name!r}, the columns are "
                f"{', '.join(map(str, frame.columns))}; wanted user, item and, if "
                "known, time",
            )
            row = int(frame[name].isna().to_numpy().argmax())
            require(
                bool(frame[name].notna().all()),
                f"column {name!r} of the histories is empty in row {row + 1}, wanted "
                "a value in every row",
            )
        if "time" in frame.columns:
            frame = frame.assign(time=_seconds(frame["time"]))
            frame = frame.sort_values("time", kind="stable")
        histories = []
        for user, rows in frame.groupby("user", sort=False):
            times = rows["time"].to_numpy() if "time" in rows.columns else None
            slots = self.dataset.slot_of(rows["item"].tolist())
            histories.append(History(user, slots, times))
        return histories


Items = TypeVar("Items", bound=Iterable)


def _listed(name: str, items: Items) -> Items:
    """The items as they are; a text would be taken for a list of its letters."""
    require(
        isinstance(items, Iterable) and not isinstance(items, str | bytes),
        f"{name} is {items!r}, wanted a list of "
        + ("lists of item ids" if name == "histories" else "item ids"),
    )
    return items


def _distinct(histories: Sequence[History]) -> Int[np.ndarray, "history seen"]:
    """The distinct slots of each history, padded with -1; of a width that recurs."""
    slots = [np.unique(history.slots) for history in histories]
    width = 1 << max(len(s) - 1 for s in slots).bit_length()
    seen = np.full((len(slots), width), -1, np.int32)
    for row, some in zip(seen, slots, strict=True):
        row[: len(some)] = some
    return seen


def _padded(
    seen: Int[np.ndarray, "history seen"], first: int, size: int
) -> Int[Array, "batch seen"]:
    """Rows from the first, as many as wanted; past the end the first again."""
    rows = np.arange(first, first + size)
    return jnp.asarray(seen[np.where(rows < len(seen), rows, first)])


def _seconds(times: pd.Series) -> pd.Series:
    """Unix seconds of numbers, timestamps or their texts; UTC where no zone is said."""
    wanted = "wanted unix seconds, timestamps, or text like 2024-05-01T12:30:00Z"
    if pd.api.types.is_datetime64_any_dtype(times):
        seconds = _since_1970(times)
    elif pd.api.types.is_numeric_dtype(times):
        seconds = times
    else:
        numbers = pd.to_numeric(times, errors="coerce")
        stamps = pd.to_datetime(times, utc=True, format="ISO8601", errors="coerce")
        numeric = numbers.notna().sum() >= stamps.notna().sum()
        seconds = numbers if numeric else _since_1970(stamps)
    good = seconds.notna() & (seconds.abs() < 2**62)
    row = int((~good).to_numpy().argmax())
    require(
        bool(good.all()),
        f"column 'time' of the histories is {times.iloc[row]} in row {row + 1}, "
        f"{wanted}",
    )
    return (seconds // 1).astype("int64")


def _since_1970(stamps: pd.Series) -> pd.Series:
    since = pd.to_datetime(stamps, utc=True) - pd.Timestamp(0, tz="UTC")
    return since // pd.Timedelta(seconds=1)


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
