"""Recommend: `python -m eqids.recommend`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqids.cli import (
    Counted,
    check_output,
    loading,
    one_line,
    parse,
    run_as_process,
    say,
    waiting,
    warn,
)
from eqids.config import RecommendConfig, UserError

if TYPE_CHECKING:
    import pandas as pd

    from eqids.inference.histories import History
    from eqids.inference.recommender import Recommender

DESCRIPTION = """Name the most probable next items, exactly, with their probabilities.

The histories are that of a user of the dataset, one given as item ids, or those of a
Parquet or CSV file (columns user, item and optionally time and request_time), whose
recommendations are written to another file, or to a folder of Parquet files:

    python -m eqids.recommend --checkpoint runs/ml-100k-nano-all-seed0 --user 1
    python -m eqids.recommend --checkpoint runs/mine --history 50,181,172 --k 5
    python -m eqids.recommend --init_from exported/mine --user 1
    python -m eqids.recommend --checkpoint runs/mine --input a.parquet \\
        --output b.parquet
    python -m eqids.recommend --checkpoint runs/mine --similar 50,181
    python -m eqids.recommend --checkpoint runs/mine --input histories --output answers
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Prints recommendations, or writes those of a file to another or to a folder."""
    config = parse(RecommendConfig, argv, "eqids.recommend", DESCRIPTION)
    if not config.to_folder:
        check_output(config.output, "--output", config.overwrite)
    # Imported here: --help and a mistyped flag do not wait for jax.
    with loading():
        from eqids.inference.compilation_cache import keep_compiled_programs
        from eqids.inference.open import open_model
        from eqids.inference.recommender import Recommender
        from sharding import placement

    if not config.no_compilation_cache:
        keep_compiled_programs()
    put = placement(config.layout)
    with put.active():
        recommender = Recommender(open_model(config, put), put)
        if config.similar is not None:
            say(_similar(recommender, config.similar, config.k))
        elif config.to_folder:
            _fill_folder(recommender, config)
        else:
            _recommend(recommender, config)


def _recommend(recommender: "Recommender", config: RecommendConfig) -> None:
    """Prints recommendations or scores, or writes recommendations to a file."""
    from eqids.inference.allowed_items import allowed_by_files
    from eqids.inference.write_recommendations import write_recommendations

    histories, left_out = _histories(recommender, config)
    if config.request_time is not None:
        histories = recommender.asked_at(
            histories, config.request_time, "--request_time", _report
        )
    if config.score is not None:
        say(_scores(recommender, histories, config.score))
        return
    dataset, seen = recommender.dataset, not config.keep_seen
    allowed = allowed_by_files(dataset, config.allow, config.deny, _report).places
    parts = recommender.search(histories, config.k, filter_seen=seen, allowed=allowed)
    notes = _notes(histories, left_out)
    if config.output is None:
        with waiting("compiling what answers, kept for the next time"):
            found = list(parts)
        for part in found:
            say(listing(part) or "no item is left to recommend, see --keep_seen")
        for note in notes:
            warn(note)
        return
    found = []
    with Counted("recommending", len(histories), "users") as counted:
        for part in parts:
            found.append(part)
            counted.update(part["user"].nunique())
    rows, users = write_recommendations(config.output, found), len(histories)
    what = f"{rows:,} recommendations for {users:,} users in {config.output}"
    say(one_line("; ".join([what, *notes])))


def _similar(recommender: "Recommender", items: str, k: int) -> str:
    """Returns similar items as lines, for each item below its id."""
    from eqids.data.ids import typed_ids

    found = recommender.similar(typed_ids(items), k)
    blocks = []
    for item, rows in found.groupby("item", sort=False):
        columns = (rows[n] for n in ("rank", "similarity", "similar_item", "title"))
        lines = [
            one_line(f"{rank:>4}  {cosine:8.4f}  {similar}  {title}")
            for rank, cosine, similar, title in zip(*columns, strict=True)
        ]
        blocks.append("\n".join([f"similar to {item}:", *lines]))
    return "\n".join(blocks)


def _scores(
    recommender: "Recommender", histories: Sequence["History"], items: str
) -> str:
    """Returns the probabilities of items as lines."""
    import numpy as np

    from eqids.data.ids import typed_ids

    found = recommender.score(histories, typed_ids(items))
    columns = (found[name] for name in ("log_probability", "item", "title"))
    return "\n".join(
        one_line(f"{np.exp(log_prob):12.6%}  {item}  {title}")
        for log_prob, item, title in zip(*columns, strict=True)
    )


def _fill_folder(recommender: "Recommender", config: RecommendConfig) -> None:
    """Writes the recommendations of --input to the folder --output, part by part."""
    from tqdm import tqdm

    from eqids.inference.bulk.bulk_run import open_bulk

    def report(message: str) -> None:
        (_report if message.startswith("warning: ") else say)(message)

    with open_bulk(recommender, config, report) as bulk:
        missing = bulk.missing()
        left = sum(map(bulk.num_users_of, missing))
        done = bulk.num_users - left
        if done:
            say(f"continuing after {done:,} of {bulk.num_users:,} users")
        with tqdm(
            total=bulk.num_users, initial=done, unit=" users", disable=None
        ) as bar:
            for part in missing:
                bulk.write(part, bar.update)
                done += bulk.num_users_of(part)
                if bar.disable:
                    say(f"{done:,} of {bulk.num_users:,} users")
        parts = bulk.finish()
    rows = sum(part.num_rows for part in parts)
    said = f"{rows:,} recommendations for {bulk.num_users:,} users in {config.output}"
    notes = _left_out(bulk.num_unknown)
    if popular := sum(part.num_popular for part in parts):
        notes.append(f"{popular:,} users without history got the most popular items")
    say(one_line("; ".join([said, *notes])))


def _histories(
    recommender: "Recommender", config: RecommendConfig
) -> tuple[list["History"], int]:
    """Returns the histories that the flags name, and how many events were left out."""
    from eqids.data.ids import typed_ids
    from eqids.data.raw.history_files import read_history_file
    from eqids.inference.histories import read_histories

    dataset = recommender.dataset
    if config.user is not None:
        return [recommender.of_user(config.user)], 0
    if config.history is not None:
        given = [typed_ids(config.history)]
        try:
            return read_histories(dataset, given, config.unknown, warn)
        except UserError as error:
            message = str(error).replace("histories[0]", "--history")
            raise UserError(message) from error
    assert config.input is not None
    frame = read_history_file(config.input, _report)
    return read_histories(
        dataset, frame, config.unknown, _report, config.input,
        recommender.reads_request_time,
    )  # fmt: skip


def _report(message: str) -> None:
    warn(message.removeprefix("warning: "))


def _left_out(num_events: int) -> list[str]:
    """Says how many events were left out."""
    if not num_events:
        return []
    return [
        f"{num_events:,} event{'s' if num_events > 1 else ''} with items that the "
        "catalog does not hold left out (--unknown skip)"
    ]


def _notes(histories: Sequence["History"], left_out: int) -> list[str]:
    """Says which events were left out, and who was answered by popularity."""
    from eqids.data.ids import shown

    notes = _left_out(left_out)
    empty = [history.user for history in histories if not len(history.slots)]
    if len(histories) == 1 and empty:
        notes.append(
            "the history is empty: these are the most popular items, and their share "
            "of the training events"
        )
    elif empty:
        notes.append(
            f"{len(empty):,} users without history got the most popular items, the "
            f"first is {shown(empty[0])}"
        )
    return notes


def listing(found: "pd.DataFrame") -> str:
    """Returns recommendations as lines: rank, probability, item and title."""
    columns = (found[name] for name in ("rank", "probability", "item", "title"))
    return "\n".join(
        one_line(f"{rank:>4}  {probability:8.4%}  {item}  {title}")
        for rank, probability, item, title in zip(*columns, strict=True)
    )


if __name__ == "__main__":
    run_as_process(main)
