"""The same calls against MLflow's own server and Tidemill, the answers compared field by field."""

import sys
from collections.abc import Callable

import pytest

from tests.server.mlflow import scenes_chance, scenes_client, scenes_files, scenes_models, scenes_runs, scenes_search, scenes_traces
from tests.server.mlflow.accepted import ACCEPTED
from tests.server.mlflow.differences import Accepted, Difference, compare
from tests.server.mlflow.sides import Answer, Side

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
SCENES: tuple[Callable[[Side], None], ...] = (
    *scenes_runs.SCENES, *scenes_search.SCENES, *scenes_models.SCENES, *scenes_files.SCENES, *scenes_traces.SCENES, *scenes_client.SCENES,
    *scenes_chance.SCENES,
)  # fmt: skip


@pytest.fixture(scope="module")
def ours_and_differences(mlflow_url: str, tidemill_url: str) -> tuple[list[Answer], list[Difference]]:
    """Every answer of Tidemill's, and every difference from what MLflow's own server answered to the same."""
    theirs, ours = Side(mlflow_url), Side(tidemill_url)
    differences: list[Difference] = []
    for scene in SCENES:
        seen_theirs, seen_ours = len(theirs.answers), len(ours.answers)
        scene(theirs)
        scene(ours)
        differences += compare(theirs.answers[seen_theirs:], ours.answers[seen_ours:])
    return ours.answers, differences


def test_answers_are_mlflows_but_for_what_is_meant(ours_and_differences: tuple[list[Answer], list[Difference]]) -> None:
    answers, differences = ours_and_differences
    meant: dict[Accepted, int] = {}
    unmeant: list[Difference] = []
    for difference in differences:
        reasons = [accepted for accepted in ACCEPTED if accepted.covers(difference)]
        for accepted in reasons:
            meant[accepted] = meant.get(accepted, 0) + 1
        if not reasons:
            unmeant.append(difference)
    told = "\n".join(f"{count:5} × {accepted.label} · {accepted.field}: {accepted.reason}" for accepted, count in meant.items())
    sys.stdout.write(f"{len(answers)} answers compared; {sum(meant.values())} differences are meant:\n{told}\n")
    assert len(answers) > 1000
    assert not unmeant, "\n".join(map(str, unmeant[:40]))
    assert not (gone := [accepted for accepted in ACCEPTED if accepted not in meant]), f"these differences occur no more: {gone}"


def test_every_refusal_is_one_sentence_that_says_something(ours_and_differences: tuple[list[Answer], list[Difference]]) -> None:
    refusals = [answer for answer in ours_and_differences[0] if answer.status >= 400]
    assert len(refusals) > 200
    for answer in refusals:
        assert set(answer.raw) >= {"error_code", "message"}, answer.label
        assert len(answer.raw["message"]) > 20, answer.label
        assert "\n" not in answer.raw["message"], answer.label
        assert "Traceback" not in answer.raw["message"], answer.label
