"""MLflow's model versions: make, read, move, search, trash."""

import json
from collections.abc import Mapping, Sequence

from tidemill.core.codec import decode_any
from tidemill.core.errors import Invalid
from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.registry import describe, environments, search, trash, versions
from tidemill.registry.aliases import read_aliases
from tidemill.registry.bundles import FilesElsewhere
from tidemill.registry.versions import ModelVersion, Origin, Status
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.native import native_uri
from tidemill.server.mlflow.sources import Meant, SourceRefused, meant_by, version_number
from tidemill.server.mlflow.stages import TOLD, stage_environments
from tidemill.server.mlflow.wire import DONE, Empty, Filled, Int64, KeyValue, by_key, millis, pairs
from tidemill.tracking.logged_models import read_logged_model, set_model_tags

PAGE_MAX = 200_000
# A prompt is a model with this tag, and so are its versions; they are hidden from who does not ask for them.
PROMPT = ("mlflow.prompt.is_prompt", "true")
_PROMPT_SOURCES = ("dummy-source", "prompt-template")
_VERSIONS_TAG = "mlflow.modelVersions"
_STATUSES: Mapping[Status, str] = {"pending": "PENDING_REGISTRATION", "ready": "READY", "failed": "FAILED_REGISTRATION"}


class WireVersion(Wire, frozen=True, kw_only=True):
    """A model version as MLflow tells it."""

    name: str
    version: str
    creation_timestamp: int
    last_updated_timestamp: int
    current_stage: str
    description: str
    source: str
    run_id: str
    status: str
    status_message: str | UnsetType
    tags: tuple[KeyValue, ...] | UnsetType
    run_link: str
    aliases: tuple[str, ...] | UnsetType


class Create(Wire, frozen=True, kw_only=True):
    """What a version is made of."""

    name: Filled
    source: Filled
    run_id: str | None = None
    model_id: str | None = None
    run_link: str = ""
    description: str = ""
    tags: tuple[KeyValue, ...] = ()


class ByVersion(Wire, frozen=True, kw_only=True):
    """Names a version."""

    name: Filled
    version: Filled


class Update(Wire, frozen=True, kw_only=True):
    """Another description of a version."""

    name: Filled
    version: Filled
    description: str = ""


class Transition(Wire, frozen=True, kw_only=True):
    """The stage that a version is to stand in."""

    name: Filled
    version: Filled
    stage: Filled
    archive_existing_versions: bool = False


class SetTag(Wire, frozen=True, kw_only=True):
    """One tag of a version."""

    name: Filled
    version: Filled
    key: Filled
    value: str = ""


class DeleteTag(Wire, frozen=True, kw_only=True):
    """A tag that is to go."""

    name: Filled
    version: Filled
    key: Filled


class Search(Wire, frozen=True, kw_only=True):
    """Which versions are asked for."""

    filter: str = ""
    max_results: Int64 = PAGE_MAX
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class Found(Wire, frozen=True, kw_only=True):
    """One version."""

    model_version: WireVersion


class FoundMany(Wire, frozen=True, kw_only=True):
    """A page of versions."""

    model_versions: tuple[WireVersion, ...] | UnsetType = UNSET
    next_page_token: str | UnsetType = UNSET


class Place(Wire, frozen=True, kw_only=True):
    """Where the files of a version can be fetched."""

    artifact_uri: str


def to_wire(version: ModelVersion, aliases: Sequence[str] = ()) -> WireVersion:
    """Return a version as MLflow tells it."""
    return WireVersion(
        name=version.name,
        version=str(version.version),
        creation_timestamp=millis(version.created_at),
        last_updated_timestamp=millis(version.updated_at),
        current_stage=TOLD[version.environment],
        description=version.description,
        source=version.source,
        run_id=version.run or "",
        status=_STATUSES[version.status],
        status_message=version.status_message or UNSET,
        tags=pairs(version.tags) or UNSET,
        run_link=version.run_link,
        aliases=tuple(aliases) or UNSET,
    )


def with_aliases(ws: Workspace, version: ModelVersion) -> Found:
    """Return a version with the aliases that point at it."""
    pointing = [alias for alias, number in read_aliases(ws, version.name).items() if number == version.version]
    return Found(model_version=to_wire(version, pointing))


def create(ws: Workspace, request: Create) -> Found:
    """Make a version of what its source means."""
    tags = by_key(request.tags)
    prompt = tags.get(PROMPT[0], "").lower() == PROMPT[1]
    meant = _prompt(request.source) if prompt else meant_by(ws, request.source, run=request.run_id, model=request.model_id)
    made = versions.create_version(
        ws,
        request.name,
        origin=Origin(
            source=meant.origin.source,
            location=meant.origin.location,
            run=meant.origin.run,
            run_link=request.run_link,
            logged_model=meant.origin.logged_model,
            sources=meant.origin.sources,
        ),
        bundle=meant.bundle,
        description=request.description,
        tags=tags,
    )
    if request.model_id and not prompt:
        _tell_logged_model(ws, request.model_id, made)
    return with_aliases(ws, made)


def get(ws: Workspace, request: ByVersion) -> Found:
    """Return a version."""
    return with_aliases(ws, versions.find_version(ws, request.name, version_number(request.version)))


def update(ws: Workspace, request: Update) -> Found:
    """Describe a version."""
    return with_aliases(ws, describe.describe_version(ws, request.name, version_number(request.version), request.description))


def transition(ws: Workspace, request: Transition) -> Found:
    """Move a version to the environment that a stage means."""
    environment = stage_environments(request.stage)[0]
    number = version_number(request.version)
    return with_aliases(ws, environments.move(ws, request.name, number, environment=environment, archive=request.archive_existing_versions))


def delete(ws: Workspace, request: ByVersion) -> Empty:
    """Put a version into the trash."""
    trash.delete_version(ws, request.name, version_number(request.version))
    return DONE


def set_tag(ws: Workspace, request: SetTag) -> Empty:
    """Write a tag of a version."""
    describe.tag_version(ws, request.name, version_number(request.version), {request.key: request.value})
    return DONE


def delete_tag(ws: Workspace, request: DeleteTag) -> Empty:
    """Take a tag of a version away; one that is not there is no error."""
    describe.untag_version(ws, request.name, version_number(request.version), request.key)
    return DONE


def search_versions(ws: Workspace, request: Search) -> FoundMany:
    """Return a page of versions."""
    if not 1 <= request.max_results <= PAGE_MAX:
        raise Invalid(f"Invalid value {request.max_results} for parameter 'max_results' supplied: expected 1 to {PAGE_MAX}")
    page = search.search_versions(
        ws,
        filter=request.filter,
        order_by=request.order_by,
        without=PROMPT,
        limit=request.max_results,
        page_token=request.page_token or None,
    )
    return FoundMany(model_versions=tuple(map(to_wire, page.items)) or UNSET, next_page_token=page.next or UNSET)


def get_place(ws: Workspace, request: ByVersion) -> Place:
    """Say where the files of a version can be fetched."""
    found = versions.find_version(ws, request.name, version_number(request.version))
    if not found.location and found.bundle is None:
        raise FilesElsewhere(found.reference, found.source)
    return Place(artifact_uri=found.location or native_uri(found))


def _prompt(source: str) -> Meant:
    if source not in _PROMPT_SOURCES:
        raise SourceRefused(source, "a prompt lies nowhere but in its tags; expected dummy-source or prompt-template")
    return Meant(Origin(source=source), None)


def _tell_logged_model(ws: Workspace, model: str, made: ModelVersion) -> None:
    """Write into the tags of a logged model which versions were made of it, as MLflow's pages and clients read it."""
    before = read_logged_model(ws, model).tags.get(_VERSIONS_TAG)
    known = decode_any(before, what=f"tag {_VERSIONS_TAG}") if before else []
    listed = known if isinstance(known, list) else []
    # In the very spelling of MLflow: its clients compare such texts.
    set_model_tags(ws, model, {_VERSIONS_TAG: json.dumps([*listed, {"name": made.name, "version": made.version}])})


ENDPOINTS = (
    Endpoint("POST", "/mlflow/model-versions/create", Create, create),
    Endpoint("GET", "/mlflow/model-versions/get", ByVersion, get),
    Endpoint("PATCH", "/mlflow/model-versions/update", Update, update),
    Endpoint("POST", "/mlflow/model-versions/transition-stage", Transition, transition),
    Endpoint("DELETE", "/mlflow/model-versions/delete", ByVersion, delete),
    Endpoint("GET", "/mlflow/model-versions/search", Search, search_versions),
    Endpoint("GET", "/mlflow/model-versions/get-download-uri", ByVersion, get_place),
    Endpoint("POST", "/mlflow/model-versions/set-tag", SetTag, set_tag),
    Endpoint("DELETE", "/mlflow/model-versions/delete-tag", DeleteTag, delete_tag),
)
