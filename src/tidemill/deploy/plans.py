"""Rollout plans: through which stages a challenger goes, what is compared, what ends it. Values only.

Shadow, canary, blue-green, A/B and so on are plans of one mechanism: a list of stages, each with the challenger's share of the
answers (0 is shadow: it scores but never answers) and what must be shown before the next one.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Literal

from tidemill.core.errors import Invalid
from tidemill.core.values import Meta, Value

Share = Annotated[float, Meta(ge=0, le=1)]
Loss = Literal["brier", "log_loss", "error"]


class Stage(Value, frozen=True, kw_only=True):
    """One stage: the challenger's share, how long it lasts at least, and how many labels of rows that both scored it wants.

    Labels are counted from the beginning of the rollout on.
    """

    share: Share
    hold: timedelta = timedelta(0)
    labels_min: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        # Here too, not only where JSON is read: a plan written in Python would else be found out when it is read back.
        if not 0 <= self.share <= 1:
            raise Invalid(f"a stage's share is {self.share}; expected 0 (shadow) to 1 (all answers)")
        if self.hold < timedelta(0) or self.labels_min < 0:
            raise Invalid(f"a stage holds for {self.hold} and wants {self.labels_min} labels; neither may be negative")


class RolloutPlan(Value, frozen=True, kw_only=True):
    """How a challenger takes over an endpoint, or fails to.

    policy is the name that people use for it. margin is the largest mean loss by which a fresher challenger may be worse and
    still be taken, None compares nothing. alpha is the chance of a wrong verdict over the whole rollout, however often one
    looks. errors_max is the share of rows on which the challenger may fail. A challenger that has shown nothing after
    `longest` is dropped.
    """

    policy: str
    stages: tuple[Stage, ...]
    loss: Loss = "brier"
    margin: Annotated[float, Meta(ge=0, le=1)] | None = 0.005
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    errors_max: Share = 0.01
    longest: timedelta = timedelta(days=14)
    every: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if not self.stages:
            raise Invalid("a rollout plan needs at least one stage")
        shares = [stage.share for stage in self.stages]
        if shares != sorted(shares):
            raise Invalid(f"the shares of a rollout's stages must not fall, got {', '.join(map(str, shares))}")
        if self.margin is not None and not 0 <= self.margin <= 1:
            raise Invalid(f"a rollout's margin is {self.margin}; expected 0 to 1, or none to compare nothing")
        if not 0 < self.alpha < 1:
            raise Invalid(f"a rollout's alpha is {self.alpha}; expected the chance of a wrong verdict, between 0 and 1, such as 0.05")
        if not 0 <= self.errors_max <= 1:
            raise Invalid(f"a rollout's errors_max is {self.errors_max}; expected a share of the rows, 0 to 1")
        if self.every <= timedelta(0) or self.longest <= timedelta(0):
            raise Invalid("a rollout's `every` and `longest` must be longer than nothing")


def canary_plan(
    *, shares: tuple[float, ...] = (0.05, 0.25, 0.5), hold: timedelta = timedelta(hours=6), labels_min: int = 200, margin: float = 0.005
) -> RolloutPlan:
    """Let a challenger answer a growing share, with proof between."""
    return RolloutPlan(
        policy="canary", stages=tuple(Stage(share=share, hold=hold, labels_min=labels_min) for share in shares), margin=margin
    )


def shadow_canary_plan(
    *,
    shadow: timedelta = timedelta(days=1),
    shares: tuple[float, ...] = (0.05, 0.25, 0.5),
    hold: timedelta = timedelta(hours=6),
    labels_min: int = 500,
    margin: float = 0.005,
) -> RolloutPlan:
    """First score without answering, then answer a growing share, with proof between."""
    stages = (
        Stage(share=0.0, hold=shadow, labels_min=labels_min),
        *(Stage(share=share, hold=hold, labels_min=labels_min) for share in shares),
    )
    return RolloutPlan(policy="shadow, then canary", stages=stages, margin=margin)


def blue_green_plan(*, hold: timedelta = timedelta(0)) -> RolloutPlan:
    """Switch all answers at once; stay ready to switch back for `hold`."""
    return RolloutPlan(policy="blue-green", stages=(Stage(share=1.0, hold=hold),), margin=None)


POLICIES: Mapping[str, Callable[[], RolloutPlan]] = {"canary": canary_plan, "shadow": shadow_canary_plan, "blue-green": blue_green_plan}
