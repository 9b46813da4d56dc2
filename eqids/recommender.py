"""Recommendations from Python: `eqids.load("runs/…").recommend(histories, k=10)`."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from eqids.config import UserError, require
from eqids.data.batches import query_batch
from eqids.model import Batch, EqIDs
from eqids.opening import Opened, open_checkpoint
from sharding import placement

_SCORES = 2**25
"""Scores held at a time (128 MiB)."""
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
        """Holds a checkpoint; `load` opens one by its path."""
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
            UserError: an unknown item, an empty history or a missing column.
        """
        if isinstance(histories, pd.DataFrame):
            asked = self.of_frame(histories)
        else:
            asked = [
                History(row, self.dataset.slot_of(items))
                for row, items in enumerate(histories)
            ]
        allowed = self.allowed(allow, deny)
        require(len(asked) > 0, "there are no histories, wanted at least one")
        parts = self.search(asked, k, filter_seen=filter_seen, allowed=allowed)
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
        allowed: Bool[np.ndarray, " slot"],
    ) -> Iterator[pd.DataFrame]:
        """Yields the recommendations of one chunk of histories after the other."""
        require(k >= 1, f"k is {k}, wanted 1 or more")
        for history in histories:
            require(
                len(history.slots) > 0,
                f"the history of user {history.user!r} is empty, wanted at least one "
                "item",
            )
        num_slots = self.dataset.num_slots
        k = min(k, num_slots)
        size = max(1, min(_ROWS, _SCORES // num_slots, len(histories)))
        seq_len = self.opened.config.recipe.seq_len
        for first in range(0, len(histories), size):
            chunk = list(histories[first : first + size])
            rows = chunk + chunk[:1] * (size - len(chunk))
            slots, times = [h.slots for h in rows], [h.times for h in rows]
            batch = Batch.of(query_batch(slots, times, seq_len))
            may = np.repeat(allowed[None], size, axis=0)
            if filter_seen:
                for row, history in zip(may, rows, strict=True):
                    row[history.slots] = False
            last = [min(len(h.slots), seq_len) - 1 for h in rows]
            found, log_probs = self._run(
                self.opened.model, batch, np.array(last), may, k
            )
            yield self._named(chunk, np.asarray(found), np.asarray(log_probs))

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
    ) -> Bool[np.ndarray, " slot"]:
        """Returns the slots that may be recommended; see `recommend`."""
        allowed = np.full(self.dataset.num_slots, allow is None)
        if allow is not None:
            allowed[self.dataset.slot_of(allow)] = True
        if deny is not None:
            allowed[self.dataset.slot_of(deny)] = False
        return allowed

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


def _seconds(times: pd.Series) -> pd.Series:
    """Unix seconds of numbers or timestamps; UTC where no zone is said."""
    try:
        if pd.api.types.is_datetime64_any_dtype(times):
            utc = pd.to_datetime(times, utc=True).dt.tz_localize(None)
            seconds = utc.astype("datetime64[s]").astype("int64")
        else:
            seconds = pd.to_numeric(times)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"column 'time' of the histories is not a time: {error}; wanted unix "
            "seconds or timestamps"
        ) from error
    good = times.notna() & (seconds.abs() < 2**62)
    row = int((~good).to_numpy().argmax())
    require(
        bool(good.all()),
        f"column 'time' of the histories is {times.iloc[row]} in row {row + 1}, wanted "
        "unix seconds or timestamps",
    )
    return seconds.astype("int64")


Search = Callable[
    [EqIDs, Batch, np.ndarray, np.ndarray, int],
    tuple[Int[Array, "batch k"], Float[Array, "batch k"]],
]


def _make_search(dtype: DTypeLike) -> Search:
    def run(
        model: EqIDs,
        batch: Batch,
        last: Int[Array, " batch"],
        allowed: Bool[Array, "batch slot"],
        k: int,
    ) -> tuple[Int[Array, "batch k"], Float[Array, "batch k"]]:
        queries = model.queries(batch, dtype=dtype)
        query = jnp.take_along_axis(queries, last[:, None, None], axis=1)[:, 0]
        return model.softmax.top_k(query, k, allowed=allowed)

    return jax.jit(run, static_argnums=4)


def load(
    checkpoint: Path | str,
    data_dir: Path | str | None = None,
    llama_path: Path | str | None = None,
) -> Recommender:
    """Opens a run or one of its checkpoints for recommending.

    Args:
        checkpoint: DIR/STEP, or a run's DIR, which means its best step.
        data_dir: the dataset folder, by default the one of the run.
        llama_path: the folder of the frozen Llama, by default the one of the run.

    Raises:
        UserError: see `eqids.opening.open_checkpoint`.
    """
    data, llama = (None if p is None else Path(p) for p in (data_dir, llama_path))
    opened = open_checkpoint(Path(checkpoint), data, llama, placement("none"))
    return Recommender(opened)
