"""Page tokens lead on in one question's answer only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.pages import TokenRefused, question, read_token, token_after

json_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.lists(json_values), st.text())
def test_a_token_gives_back_the_position_that_it_was_made_of(position, asked):
    scope = question("runs", asked)
    assert read_token(token_after(scope, *position), scope) == position


@given(st.text(max_size=40))
def test_what_is_no_token_is_refused(text):
    with pytest.raises(TokenRefused, match="not one that this search gave"):
        read_token(text, question("runs"))


def test_a_token_of_another_question_is_refused():
    token = token_after(question("runs", "a = 1"), 5)
    with pytest.raises(TokenRefused, match="same filter, order and view"):
        read_token(token, question("runs", "a = 2"))
