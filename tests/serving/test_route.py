"""Routing: shares are kept, equal units stay together, and a growing share takes only from others."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.serving.config import RoutePolicy
from tidemill.serving.route import choose

UNITS = [f"unit-{number}" for number in range(4000)]


def policy(**weights: float) -> RoutePolicy:
    total = sum(weights.values())
    return RoutePolicy(shares={name: weight / total for name, weight in weights.items()})


weights = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.floats(0.0, 10.0), min_size=1).filter(
    lambda found: sum(found.values()) > 0.1
)


@given(weights=weights, units=st.lists(st.text(), max_size=20))
def test_every_unit_gets_a_variant_that_has_a_share_and_always_the_same(weights: dict[str, float], units: list[str]) -> None:
    chosen = choose(policy(**weights), units)
    assert len(chosen) == len(units)
    assert all(weights[name] > 0 for name in chosen)
    assert chosen == [choose(policy(**dict(reversed(weights.items()))), [unit])[0] for unit in units]


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1))
def test_shares_that_do_not_sum_to_one_are_refused(shares: dict[str, float]) -> None:
    assume(abs(sum(shares.values()) - 1) > 1e-6)
    with pytest.raises(Invalid, match="must sum to 1"):
        RoutePolicy(shares=shares)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5])
def test_shares_are_kept_over_many_units(share: float) -> None:
    found = choose(policy(champion=1 - share, challenger=share), UNITS).count("challenger") / len(UNITS)
    # Five standard errors: fails by chance once in a million.
    assert abs(found - share) < 5 * (share * (1 - share) / len(UNITS)) ** 0.5


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.4))
def test_a_share_that_grows_keeps_the_units_that_it_has(share: float, more: float) -> None:
    before = choose(policy(champion=1 - share, challenger=share), UNITS[:300])
    after = choose(policy(champion=1 - share - more, challenger=share + more), UNITS[:300])
    assert all(new == "challenger" for old, new in zip(before, after, strict=True) if old == "challenger")


def test_another_salt_deals_anew() -> None:
    one = policy(a=1, b=1)
    two = RoutePolicy(shares=one.shares, salt="second try")
    moved = sum(x != y for x, y in zip(choose(one, UNITS), choose(two, UNITS), strict=True)) / len(UNITS)
    assert 0.45 < moved < 0.55
