"""Multiple testing against statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from tidemill.core.errors import Invalid
from tidemill.stats.multiple import benjamini_hochberg


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_adjusted_p_values_agree_with_statsmodels(p_values: list[float]) -> None:
    np.testing.assert_allclose(benjamini_hochberg(p_values), multipletests(p_values, method="fdr_bh")[1], atol=1e-12)


def test_no_test_at_all_is_fine() -> None:
    assert benjamini_hochberg([]).size == 0


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(Invalid, match="between 0 and 1"):
        benjamini_hochberg([0.1, 1.5])
