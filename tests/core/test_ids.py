"""Ids sort by time and say so; names fit into keys, paths and URLs."""

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.core.ids import check_name, new_id, new_ids, new_run_id, uuid7_hex


def test_an_id_is_a_uuid_of_version_7_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("count", [1, 2, 3, 32, 1000])
def test_ids_of_one_moment_are_ids_each(count: int) -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid.UUID(each) for each in new_ids(count)]
    assert len(set(made)) == count
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert all(before <= each.int >> 80 <= time.time_ns() // 1_000_000 for each in made)
    low = [each.int & (2**62 - 1) for each in made]
    assert count < 1000 or all(0.3 < sum(each >> bit & 1 for each in low) / count < 0.7 for bit in range(62)), "each of 62 bits is random"


def test_the_example_of_the_standard() -> None:
    # RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    assert uuid7_hex(0x017F22E279B0, "cc318c4dc0c0c07398f0") == "017f22e279b07cc398c4dc0c0c07398f"


_DIGITS = st.text("0123456789abcdef", min_size=20, max_size=20)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), _DIGITS, _DIGITS)
def test_ids_sort_by_time(one: int, other: int, left: str, right: str) -> None:
    made = uuid.UUID(uuid7_hex(one, left))
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, one)
    assert one == other or (uuid7_hex(one, left) < uuid7_hex(other, right)) == (one < other)


def test_ids_are_distinct() -> None:
    assert len({new_run_id() for _ in range(10_000)} | set(new_ids(10_000))) == 20_000


@pytest.mark.parametrize("name", ["a", "7", "delay-weekly", "a.b_c-d", "N" * 128])
def test_a_usable_name_is_returned(name: str) -> None:
    assert check_name(name, "model") == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a b", "a/b", "a@1", "a:b", "ä", "a\n", "N" * 129, "a\x00"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"model name .* is not usable; expected 1 to 128 letters, digits, dots, dashes or underscores"):
        check_name(name, "model")
