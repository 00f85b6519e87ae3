"""Searches: every condition against a brute force, pages that meet without a gap, tokens that belong to their question."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import world
from tidemill.core.filters import FilterRefused
from tidemill.core.ids import RunId
from tidemill.core.pages import TokenRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.describe import describe_model, tag_model
from tidemill.registry.environments import move
from tidemill.registry.models import create_model
from tidemill.registry.search import search_models, search_versions
from tidemill.registry.trash import delete_model, delete_version
from tidemill.registry.versions import Origin, create_version


@pytest.fixture
def many(any_ws: Workspace) -> Workspace:
    """Models of two teams, one of them a prompt, with versions of several runs."""
    for number, name in enumerate(("alpha", "Beta", "beta", "be%a", "gamma")):
        create_model(any_ws, name, tags={"team": "ops" if number % 2 else "lab", "long": "x" * (200 * number)})
        for version in range(1, number + 1):
            world.tick(any_ws, minutes=1)
            origin = Origin(
                run=RunId(f"r{version % 2}"), source=f"s3://b/{name}/{version}", logged_model=f"m-{version}" if version > 2 else None
            )
            create_version(any_ws, name, origin=origin, tags={"n": str(version), "kind": name[0]})
    tag_model(any_ws, "gamma", {"prompt": "true"})
    return any_ws


def names(ws: Workspace, **asked: Any) -> list[str]:
    return [model.name for model in search_models(ws, **asked).items]


def references(ws: Workspace, **asked: Any) -> list[str]:
    return [version.reference for version in search_versions(ws, **asked).items]


MODELS_FOUND: list[tuple[str, list[str]]] = [
    ("", ["Beta", "alpha", "be%a", "beta", "gamma"]),
    ("name = 'beta'", ["beta"]),
    ("name != 'beta'", ["Beta", "alpha", "be%a", "gamma"]),
    ("name LIKE 'be%'", ["be%a", "beta"]),
    ("name ILIKE 'BE%'", ["Beta", "be%a", "beta"]),
    ("attribute.name LIKE '%a' AND tags.team = 'ops'", ["Beta", "be%a"]),
    ("name IN ('alpha', 'gamma', 'x')", ["alpha", "gamma"]),
    ("name NOT IN ('alpha', 'gamma')", ["Beta", "be%a", "beta"]),
    ("tags.team != 'ops'", ["alpha", "beta", "gamma"]),
    ("tags.team LIKE 'l%'", ["alpha", "beta", "gamma"]),
    ("tag.`team` = 'nothing'", []),
    ("tags.prompt IS NULL AND tags.team = 'lab'", ["alpha", "beta"]),
    ("tags.prompt IS NOT NULL", ["gamma"]),
    (f"tags.long = '{'x' * 800}'", ["gamma"]),
    (f"tags.long = '{'x' * 200}'", ["Beta"]),
    ("owner = 'owner' AND name = 'alpha'", ["alpha"]),
    ("created_at >= 1370044800000 AND name = 'alpha'", ["alpha"]),
    ("created_at < 1370044800000", []),
    ("description IS NULL AND name LIKE 'g%'", ["gamma"]),
    ("name = 'a' AND name = 'b'", []),
    ("name = 'x'' OR 1=1 --'", []),
]
VERSIONS_FOUND: list[tuple[str, list[str]]] = [
    ("name = 'beta'", ["beta@1", "beta@2"]),
    ("run_id = 'r0' AND name LIKE 'g%'", ["gamma@2", "gamma@4"]),
    ("run IN ('r0') AND version_number <= 2", ["be%a@2", "beta@2", "gamma@2"]),
    ("version_number > '3'", ["gamma@4"]),
    ("tags.n = '3' AND tags.kind = 'g'", ["gamma@3"]),
    ("tags.n = '3' AND tags.n = '4'", []),
    ("source_path LIKE 's3://b/beta/%'", ["beta@1", "beta@2"]),
    ("logged_model IS NOT NULL", ["be%a@3", "gamma@3", "gamma@4"]),
    ("model_id = 'm-4'", ["gamma@4"]),
    ("environment = 'production'", ["beta@2"]),
    ("environment IS NULL AND name = 'beta'", ["beta@1"]),
    ("checks = 'pass' AND name = 'Beta'", ["Beta@1"]),
]


def test_what_a_filter_picks_is_found(many: Workspace) -> None:
    move(many, "beta", 2, environment="production")
    for text, found in MODELS_FOUND:
        assert sorted(names(many, filter=text)) == found, text
    for text, found in VERSIONS_FOUND:
        assert sorted(references(many, filter=text)) == found, text


def test_what_nobody_ordered_comes_by_name_and_by_the_last_change(many: Workspace) -> None:
    assert names(many) == sorted(names(many))
    assert references(many)[:3] == ["gamma@4", "gamma@3", "gamma@2"]
    describe_model(many, "alpha", "the last change")
    assert names(many, order_by=["last_updated_timestamp DESC"])[:2] == ["alpha", "gamma"]
    assert references(many, order_by=["name", "version_number DESC"], limit=3) == ["Beta@1", "be%a@3", "be%a@2"]
    assert references(many, order_by=["version_number ASC", "name DESC"], limit=2) == ["gamma@1", "beta@1"]


def test_the_trash_is_apart(many: Workspace) -> None:
    delete_model(many, "beta")
    delete_version(many, "gamma", 4)
    assert "beta" not in names(many)
    assert names(many, view="deleted") == ["beta"]
    assert len(names(many, view="all")) == 5
    assert sorted(references(many, view="deleted")) == ["beta@1", "beta@2", "gamma@4"]
    assert len(references(many, view="all")) == 10


def test_what_has_a_tag_can_be_left_out(many: Workspace) -> None:
    assert names(many, without=("prompt", "true")) == ["Beta", "alpha", "be%a", "beta"]
    assert len(names(many, without=("prompt", "false"))) == 5


def test_pages_meet(many: Workspace) -> None:
    for asked in (
        {},
        {"order_by": ["updated_at DESC"]},
        {"order_by": ["owner DESC"]},
        {"filter": "name != 'beta'"},
        {"order_by": ["name DESC"]},
    ):
        for search in (search_models, search_versions):
            whole = all_of(search, many, 1000, asked)  # type: ignore[arg-type]
            assert len(whole) >= 4
            for size in (1, 2, 5):
                assert all_of(search, many, size, asked) == whole  # type: ignore[arg-type]


def all_of(search: Callable[..., Any], ws: Workspace, size: int, asked: dict[str, Any]) -> list[Any]:
    if search is search_versions:
        asked = {**asked, "order_by": ["actor DESC" if order == "owner DESC" else order for order in asked.get("order_by", ())]}
    found, token = [], None
    while True:
        page = search(ws, limit=size, page_token=token, **asked)
        assert len(page.items) <= size
        found += page.items
        token = page.next
        if token is None:
            return found


def test_a_token_belongs_to_its_question(many: Workspace) -> None:
    token = search_models(many, limit=2).next
    assert token is not None
    for asked in ({"filter": "name != 'x'"}, {"order_by": ["name DESC"]}, {"view": "all"}, {"without": ("a", "b")}):
        with pytest.raises(TokenRefused, match="not one that this search gave"):
            search_models(many, page_token=token, **asked)  # type: ignore[arg-type]
    with pytest.raises(TokenRefused, match="not one that this search gave"):
        search_versions(many, page_token=token)
    assert [model.name for model in search_models(many, limit=5, page_token=token).items] == names(many)[2:]


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ("nothing = 'x'", "at character 1: 'nothing' is no attribute; expected one of name, key, owner"),
        ("name > 'a'", "'name' is text, which > does not compare"),
        ("name = 3", "expected text in quotes"),
        ("created_at LIKE '%'", "'created_at' is a number, which LIKE does not compare"),
        ("metrics.auc > 1", "'metrics.auc'|'metrics' is nothing that can be searched for"),
        ("name = 'a' OR name = 'b'", "only AND joins conditions"),
    ],
)
def test_what_cannot_be_asked_is_told_with_its_place(ws: Workspace, filter: str, says: str) -> None:  # noqa: A002
    with pytest.raises(FilterRefused, match=says):
        search_models(ws, filter=filter)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (["nothing"], "models cannot be ordered by 'nothing'"),
        (["name", "name DESC"], "`order_by` contains duplicate fields"),
        (["tags.a"], "cannot be ordered by 'a'"),
    ],
)
def test_what_cannot_be_ordered_by_is_told(ws: Workspace, order: list[str], says: str) -> None:
    with pytest.raises(FilterRefused, match=says):
        search_models(ws, order_by=order)


TEXT = st.text(alphabet="aAbB%_'\\*?[]", min_size=1, max_size=4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=st.lists(TEXT, min_size=1, max_size=8), stored=st.lists(TEXT, min_size=1, max_size=8, unique=True))
def test_like_is_the_same_on_every_engine(any_ws: Workspace, patterns: list[str], stored: list[str]) -> None:
    for name in names(any_ws):
        delete_model(any_ws, name)
    for name in stored:
        create_model(any_ws, name)
    for pattern in patterns:
        quoted = pattern.replace("'", "''")
        exact = re.compile(re.escape(pattern).replace("%", ".*").replace("_", "."), re.DOTALL)
        assert set(names(any_ws, filter=f"name LIKE '{quoted}'")) == {name for name in stored if exact.fullmatch(name)}
        folded = re.compile(exact.pattern, re.DOTALL | re.IGNORECASE)
        assert set(names(any_ws, filter=f"name ILIKE '{quoted}'")) == {name for name in stored if folded.fullmatch(name)}


def test_what_is_hidden_is_shown_to_who_asks_for_it(many: Workspace) -> None:
    hide = ("prompt", "true")
    for filter, found in (  # noqa: A001
        ("tags.prompt = 'true'", ["gamma"]), ("tags.prompt = 'True'", []), ("tags.prompt != 'false'", ["gamma"]),
        ("tags.prompt = 'false'", ["Beta", "alpha", "be%a", "beta"]), ("tags.prompt != 'true' AND name LIKE 'b%'", ["be%a", "beta"]),
        ("tags.prompt = 'false' AND tags.team = 'lab'", ["alpha", "beta"]),
    ):  # fmt: skip
        assert names(many, filter=filter, without=hide) == found, filter
