"""Sharding by the words of array annotations: logical axes to mesh axes.

A field declares its array once, `wq: Float[Array, "layer heads head width"]`. These
words are its logical axes. A `Layout` maps words to mesh axes, and `place` puts a tree
on a mesh accordingly. With `gathered`, `lookup`, `like` and `per_shard` a model
computes under explicit axis types; all of them also work without a mesh. This package
knows nothing of models.

Processes of several hosts start and end together by `sharding.processes`;
`sharding.compiled` reads what XLA's compiler says of a program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.public_names import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Imports all names at the first use of one: --help does not wait for jax."""
        import importlib

        public = vars(importlib.import_module("sharding.public_names"))
        if name.startswith("_") or name not in public:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals().update({n: v for n, v in public.items() if n[0] != "_"})
        return public[name]
