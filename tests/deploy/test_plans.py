"""Plans say what they mean, and refuse what they cannot mean."""

from datetime import timedelta
from typing import Any

import pytest

from tidemill.core.codec import decode, encode
from tidemill.core.errors import Invalid
from tidemill.deploy.plans import RolloutPlan, Stage, blue_green_plan, canary_plan, shadow_canary_plan

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("plan", [canary_plan(), shadow_canary_plan(), blue_green_plan(hold=HOUR)], ids=lambda plan: plan.policy)
def test_a_plan_comes_back_as_it_was(plan: RolloutPlan) -> None:
    assert decode(encode(plan), RolloutPlan) == plan


def test_the_policies_are_stages_of_one_mechanism() -> None:
    assert [stage.share for stage in canary_plan(shares=(0.1, 1.0)).stages] == [0.1, 1.0]
    assert [stage.share for stage in shadow_canary_plan().stages] == [0.0, 0.05, 0.25, 0.5]
    assert blue_green_plan(hold=HOUR).stages == (Stage(share=1.0, hold=HOUR),)
    assert blue_green_plan().margin is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stages": ()}, "needs at least one stage"),
        ({"stages": (Stage(share=0.5), Stage(share=0.25))}, r"must not fall, got 0.5, 0.25"),
        ({"margin": -0.1}, "margin is -0.1; expected 0 to 1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"alpha": 0.0}, "alpha is 0.0; expected the chance of a wrong verdict"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"errors_max": 2.0}, "errors_max is 2.0; expected a share"),
        ({"every": timedelta(0)}, "`every` and `longest` must be longer than nothing"),
        ({"longest": -HOUR}, "`every` and `longest` must be longer than nothing"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        RolloutPlan(**{"policy": "canary", "stages": (Stage(share=0.5),), **fields})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"share": 1.5}, "share is 1.5; expected 0"),
        ({"share": -0.1}, "share is -0.1"),
        ({"share": 0.5, "hold": -HOUR}, "neither may be negative"),
        ({"share": 0.5, "labels_min": -1}, "neither may be negative"),
    ],
)
def test_a_stage_that_means_nothing_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Stage(**fields)


def test_a_fault_in_json_is_named_with_its_place() -> None:
    with pytest.raises(Invalid, match=r"Expected `float` <= 1.0 - at `\$.stages\[0\].share`"):
        decode(b'{"policy": "canary", "stages": [{"share": 2}]}', RolloutPlan)
