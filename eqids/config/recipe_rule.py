"""The rule that chooses a recipe, and the size of a Llama from scratch, from the data.

Every choice is a monotone function of a few facts; docs/recipes.md has the reasons and
what was measured. All constants are at the top of this file.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eqids.config.choices import Strategy
from eqids.config.model import LLAMA_PRESETS, SCRATCH_SIZES, LlamaConfig, LlamaSize
from eqids.config.recipes import PRETRAINED_RECIPES, Recipe

SIZES: tuple[tuple[LlamaSize, int], ...] = (
    ("small", 50_000_000),
    ("mini", 5_000_000),
    ("micro", 500_000),
    ("nano", 0),
)
"""Sizes from scratch, each with the training events from which it is chosen."""
SEQ_LENS = (50, 200)
"""Fewest and most positions in a row; between them, twice or four times the fewest,
next to a length that 90% of the histories do not exceed. Histories share rows, so short
ones waste none."""
HISTORIES = (16, 64)
"""A batch has as many positions as so many of the shortest rows: the power of two next
to the mean length of a history, because the targets of one user are alike."""
PEAK = 2e-3
"""Learning rate of a width of 64. It goes inversely with the root of the width."""
WARMUP_STEPS = 50
"""Steps of the warmup, from scratch."""
MOST_ITEM_WIDTH = 256
"""Item vectors are as wide as the Llama, up to this width."""
DROPOUT, DENSE, DROPOUT_A_HALVING, MOST_DROPOUT = 0.2, 50.0, 0.05, 0.5
"""Dropout with that many training events an item or more, what each halving of their
number adds, and the most."""
POSITIONS, MANY_EVENTS = 3_200, 250_000
"""From scratch, epochs fall with the root of a batch's positions below the first
number, as smaller batches make more steps, and with the root of the training events
above the second, so that the steps grow with that root."""
EPOCHS: Mapping[str, float] = types.MappingProxyType(
    {"scratch": 30.0, "heads": 50.0, "lora": 50.0, "all": 50.0}
)
"""Passes over the training events, at most: runs stop early."""
STEPS = (300, 20_000)
"""Fewest and most steps from scratch; `PRETRAINED_RECIPES` has the most of others."""
TEXT_EPOCHS = 2.0
"""With text columns, a model from scratch makes so many times the epochs, at a learning
rate that is as many times lower."""
EVAL_EVERY, EVALUATIONS = 100, 25
"""Fewest steps between evaluations from scratch, and about how many there are in the
whole of a long run."""
EARLY_STOP = 5
"""Evaluations without a better NDCG@10 that end a run."""
EVAL_USERS = 5_000
"""Most users in an evaluation during training: NDCG@10 has a standard error of about
.003 then, and the errors of two steps have the same sign."""
MORE, AGAIN = 0.15, 0.3
"""A run that continues another makes this share of the steps of a new run, at this
share of the other's learning rate."""
_TEXT = 4
"""How many times longer rows are if items have texts."""


@dataclass(frozen=True)
class DataFacts:
    """What the rule knows of a dataset. Lengths are those of training histories."""

    num_users: int
    """Users."""
    num_items: int
    """Items, those without training events included."""
    num_events: int
    """Training events."""
    num_positions: int
    """Positions that one pass over the training targets reads, with the tokens of the
    texts beside them."""
    mean_length: float
    """Mean length of a history that has a target, which takes two events."""
    median_length: float
    """Median of these lengths."""
    p90_length: float
    """Length that 90% of these histories do not exceed."""
    num_evaluated: int
    """Users with a validation target."""

    @property
    def events_per_item(self) -> float:
        """Training events of an item, on average."""
        return self.num_events / max(self.num_items, 1)


ML_100K = DataFacts(943, 1_682, 98_114, 97_171, 104.0, 63.0, 242.4, 943)
"""MovieLens-100K, which also stands for the data where there is none: in plans for
hardware and in --help."""


def size_for(facts: DataFacts) -> LlamaSize:
    """Returns the size of a Llama from scratch: it grows with the training events."""
    return next(size for size, least in SIZES if facts.num_events >= least)


def recipe_for(
    facts: DataFacts,
    llama: LlamaConfig | None,
    strategy: Strategy,
    given: Mapping[str, Any] = types.MappingProxyType({}),
    reads_text: bool = False,
    text_columns: bool = False,
) -> Recipe:
    """Returns the recipe of a run.

    Args:
        facts: the data.
        llama: sizes of a small Llama from scratch, or None for a published one.
        strategy: what trains.
        given: by field, what the user chose; what depends on it follows. `epochs` is
            another way to give `num_steps`, and has no bounds.
        reads_text: whether tokens of texts or of a prompt share rows with the items.
        text_columns: whether items have text columns; a published Llama's recipe does
            not depend on it.
    """
    recipe, times = PRETRAINED_RECIPES[strategy], 1.0
    if llama is not None:
        recipe = _from_scratch(facts, llama, given)
        times = TEXT_EPOCHS if text_columns else 1.0
        recipe = dataclasses.replace(recipe, learning_rate=recipe.learning_rate / times)
    if reads_text:
        recipe = dataclasses.replace(recipe, seq_len=_TEXT * recipe.seq_len)
    recipe = dataclasses.replace(
        recipe,
        early_stop=EARLY_STOP,
        eval_users=EVAL_USERS if facts.num_evaluated > EVAL_USERS else 0,
    )
    chosen = {name: value for name, value in given.items() if name != "epochs"}
    recipe = dataclasses.replace(recipe, **chosen)
    if "num_steps" not in given:
        usual = times * _epochs(facts, llama, strategy, recipe)
        steps = num_steps(facts, recipe, given.get("epochs", usual))
        if "epochs" not in given:
            steps = min(max(round(steps, -2), STEPS[0]), recipe.num_steps)
        recipe = dataclasses.replace(recipe, num_steps=steps)
    if "eval_every" not in given:
        every = max(recipe.eval_every, recipe.num_steps // EVALUATIONS)
        recipe = dataclasses.replace(recipe, eval_every=every)
    return with_adapter(recipe, llama)


def with_adapter(recipe: Recipe, llama: LlamaConfig | None) -> Recipe:
    """Returns a recipe whose adapters are matrices if they cannot be identities.

    Args:
        recipe: the recipe.
        llama: sizes of a small Llama from scratch, or None for a published one.
    """
    if llama is None or recipe.adapter != "identity":
        return recipe
    same = recipe.item_width == llama.width
    return dataclasses.replace(recipe, adapter="identity" if same else "linear")


def continued_recipe(
    recipe: Recipe,
    new: Recipe,
    facts: DataFacts,
    step: int,
    given: Mapping[str, Any],
) -> Recipe:
    """Returns the recipe of a run that continues another with more steps.

    Args:
        recipe: of the other run.
        new: what a new run on the same data would have.
        facts: the data that the run trains on.
        step: the step of the other run to continue from.
        given: by field, what the user chose; `more_steps` or `epochs` for the steps.
    """
    more = given.get("more_steps", max(1, round(MORE * new.num_steps)))
    if "epochs" in given:
        more = num_steps(facts, recipe, given["epochs"])
    rate = recipe.learning_rate * (1.0 if recipe.first_step else AGAIN)
    follows = {
        "first_step": step,
        "num_steps": step + more,
        "learning_rate": rate,
        "warmup_steps": min(recipe.warmup_steps, more // 10),
        "eval_every": min(recipe.eval_every, max(1, more // EARLY_STOP)),
        "eval_users": new.eval_users,
    }
    chosen = {n: v for n, v in given.items() if n not in ("more_steps", "epochs")}
    return dataclasses.replace(recipe, **{**follows, **chosen})


def num_steps(facts: DataFacts, recipe: Recipe, epochs: float) -> int:
    """Returns the number of steps of so many passes over the training targets.

    Packing fills 99% of a batch's positions, so a batch counts as full.
    """
    return max(1, math.ceil(epochs / epochs_of_step(facts, recipe)))


def epochs_of_step(facts: DataFacts, recipe: Recipe) -> float:
    """Returns the share of a pass over the training targets that one step makes."""
    return recipe.batch_size * recipe.seq_len / max(facts.num_positions, 1)


def recipe_text(facts: DataFacts, recipe: Recipe, llama: str) -> str:
    """Returns what a run prints of its recipe: the data, and what was chosen for it.

    Args:
        facts: the data.
        recipe: the recipe.
        llama: the Llama, such as `nano 64 x 2`.
    """
    each = facts.num_events / max(facts.num_users, 1)
    epochs = recipe.own_steps * epochs_of_step(facts, recipe)
    steps = f"{recipe.own_steps:,}{' more' if recipe.first_step else ''} steps"
    patience = f"stops after {recipe.early_stop} evaluations without a better one"
    if not recipe.early_stop:
        patience = "does not stop early"
    on = f"{recipe.eval_users:,}" if recipe.eval_users else "all"
    return (
        f"recipe: {facts.num_users:,} users, {facts.num_items:,} items, {each:.1f} "
        f"training events a user, {facts.events_per_item:.1f} an item\n"
        f"  -> {llama}, items of {recipe.item_width}, dropout {recipe.dropout:g}, "
        f"learning rate {recipe.learning_rate:.3g} ({recipe.schedule})\n"
        f"  -> {steps} of {recipe.batch_size} x {recipe.seq_len} "
        f"({epochs:.1f} epochs); every {recipe.eval_every:,} an evaluation of {on} "
        f"users; {patience}"
    )


def _epochs(
    facts: DataFacts, llama: LlamaConfig | None, strategy: Strategy, recipe: Recipe
) -> float:
    if llama is None:
        return EPOCHS[strategy]
    of_batch = min(1.0, recipe.batch_size * recipe.seq_len / POSITIONS)
    of_events = min(1.0, MANY_EVENTS / max(facts.num_events, 1))
    return EPOCHS["scratch"] * math.sqrt(of_batch * of_events)


def _from_scratch(
    facts: DataFacts, llama: LlamaConfig, given: Mapping[str, Any]
) -> Recipe:
    """The recipe of a small Llama; its number of steps is the most of any data."""
    seq_len = given.get("seq_len", _seq_len(facts))
    batch_size = given.get("batch_size", max(1, _positions(facts) // seq_len))
    return Recipe(
        num_steps=STEPS[1],
        batch_size=batch_size,
        seq_len=seq_len,
        learning_rate=PEAK * math.sqrt(64 / llama.width),
        warmup_steps=WARMUP_STEPS,
        weight_decay=0.01,
        item_width=min(llama.width, MOST_ITEM_WIDTH),
        adapter="identity",
        dropout=_dropout(facts),
        eval_every=EVAL_EVERY,
    )


def _seq_len(facts: DataFacts) -> int:
    least, most = SEQ_LENS
    times = 2 ** round(math.log2(max(facts.p90_length, least) / least))
    return min(times * least, most)


def _positions(facts: DataFacts) -> int:
    """Positions in a batch."""
    least, most = HISTORIES
    power = 2 ** round(math.log2(max(facts.mean_length, 1.0)))
    return min(max(power, least), most) * SEQ_LENS[0]


def _dropout(facts: DataFacts) -> float:
    halvings = math.log2(DENSE / max(facts.events_per_item, 1e-9))
    more = DROPOUT_A_HALVING * max(halvings, 0.0)
    return round(min(DROPOUT + more, MOST_DROPOUT), 2)


NANO_RECIPE = recipe_for(ML_100K, LLAMA_PRESETS["nano"], "all")
"""What the rule chooses for MovieLens-100K."""


def preset_recipe(size: str, strategy: Strategy, reads_text: bool = False) -> Recipe:
    """Returns the recipe of a size of Llama where no data is known: plans, benches.

    Args:
        size: a name in `LLAMA_PRESETS`.
        strategy: what trains.
        reads_text: as for `recipe_for`.
    """
    llama = LLAMA_PRESETS[size] if size in SCRATCH_SIZES else None
    return recipe_for(ML_100K, llama, strategy, reads_text=reads_text)
