"""What a rollout does next: each decision on its own, and how often the whole procedure errs."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid
from tidemill.deploy.judge import Comparison, Decision, compare, decide, losses
from tidemill.deploy.plans import Loss, RolloutPlan, Stage, blue_green_plan
from tidemill.stats.arrays import FloatArray

HOUR = timedelta(hours=1)
PLAN = RolloutPlan(
    policy="shadow, then canary",
    stages=(Stage(share=0.0, hold=HOUR, labels_min=100), Stage(share=0.1, hold=HOUR, labels_min=100), Stage(share=0.5, hold=HOUR)),
    margin=0.01,
    longest=timedelta(days=3),
)


def seen(lower: float = -0.05, upper: float = 0.05, **fields: Any) -> Comparison:
    values = {
        "labels": 1000,
        "difference": (lower + upper) / 2,
        "champion_loss": 0.15,
        "challenger_loss": 0.15,
        "touched": 100,
        "scored": 1000,
    }
    return Comparison(**{**values, "lower": lower, "upper": upper, **fields})


def decided(comparison: Comparison, *, plan: RolloutPlan = PLAN, stage: int = 1, hours: float = 2, fresher: bool = True) -> Decision:
    span = timedelta(hours=hours)
    return decide(plan, stage=stage, in_stage=span, in_rollout=span, seen=comparison, fresher=fresher)


@pytest.mark.parametrize(
    ("comparison", "more", "action", "says"),
    [
        (seen(), {}, "hold", "1000 labels so far: difference of brier"),
        (seen(-0.05, -0.001), {}, "advance", "the challenger is better: difference of brier -0.0255, between -0.0500 and -0.0010 with 95%"),
        (seen(-0.05, -0.001), {"stage": 2}, "promote", "better"),
        (seen(-0.05, -0.001), {"hours": 0.5}, "hold", "so far"),
        (seen(-0.05, -0.001, labels=99), {}, "hold", "99 labels so far"),
        (seen(-0.02, 0.009), {}, "advance", r"fresher and not worse by 0.01"),
        (seen(-0.02, 0.009), {"stage": 2}, "promote", "fresher and not worse"),
        (seen(-0.02, 0.009), {"fresher": False}, "hold", "so far"),
        (seen(-0.02, 0.01), {}, "hold", "so far"),
        (seen(0.011, 0.05), {}, "roll_back", "the challenger is worse"),
        (seen(0.011, 0.05), {"stage": 0}, "drop", "the challenger is worse"),
        (seen(0.011, 0.05), {"hours": 0}, "roll_back", "the challenger is worse"),
        (seen(0.001, 0.05), {}, "hold", "so far"),
        (seen(0.001, 0.05), {"fresher": False}, "roll_back", "the challenger is worse"),
        (seen(0.001, 0.009), {}, "advance", "fresher and not worse"),  # shown to be worse, though by less than the margin
        (seen(), {"hours": 72}, "roll_back", "nothing was shown within 3 days, 0:00:00"),
        (seen(), {"hours": 72, "stage": 0}, "drop", "nothing was shown"),
        (seen(-0.05, -0.001), {"hours": 72}, "advance", "better"),
        (seen(failed=11), {}, "roll_back", "the challenger failed on 11 of 1011 rows, at most 1.0% may fail"),
        (seen(failed=11), {"stage": 0}, "drop", "failed on 11"),
        (seen(-0.05, -0.001, failed=11), {"stage": 2}, "roll_back", "failed on 11"),
        (seen(failed=9), {}, "hold", "so far"),
        (seen(scored=0, failed=1), {}, "hold", "so far"),  # one may be anything
        (seen(labels=0, scored=0, touched=0, failed=2), {}, "roll_back", "failed on 2 of 2 rows"),
    ],
)
def test_each_decision(comparison: Comparison, more: dict[str, Any], action: str, says: str) -> None:
    decision = decided(comparison, **more)
    assert decision.action == action
    assert says in decision.reason


def test_a_plan_without_a_margin_waits_and_compares_nothing() -> None:
    plan = blue_green_plan(hold=HOUR)
    worse = seen(0.2, 0.3)
    assert decided(worse, plan=plan, stage=0, hours=0.5).action == "hold"
    assert decided(worse, plan=plan, stage=0) == Decision(action="promote", reason="no error in 2:00:00")
    assert decided(seen(failed=100), plan=plan, stage=0).action == "roll_back"


@given(
    st.floats(-1, 1), st.floats(0, 2), st.integers(0, 500), st.integers(0, 30), st.integers(0, 2), st.floats(0, 100), st.booleans(),
)  # fmt: skip
def test_decisions_hang_together(lower: float, width: float, labels: int, failed: int, stage: int, hours: float, fresher: bool) -> None:
    comparison = seen(lower, lower + width, labels=labels, failed=failed)
    decision = decided(comparison, stage=stage, hours=hours, fresher=fresher)
    assert decision.reason
    if decision.action in ("advance", "promote"):
        assert (decision.action == "promote") == (stage == len(PLAN.stages) - 1)
        assert hours >= 1
        assert labels >= PLAN.stages[stage].labels_min
        assert comparison.upper < 0 or (fresher and comparison.upper < 0.01)
    if decision.action == "drop":
        assert stage == 0
    if decision.action == "roll_back":
        assert stage > 0
    if hours >= 72:
        assert decision.action != "hold"


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("brier", [0.04, 0.64, 0.25]),
        ("error", [0.0, 1.0, 1.0]),
        ("log_loss", [-np.log(0.8), -np.log(0.2), -np.log(0.5)]),
    ],
)
def test_losses(loss: Loss, expected: list[float]) -> None:
    found = losses(np.array([1.0, 1.0, 0.0]), np.array([0.8, 0.2, 0.5]), loss)
    np.testing.assert_allclose(found, expected)


def test_log_loss_is_bounded_for_scores_of_full_certainty() -> None:
    found = losses(np.array([1.0, 0.0]), np.array([0.0, 0.0]), "log_loss")
    np.testing.assert_allclose(found, [-np.log(1e-3), -np.log(1 - 1e-3)])


def test_nothing_seen_says_nothing() -> None:
    nothing = np.zeros(0)
    comparison = compare(nothing, nothing, nothing, plan=PLAN, touched=3)
    assert (comparison.labels, comparison.lower, comparison.upper, comparison.touched) == (0, -1.0, 1.0, 3)
    assert decided(comparison).action == "hold"


@pytest.mark.parametrize(
    ("labels", "champion", "challenger", "says"),
    [
        ([0.0, 2.0], [0.5, 0.5], [0.5, 0.5], "labels reach from 0 to 2; a rollout compares probabilities with labels of 0 and 1"),
        ([0.0, 1.0], [0.5, 3.5], [0.5, 0.5], "the champion's scores reach from 0.5 to 3.5"),
        ([0.0, 1.0], [0.5, 0.5], [-1.0, 0.5], "the challenger's scores reach from -1 to 0.5"),
    ],
)
def test_what_is_no_probability_is_not_compared(labels: list[float], champion: list[float], challenger: list[float], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        compare(np.array(labels), np.array(champion), np.array(challenger), plan=PLAN)


def stream(random: np.random.Generator, rows: int, *, noise: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Labels, and scores of a calibrated champion and of a challenger who sees it through noise (so who is worse, or equal at 0)."""
    logit = random.normal(-1, 1.2, rows)
    labels = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64)

    def score(spread: float) -> FloatArray:
        return np.asarray(1 / (1 + np.exp(-(logit + random.normal(0, spread, rows)))))

    return labels, score(0.3), score(np.hypot(0.3, noise))


def outcome(labels: FloatArray, champion: FloatArray, challenger: FloatArray, *, plan: RolloutPlan, every: int, fresher: bool) -> str:
    """Look after every few labels until the rollout ends, as often as that is."""
    stage, began = 0, 0
    for count in range(every, len(labels) + 1, every):
        comparison = compare(labels[:count], champion[:count], challenger[:count], plan=plan)
        hours = timedelta(hours=count / 100)
        decision = decide(
            plan, stage=stage, in_stage=hours - timedelta(hours=began / 100), in_rollout=hours, seen=comparison, fresher=fresher
        )
        if decision.action == "advance":
            stage, began = stage + 1, count
        elif decision.action != "hold":
            return decision.action
    return "hold"


RUNS = 200


@pytest.mark.slow
def test_a_worse_challenger_is_promoted_in_at_most_alpha_of_all_rollouts_however_often_one_looks() -> None:
    # alpha is large and a look comes every 20 labels, so that a procedure that minds neither would promote far more often.
    plan = RolloutPlan(
        policy="canary",
        stages=(Stage(share=0.1, labels_min=20), Stage(share=0.5, labels_min=20)),
        alpha=0.2,
        margin=0.0,
        longest=timedelta(90),
    )
    found = [outcome(*stream(np.random.default_rng(seed), 2000, noise=0.4), plan=plan, every=20, fresher=True) for seed in range(RUNS)]
    assert found.count("promote") <= 0.2 * RUNS
    assert found.count("roll_back") > 0.05 * RUNS


@pytest.mark.slow
def test_a_challenger_worse_than_the_margin_is_promoted_in_at_most_alpha_of_all_rollouts() -> None:
    plan = RolloutPlan(policy="canary", stages=(Stage(share=0.1, labels_min=20),), alpha=0.2, margin=0.005, longest=timedelta(90))
    random = np.random.default_rng(0)
    big = stream(random, 400_000, noise=0.45)
    assert compare(*big, plan=plan).difference > plan.margin  # so promoting it is an error
    found = [outcome(*stream(np.random.default_rng(seed), 3000, noise=0.45), plan=plan, every=50, fresher=True) for seed in range(RUNS)]
    assert found.count("promote") <= 0.2 * RUNS


@pytest.mark.slow
def test_an_equal_challenger_that_is_fresher_gets_through_and_an_older_one_does_not() -> None:
    plan = RolloutPlan(policy="canary", stages=(Stage(share=0.1, labels_min=200), Stage(share=0.5)), margin=0.02, longest=timedelta(90))
    streams = [stream(np.random.default_rng(seed), 8000, noise=0.0) for seed in range(50)]
    fresh = [outcome(*each, plan=plan, every=400, fresher=True) for each in streams]
    assert fresh.count("promote") >= 0.9 * len(streams)
    stale = [outcome(*each, plan=plan, every=400, fresher=False) for each in streams]
    assert stale.count("promote") <= 0.05 * len(streams)
