"""Points in memory: whole calls or none, each key's in order, whatever a number looks like."""

import math
from decimal import Decimal
from fractions import Fraction
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.client.columns import BATCH_POINTS, Columns, MetricRefused, Taken, number
from tidemill.core.clock import wall_micros
from tidemill.core.errors import Invalid

KEYS = st.sampled_from(["loss", "valid/auc", "a b", "x.y"])


def points(columns: Columns) -> dict[str, list[tuple[float, int]]]:
    """Take all points away and return each key's values and steps."""
    found: dict[str, list[tuple[float, int]]] = {}
    for batch in columns.take():
        for part in batch:
            values, steps = np.frombuffer(part.values, "<f8").tolist(), np.frombuffer(part.steps, "<i8").tolist()
            found.setdefault(part.key, []).extend(zip(values, steps, strict=True))
    return found


@given(
    st.lists(st.tuples(st.dictionaries(KEYS, st.floats(allow_nan=False), max_size=4), st.integers(-(2**63) + 1, 2**63 - 1)), max_size=30)
)
def test_what_goes_in_comes_out_in_order(calls: list[tuple[dict[str, float], int]]) -> None:
    columns = Columns()
    expected: dict[str, list[tuple[float, int]]] = {}
    for metrics, step in calls:
        columns.add(metrics, step)
        for key, value in metrics.items():
            expected.setdefault(key, []).append((value, step))
    assert columns.count == sum(map(len, expected.values()))
    assert columns.latest() == {key: found[-1][0] for key, found in expected.items()}
    assert points(columns) == expected
    assert columns.count == 0
    assert columns.latest() == {key: found[-1][0] for key, found in expected.items()}


def test_a_step_that_is_not_given_is_one_more_than_the_keys_last() -> None:
    columns = Columns()
    columns.add({"loss": 1.0})
    columns.add({"loss": 1.0, "auc": 1.0})
    columns.add({"loss": 1.0}, 10)
    assert points(columns) == {"loss": [(1.0, 0), (1.0, 1), (1.0, 10)], "auc": [(1.0, 0)]}
    columns.add({"loss": 1.0, "auc": 1.0})
    columns.resume({"late": 41})
    columns.add({"late": 1.0})
    assert points(columns) == {"loss": [(1.0, 11)], "auc": [(1.0, 1)], "late": [(1.0, 42)]}


def test_points_carry_the_time_of_their_call() -> None:
    columns, before = Columns(), wall_micros()
    columns.add({"loss": 1.0})
    ((part,),) = columns.take()
    (at,) = np.frombuffer(part.times, "<i8")
    assert before <= at <= wall_micros()


@pytest.mark.parametrize(
    ("given", "kept"),
    [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(7), 7.0), (np.array([[0.25]]), 0.25), (np.bool_(True), 1.0),
     (Decimal("0.5"), 0.5), (Fraction(1, 4), 0.25), (math.inf, math.inf), (-math.inf, -math.inf), (np.float64(2), 2.0)],
)  # fmt: skip
def test_numbers_of_every_kind_are_taken(given: Any, kept: float) -> None:
    columns = Columns()
    columns.add({"first": 1.0, "m": given, "last": 2})
    assert points(columns) == {"first": [(1.0, 0)], "m": [(kept, 0)], "last": [(2.0, 0)]}


def test_what_is_not_a_number_stays_one() -> None:
    columns = Columns()
    columns.add({"loss": math.nan})
    ((value, _),) = points(columns)["loss"]
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0.3", r"metric 'm' is of type str \('0\.3'\); convert it with float\(value\), or log it with run\.tag; nothing of"),
        (None, r"metric 'm' is of type NoneType \(None\); log a number; leave out what has none"),
        (np.ones(3), r"metric 'm' is of type ndarray .*log one number, such as the mean of these: value\.mean\(\)"),
        ([1.0], r"metric 'm' is of type list \(\[1\.0\]\); log a number"),
        (1j, r"metric 'm' is of type complex \(1j\); log a number"),
        (np.str_("x"), r"metric 'm' is of type str_"),
        (10**400, r"metric 'm' is of type int; no float is that large"),
    ],
)
def test_what_is_no_number_is_told_in_one_sentence_and_nothing_is_logged(value: Any, says: str) -> None:
    columns = Columns()
    with pytest.raises(MetricRefused, match=says):
        columns.add({"first": 1.0, "m": value, "last": 2.0}, 1)
    assert (columns.count, points(columns)) == (0, {})


@pytest.mark.parametrize("key", ["", "x" * 251, "a\0b", "a//b", "../b", 3])
def test_a_key_that_is_not_usable_is_told_so(key: Any) -> None:
    columns = Columns()
    with pytest.raises(Invalid, match=r"metric key .* (is not usable; expected|has 251 characters; expected at most 250)"):
        columns.add({"first": 1.0, key: 2.0})
    assert points(columns) == {}


@pytest.mark.parametrize("step", [1.5, "1", 2**63, -(2**63), np.array([1, 2])])
def test_a_step_that_is_no_whole_number_is_told_so(step: Any) -> None:
    columns = Columns()
    with pytest.raises(Invalid, match=r"step .* is not usable; expected a whole number"):
        columns.add({"loss": 1.0}, step)
    assert points(columns) == {}


def test_a_step_of_numpy_is_taken() -> None:
    columns = Columns()
    columns.add({"loss": 1.0}, np.int32(4))
    assert points(columns) == {"loss": [(1.0, 4)]}


def test_batches_are_no_larger_than_a_request_may_be() -> None:
    columns = Columns()
    columns.add({f"k{n}": 1.0 for n in range(12_000)}, 0)
    for step in range(BATCH_POINTS + 10):
        columns.add({"long": 0.5}, step)
    batches = list(columns.take())
    assert [] not in batches
    assert max(sum(len(part.values) // 8 for part in batch) for batch in batches) <= BATCH_POINTS
    assert max(map(len, batches)) < 11_000
    assert sum(len(part.values) // 8 for batch in batches for part in batch) == 12_000 + BATCH_POINTS + 10


def test_threads_lose_nothing() -> None:
    columns = Columns()
    taken: dict[str, list[tuple[float, int]]] = {}

    def log(key: str) -> None:
        for step in range(5000):
            columns.add({key: float(step), "shared": 1.0}, step)

    threads = [Thread(target=log, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for key, found in points(columns).items():
            taken.setdefault(key, []).extend(found)
    for key, found in points(columns).items():
        taken.setdefault(key, []).extend(found)
    assert len(taken.pop("shared")) == 20_000
    assert taken == {f"t{n}": [(float(step), step) for step in range(5000)] for n in range(4)}


def test_a_call_that_is_broken_off_between_two_appends_leaves_columns_even() -> None:
    columns = Columns()
    columns.add({"a": 1.0, "b": 1.0}, 1)
    puts = columns._puts["b"]

    def broken(_: int) -> None:
        raise KeyboardInterrupt

    columns._puts["b"] = (puts[0], broken, puts[2])
    with pytest.raises(KeyboardInterrupt):
        columns.add({"a": 2.0, "b": 2.0}, 2)
    columns._puts["b"] = puts
    columns.add({"b": 3.0}, 3)
    assert columns.count == 4
    assert points(columns) == {"a": [(1.0, 1), (2.0, 2)], "b": [(1.0, 1), (3.0, 3)]}


def test_a_batch_is_what_the_wire_takes() -> None:
    columns = Columns()
    columns.add({"loss": 1.0}, 2)
    ((part,),) = columns.take()
    assert isinstance(part, Taken)
    assert (part.key, part.values.hex(), part.steps.hex()) == ("loss", "000000000000f03f", "0200000000000000")


def test_number_reads_a_scalar_of_torch_by_its_item() -> None:
    class Tensor:
        def item(self) -> float:
            return 0.5

    class Many:
        def item(self) -> float:
            raise RuntimeError("a Tensor with 3 elements cannot be converted to Scalar")

    assert number("loss", Tensor()) == 0.5
    with pytest.raises(MetricRefused, match="log one number"):
        number("loss", Many())
