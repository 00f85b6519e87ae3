"""What the catalog says reaches the workers: routes, views, keys; and nobody waits for what cannot be compiled."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests import world
from tests.deploy import worlds
from tests.deploy.worlds import BETTER
from tests.features import worlds as features
from tests.serving.plant import Plant
from tidemill.core.clock import SimulatedClock
from tidemill.core.values import replace
from tidemill.datasets.versions import add
from tidemill.deploy.endpoints import change_endpoint, create_endpoint
from tidemill.deploy.plans import blue_green_plan, canary_plan
from tidemill.deploy.publish import followed, publish
from tidemill.deploy.rollouts import advance, roll_back, start_rollout
from tidemill.features.applied import apply
from tidemill.features.views import FeatureService
from tidemill.govern.keys import issue_key, revoke_key
from tidemill.govern.workspace import Workspace, create_project, grant_role
from tidemill.serving.config import config_path, load

pytestmark = pytest.mark.slow


def config(ws: Workspace):
    found = load(ws.state)
    assert found is not None
    return found


def endpoint(ws: Workspace, name: str = "delay"):
    return next(each for each in config(ws).endpoints if each.key == name)


def test_an_endpoint_is_published_with_its_yardstick_and_nothing_twice(any_ws: Workspace) -> None:
    worlds.three_models(any_ws)
    create_endpoint(any_ws, "delay", "delay@2", benchmark="delay@1", sticky_by="x")
    generation = publish(any_ws)
    found = endpoint(any_ws)
    assert ({v.name: v.version for v in found.variants}, found.shadows) == ({"v2": 2, "v1": 1}, ("v1",))
    assert (found.route.shares, found.route.sticky_by, found.route.salt) == ({"v2": 1.0}, "x", "delay")
    assert (found.features, config(any_ws).keys) == (None, None)
    change_endpoint(any_ws, "delay", {"threshold": 0.4})
    assert publish(any_ws) > generation
    assert endpoint(any_ws).options.threshold == 0.4
    generation, written = config(any_ws).generation, config_path(any_ws.state).stat().st_mtime_ns
    assert publish(any_ws) == generation
    assert config_path(any_ws.state).stat().st_mtime_ns == written


def test_each_stage_of_a_rollout_is_a_newer_config(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1", benchmark="delay@1")
    generations = [publish(ws)]
    rollout = start_rollout(ws, "delay", "delay@2", plan=canary_plan(shares=(0.1, 0.5), hold=timedelta(0)))
    generations.append(publish(ws))
    assert endpoint(ws).route.shares == {"v1": 0.9, "v2": 0.1}
    assert set(endpoint(ws).shadows) == {"v1", "v2"}
    rollout, _ = advance(ws, rollout, BETTER)
    generations.append(publish(ws))
    assert endpoint(ws).route.shares == {"v1": 0.5, "v2": 0.5}
    roll_back(ws, "delay", reason="no")
    generations.append(publish(ws))
    assert (endpoint(ws).route.shares, endpoint(ws).shadows) == ({"v1": 1.0}, ("v1",))
    assert generations == sorted(set(generations))


def test_views_are_published_when_they_are_applied_in_every_project_and_pinned_ones_stay(ws: Workspace) -> None:
    create_project(ws, "lab")
    lab = ws.acting(ws.actor, "lab")
    worlds.services(ws)  # delay@1 on last@1, then delay@2 on last@2
    publish(ws)
    assert [view.reference for view in config(ws).views] == ["last@2"]
    assert [(plan.services, [view.reference for view in plan.views]) for plan in config(ws).services] == [(("delay@2",), ["last@2"])]
    worlds.model_on(ws, "delay@1")
    create_endpoint(ws, "delay", "delay@1")
    publish(ws)
    assert [view.reference for view in config(ws).views] == ["last@1", "last@2"]
    assert endpoint(ws).features is not None
    assert endpoint(ws).features.services == ("delay@1",)
    add(lab, "flights", features.events_table([]))
    apply(lab, [features.latest_view(keys=True, ttl=None)], [FeatureService(name="delay", features=("last:*",))])
    publish(ws)
    assert [(view.project, view.reference) for view in config(ws).views] == [
        ("default", "last@1"),
        ("default", "last@2"),
        ("lab", "last@1"),
    ]


def test_keys_are_published_when_they_are_made_taken_back_or_weakened(ws: Workspace) -> None:
    publish(ws)
    issued = issue_key(ws, "dev", role="developer")
    issue_key(ws, "old", lifetime=timedelta(hours=1))
    ws.loaded = replace(ws.loaded, settings=replace(ws.settings, authentication="keys"))
    publish(ws)  # the setting is no event: the config is written all the same
    assert {key.id: key.writes for key in config(ws).keys or ()}[issued.key.id]
    assert len(config(ws).keys or ()) == 2
    world.tick(ws, hours=2)
    grant_role(ws, "dev", "viewer")
    publish(ws)
    assert [(key.id, key.writes) for key in config(ws).keys or ()] == [(issued.key.id, False)]
    revoke_key(ws, issued.key.id)
    publish(ws)
    assert config(ws).keys == ()
    ws.loaded = replace(ws.loaded, settings=replace(ws.settings, authentication="off"))
    publish(ws)
    assert config(ws).keys is None


def test_an_endpoint_that_cannot_be_compiled_goes_on_as_it_was(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    create_endpoint(ws, "other", "delay@2")
    publish(ws)
    before = endpoint(ws)
    start_rollout(ws, "delay", "delay@3", plan=canary_plan())
    start_rollout(ws, "other", "delay@3", plan=canary_plan())
    ws.objects.delete(endpoint(ws).variants[0].bundle)
    publish(ws)
    assert endpoint(ws) == before
    assert endpoint(ws, "other").route.shares == {"v2": 0.95, "v3": 0.05}


def test_a_config_that_was_damaged_is_written_anew(ws: Workspace) -> None:
    worlds.three_models(ws)
    create_endpoint(ws, "delay", "delay@1")
    generation = publish(ws)
    config_path(ws.state).write_text("{")
    assert publish(ws) == generation
    assert endpoint(ws).route.shares == {"v1": 1.0}


def test_a_worker_follows(tmp_path: Path) -> None:
    SimulatedClock.create(tmp_path / ".tidemill" / "clock", world.START)
    plant = Plant(tmp_path, clock="simulated:clock")
    ws = world.init(tmp_path)
    assert followed(ws, publish(ws))  # nobody is there to wait for
    with plant.worker() as caller:
        world.model(ws, slope=1.0)
        world.model(ws, slope=-1.0)
        create_endpoint(ws, "delay", "delay@1")
        assert followed(ws, publish(ws))
        assert caller.predict({"x": 1.0})["version"] == 1
        rollout = start_rollout(ws, "delay", "delay@2", plan=canary_plan(shares=(1.0,), hold=timedelta(0), labels_min=0))
        assert followed(ws, publish(ws))
        assert caller.predict({"x": 1.0})["version"] == 2
        advance(ws, rollout, BETTER)
        assert followed(ws, publish(ws))
        roll_back(ws, "delay", reason="no")
        assert followed(ws, publish(ws))
        assert caller.predict({"x": 1.0})["version"] == 1
        # What workers cannot serve they refuse and go on; that, too, is an end of waiting.
        worlds.model_on(ws, None)  # no model file that a runtime can read
        start_rollout(ws, "delay", "delay@3", plan=blue_green_plan())
        assert followed(ws, publish(ws))
        assert caller.predict({"x": 1.0})["version"] == 1
    ws.close()
