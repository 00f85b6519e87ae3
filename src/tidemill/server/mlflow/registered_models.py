"""MLflow's registered models: make, read, rename, search, trash, tags, aliases."""

from collections.abc import Sequence
from typing import Annotated

from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, Meta, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.registry import aliases, describe, models, search, trash
from tidemill.registry.models import ModelNotFound, RegisteredModel
from tidemill.registry.versions import find_version, list_versions
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.model_versions import PROMPT, WireVersion, to_wire, with_aliases
from tidemill.server.mlflow.model_versions import Found as FoundVersion
from tidemill.server.mlflow.sources import AliasMissing, version_number
from tidemill.server.mlflow.stages import newest_by_stage, stage_environments
from tidemill.server.mlflow.wire import DONE, Empty, Filled, Int64, KeyValue, by_key, millis, pairs

PAGE, PAGE_MAX = 100, 1000
LATEST = "latest"


class WireAlias(Wire, frozen=True, kw_only=True):
    """An alias and the version that it points at."""

    alias: str
    version: str


class WireRegistered(Wire, frozen=True, kw_only=True):
    """A registered model as MLflow tells it, with the newest version of each stage."""

    name: str
    creation_timestamp: int
    last_updated_timestamp: int
    description: str | UnsetType
    latest_versions: tuple[WireVersion, ...] | UnsetType
    tags: tuple[KeyValue, ...] | UnsetType
    aliases: tuple[WireAlias, ...] | UnsetType


class Create(Wire, frozen=True, kw_only=True):
    """What a registered model begins with."""

    name: Filled
    description: str = ""
    tags: tuple[KeyValue, ...] = ()


class ByName(Wire, frozen=True, kw_only=True):
    """Names a registered model."""

    name: Filled


class Update(Wire, frozen=True, kw_only=True):
    """Another description."""

    name: Filled
    description: str = ""


class Rename(Wire, frozen=True, kw_only=True):
    """Another name."""

    name: Filled
    new_name: Filled


class Search(Wire, frozen=True, kw_only=True):
    """Which registered models are asked for."""

    filter: str = ""
    max_results: Int64 = PAGE
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Latest(Wire, frozen=True, kw_only=True):
    """The newest versions of which stages are asked for; of all when none is named."""

    name: Filled
    stages: tuple[str, ...] = ()


class SetTag(Wire, frozen=True, kw_only=True):
    """One tag of a registered model."""

    name: Filled
    key: Filled
    value: str = ""


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    name: Filled
    key: Filled


class SetAlias(Wire, frozen=True, kw_only=True):
    """Which version an alias is to point at."""

    name: Filled
    alias: Annotated[str, Meta(min_length=1, pattern=r"^[\w\-]*$")]
    version: Filled


class ByAlias(Wire, frozen=True, kw_only=True):
    """Names an alias."""

    name: Filled
    alias: Filled


class Found(Wire, frozen=True, kw_only=True):
    """One registered model."""

    registered_model: WireRegistered


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of registered models."""

    registered_models: tuple[WireRegistered, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


class FoundVersions(Wire, frozen=True, kw_only=True):
    """The newest versions of some stages."""

    model_versions: tuple[WireVersion, ...] | UnsetType = UNSET


def told(ws: Workspace, found: Sequence[RegisteredModel]) -> tuple[WireRegistered, ...]:
    """Return registered models, with their newest versions and aliases, as MLflow tells them."""
    newest, pointing = newest_by_stage(ws, found), aliases.list_aliases(ws, [model.name for model in found])
    return tuple(
        WireRegistered(
            name=model.name,
            creation_timestamp=millis(model.created_at),
            last_updated_timestamp=millis(model.updated_at),
            description=model.description or UNSET,
            latest_versions=tuple(map(to_wire, newest[model.key])) or UNSET,
            tags=pairs(model.tags) or UNSET,
            aliases=tuple(WireAlias(alias=alias, version=str(number)) for alias, number in pointing.get(model.name, {}).items()) or UNSET,
        )
        for model in found
    )


def create(ws: Workspace, request: Create) -> Found:
    """Make a registered model."""
    made = models.create_model(ws, request.name, description=request.description, tags=by_key(request.tags))
    return Found(registered_model=told(ws, [made])[0])


def get(ws: Workspace, request: ByName) -> Found:
    """Return a registered model."""
    return Found(registered_model=told(ws, [models.read_model(ws, request.name)])[0])


def update(ws: Workspace, request: Update) -> Found:
    """Describe a registered model."""
    return Found(registered_model=told(ws, [describe.describe_model(ws, request.name, request.description)])[0])


def rename(ws: Workspace, request: Rename) -> Found:
    """Give a registered model another name."""
    return Found(registered_model=told(ws, [describe.rename_model(ws, request.name, request.new_name)])[0])


def delete(ws: Workspace, request: ByName) -> Empty:
    """Put a registered model into the trash."""
    trash.delete_model(ws, request.name)
    return DONE


def search_models(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of registered models."""
    if not 1 <= request.max_results <= PAGE_MAX:
        raise Invalid(f"Invalid value {request.max_results} for parameter 'max_results' supplied: expected 1 to {PAGE_MAX}")
    page = search.search_models(
        ws,
        filter=request.filter,
        order_by=request.order_by,
        without=PROMPT,
        limit=request.max_results,
        page_token=request.page_token or None,
    )
    return FoundMany(registered_models=told(ws, page.items) or UNSET, next_page_token=page.next or UNSET)


def get_latest(ws: Workspace, request: Latest) -> FoundVersions:
    """Return the newest version of each stage that is asked for."""
    wanted = {environment for stage in request.stages or ("",) for environment in stage_environments(stage)}
    model = models.read_model(ws, request.name)
    pointing = aliases.read_aliases(ws, model.name)
    found = [version for version in newest_by_stage(ws, [model])[model.key] if version.environment in wanted]
    return FoundVersions(
        model_versions=tuple(
            to_wire(version, [alias for alias, number in pointing.items() if number == version.version]) for version in found
        )
        or UNSET
    )


def set_tag(ws: Workspace, request: SetTag) -> Empty:
    """Write a tag of a registered model."""
    describe.tag_model(ws, request.name, {request.key: request.value})
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Take a tag of a registered model away; one that is not there is no error."""
    describe.untag_model(ws, request.name, request.key)
    return DONE


def set_alias(ws: Workspace, request: SetAlias) -> Empty:
    """Point an alias at a version."""
    aliases.promote(ws, request.name, version_number(request.version), alias=request.alias)
    return DONE


def delete_alias(ws: Workspace, request: ByAlias) -> Empty:
    """Let an alias point nowhere; one that is not there is no error."""
    if request.alias in aliases.read_aliases(ws, models.read_model(ws, request.name).name):
        aliases.remove_alias(ws, request.name, request.alias)
    return DONE


def get_by_alias(ws: Workspace, request: ByAlias) -> FoundVersion:
    """Return the version that an alias points at; for `latest` the newest."""
    model = models.read_model(ws, request.name)
    if request.alias.lower() == LATEST:
        newest = list_versions(ws, model.name, limit=1)
        if not newest:
            raise ModelNotFound(f"{model.name}@{LATEST}", [model.name])
        return with_aliases(ws, newest[0])
    pointing = aliases.read_aliases(ws, model.name)
    if request.alias not in pointing:
        raise AliasMissing(model.name, request.alias)
    return with_aliases(ws, find_version(ws, model.name, pointing[request.alias]))


ENDPOINTS = (
    Endpoint("POST", "/mlflow/registered-models/create", Create, create),
    Endpoint("GET", "/mlflow/registered-models/get", ByName, get),
    Endpoint("PATCH", "/mlflow/registered-models/update", Update, update),
    Endpoint("POST", "/mlflow/registered-models/rename", Rename, rename),
    Endpoint("DELETE", "/mlflow/registered-models/delete", ByName, delete),
    Endpoint("GET", "/mlflow/registered-models/search", Search, search_models),
    Endpoint("POST", "/mlflow/registered-models/get-latest-versions", Latest, get_latest),
    Endpoint("GET", "/mlflow/registered-models/get-latest-versions", Latest, get_latest),
    Endpoint("POST", "/mlflow/registered-models/set-tag", SetTag, set_tag),
    Endpoint("DELETE", "/mlflow/registered-models/delete-tag", DeleteTag, delete_tag),
    Endpoint("POST", "/mlflow/registered-models/alias", SetAlias, set_alias),
    Endpoint("DELETE", "/mlflow/registered-models/alias", ByAlias, delete_alias),
    Endpoint("GET", "/mlflow/registered-models/alias", ByAlias, get_by_alias),
)
