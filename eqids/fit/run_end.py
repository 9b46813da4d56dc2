"""When a run ends: at its last step, or before, with a cool-down or without."""

import dataclasses
from collections.abc import Callable

from eqids.config import Recipe
from eqids.fit.cooldown import cooldown
from eqids.fit.optimizer import begin_cooldown, cooldown_begun
from eqids.fit.patience import Patience
from eqids.fit.step import State


class RunEnd:
    """The last step of a run, which patience and time may move.

    With schedule wsd, patience that is spent begins the cool-down; with the others it
    ends the run at once.
    """

    def __init__(self, recipe: Recipe, state: State):
        """Starts from what the state records.

        Args:
            recipe: the run's recipe.
            state: the state that the run starts from.
        """
        self._recipe, self._cools = recipe, recipe.schedule == "wsd"
        self.last = recipe.num_steps
        """The last step."""
        self._cooldown_after = recipe.num_steps
        if self._cools:
            self._note(state)

    def reached(self, done: int, patience: Patience) -> bool:
        """Returns whether the run ends after so many steps."""
        return done >= self.last or (patience.spent and not self._cools)

    def after(
        self,
        done: int,
        state: State,
        patience: Patience,
        no_time: bool,
        report: Callable[[str], None],
    ) -> State:
        """Returns the state to go on from, in which a cool-down may begin.

        Args:
            done: steps so far.
            state: the state after them.
            patience: what the evaluations so far say.
            no_time: whether only the time of a cool-down is left.
            report: receives a message if the cool-down begins before its time.
        """
        begins = patience.spent or no_time
        if not (self._cools and begins and done < self._cooldown_after):
            return state
        optimizer = begin_cooldown(state.optimizer, state.step)
        state = dataclasses.replace(state, optimizer=optimizer)
        self._note(state)
        why = "no better evaluation" if patience.spent else "--max_minutes"
        report(f"step {done:>6}  {why}: the learning rate falls until {self.last}")
        return state

    def _note(self, state: State) -> None:
        begun, recipe = cooldown_begun(state.optimizer), self._recipe
        found = cooldown(recipe.num_steps, begun, recipe.first_step)
        self._cooldown_after, self.last = int(found.first), int(found.last)
