"""Registered models on their way out: versions, aliases, tags, and files that MLflow's clients can load."""

from collections.abc import Callable

from tidemill.core.clock import micros
from tidemill.core.errors import Invalid
from tidemill.registry.aliases import list_aliases
from tidemill.registry.mlmodel import MLMODEL_FILE
from tidemill.registry.models import RegisteredModel, list_models
from tidemill.registry.trash import list_trash
from tidemill.registry.versions import ModelVersion, list_versions
from tidemill.server.mlflow.moving.outgoing import HERE, Outgoing, folder_name
from tidemill.server.mlflow.native import written_mlmodel
from tidemill.server.mlflow.stages import TOLD
from tidemill.store.trees import read_tree
from tidemill.tracking.files import files_below

EVERY = 1_000_000
FOLDER = "registered"
_VERSIONS = (
    "name,version,creation_time,last_updated_time,description,user_id,current_stage,source,run_id,status,status_message,run_link,"
    "storage_location"
)
_STATUS = {"pending": "PENDING_REGISTRATION", "ready": "READY", "failed": "FAILED_REGISTRATION"}


def write_models(out: Outgoing, looked: Callable[[str], None]) -> None:
    """Write all registered models that are not in the trash."""
    for model in list_models(out.ws):
        looked("registered models")
        _model(out, model)
        for version in reversed(list_versions(out.ws, model.name, limit=EVERY)):
            looked("model versions")
            _version(out, version)
        pointing = list_aliases(out.ws, [model.name]).get(model.name, {})
        rows = [(alias, number, model.name) for alias, number in pointing.items()]
        out.counted("aliases", out.write("registered_model_aliases", "alias,version,name", rows))
    models, versions = list_trash(out.ws)
    if models or versions:
        out.notes.append(f"{len(models)} models and {len(versions)} versions in the trash are not written")


def _model(out: Outgoing, model: RegisteredModel) -> None:
    made, changed = micros(model.created_at) // 1000, micros(model.updated_at) // 1000
    row = (model.name, made, changed, model.description or None)
    out.counted("registered models", out.write("registered_models", "name,creation_time,last_updated_time,description", [row]))
    rows = [(key, value, model.name) for key, value in model.tags.items()]
    out.counted("model tags", out.write("registered_model_tags", "key,value,name", rows))


def _version(out: Outgoing, version: ModelVersion) -> None:
    place = _files(out, version)
    # What a version was made of is there too, under the same name; a path of this or another machine is not.
    source = version.source if version.source.startswith(("models:/", "runs:/")) else place or version.source
    row = (
        version.name, version.version, micros(version.created_at) // 1000, micros(version.updated_at) // 1000, version.description,
        version.actor, TOLD[version.environment], source, version.run, _STATUS[version.status],
        version.status_message or None, version.run_link, place,
    )  # fmt: skip
    out.counted("model versions", out.write("model_versions", _VERSIONS, [row]))
    rows = [(key, value, version.name, version.version) for key, value in version.tags.items()]
    out.counted("model tags", out.write("model_version_tags", "key,value,name,version", rows))


def _files(out: Outgoing, version: ModelVersion) -> str:
    """Return where the files of a version lie there: with its run or model if they still do, else in a folder of their own."""
    if version.bundle is None:
        return out.moved(version.location)
    if version.location.startswith(HERE) and files_below(out.ws, version.location.removeprefix(HERE)):
        return out.moved(version.location)
    folder = f"{FOLDER}/{folder_name(version.name)}/{version.version}"
    tree = read_tree(out.ws.objects, version.bundle)
    for entry in tree.entries:
        out.put(f"{folder}/{entry.path}", entry.digest)
    try:
        made = written_mlmodel(out.ws, version)
        if made is not None:
            out.put_bytes(f"{folder}/{MLMODEL_FILE}", made)
    except Invalid as error:
        out.notes.append(f"model {version.reference} comes without an MLmodel: {error}")
    return out.place(folder)
