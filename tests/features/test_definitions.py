"""Versions of views and services: applying, planning, reading, pinning, lineage and permission."""

from datetime import timedelta

import pyarrow as pa
import pytest

from tests.features import worlds
from tidemill.catalog.events import read_events
from tidemill.catalog.lineage import walk
from tidemill.core.errors import Invalid
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.features.applied import FeaturePlan, apply, plan, plan_rollback, rollback
from tidemill.features.definitions import (
    DefinitionNotFound,
    PlansCollide,
    compile_plan,
    compile_views,
    list_services,
    list_views,
    read_service,
    read_view,
    view_versions,
)
from tidemill.features.views import Feature, FeatureService, FeatureView
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace

pytestmark = pytest.mark.slow  # each makes a workspace

WINDOWS = worlds.window_view(keys=True)
LAST = worlds.latest_view(keys=True, ttl=timedelta(hours=1))
SERVICE = FeatureService(name="delay", features=("last:*", "delays:mean_delay_3"))


@pytest.fixture(autouse=True)
def flights(ws: Workspace) -> None:
    add(ws, "flights", worlds.events_table([]))


def actions(made: FeaturePlan) -> list[tuple[str, str, str, int]]:
    return [(change.kind, change.name, change.action, change.version) for change in made.changes]


def test_new_definitions_get_their_first_version_and_the_same_again_changes_nothing(ws: Workspace) -> None:
    assert actions(plan(ws, [WINDOWS, LAST], [SERVICE])) == actions(apply(ws, [WINDOWS, LAST], [SERVICE]))
    again = apply(ws, [WINDOWS, LAST], [SERVICE])
    assert actions(again) == [("view", "delays", "keep", 1), ("view", "last", "keep", 1), ("service", "delay", "keep", 1)]
    assert not again.changed
    with ws.catalog.reading() as tx:
        assert [event.body for event in read_events(tx, ws.project, kinds=["features.applied"])] == [
            {"views": ["delays@1", "last@1"], "services": ["delay@1"], "sources": []}
        ]


def test_a_changed_view_is_a_new_version_and_moves_its_service(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    longer = replace(LAST, ttl=timedelta(hours=2))
    made = apply(ws, [WINDOWS, longer], [SERVICE])
    assert actions(made) == [("view", "delays", "keep", 1), ("view", "last", "change", 2), ("service", "delay", "change", 2)]
    assert [change.what for change in made.changes] == [(), ("ttl",), ("view last is now version 2",)]
    assert read_view(ws, "last@1").definition == LAST
    assert read_view(ws, "last").definition == longer
    assert [view.node for view in read_service(ws, "delay@1").views] == ["view:last@1", "view:delays@1"]
    assert [view.node for view in read_service(ws, "delay").views] == ["view:last@2", "view:delays@1"]
    assert [view.version for view in list_views(ws)] == [1, 2]
    assert [service.reference for service in list_services(ws)] == ["delay@2"]


def test_the_plan_names_the_features_that_differ(ws: Workspace) -> None:
    apply(ws, [LAST])
    other = replace(LAST, features=(Feature(name="plane", kind="string"), Feature(name="late")))
    assert plan(ws, [other]).changes[0].what == ("features: last_delay, late",)
    assert plan(ws, [replace(LAST, features=LAST.features[::-1])]).changes[0].what == ("features: their order",)


def test_a_new_type_of_a_key_is_a_new_version(ws: Workspace) -> None:
    by_gate = worlds.latest_view(keys=False, ttl=None, entity=("gate",))
    apply(ws, [by_gate])
    table = worlds.events_table([])
    add(ws, "flights", table.set_column(1, "gate", table["gate"].cast(pa.string())))
    assert plan(ws, [by_gate]).changes[0].what == ("types of its columns",)


def test_what_json_tells_of_numbers_makes_no_new_version(ws: Workspace) -> None:
    whole = replace(LAST, features=(Feature(name="gate"), Feature(name="late"), Feature(name="delay")))
    apply(ws, [whole])
    assert read_view(ws, "last").keys.told == {"gate": "long", "late": "bool"}
    table = worlds.events_table([])
    add(ws, "flights", table.set_column(1, "gate", table["gate"].cast(pa.float64())))
    assert not plan(ws, [whole]).changed


def test_a_service_may_stand_on_views_that_are_not_applied_again(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST])
    assert actions(apply(ws, [], [SERVICE])) == [("service", "delay", "create", 1)]


def test_lineage_leads_from_the_service_to_the_data(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    with ws.catalog.reading() as tx:
        edges = {(edge.source, edge.target) for edge in walk(tx, ws.project, "service:delay@1")}
    assert edges == {
        ("view:last@1", "service:delay@1"),
        ("view:delays@1", "service:delay@1"),
        ("dataset:flights@1", "view:last@1"),
        ("dataset:flights@1", "view:delays@1"),
    }


def test_versions_of_a_view_lie_apart_online(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    apply(ws, [replace(LAST, ttl=None)], [SERVICE])
    one, two = compile_plan(ws, "delay@1"), compile_plan(ws, "delay")
    assert one.features == two.features == ("last_delay", "plane", "mean_delay_3")
    assert [view.namespace for view in one.views] == ["features/default/last@1", "features/default/delays@1"]
    assert [view.namespace for view in two.views] == ["features/default/last@2", "features/default/delays@1"]
    assert [view.wanted for view in one.views] == [("last_delay", "plane"), ("mean_delay_3",)]


def test_two_services_that_agree_are_read_at_once(ws: Workspace) -> None:
    more = FeatureService(name="more", features=("delays:mean_delay_3", "delays:mean_delay_15"))
    apply(ws, [WINDOWS, LAST], [SERVICE, more])
    both = compile_plan(ws, "delay", "more@1")
    assert both.services == ("delay@1", "more@1")
    assert both.features == ("last_delay", "plane", "mean_delay_3", "mean_delay_15")
    assert [view.wanted for view in both.views] == [("last_delay", "plane"), ("mean_delay_3", "mean_delay_15")]


def test_two_services_that_pin_different_versions_under_one_name_are_refused(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    apply(ws, [replace(LAST, ttl=None)], [SERVICE])
    with pytest.raises(PlansCollide, match="from view:last@1 and from view:last@2"):
        compile_plan(ws, "delay@1", "delay@2")


def test_pushes_go_to_what_is_newest_or_served(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    apply(ws, [replace(LAST, ttl=None)])
    assert [view.namespace[17:] for view in compile_views(ws)] == ["delays@1", "last@1", "last@2"]
    apply(ws, [], [SERVICE])
    assert [view.namespace[17:] for view in compile_views(ws)] == ["delays@1", "last@2"]
    assert [view.namespace[17:] for view in compile_views(ws, "delay@1")] == ["delays@1", "last@1", "last@2"]
    assert [view.wanted for view in compile_views(ws)][1] == ("last_delay", "plane")


def test_a_long_name_still_fits_the_online_store(ws: Workspace) -> None:
    name = "n" * 128
    apply(ws, [replace(LAST, name=name)], [FeatureService(name="delay", features=(f"{name}:*",))])
    assert len(compile_plan(ws, "delay").views[0].namespace) <= 128


@pytest.mark.parametrize(
    ("views", "services", "message"),
    [
        ([replace(LAST, entity=("tower",))], [], "'tower' is not a column of flights"),
        ([LAST, LAST], [], "defined twice"),
        ([LAST], [SERVICE], "view 'delays', which is not defined"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    ws: Workspace, views: list[FeatureView], services: list[FeatureService], message: str
) -> None:
    for act in (plan, apply):
        with pytest.raises(Invalid, match=message):
            act(ws, views, services)
    assert list_views(ws) == []


def test_rolling_back_makes_the_old_definition_the_newest(ws: Workspace) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    apply(ws, [replace(LAST, ttl=None, owner="ops")], [SERVICE])
    planned = plan_rollback(ws, "delay@1")
    assert read_service(ws, "delay").version == 2
    assert planned == rollback(ws, "delay@1", reason="too old values")
    assert actions(planned) == [("view", "last", "change", 3), ("view", "delays", "keep", 1), ("service", "delay", "change", 3)]
    assert planned.changes[0].what == ("ttl", "owner")
    assert [view.definition for view in view_versions(ws, "last")] == [LAST, replace(LAST, ttl=None, owner="ops"), LAST]
    assert not rollback(ws, "delay@3").changed
    with pytest.raises(Invalid, match="service 'delay' is at version 3; name the one to go back to, as in delay@2"):
        rollback(ws, "delay")
    with pytest.raises(DefinitionNotFound, match="no feature service 'delay@9'"):
        rollback(ws, "delay@9")


@pytest.mark.parametrize(
    ("words", "names"),
    [("", ["delays", "last"]), ("ops", ["last"]), ("LAST_delay Gold", ["last"]), ("flights", ["delays", "last"]), ("ops silver", [])],
)
def test_definitions_are_found_by_what_they_mention(ws: Workspace, words: str, names: list[str]) -> None:
    apply(ws, [WINDOWS, replace(LAST, owner="ops", tags=("gold",))], [SERVICE])
    assert [view.name for view in list_views(ws, search=words)] == names
    assert [service.name for service in list_services(ws, search="mean_delay_3")] == ["delay"]
    assert list_services(ws, search="gold") == []


@pytest.mark.parametrize("reference", ["trains", "delay@2", "delay@x"])
def test_what_is_not_there_is_named_with_what_is(ws: Workspace, reference: str) -> None:
    apply(ws, [WINDOWS, LAST], [SERVICE])
    with pytest.raises(DefinitionNotFound, match=r"there are: delay\)"):
        read_service(ws, reference)


def test_a_viewer_may_plan_but_not_apply(ws: Workspace) -> None:
    viewer = ws.acting(replace(ws.actor, role="viewer"), ws.project)
    assert plan(viewer, [LAST]).changed
    with pytest.raises(ActionRefused, match=r"features\.write"):
        apply(viewer, [LAST])
