"""Annotations are checked at every call, also of what is defined again and again."""

from collections.abc import Callable

import checked
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, jaxtyped


def defined(size: int) -> Callable[..., object]:
    @jaxtyped(typechecker=checked.beartype)
    def of(
        x: Float[np.ndarray, " rows"], wide: bool
    ) -> Float[np.ndarray, "rows 2"] | None:
        return np.zeros((size, 2)) if wide else None

    return of


@pytest.mark.parametrize("size", [3, 4])
def test_a_function_inside_a_function_is_checked(size: int) -> None:
    of, right = defined(size), np.zeros(size)
    assert np.shape(of(right, True)) == (size, 2) and of(right, False) is None
    for given in ((np.zeros(5), True), (right[:, None], False), (right, 1)):
        with pytest.raises(TypeCheckError):
            of(*given)
