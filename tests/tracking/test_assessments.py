"""Assessments: what was said of traces, by whom it was said anew, and what counts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import world
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.assessments import (
    Assessment,
    AssessmentExists,
    AssessmentNotFound,
    create_assessment,
    delete_assessment,
    read_assessment,
    read_assessments,
    update_assessment,
)
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.traces import Trace, TraceNotFound, tell_trace


@pytest.fixture
def traced(any_ws: Workspace) -> Workspace:
    experiment = create_experiment(any_ws, "calls").id
    for name in ("tr-1", "tr-2"):
        tell_trace(any_ws, Trace(id=name, experiment_id=experiment, state="ok", requested_at=world.START))
    return any_ws


def said(name: str = "score", **more: Any) -> Assessment:
    return Assessment(**{"id": "", "trace": "tr-1", "name": name, "kind": "feedback", "value": "1", "body": {"rationale": "é"}, **more})


def test_names_and_ids_have_a_length(traced: Workspace) -> None:
    kept = create_assessment(traced, said())
    for wrong in (said(""), said("n" * 251)):
        with pytest.raises(Invalid, match=r"assessment_name '.*' is not usable; expected 1 to 250 characters"):
            create_assessment(traced, wrong)
    with pytest.raises(Invalid, match=r"assessment id '.*' is not usable; expected at most 50 characters"):
        create_assessment(traced, said(id="a" * 51))
    with pytest.raises(Invalid, match="assessment_name"):
        update_assessment(traced, "tr-1", kept.id, change=lambda before: replace(before, name="n" * 251))


def test_what_is_said_is_read_back(traced: Workspace) -> None:
    first = create_assessment(traced, said())
    world.tick(traced, seconds=1)
    second = create_assessment(traced, said("other", id="a-2"))
    assert first.id.startswith("a-")
    assert read_assessment(traced, "tr-1", first.id) == first
    assert read_assessments(traced, ["tr-1", "tr-2"]) == {"tr-1": [first, second], "tr-2": []}
    changed = update_assessment(traced, "tr-1", first.id, change=lambda before: replace(before, name="grade", value='{"a":[1]}', body={}))
    assert (changed.name, changed.value) == ("grade", '{"a":[1]}')
    assert read_assessment(traced, "tr-1", first.id) == changed


@pytest.mark.slow
def test_who_changes_a_judgement_sees_what_others_said_before(traced: Workspace) -> None:
    made = create_assessment(traced, said(body={}))

    def add(number: int) -> None:
        update_assessment(traced, "tr-1", made.id, change=lambda before: replace(before, body={**before.body, str(number): True}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert set(read_assessment(traced, "tr-1", made.id).body) == {str(number) for number in range(40)}


def test_what_is_overridden_counts_no_more_until_the_other_goes(traced: Workspace) -> None:
    first = create_assessment(traced, said())
    second = create_assessment(traced, said(overrides=first.id))
    assert read_assessment(traced, "tr-1", first.id).valid is False
    delete_assessment(traced, "tr-1", second.id)
    delete_assessment(traced, "tr-1", second.id)
    assert read_assessment(traced, "tr-1", first.id).valid is True


def test_what_is_wrong_is_refused(traced: Workspace) -> None:
    made = create_assessment(traced, said())
    with pytest.raises(AssessmentExists, match="exists already; send it without an id"):
        create_assessment(traced, said(id=made.id))
    with pytest.raises(AssessmentNotFound, match="'a-none' not found for trace 'tr-1'"):
        create_assessment(traced, said(overrides="a-none"))
    with pytest.raises(AssessmentNotFound, match="not found for trace 'tr-2'"):
        read_assessment(traced, "tr-2", made.id)
    with pytest.raises(TraceNotFound, match="'none'"):
        create_assessment(traced, said(trace="none"))
    with pytest.raises(TraceNotFound, match="'none'"):
        delete_assessment(traced, "none", made.id)
    with pytest.raises(Invalid, match=r"assessment_name .* is not usable"):
        create_assessment(traced, said(""))
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        create_assessment(world.acting(traced, "eve", "viewer"), said())
    assert len(read_assessments(traced, ["tr-1"])["tr-1"]) == 1
