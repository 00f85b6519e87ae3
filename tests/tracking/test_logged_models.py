"""Logged models: their life, and searches for them, on both engines alike."""

import math
from datetime import timedelta
from typing import Any

import pytest

from tests import world
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.filters import FilterRefused
from tidemill.core.pages import TokenRefused
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.tracking.batches import log_rows
from tidemill.tracking.experiments import create_experiment
from tidemill.tracking.logged_models import (
    LoggedModelNotFound,
    ModelParamRewritten,
    ModelPoint,
    create_logged_model,
    delete_logged_model,
    delete_model_tag,
    finish_logged_model,
    log_model_params,
    log_model_points,
    read_logged_model,
    restore_logged_model,
    set_model_tags,
)
from tidemill.tracking.model_search import Measured, ModelOrder, search_logged_models
from tidemill.tracking.runs import read_run, start_run


def point(run: str, value: float, key: str = "auc", **more: Any) -> ModelPoint:
    return ModelPoint(key=key, value=value, run=run, at=more.pop("at", world.START), step=more.pop("step", 0), **more)


def test_a_model_lives_dies_and_comes_back(any_ws: Workspace) -> None:
    experiment = create_experiment(any_ws, "delay").id
    run = start_run(any_ws, experiment, name="r").id
    made = create_logged_model(any_ws, experiment, name="net", model_type="torch", source_run=run, params={"a": "1"}, tags={"t": "x"})
    assert (made.status, made.params, made.tags, made.actor) == ("pending", {"a": "1"}, {"t": "x"}, "owner")
    world.tick(any_ws, seconds=5)
    assert finish_logged_model(any_ws, made.id, status="ready").updated_at == world.START + timedelta(seconds=5)
    log_model_params(any_ws, made.id, {"a": "1", "b": "2"})
    set_model_tags(any_ws, made.id, {"t": "y", "u": "z"})
    delete_model_tag(any_ws, made.id, "u")
    log_model_points(any_ws, run, {made.id: [point(run, 0.5), point(run, math.nan, "loss", dataset="d", digest="1")]})
    log_model_points(any_ws, run, {made.id: [point(run, 0.5)]})
    found = read_logged_model(any_ws, made.id)
    assert (found.status, found.params, found.tags) == ("ready", {"a": "1", "b": "2"}, {"t": "y"})
    assert [(p.key, repr(p.value), p.dataset) for p in found.metrics] == [("auc", "0.5", ""), ("loss", "nan", "d")]
    delete_logged_model(any_ws, made.id)
    with pytest.raises(LoggedModelNotFound, match=f"there is no logged model '{made.id}'"):
        read_logged_model(any_ws, made.id)
    assert read_logged_model(any_ws, made.id, deleted=True).deleted_at is not None
    restore_logged_model(any_ws, made.id)
    assert read_logged_model(any_ws, made.id).deleted_at is None
    kinds = [event.kind for event in list_events(any_ws, subject=made.node, newest_first=False)]
    assert kinds == ["logged_model.created", "logged_model.finished", "logged_model.moved", "logged_model.moved"]


def test_what_is_wrong_is_refused(ws: Workspace) -> None:
    experiment = create_experiment(ws, "delay").id
    made = create_logged_model(ws, experiment, name="net", params={"a": "1"}).id
    with pytest.raises(ModelParamRewritten, match=r"param 'a' of logged model .* has another value already"):
        log_model_params(ws, made, {"b": "1", "a": "2"})
    assert read_logged_model(ws, made).params == {"a": "1"}
    with pytest.raises(NotFound, match="has no tag 'none'"):
        delete_model_tag(ws, made, "none")
    for name in ("a/b", "a:b", "a.b", "", "n" * 501):
        with pytest.raises(Invalid, match="name"):
            create_logged_model(ws, experiment, name=name)
    with pytest.raises(ActionRefused, match=r"tracking\.write"):
        create_logged_model(world.acting(ws, "eve", "viewer"), experiment, name="net")


def test_a_batch_that_names_an_unknown_model_writes_nothing(any_ws: Workspace) -> None:
    run = start_run(any_ws, "delay", name="r").id
    with pytest.raises(LoggedModelNotFound, match="m-none"):
        log_rows(any_ws, run, [("auc", 0.5, 0, 1)], params={"p": "1"}, name="other", measured={"m-none": [point(run, 0.5)]})
    found = read_run(any_ws, run)
    assert (found.metrics, found.params, found.name) == ({}, {}, "r")


@pytest.fixture
def experiment(any_ws: Workspace) -> int:
    """Six models: measured on two datasets, the last one not at all, and one in the trash."""
    made = create_experiment(any_ws, "delay").id
    run = start_run(any_ws, made, name="r").id
    for number in range(6):
        world.tick(any_ws, seconds=1)
        tags = {"team": ("red", "blue")[number % 2]}
        model = create_logged_model(any_ws, made, name=f"net {number}", source_run=run, params={"n": str(number)}, tags=tags).id
        if number < 5:
            points = [point(run, number / 10), point(run, 0.9 - number / 10, step=1, dataset="d", digest=f"v{number % 2}")]
            log_model_points(any_ws, run, {model: [*points, point(run, math.nan if number == 2 else number, "loss")]})
        if number % 2:
            finish_logged_model(any_ws, model, status="ready")
    delete_logged_model(any_ws, create_logged_model(any_ws, made, name="gone").id)
    return made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [5, 4, 3, 2, 1, 0]), ("name = 'net 3'", [3]), ("name LIKE 'net%'", [5, 4, 3, 2, 1, 0]), ("name ILIKE 'NET 1'", [1]),
        ("status = 'READY'", [5, 3, 1]), ("attributes.status != 'LOGGED_MODEL_READY'", [4, 2, 0]), ("params.n = '2'", [2]),
        ("params.n IN ('1', '4')", [4, 1]), ("tags.team = 'blue' AND params.n != '1'", [5, 3]), ("tags.`team` = 'red'", [4, 2, 0]),
        ("metrics.auc > 0.35", [4, 3, 2, 1, 0]), ("metrics.loss >= 3", [4, 3]), ("metrics.none > 0", []),
        ("metrics.loss != 3", [4, 2, 1, 0]), ("metrics.loss = 3", [3]),
        ("creation_time > 0", [5, 4, 3, 2, 1, 0]),
        ("creation_timestamp <= 1370044803000", [2, 1, 0]), ("source_run_id = 'x'", []), ("last_updated_timestamp > 1370044806000", []),
    ],
)  # fmt: skip
def test_searches(any_ws: Workspace, experiment: int, text: str, found: list[int]) -> None:
    page = search_logged_models(any_ws, [experiment], filter=text)
    assert [int(model.name.split()[1]) for model in page.items] == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ([ModelOrder(name="metrics.loss")], [0, 1, 3, 4, 5, 2]),
        ([ModelOrder(name="metrics.loss", ascending=False)], [4, 3, 1, 0, 5, 2]),
        ([ModelOrder(name="metrics.auc", dataset="d")], [4, 3, 2, 1, 0, 5]),
        ([ModelOrder(name="metrics.auc", dataset="d", digest="v1")], [3, 1, 5, 4, 2, 0]),
        ([ModelOrder(name="status", ascending=False), ModelOrder(name="name")], [1, 3, 5, 0, 2, 4]),
        ([ModelOrder(name="creation_timestamp")], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_orders(any_ws: Workspace, experiment: int, order: list[ModelOrder], found: list[int]) -> None:
    page = search_logged_models(any_ws, [experiment], order_by=order)
    assert [int(model.name.split()[1]) for model in page.items] == found


def test_metrics_count_on_the_datasets_that_are_named(any_ws: Workspace, experiment: int) -> None:
    def names(text: str, *datasets: Measured) -> list[str]:
        return [model.name for model in search_logged_models(any_ws, [experiment], filter=text, datasets=datasets).items]

    assert names("metrics.auc >= 0.8", Measured(dataset="d")) == ["net 1", "net 0"]
    assert names("metrics.auc >= 0.8", Measured(dataset="d", digest="v1")) == ["net 1"]
    assert names("", Measured(dataset="d", digest="v0")) == ["net 4", "net 2", "net 0"]
    assert names("", Measured(dataset="other")) == []


def test_pages_follow_one_another(any_ws: Workspace, experiment: int) -> None:
    found, token = [], None
    for _ in range(3):
        page = search_logged_models(any_ws, [experiment], order_by=[ModelOrder(name="name")], limit=2, page_token=token)
        found += [model.name for model in page.items]
        token = page.next
    assert (found, token) == ([f"net {number}" for number in range(6)], None)
    first = search_logged_models(any_ws, [experiment], limit=2)
    with pytest.raises(TokenRefused, match="page"):
        search_logged_models(any_ws, [experiment], filter="name = 'x'", page_token=first.next)


@pytest.mark.parametrize("text", ["nothing = 'x'", "metrics.auc LIKE 'x'", "params.n > '1'", "tags.team IS NULL", "name = 3"])
def test_searches_that_mean_nothing_are_refused(ws: Workspace, text: str) -> None:
    with pytest.raises(FilterRefused, match=r"expected|cannot"):
        search_logged_models(ws, [1], filter=text)


def test_an_unknown_order_is_refused(ws: Workspace) -> None:
    with pytest.raises(Invalid, match=r"cannot be ordered by 'nothing'; expected metrics\.NAME or one of model_id"):
        search_logged_models(ws, [1], order_by=[ModelOrder(name="nothing")])
