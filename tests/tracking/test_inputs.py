"""What runs read and made: datasets with the tags of their use, and logged models."""

from typing import Any

import pytest

from tests import world
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.inputs import (
    CONTEXT,
    DatasetInput,
    DatasetSummary,
    InputDataset,
    ModelOutput,
    RunLinks,
    log_inputs,
    log_outputs,
    read_links,
    search_datasets,
)
from tidemill.tracking.runs import RunInTrash, RunNotFound, delete_run, start_run


def used(name: str = "flights", digest: str = "d1", context: str | None = "training", **more: Any) -> DatasetInput:
    dataset = InputDataset(name=name, digest=digest, source_type="local", source="{}", **more)
    return DatasetInput(dataset=dataset, tags={} if context is None else {CONTEXT: context})


def test_what_a_run_read_and_made_is_read_back(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r").id
    other = start_run(any_ws, "delay", name="s").id
    whole = used(schema='{"a": 1}', profile="{}")
    log_inputs(any_ws, run, [whole, used("weather", context=None)], models=["m-1"])
    log_outputs(any_ws, run, [ModelOutput(model="m-2", step=3), ModelOutput(model="m-1")])
    log_outputs(any_ws, run, [ModelOutput(model="m-2", step=4)])
    assert read_links(any_ws, [run, other, "none"]) == {
        run: RunLinks(
            datasets=(whole, used("weather", context=None)),
            models_read=("m-1",),
            models_made=(ModelOutput(model="m-1"), ModelOutput(model="m-2", step=4)),
        ),
        other: RunLinks(),
        "none": RunLinks(),
    }
    assert read_links(any_ws, [other]) == {other: RunLinks()}
    assert read_links(any_ws, []) == {}
    with any_ws.catalog.reading() as tx:
        sources = {edge.source for edge in walk(tx, any_ws.project, f"run:{run}")}
    assert sources >= {"dataset:flights@d1", "dataset:weather@d1", "logged-model:m-1"}


def test_a_dataset_keeps_the_tags_of_its_first_use_in_a_run(any_ws: Workspace) -> None:
    run, other = start_run(any_ws, "delay", name="r").id, start_run(any_ws, "delay", name="s").id
    log_inputs(any_ws, run, [used(context="training")])
    log_inputs(any_ws, run, [used(context="test")])
    log_inputs(any_ws, other, [used(context="test")])
    found = read_links(any_ws, [run, other])
    assert [links.datasets[0].tags for links in found.values()] == [{CONTEXT: "training"}, {CONTEXT: "test"}]


def test_datasets_are_told_by_experiment_and_use(any_ws: Workspace) -> None:
    first, second = create_experiment(any_ws, "a").id, create_experiment(any_ws, "b").id
    for experiment, items in ((first, [used(), used("weather")]), (first, [used(context="test")]), (second, [used()])):
        log_inputs(any_ws, start_run(any_ws, experiment, name="r").id, items)
    told = [
        DatasetSummary(experiment_id=first, name=name, digest="d1", context=context)
        for name, context in (("flights", "test"), ("flights", "training"), ("weather", "training"))
    ]
    assert sorted(search_datasets(any_ws, [first]), key=repr) == sorted(told, key=repr)
    assert len(search_datasets(any_ws, [first, second])) == 4
    assert search_datasets(any_ws, []) == []
    assert search_datasets(any_ws.acting(any_ws.actor, "elsewhere"), [first]) == []


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: used("n" * 501), "the name of dataset .* has 501 characters; expected at most 500"),
        (lambda: used(digest="d" * 37), "the digest .* has 37 characters; expected at most 36"),
        (lambda: used("a\0b"), "none of them NUL"),
        (lambda: used(""), "needs a name and a digest"),
        (lambda: used(context="c" * 501), "expected a key of 1 to 255 characters and a value of at most 500"),
    ],
)
def test_datasets_have_limits(make: Any, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        make()


def test_nothing_is_logged_to_runs_that_are_not_in_use(ws: Workspace) -> None:
    run = start_run(ws, "delay", name="r").id
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        log_inputs(world.acting(ws, "eve", "viewer"), run, [used()])
    delete_run(ws, run)
    for log in (lambda run: log_inputs(ws, run, [used()]), lambda run: log_outputs(ws, run, [ModelOutput(model="m-1")])):
        with pytest.raises(RunInTrash, match="restore"):
            log(run)
        with pytest.raises(RunNotFound, match="0000"):
            log("0000")
    assert read_links(ws, [run]) == {run: RunLinks()}
