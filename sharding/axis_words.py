"""Reads the logical axes of arrays from their jaxtyping annotations."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey, SequenceKey
from jaxtyping import PyTree

_Path = tuple[GetAttrKey | SequenceKey | DictKey, ...]


@dataclass(frozen=True)
class Words:
    """The logical axes of one array, and the field that declares them."""

    names: tuple[str, ...]
    field: str


def words(tree: PyTree, *, bind: bool = True) -> PyTree[Words]:
    """Returns the logical axes of every array in a tree of dataclasses.

    jaxtyping checks fields only if a generated `__init__` sets them, and not arrays
    that were loaded, restored or made by `filter_vmap`. This function checks them too:
    each word has one size over the whole tree. A starred word, `*inputs`, stands for
    the words in the static field `inputs` of the same module, so that one module class
    serves several kinds of array.

    Args:
        tree: Equinox modules or dataclasses whose array fields are annotated. Leaves
            may be arrays or anything else that has a `shape`.
        bind: require one size for each word. A tree of updates needs False if it has
            blocks in place of whole tables.

    Returns:
        The same tree with a `Words` in place of each array.

    Raises:
        ValueError: an array has no annotation, or another number of axes than its
            annotation, or a word has two sizes; the message names the fields.
    """
    sizes: dict[str, tuple[int, str]] = {}

    def read(path: _Path, leaf: Any) -> Words:
        name = jax.tree_util.keystr(path).lstrip(".")
        names = _annotated(tree, path, name)
        if len(names) != len(leaf.shape):
            raise ValueError(
                f"{name} has shape {tuple(leaf.shape)}, wanted axes {' '.join(names)!r}"
            )
        for word, size in zip(names, leaf.shape, strict=True):
            bound, first = sizes.setdefault(word, (size, name))
            if bind and bound != size:
                raise ValueError(
                    f"{word!r} is {size} in {name} and {bound} in {first}, "
                    "wanted one size"
                )
        return Words(names, name)

    return jax.tree_util.tree_map_with_path(read, tree)


def _annotated(tree: PyTree, path: _Path, name: str) -> tuple[str, ...]:
    """The words of the innermost annotated field on the way to a leaf."""
    node, owner, hint = tree, None, None
    for key in path:
        if isinstance(key, GetAttrKey):
            fields = {f.name: f for f in dataclasses.fields(node)}
            hint = fields[key.name].type
            owner, node = node, getattr(node, key.name)
        elif isinstance(key, SequenceKey):
            node = node[key.idx]
        else:
            node = node[key.key]
    for option in (hint, *typing.get_args(hint)):
        if option is not types.NoneType and hasattr(option, "dim_str"):
            return tuple(
                word
                for spelled in option.dim_str.split()
                for word in _spelled_out(spelled, owner)
            )
    raise ValueError(f"{name} has no jaxtyping annotation to read its axes from")


def _spelled_out(word: str, owner: object) -> tuple[str, ...]:
    return getattr(owner, word[1:]) if word.startswith("*") else (word,)
