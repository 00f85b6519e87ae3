"""MLflow's registry, asked by MLflow's own client."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow")
from mlflow.entities.model_registry import ModelVersionTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

from tests import world  # noqa: E402
from tests.server.mlflow.registry import Place, serving  # noqa: E402
from tidemill.checks.check import CheckResult  # noqa: E402
from tidemill.govern.workspace import open_workspace  # noqa: E402
from tidemill.registry.aliases import alias_history  # noqa: E402
from tidemill.registry.locks import lock  # noqa: E402
from tidemill.registry.trash import list_trash  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
def client(place: Place) -> Any:
    return place.client


def refused(act: Callable[[], Any]) -> tuple[str, int, str]:
    with pytest.raises(MlflowException) as caught:
        act()
    return caught.value.error_code, caught.value.get_http_status_code(), caught.value.message


def test_a_registered_model_lives_its_life(client: Any, place: Place) -> None:
    made = client.create_registered_model("life", tags={"team": "ops"}, description="Late?")
    assert (made.name, made.description, made.tags, made.latest_versions, made.aliases) == ("life", "Late?", {"team": "ops"}, [], {})
    assert made.creation_timestamp == made.last_updated_timestamp > 1_600_000_000_000
    client.create_model_version("life", "s3://bucket/one", tags={"n": "1"}, description="first", run_link="https://ci/7")
    client.create_model_version("life", "s3://bucket/two")
    client.set_registered_model_alias("life", "champion", "1")
    client.set_registered_model_alias("life", "20260501", 2)
    client.set_registered_model_tag("life", "note", "x")
    client.delete_registered_model_tag("life", "team")
    client.delete_registered_model_tag("life", "never there")
    found = client.get_registered_model("life")
    assert (found.tags, found.aliases) == ({"note": "x"}, found.aliases)
    assert {alias: str(version) for alias, version in found.aliases.items()} == {"champion": "1", "20260501": "2"}
    assert [(version.version, version.source) for version in found.latest_versions] == [("2", "s3://bucket/two")]
    first = client.get_model_version("life", 1)
    assert (first.description, first.tags, first.run_link, first.aliases, first.status, first.current_stage) == (
        "first", {"n": "1"}, "https://ci/7", ["champion"], "READY", "None",
    )  # fmt: skip
    assert client.get_model_version_by_alias("life", "champion").version == "1"
    assert client.get_model_version_by_alias("life", "latest").version == "2"
    assert client.update_registered_model("life", "Late or not.").description == "Late or not."
    client.rename_registered_model("life", "late")
    assert client.get_model_version_by_alias("late", "champion").source == "s3://bucket/one"
    client.delete_registered_model_alias("late", "champion")
    client.delete_registered_model_alias("late", "champion")
    client.delete_registered_model("late")
    assert refused(lambda: client.get_registered_model("late"))[:2] == ("RESOURCE_DOES_NOT_EXIST", 404)
    assert client.create_registered_model("late").latest_versions == []
    assert client.create_model_version("late", "s3://bucket/three").version == "1"
    ws = open_workspace(place.home)
    assert [model.key for model in list_trash(ws)[0]] == ["life"], "deleted is trash, and can be restored"
    ws.close()


def test_versions_are_described_tagged_moved_and_deleted(client: Any) -> None:
    client.create_registered_model("moves")
    for number in (1, 2, 3):
        client.create_model_version("moves", f"s3://bucket/{number}")
    assert client.update_model_version("moves", 1, "the first").description == "the first"
    client.set_model_version_tag("moves", "1", "a", "b")
    client.set_model_version_tag("moves", "1", "c", "d")
    client.delete_model_version_tag("moves", "1", "a")
    assert client.get_model_version("moves", 1).tags == {"c": "d"}
    assert client.transition_model_version_stage("moves", 1, "production").current_stage == "Production"
    assert client.transition_model_version_stage("moves", 2, "Production", archive_existing_versions=True).current_stage == "Production"
    client.transition_model_version_stage("moves", 3, "Staging")
    newest = {version.current_stage: version.version for version in client.get_latest_versions("moves")}
    assert newest == {"Archived": "1", "Production": "2", "Staging": "3"}
    assert [version.version for version in client.get_latest_versions("moves", ["production"])] == ["2"]
    assert client.get_latest_versions("moves", ["None"]) == []
    client.set_registered_model_alias("moves", "champion", 2)
    assert client.get_latest_versions("moves", ["Production"])[0].aliases == ["champion"]
    client.delete_model_version("moves", 2)
    assert refused(lambda: client.get_model_version("moves", 2))[:2] == ("RESOURCE_DOES_NOT_EXIST", 404)
    assert client.get_registered_model("moves").aliases == {}
    assert client.create_model_version("moves", "s3://bucket/4").version == "4"
    assert refused(lambda: client.transition_model_version_stage("moves", 1, "QA")) == (
        "INVALID_PARAMETER_VALUE", 400,
        "INVALID_PARAMETER_VALUE: Invalid Model Version stage: QA. Value must be one of None, Staging, Production, Archived.",
    )  # fmt: skip


def test_searches_are_the_clients(client: Any) -> None:
    for number, name in enumerate(("search-a", "search-b", "search-c")):
        client.create_registered_model(name, tags={"odd": str(number % 2)})
        for version in (1, 2):
            client.create_model_version(name, f"s3://bucket/{name}/{version}", tags={"v": str(version)})
    mine = "name LIKE 'search-%'"
    assert [model.name for model in client.search_registered_models(mine)] == ["search-a", "search-b", "search-c"]
    assert [model.name for model in client.search_registered_models(f"{mine} AND tags.odd = '0'", order_by=["name DESC"])] == [
        "search-c", "search-a",
    ]  # fmt: skip
    page = client.search_registered_models(mine, max_results=2)
    assert [model.name for model in client.search_registered_models(mine, max_results=2, page_token=page.token)] == ["search-c"]
    assert [len(model.latest_versions) for model in page] == [1, 1]
    found = client.search_model_versions("name = 'search-a'")
    assert [version.version for version in found] == ["2", "1"]
    found = client.search_model_versions("tags.v = '2' AND name ILIKE 'SEARCH%'", order_by=["name ASC"], max_results=2)
    assert [version.name for version in found] == ["search-a", "search-b"]
    assert found.token
    for act in (
        lambda: client.search_registered_models("nothing = 'x'"),
        lambda: client.search_registered_models("name ="),
        lambda: client.search_registered_models(order_by=["nothing"]),
        lambda: client.search_registered_models(page_token="nonsense"),
        lambda: client.search_registered_models(mine, page_token=found.token),
        lambda: client.search_registered_models(max_results=1001),
        lambda: client.search_model_versions("name > 'a'"),
        lambda: client.search_model_versions(max_results=0),
    ):
        assert refused(act)[:2] == ("INVALID_PARAMETER_VALUE", 400)


def test_what_clients_branch_on(client: Any) -> None:
    client.create_registered_model("errors")
    client.create_registered_model("taken")
    client.create_model_version("errors", "s3://b/m")
    missing, wrong = ("RESOURCE_DOES_NOT_EXIST", 404), ("INVALID_PARAMETER_VALUE", 400)
    cases: list[tuple[Callable[[], Any], tuple[str, int]]] = [
        (lambda: client.create_registered_model("errors"), ("RESOURCE_ALREADY_EXISTS", 400)),
        (lambda: client.rename_registered_model("nothing", "x"), missing),
        (lambda: client.rename_registered_model("errors", "taken"), ("RESOURCE_ALREADY_EXISTS", 400)),
        (lambda: client.create_registered_model("a/b"), wrong),
        (lambda: client.create_registered_model(" "), wrong),
        (lambda: client.get_registered_model("nothing"), missing),
        (lambda: client.delete_registered_model("nothing"), missing),
        (lambda: client.create_model_version("nothing", "s3://b/m"), missing),
        (lambda: client.get_model_version("nothing", 1), missing),
        (lambda: client.get_model_version("errors", 99), missing),
        (lambda: client.get_model_version("errors", "x"), wrong),
        (lambda: client.get_model_version("errors", 10**30), missing),
        (lambda: client.get_model_version_by_alias("errors", "nothing"), wrong),
        (lambda: client.get_model_version_by_alias("nothing", "x"), missing),
        (lambda: client.set_registered_model_alias("errors", "latest", 1), wrong),
        (lambda: client.set_registered_model_alias("errors", "v1", 1), wrong),
        (lambda: client.set_registered_model_alias("errors", "a.b", 1), wrong),
        (lambda: client.set_registered_model_alias("errors", "x" * 256, 1), wrong),
        (lambda: client.set_registered_model_alias("errors", "x", 99), missing),
        (lambda: client.set_registered_model_tag("errors", "x" * 251, "y"), wrong),
        (lambda: client.set_registered_model_tag("errors", "x", "y" * 100_001), wrong),
        (lambda: client.set_model_version_tag("errors", 99, "x", "y"), missing),
        (lambda: client.get_latest_versions("nothing"), missing),
    ]
    for number, (act, code) in enumerate(cases):
        assert refused(act)[:2] == code, number


def test_a_locked_version_and_failed_checks_are_a_conflict(client: Any, place: Place) -> None:
    ws = open_workspace(place.home)
    world.model(ws, "gate", checks=[CheckResult(name="auc", verdict="fail", summary="0.5")])
    world.model(ws, "gate")
    lock(ws, "gate", 2, reason="audit")
    code, status, message = refused(lambda: client.transition_model_version_stage("gate", 1, "Production"))
    assert (code, status, "gate@1 failed its checks and cannot be promoted" in message) == ("RESOURCE_CONFLICT", 409, True)
    assert refused(lambda: client.set_registered_model_alias("gate", "champion", 1))[0] == "RESOURCE_CONFLICT"
    code, status, message = refused(lambda: client.set_registered_model_alias("gate", "champion", 2))
    assert (code, status, "model gate@2 is locked by 'owner'" in message) == ("RESOURCE_CONFLICT", 409, True)
    assert refused(lambda: client.delete_model_version("gate", 2))[0] == "RESOURCE_CONFLICT"
    assert alias_history(ws, "gate") == []
    ws.close()


def test_names_as_odd_as_mlflow_takes_them(client: Any) -> None:
    for name in ("späte Flüge #1?", "50% & more", "a@b", "日本語", "-", "a+b c"):
        client.create_registered_model(name)
        client.create_model_version(name, "s3://b/m")
        client.set_registered_model_alias(name, "champion", 1)
        assert client.get_model_version_by_alias(name, "champion").name == name
        assert [version.name for version in client.search_model_versions(f"name = '{name}'")] == [name]
        assert client.get_registered_model(name).name == name


def test_prompts_are_hidden_from_who_looks_for_models(client: Any) -> None:
    before = len(client.search_registered_models())
    made = client.register_prompt("greeting", "Hi {{name}}")
    assert (made.version, made.template) == (1, "Hi {{name}}")
    client.set_prompt_alias("greeting", "live", 1)
    assert client.load_prompt("prompts:/greeting@live").format(name="Ann") == "Hi Ann"
    assert len(client.search_registered_models()) == before
    assert [prompt.name for prompt in client.search_prompts()] == ["greeting"]
    assert "greeting" not in {version.name for version in client.search_model_versions()}
    prompt = [ModelVersionTag("mlflow.prompt.is_prompt", "true")]
    code, status, message = refused(lambda: client._get_registry_client().store.create_model_version("greeting", "s3://b/m", tags=prompt))
    assert (code, status, "a prompt lies nowhere but in its tags" in message) == ("INVALID_PARAMETER_VALUE", 400, True)
