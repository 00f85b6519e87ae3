"""Registered models and their versions over the native API, through the SDK."""

from datetime import timedelta

import pytest

from tests import world
from tests.registry.mlflow_models import MLMODEL
from tidemill.client.client import Client
from tidemill.core.errors import Conflict, Invalid, NotFound
from tidemill.deploy.endpoints import create_endpoint
from tidemill.govern.workspace import Workspace
from tidemill.store.trees import put_tree
from tidemill.tracking.runs import start_run

ODD = "späte Flüge #1? 50%@x"


def test_a_model_lives_its_life_whatever_its_name(client: Client, ws: Workspace) -> None:
    made = client.models.create(ODD, description="Late?", tags={"team": "ops"}, reason="a start")
    assert (made["name"], made["tags"]) == (ODD, {"team": "ops"})
    with pytest.raises(Conflict, match="already exists"):
        client.models.create(ODD)
    bundle = put_tree(ws.objects, {"MLmodel": MLMODEL})
    version = client.model_versions.create(ODD, bundle=bundle, run="a" * 32, tags={"n": "1"}, description="first", sources=["dataset:d@1"])
    assert (version["version"], version["run"], version["description"]) == (1, "a" * 32, "first")
    client.model_versions.create(ODD, source="s3://b/m")
    client.models.promote(ODD, 1, reason="good")
    assert client.models.get(f"{ODD}@champion")["version"] == 1
    client.models.tag(ODD, {"a/b c": "x"})
    client.models.untag(ODD, "a/b c")
    client.model_versions.tag(ODD, 1, {"a/b": "x"})
    client.model_versions.untag(ODD, 1, "n")
    assert client.models.get(f"{ODD}@1")["tags"] == {"a/b": "x"}
    assert client.model_versions.describe(ODD, 1, "the first")["description"] == "the first"
    assert client.models.describe(ODD, "Late or not.", owner="ann")["owner"] == "ann"
    assert client.model_versions.files(f"{ODD}@1")["format"] == "mlflow"
    with pytest.raises(Invalid, match="has no files in this workspace"):
        client.model_versions.files(f"{ODD}@2")
    assert client.models.rename(ODD, "late")["key"] == ODD
    client.models.remove_alias("late", "champion", reason="bad")
    assert client.models.aliases("late") == {}
    assert len(client.models.alias_history("late")) == 1
    client.model_versions.delete("late", 2)
    client.models.delete("late")
    trash = client.models.trash()
    assert ([model["name"] for model in trash["models"]], trash["versions"]) == (["late"], [])
    assert client.models.restore("late")["description"] == "Late or not."
    assert client.model_versions.restore("late", 2)["source"] == "s3://b/m"
    assert [version["version"] for version in client.models.versions("late")] == [2, 1]


def test_searches_come_in_pages(client: Client, ws: Workspace) -> None:
    for name in ("a", "b", "c"):
        client.models.create(name, tags={"odd": str(name != "b")})
        world.model(ws, name)
    page = client.models.search("tags.odd = 'True'", order_by=["name DESC"], limit=1)
    assert [model["name"] for model in page["items"]] == ["c"]
    behind = client.models.search("tags.odd = 'True'", order_by=["name DESC"], limit=1, page_token=page["next"])
    assert ([model["name"] for model in behind["items"]], behind["next"]) == (["a"], None)
    with pytest.raises(Invalid, match="the page token is not one that this search gave"):
        client.models.search(page_token=page["next"])
    with pytest.raises(Invalid, match="filter was not understood at character 1"):
        client.models.search("odd = 3")
    found = client.model_versions.search("name IN ('a', 'c')", order_by=["name"])
    assert [(version["name"], version["version"]) for version in found["items"]] == [("a", 1), ("c", 1)]


def test_environments_locks_and_comments(client: Client, ws: Workspace) -> None:
    world.model(ws)
    world.model(ws)
    client.model_versions.move("delay", 1, "production", reason="goes live")
    world.tick(ws, hours=1)
    client.model_versions.move("delay", 2, "production", archive=True)
    assert client.models.environments("delay") == {"1": "archived", "2": "production"}
    assert client.models.environments("delay", at=world.START) == {"1": "production"}
    assert [stay["environment"] for stay in client.models.environment_history("delay")] == ["production", "archived", "production"]
    held = client.models.lock("delay", 2, reason="audit")
    assert (held["version"], held["actor"]) == (2, "owner")
    with pytest.raises(Conflict, match="model delay@2 is locked by 'owner'"):
        client.model_versions.move("delay", 2, "")
    assert client.models.unlock("delay", 2)["opened_by"] == "owner"
    assert len(client.models.lock_history("delay")) == 1
    said = client.models.comment("delay", "Good.", version=2)
    assert client.models.edit_comment(said["id"], "Better.")["text"] == "Better."
    assert [each["text"] for each in client.models.comments("delay", version=2)] == ["Better."]
    client.models.delete_comment(said["id"])
    assert client.models.comments("delay") == []
    with pytest.raises(NotFound, match="there is no comment"):
        client.models.delete_comment(said["id"])


def test_where_it_came_from_where_it_runs_and_how_it_compares(client: Client, ws: Workspace) -> None:
    run = start_run(ws, "train", name="fit", params={"depth": 3}, tags={"code": "abc"})
    world.model(ws, run=run.id, metrics={"auc": 0.7})
    world.model(ws, slope=2.0, metrics={"auc": 0.8})
    create_endpoint(ws, "delay", "delay@1")
    assert client.model_versions.origins("delay@1")["code"] == "abc"
    (place,) = client.model_versions.where("delay@1")
    assert (place["endpoint"], place["role"], place["share"], place["valid_to"]) == ("delay", "answers", 1.0, None)
    assert client.model_versions.where("delay@2", past=True) == []
    lines = client.model_versions.compare("delay@1", "delay@2")["lines"]
    assert next(line["values"] for line in lines if line["name"] == "auc") == [0.7, 0.8]
    assert client.models.get("delay", at=ws.clock.now() + timedelta(days=1))["version"] == 2
