"""Registered models: names that are free or taken, keys that outlast them."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import world
from tidemill.core.errors import Invalid, TidemillError
from tidemill.govern.audit import list_events
from tidemill.govern.roles import ActionRefused
from tidemill.govern.workspace import Workspace
from tidemill.registry.models import ModelExists, ModelNotFound, create_model, list_models, read_model
from tidemill.registry.names import check_model_name, check_tag
from tidemill.registry.versions import register


def test_a_model_may_be_made_before_its_first_version(any_ws: Workspace) -> None:
    made = create_model(any_ws, "delay", description="Late or not.", tags={"team": "ops", "note": "x" * 5000}, reason="a start")
    assert (made.name, made.key, made.owner, made.description) == ("delay", "delay", "owner", "Late or not.")
    assert (made.created_at, made.updated_at, made.deleted_at) == (world.START, world.START, None)
    assert read_model(any_ws, "delay") == made
    assert made.tags == {"note": "x" * 5000, "team": "ops"}
    assert [(event.subject, event.reason) for event in list_events(any_ws, kinds=["model.created"])] == [("model:delay", "a start")]
    with pytest.raises(ModelExists, match="registered model 'delay' already exists"):
        create_model(any_ws, "delay")
    assert world.model(any_ws).version == 1
    with pytest.raises(ActionRefused, match="viewer"):
        create_model(world.acting(any_ws, "eve", "viewer"), "fraud")


def test_of_two_who_make_one_name_at_once_one_is_told(any_ws: Workspace) -> None:
    errors: list[TidemillError] = []

    def make() -> None:
        try:
            create_model(any_ws, "delay")
        except TidemillError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_models(any_ws)) == 1
    assert [type(error) for error in errors] == [ModelExists] * 5


def test_versions_that_are_made_at_once_are_counted_one_by_one(any_ws: Workspace) -> None:
    bundle = world.bundle(any_ws)
    create_model(any_ws, "delay")
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(register(any_ws, "delay", bundle).version)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def test_a_long_list_of_what_there_is_is_cut(ws: Workspace) -> None:
    for number in range(25):
        create_model(ws, f"m{number:02d}")
    with pytest.raises(ModelNotFound, match=r"\(there are: m00, .*, m19, …\); list them"):
        read_model(ws, "delay")


@pytest.mark.parametrize("name", ["a", "a b", "späte Flüge", "a@b", "a.b", "...a"[3:], "a#?&%", "x" * 256, "日本語", "~", "-rf"])
def test_names_that_mlflow_takes_are_taken(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a:b", ".", "..", "..a", "../x", "/a", "x" * 257, "a\nb", "a\0b", "a\u2028b", "\ud800"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"model name .* is not usable; expected 1 to 256 printable characters without '/' and ':'"):
        check_model_name(name)


@pytest.mark.parametrize("key", ["", "a\nb", "../a", "a//b", "/a", "ä" * 251, "a?b", "."])
def test_tag_keys_that_are_none_are_refused(key: str) -> None:
    with pytest.raises(Invalid, match=r"tag key .* is not usable"):
        check_tag(key, "value")


def test_a_tag_value_has_an_end(ws: Workspace) -> None:
    for value in ("x" * 100_001, "a\0b"):
        with pytest.raises(Invalid, match=r"the value of tag 'a' is not usable; expected at most 100,000 characters"):
            create_model(ws, "delay", tags={"a": value})
    assert list_models(ws) == []


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_is_refused(name: str) -> None:
    try:
        check_model_name(name)
    except Invalid:
        return
    assert name == name.strip("\n\r\t\0")
    assert "/" not in name
