"""Requests go together where that pays, and nobody waits for long because of the rows of others."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.pace import Pace

COSTS = st.floats(1e-7, 1e-2)


def groups_of(pace: Pace, counts: list[int]) -> list[list[int]]:
    return pace.groups(counts, lambda count: count)


def work_off(pace: Pace, counts: list[int], seconds: Callable[[int], float]) -> list[float]:
    """Score a queue; return when each request was answered, seconds after the first group began."""
    now, answered = 0.0, []
    for group in groups_of(pace, counts):
        took = seconds(sum(group))
        pace.saw(sum(group), took)
        now += took
        answered += [now] * len(group)
    return answered


@given(
    fixed=COSTS,
    row=COSTS,
    limit=st.sampled_from([1e-4, 1e-3, 1e-2]),
    rows=st.integers(1, 40),
    queues=st.lists(st.integers(1, 70), max_size=60),
)
def test_nobody_waits_longer_than_the_bound_for_the_rows_of_others(
    fixed: float, row: float, limit: float, rows: int, queues: list[int]
) -> None:
    """With costs of any fixed and any further part, also while they are being learned."""
    pace = Pace(limit)
    alone = fixed + rows * row
    for queue in [1, *queues]:
        for group in groups_of(pace, [rows] * queue):
            assert fixed + sum(group) * row <= alone + max(limit, alone) + 1e-12
        work_off(pace, [rows] * queue, lambda count: fixed + count * row)


@pytest.mark.parametrize(("fixed", "row", "together"), [(1e-4, 1e-6, True), (1e-5, 1e-6, True), (1e-7, 1e-4, False)])
def test_requests_go_together_where_that_pays(fixed: float, row: float, together: bool) -> None:
    pace = Pace(1e-3)
    for _ in range(300):
        work_off(pace, [1] * 32, lambda count: fixed + count * row)
    took = work_off(pace, [1] * 32, lambda count: fixed + count * row)[-1]
    in_turn = 32 * (fixed + row)
    assert took < in_turn / 5 if together else took <= in_turn * 1.0001
    assert (len(groups_of(pace, [1] * 32)) < 5) is together


def test_what_gets_dearer_with_more_rows_stays_in_the_class_that_is_cheapest() -> None:
    """As ONNX Runtime's trees do, whose rows cost twice as much from 64 on."""
    pace = Pace(1e-3)

    def seconds(rows: int) -> float:
        return 9e-6 + rows * (1e-6 if rows < 64 else 3e-6)

    for _ in range(50):
        work_off(pace, [1] * 300, seconds)
    assert {len(group) for group in groups_of(pace, [1] * 300)[:-1]} == {63}
    for _ in range(50):
        work_off(pace, [32] * 16, seconds)
    assert {len(group) for group in groups_of(pace, [32] * 16)} == {1}


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=50))
def test_everybody_is_in_one_group_in_order(counts: list[int]) -> None:
    pace = Pace(1e-3)
    for rows in (1, 2, 4, 8, 16):
        pace.saw(rows, 1e-5)
    found = groups_of(pace, counts)
    assert [count for group in found for count in group] == counts
    assert all(len(group) == 1 or sum(group) <= max(pace.most(min(counts)), 1) for group in found)


def test_without_a_limit_each_is_scored_alone() -> None:
    pace = Pace(0.0)
    for rows in (1, 2, 4, 8):
        pace.saw(rows, 1e-5)
    assert groups_of(pace, [1, 1, 2]) == [[1], [1], [2]]
