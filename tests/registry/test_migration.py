"""What an older Tidemill kept of models is all there after the upgrade."""

from pathlib import Path

import pytest

from tests import world
from tests.older import older
from tidemill.catalog.catalog import Catalog
from tidemill.core.clock import micros
from tidemill.registry.aliases import alias_history, read_version
from tidemill.registry.models import list_models
from tidemill.registry.search import search_versions
from tidemill.registry.versions import list_versions

AT = micros(world.START)
BEFORE = f"""
INSERT INTO registered_models (project, name, description, owner, created_at) VALUES ('default', 'delay', 'Late?', 'ann', {AT});
INSERT INTO model_versions (project, name, version, bundle, size_bytes, run, verdict, metrics, tags, card, created_at, actor) VALUES
  ('default', 'delay', 1, 'b1', 10, 'r1', 'pass', '{{"auc":0.7}}', '{{"a":"1","b":"x y"}}', 'c1', {AT}, 'ann'),
  ('default', 'delay', 2, 'b2', 20, NULL, 'fail', '{{}}', '{{}}', NULL, {AT + 1}, 'ann');
INSERT INTO aliases (project, model, alias, version, actor, reason, valid_from, valid_to) VALUES
  ('default', 'delay', 'champion', 1, 'ann', 'first', {AT}, {AT + 5}), ('default', 'delay', 'champion', 2, 'ann', 'second', {AT + 5}, NULL)
"""


@pytest.mark.slow
def test_models_versions_tags_and_aliases_are_kept(catalog_url: str, tmp_path: Path) -> None:
    (tmp_path / "home" / ".tidemill").mkdir(parents=True)
    catalog = Catalog(catalog_url, folder=tmp_path / "home" / ".tidemill")
    older(catalog, "registry_0001", BEFORE)
    catalog.close()
    with world.workspace(tmp_path / "home", catalog=catalog_url) as ws:
        (model,) = list_models(ws)
        assert (model.name, model.key, model.description, model.owner) == ("delay", "delay", "Late?", "ann")
        assert (model.created_at, model.updated_at, model.deleted_at, model.tags) == (world.START, world.START, None, {})
        second, first = list_versions(ws, "delay")
        assert (first.bundle, first.size_bytes, first.run, first.verdict, first.card) == ("b1", 10, "r1", "pass", "c1")
        assert (first.tags, first.metrics, second.tags) == ({"a": "1", "b": "x y"}, {"auc": 0.7}, {})
        assert (first.status, first.environment, first.source, first.logged_model, first.updated_at) == ("ready", "", "", None, world.START)
        assert (first.node, read_version(ws, "delay@champion")) == ("model:delay@1", second)
        assert read_version(ws, "delay@champion", at=world.START) == first
        assert [span.reason for span in alias_history(ws, "delay")] == ["second", "first"]
        assert search_versions(ws, filter="tags.a = '1'").items == (first,)
        assert world.model(ws).version == 3
