"""A seed makes everything draw the same again."""

import random

import numpy as np
import pytest

import tidemill as tm
from tidemill.core.errors import Invalid


def test_everything_draws_the_same_again() -> None:
    drawn = [(tm.seed(3), random.random(), float(np.random.random())) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == 3


@pytest.mark.parametrize("number", [-1, 2**32, 1.5, "7", True, None])
def test_a_seed_that_is_none_is_told_so(number: object) -> None:
    with pytest.raises(Invalid, match=r"seed .* is not usable; expected a whole number from 0 to 4294967295"):
        tm.seed(number)
