"""Sharding by array annotations, whose words are logical axes: maps them to mesh axes.

A field declares its array once, `wq: Float[Array, "layer heads head width"]`. These
words are its logical axes. A `Layout` maps words to mesh axes, and `place` puts a tree
on a mesh accordingly. With `gathered`, `lookup`, `like` and `per_shard` a model
computes under explicit axis types; all of them also work without a mesh. This package
does not depend on any model.

`sharding.processes` starts and ends the processes of several hosts together;
`sharding.compiled` reads memory, FLOPs and collectives from compiled programs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharding.public_names import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        """Imports all names when one is first used, so that --help does not wait for
        jax."""
        import importlib

        public = vars(importlib.import_module("sharding.public_names"))
        if name.startswith("_") or name not in public:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals().update({n: v for n, v in public.items() if n[0] != "_"})
        return public[name]
