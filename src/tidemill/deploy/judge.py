"""What a rollout does next: a pure decision from what was seen of champion and challenger.

The comparison is paired (both score each request, only one answers) and anytime-valid: a confidence sequence for the mean
difference of losses holds at every look at once, so that looking often is not cheating. Source: `stats/sequences.py`.
"""

from datetime import timedelta
from typing import Literal

import numpy as np

from tidemill.core.errors import Invalid
from tidemill.core.values import Value
from tidemill.deploy.plans import Loss, RolloutPlan
from tidemill.stats.arrays import FloatArray
from tidemill.stats.sequences import MeanSequence, observe

Action = Literal["hold", "advance", "promote", "roll_back", "drop"]
LOG_LOSS_CLIP = 1e-3


class Comparison(Value, frozen=True, kw_only=True):
    """Challenger against champion on the same labelled requests: mean difference of losses (below 0: challenger better) with its bounds.

    touched: answers that callers got from the challenger. scored: rows that it scored, answering or not; failed: rows on which it failed.
    """

    labels: int
    difference: float
    lower: float
    upper: float
    champion_loss: float
    challenger_loss: float
    touched: int
    scored: int = 0
    failed: int = 0


class Decision(Value, frozen=True, kw_only=True):
    """What to do, and why in one sentence."""

    action: Action
    reason: str


def compare(
    labels: FloatArray,
    champion: FloatArray,
    challenger: FloatArray,
    *,
    plan: RolloutPlan,
    touched: int = 0,
    scored: int = 0,
    failed: int = 0,
) -> Comparison:
    """Compare scores (n,) of both on labels (n,) of 0 and 1, in the order in which the labels came; n may be 0.

    Raises Invalid when what is compared is no probability.
    """
    bound, counts = _bound(plan.loss), {"labels": len(labels), "touched": touched, "scored": scored, "failed": failed}
    if not len(labels):
        return Comparison(difference=0.0, lower=-bound, upper=bound, champion_loss=0.0, challenger_loss=0.0, **counts)
    for what, values in (("labels", labels), ("the champion's scores", champion), ("the challenger's scores", challenger)):
        if not (values.min() >= 0 and values.max() <= 1):
            raise Invalid(
                f"{what} reach from {values.min():g} to {values.max():g}; a rollout compares probabilities with labels of 0 and 1, "
                "so release this model by a plan without a margin"
            )
    ours, theirs = losses(labels, challenger, plan.loss), losses(labels, champion, plan.loss)
    sequence = observe(MeanSequence(alpha=plan.alpha, low=-bound, high=bound), ours - theirs)
    return Comparison(
        difference=float(np.mean(ours - theirs)),
        lower=sequence.lower_now,
        upper=sequence.upper_now,
        champion_loss=float(np.mean(theirs)),
        challenger_loss=float(np.mean(ours)),
        **counts,
    )


def losses(labels: FloatArray, scores: FloatArray, loss: Loss) -> FloatArray:
    """Return the loss of each prediction: squared error, log loss of scores kept within 0.001 of certainty, or wrong at one half."""
    if loss == "brier":
        return np.square(scores - labels)
    if loss == "log_loss":
        kept = np.clip(scores, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
        return -(labels * np.log(kept) + (1 - labels) * np.log(1 - kept))
    return np.asarray((scores >= 0.5) != (labels >= 0.5), dtype=np.float64)


def decide(plan: RolloutPlan, *, stage: int, in_stage: timedelta, in_rollout: timedelta, seen: Comparison, fresher: bool) -> Decision:
    """Say what a rollout in some stage does next. fresher: the challenger was trained on newer data than the champion."""
    now, last = plan.stages[stage], stage == len(plan.stages) - 1
    stop: Action = "roll_back" if now.share > 0 else "drop"
    tried = seen.scored + seen.failed
    if seen.failed > 1 and seen.failed > plan.errors_max * tried:
        return Decision(
            action=stop, reason=f"the challenger failed on {seen.failed} of {tried} rows, at most {plan.errors_max:.1%} may fail"
        )
    # A fresher one may be worse by less than the margin: that it is a little worse, shown beyond doubt, is then no reason to stop.
    if plan.margin is not None and seen.labels and seen.lower > (plan.margin if fresher else 0.0):
        return Decision(action=stop, reason=f"the challenger is worse: {_shown(seen, plan)}")
    waited, labelled = in_stage >= now.hold, seen.labels >= now.labels_min
    if waited and labelled:
        ahead: Action = "promote" if last else "advance"
        if plan.margin is None:
            return Decision(action=ahead, reason=f"no error in {in_stage}")
        if seen.upper < 0:
            return Decision(action=ahead, reason=f"the challenger is better: {_shown(seen, plan)}")
        if seen.upper < plan.margin and fresher:
            return Decision(action=ahead, reason=f"the challenger is fresher and not worse by {plan.margin:g}: {_shown(seen, plan)}")
    if in_rollout >= plan.longest:
        return Decision(action=stop, reason=f"nothing was shown within {plan.longest}: {_shown(seen, plan)}")
    return Decision(action="hold", reason=f"{seen.labels} labels so far: {_shown(seen, plan)}")


def _bound(loss: Loss) -> float:
    return float(-np.log(LOG_LOSS_CLIP)) if loss == "log_loss" else 1.0


def _shown(seen: Comparison, plan: RolloutPlan) -> str:
    return (
        f"difference of {plan.loss} {seen.difference:+.4f}, between {seen.lower:+.4f} and {seen.upper:+.4f} "
        f"with {1 - plan.alpha:.0%} confidence on {seen.labels} labels"
    )
