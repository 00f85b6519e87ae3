"""Endpoints: names with a history of who answered, and what may stand behind one name."""

import pytest

from tests import world
from tests.deploy import worlds
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.values import replace
from tidemill.deploy.endpoints import (
    EndpointNotFound,
    Route,
    Variant,
    change_endpoint,
    create_endpoint,
    list_endpoints,
    read_endpoint,
    route_history,
    write_route,
)
from tidemill.features.definitions import PlansCollide
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace, create_project
from tidemill.registry.aliases import AliasNotFound, promote
from tidemill.registry.bundles import read_spec
from tidemill.registry.models import ModelNotFound
from tidemill.serving.config import EndpointOptions


def variant(name: str) -> Variant:
    return Variant(name=name, model="delay", version=int(name[1:]), bundle="0" * 64)


@pytest.mark.parametrize(
    ("shares", "shadows", "says"),
    [
        ({"v1": 0.5}, (), r"shares of a route must be at least 0 and sum to 1, got {'v1': 0.5} with sum 0.5"),
        ({"v1": 1.5, "v2": -0.5}, (), "must be at least 0"),
        ({"v1": 0.5, "v9": 0.5}, (), r"variants that the endpoint lacks: v9 \(it has: v1, v2\)"),
        ({"v1": 1.0}, ("v7",), "lacks: v7"),
        ({}, (), "sum to 1, got {} with sum 0"),
        ({"v1": float("nan")}, (), "sum to 1"),
    ],
)
def test_a_route_shares_out_all_answers_among_its_own(shares: dict[str, float], shadows: tuple[str, ...], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        Route(variants=(variant("v1"), variant("v2")), shares=shares, shadows=shadows)


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="the route has two variants of one name: v1, v1"):
        Route(variants=(variant("v1"), variant("v1")), shares={"v1": 1.0})


def test_the_leader_has_the_largest_share() -> None:
    assert Route(variants=(variant("v1"), variant("v2")), shares={"v1": 0.4, "v2": 0.6}).leader.name == "v2"


@pytest.mark.slow
def test_an_endpoint_answers_with_the_version_that_was_named(any_ws: Workspace) -> None:
    worlds.three_models(any_ws)
    promote(any_ws, "delay", 2, alias="champion")
    made = create_endpoint(any_ws, "delay", "delay@champion", sticky_by="tailnum", benchmark="delay@1", reason="June begins")
    assert (made.model, made.route.shares, made.sticky_by, made.owner) == ("delay", {"v2": 1.0}, "tailnum", "owner")
    assert made.benchmark is not None
    assert made.benchmark.version == 1
    assert read_endpoint(any_ws, "delay") == made
    assert list_endpoints(any_ws) == [made]
    events = [(event.kind, event.body) for event in list_events(any_ws, subject="endpoint:delay")]
    assert events == [
        ("endpoint.routed", {"endpoint": "delay", "shares": {"v2": 1.0}, "shadows": []}),
        ("endpoint.created", {"endpoint": "delay", "model": "delay", "version": 2}),
    ]
    with any_ws.catalog.reading() as tx:
        assert {edge.source for edge in walk(tx, any_ws.project, "endpoint:delay")} == {"model:delay@2"}


@pytest.mark.slow
def test_what_answered_when(any_ws: Workspace) -> None:
    worlds.three_models(any_ws)
    first = create_endpoint(any_ws, "delay", "delay@1", reason="first").route
    moved = world.tick(any_ws, days=1)
    second = Route(variants=first.variants, shares=first.shares, shadows=("v1",))
    with any_ws.catalog.transaction() as tx:
        write_route(any_ws, tx, "delay", first, reason="in the same moment")
        write_route(any_ws, tx, "delay", second, reason="the last word")
    world.tick(any_ws, days=1)
    assert read_endpoint(any_ws, "delay", at=world.START).route == first
    assert read_endpoint(any_ws, "delay", at=moved).route == second
    assert read_endpoint(any_ws, "delay").route == second
    spans = [(span.reason, span.valid_from, span.valid_to) for span in route_history(any_ws, "delay")]
    assert spans == [("the last word", moved, None), ("first", world.START, moved)]
    with pytest.raises(EndpointNotFound):
        read_endpoint(any_ws, "delay", at=world.START - (moved - world.START))


@pytest.mark.slow
def test_what_an_endpoint_cannot_be_made_of_is_named(ws: Workspace) -> None:
    worlds.three_models(ws)
    world.model(ws, "other")
    create_endpoint(ws, "delay", "delay@1")
    with pytest.raises(
        Conflict, match="endpoint 'delay' is there already; change what answers with: tidemill endpoint rollout delay delay@2"
    ):
        create_endpoint(ws, "delay", "delay@2")
    with pytest.raises(ModelNotFound, match=r"there is no model 'delay@9'"):
        create_endpoint(ws, "more", "delay@9")
    with pytest.raises(AliasNotFound, match="has no alias 'champion'"):
        create_endpoint(ws, "more", "delay@champion")
    with pytest.raises(Invalid, match="endpoint name 'a b' is not usable"):
        create_endpoint(ws, "a b", "delay@1")
    with pytest.raises(Invalid, match="endpoint 'more' answers with model 'delay', and other@1 is of another"):
        create_endpoint(ws, "more", "delay@1", benchmark="other@1")
    assert [endpoint.name for endpoint in list_endpoints(ws)] == ["delay"]
    with pytest.raises(
        EndpointNotFound, match=r"there is no endpoint 'more' \(there are: delay\); make it with: tidemill endpoint create more"
    ):
        read_endpoint(ws, "more")


@pytest.mark.slow
def test_models_that_cannot_be_served_together_are_refused_when_they_meet(ws: Workspace) -> None:
    worlds.services(ws)
    worlds.model_on(ws, "delay@1")
    worlds.model_on(ws, "delay@2")
    with pytest.raises(PlansCollide, match="would come from view:last@1 and from view:last@2 at once"):
        create_endpoint(ws, "delay", "delay@2", benchmark="delay@1")
    assert create_endpoint(ws, "delay", "delay@2").route.leader.version == 2


@pytest.mark.slow
def test_projects_have_endpoints_of_their_own_and_viewers_only_look(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    create_project(ws, "lab")
    lab = ws.acting(ws.actor, "lab")
    assert list_endpoints(lab) == []
    world.model(lab)
    create_endpoint(lab, "delay", "delay@1")
    viewer = world.acting(ws, "eve", "viewer")
    assert read_endpoint(viewer, "delay").route.leader.version == 1
    with pytest.raises(ActionRefused, match="viewer"):
        create_endpoint(viewer, "more", "delay@1")


def test_how_an_endpoint_serves_can_be_changed(any_ws: Workspace) -> None:
    worlds.three_models(any_ws)
    create_endpoint(any_ws, "weekly", "delay@1")
    assert read_endpoint(any_ws, "weekly").options == EndpointOptions()
    change_endpoint(any_ws, "weekly", {"cached_rows": 100}, reason="slow model")
    changed = change_endpoint(any_ws, "weekly", {"threshold": 0.4})
    assert changed == read_endpoint(any_ws, "weekly")
    assert changed.options == EndpointOptions(threshold=0.4, cached_rows=100)
    change_endpoint(any_ws, "weekly", {"threshold": None})
    change_endpoint(any_ws, "weekly", {"threshold": None})
    told = [event for event in list_events(any_ws, subject="endpoint:weekly") if event.kind == "endpoint.changed"]
    assert len(told) == 3, "nothing is told where nothing changed"
    with pytest.raises(Invalid, match=r"unknown field `cache_rows`"):
        change_endpoint(any_ws, "weekly", {"cache_rows": 1})
    with pytest.raises(Invalid, match=r"<= 1.0 - at `\$.threshold`"):
        change_endpoint(any_ws, "weekly", {"threshold": 40})
    with pytest.raises(EndpointNotFound):
        change_endpoint(any_ws, "weakly", {"threshold": 0.4})
    with pytest.raises(ActionRefused):
        change_endpoint(world.acting(any_ws, "eve", "viewer"), "weekly", {"threshold": 0.4})


def test_columns_that_are_hidden_from_the_journal_have_to_be_there(any_ws: Workspace) -> None:
    worlds.three_models(any_ws)
    create_endpoint(any_ws, "weekly", "delay@1")
    name = read_spec(any_ws, read_endpoint(any_ws, "weekly").route.leader.bundle).signature.inputs[0].name
    changed = change_endpoint(any_ws, "weekly", {"journal_hash": ["order", name], "label_key": "order"})
    assert changed.options.journal_hash == ("order", name)
    with pytest.raises(Invalid, match=r"endpoint 'weekly' has no column 'nmae' to hide; expected some of: .*order"):
        change_endpoint(any_ws, "weekly", {"journal_drop": ["nmae"]})
    with pytest.raises(Invalid, match="is the label key"):
        change_endpoint(any_ws, "weekly", {"journal_drop": ["order"], "journal_hash": []})


def test_a_variant_of_a_route_may_be_replaced_by_value() -> None:
    route = Route(variants=(variant("v1"), variant("v2")), shares={"v1": 1.0})
    assert replace(route, shadows=("v2",)).shadows == ("v2",)
