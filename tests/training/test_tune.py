"""Tuning: seeded, pruned, told trial by trial."""

from collections.abc import Callable
from typing import Any

import pytest

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.training.tune import Choice, Real, Trial, Tuning, Whole, tune

SPACE = {"x": Real(low=-2, high=2), "n": Whole(low=1, high=64, log=True), "shape": Choice(options=("round", "flat"))}


def bowl(params: dict[str, Any], report: Callable[[int, float], None]) -> float:
    value = -((params["x"] - 0.5) ** 2) - (0.5 if params["shape"] == "flat" else 0.0)
    for step in range(1, 4):
        report(step, value - 1 / step)
    return float(value)


def test_the_same_seed_makes_the_same_trials_and_another_one_others() -> None:
    one, two = (tune(bowl, SPACE, trials=8, seed=7) for _ in range(2))
    assert one == two
    assert tune(bowl, SPACE, trials=8, seed=8) != one
    assert decode(encode(one), Tuning) == one


def test_the_best_trial_is_the_best_complete_one() -> None:
    found = tune(bowl, SPACE, trials=25, seed=0)
    complete = [trial.value for trial in found.trials if trial.value is not None]
    assert found.best.value == max(complete)
    assert abs(found.best.params["x"] - 0.5) < 0.5
    assert tune(lambda params, report: params["x"], SPACE, trials=9, seed=0, direction="minimize").best.value == pytest.approx(-2, abs=1)


def test_trials_that_fall_behind_are_ended_early() -> None:
    found = tune(bowl, SPACE, trials=20, seed=0)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.value is None and len(trial.values) < 3 for trial in pruned)
    assert found.trials[0].state == "complete"


def test_every_trial_is_told_as_it_ends() -> None:
    told: list[Trial] = []
    found = tune(bowl, SPACE, trials=5, seed=0, on_trial=told.append)
    assert tuple(told) == found.trials


def test_the_params_in_use_are_tried_first() -> None:
    first = {"x": 0.5, "n": 8, "shape": "round"}
    found = tune(bowl, SPACE, trials=3, seed=0, first=first)
    assert found.trials[0].params == first
    assert found.best == found.trials[0]


def test_what_an_objective_raises_is_not_hidden() -> None:
    def broken(params: dict[str, Any], report: Callable[[int, float], None]) -> float:
        raise Invalid("no rows")

    with pytest.raises(Invalid, match="no rows"):
        tune(broken, SPACE, trials=2, seed=0)


def test_an_empty_search_is_refused() -> None:
    with pytest.raises(Invalid, match="at least one trial"):
        tune(bowl, SPACE, trials=0, seed=0)
    with pytest.raises(Invalid, match="0 params"):
        tune(bowl, {}, trials=3, seed=0)
