"""Checkpoints: whole or not there, exact, restored onto any mesh. Knows no model."""

from eqids.fit.checkpoint.leaves import leaf_name as leaf_name
from eqids.fit.checkpoint.manifest import (
    Manifest as Manifest,
    read_manifest as read_manifest,
)
from eqids.fit.checkpoint.retention import (
    best_step as best_step,
    latest_step as latest_step,
    partials as partials,
    prune as prune,
    resolve as resolve,
    steps as steps,
)
from eqids.fit.checkpoint.step import (
    restore as restore,
    save as save,
    verify as verify,
)
