"""Columns as a matrix."""

import numpy as np
import pyarrow as pa
import pytest

from tidemill.core.errors import Invalid
from tidemill.training.encoding import Encoding, encode, fit_encoding, labels, texts

TABLE = pa.table({"wind": [1.5, None, 3.0], "late": [True, False, None], "carrier": ["UA", None, "AA"], "whole": [1, 2, 3]})


def test_numbers_stay_and_categories_become_their_places_in_sorted_order() -> None:
    encoding = fit_encoding(TABLE, numeric=("wind", "late", "whole"), categorical=("carrier",))
    assert encoding.categories == (("AA", "UA"),)
    np.testing.assert_array_equal(encode(encoding, TABLE), np.array([[1.5, 1, 1, 1], [np.nan, 0, 2, -1], [3, np.nan, 3, 0]], np.float32))


def test_a_new_category_is_unknown() -> None:
    encoding = fit_encoding(TABLE, numeric=(), categorical=("carrier",))
    assert encode(encoding, pa.table({"carrier": ["ZZ", "UA"]})).tolist() == [[-1], [1]]


def test_dictionary_columns_are_text_too() -> None:
    encoded = TABLE.set_column(2, "carrier", TABLE["carrier"].dictionary_encode())
    assert fit_encoding(encoded, numeric=(), categorical=("carrier",)).categories == (("AA", "UA"),)
    assert texts(encoded, "carrier").tolist() == ["UA", "", "AA"]


def test_what_is_missing_or_ill_typed_is_named() -> None:
    with pytest.raises(Invalid, match="no column rain, snow"):
        fit_encoding(TABLE, numeric=("wind", "rain", "snow"))
    with pytest.raises(Invalid, match="'carrier' is of type string; expected numbers"):
        encode(Encoding(numeric=("carrier",), categorical=(), categories=()), TABLE)
    with pytest.raises(Invalid, match="'wind' is of type double; expected text"):
        fit_encoding(TABLE, numeric=(), categorical=("wind",))
    with pytest.raises(Invalid, match="at least one column"):
        fit_encoding(TABLE, numeric=())
    with pytest.raises(Invalid, match="named twice"):
        fit_encoding(TABLE, numeric=("wind", "wind"))


def test_labels_are_all_there_and_two() -> None:
    assert labels(TABLE.slice(0, 2), "late").tolist() == [True, False]
    with pytest.raises(Invalid, match="neither 0 nor 1"):
        labels(TABLE, "late")
    with pytest.raises(Invalid, match="neither 0 nor 1"):
        labels(TABLE, "whole")
