"""What the source of a model version means: files of a run, a logged model, another version, or a place that is not ours."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_plus, urlsplit

from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest, RunId
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import read_aliases
from tidemill.registry.models import ModelNotFound, read_model
from tidemill.registry.versions import ModelVersion, Origin, find_version, list_versions
from tidemill.server.mlflow.experiments import location_of
from tidemill.server.mlflow.stages import newest_at, stage_environments
from tidemill.tracking.files import FileNotKept, check_path, model_folder, run_folder, tree_of
from tidemill.tracking.logged_models import LoggedModel, read_logged_model
from tidemill.tracking.runs import Run, read_run

_PROXY = ("api", "2.0", "mlflow-artifacts", "artifacts")
_ROUNDS = 10


class SourceRefused(Invalid):
    """The source is none, or is not of the run or model that is named beside it."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        super().__init__(f"Invalid model version source {source[:300]!r}: {problem}")


class AliasMissing(Invalid):
    """No alias of that name: told as MLflow's clients know it, who look for this when they load by alias."""

    def __init__(self, model: str, alias: str) -> None:
        self.model, self.alias = model, alias
        super().__init__(f"Registered model alias {alias} not found for model {model!r}; set it first")


class Meant(NamedTuple):
    """Where a version comes from, and the tree of its files, None while they lie elsewhere or nowhere."""

    origin: Origin
    bundle: Digest | None


def meant_by(ws: Workspace, source: str, *, run: str | None, model: str | None) -> Meant:
    """Return what a source means. run and model: the ids that came beside it. Raises SourceRefused, NotFound."""
    scheme = urlsplit(source).scheme.lower()
    if not scheme or scheme == "file":
        return _local(ws, source, run, model)
    _check_plain(source)
    if scheme == "models":
        if urlsplit(source).netloc:
            raise SourceRefused(source, "models of another registry cannot be registered here")
        name = urlsplit(source).path.lstrip("/")
        return _logged(ws, source, run, model) if "/" not in name and "@" not in name else _version(ws, source, run, model)
    if scheme == "runs":
        return _of_run(ws, source, run, model)
    if _is_proxied(source):
        return _proxied(ws, source, run, model)
    logged = read_logged_model(ws, model) if model else None
    return Meant(Origin(source=source, run=_run_id(run, logged), logged_model=model or None), None)


def _logged(ws: Workspace, source: str, run: str | None, model: str | None) -> Meant:
    wanted = urlsplit(source).path.lstrip("/")
    if not wanted:
        raise SourceRefused(source, "expected models:/NAME/VERSION, models:/NAME@ALIAS or models:/MODEL_ID")
    if model != wanted:
        raise SourceRefused(source, "The model_id request parameter must identify the resource that contains the source")
    logged = read_logged_model(ws, wanted)
    root = _model_root(logged)
    origin = Origin(source=source, location=root, run=_run_id(run, logged), logged_model=logged.id)
    return Meant(origin, None if logged.location else _tree(ws, model_folder(logged.experiment_id, logged.id)))


def _version(ws: Workspace, source: str, run: str | None, model: str | None) -> Meant:
    found = version_named(ws, source)
    if (run is not None and run != (found.run or "")) or (model is not None and model != (found.logged_model or "")):
        raise SourceRefused(source, "The run_id and model_id request parameters must match the referenced model version")
    origin = Origin(
        source=f"models:/{found.name}/{found.version}",
        location=found.location,
        run=RunId(run) if run else found.run,
        logged_model=model or found.logged_model,
        sources=(found.node,),
    )
    return Meant(origin, found.bundle)


def version_named(ws: Workspace, uri: str) -> ModelVersion:
    """Return the version that models:/NAME/VERSION, models:/NAME/STAGE, models:/NAME/latest or models:/NAME@ALIAS names."""
    path = urlsplit(uri).path.lstrip("/")
    name, slash, suffix = path.partition("/")
    if slash:
        if suffix.isascii() and suffix.isdecimal():
            return find_version(ws, name, version_number(suffix))
        model = read_model(ws, name)
        environments = stage_environments("" if suffix.lower() == "latest" else suffix)
        newest = newest_at(ws, model, environments) if suffix.lower() != "latest" else next(iter(list_versions(ws, name, limit=1)), None)
        if newest is None:
            raise ModelNotFound(f"{name}/{suffix}", [name])
        return newest
    name, _, alias = path.rpartition("@")
    aliases = read_aliases(ws, read_model(ws, name).name)
    if alias not in aliases:
        raise AliasMissing(name, alias)
    return find_version(ws, name, aliases[alias])


def version_number(text: str) -> int:
    """Return the number of a version, which MLflow sends as text. Raises Invalid."""
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
        raise Invalid(f"Parameter 'version' must be an integer, got {text[:80]!r}")
    return max(-1, min(int(text), 2**31 - 1)) if len(text) < 40 else -1


def _of_run(ws: Workspace, source: str, run: str | None, model: str | None) -> Meant:
    parts = urlsplit(source)
    named, _, path = parts.path.lstrip("/").partition("/")
    if parts.netloc or model or not run or named != run:
        problem = "model_id" if model else "run_id"
        raise SourceRefused(source, f"The {problem} request parameter must identify the resource that contains the source")
    found = _find_run(ws, run)
    origin = Origin(source=source, run=RunId(run))
    if found is None or found.location:
        return Meant(origin, None)
    return Meant(origin, _tree(ws, "/".join(part for part in (run_folder(found.experiment_id, found.id), path.strip("/")) if part)))


def _proxied(ws: Workspace, source: str, run: str | None, model: str | None) -> Meant:
    """Files behind the artifact proxy: they must be those of the run or model that is named."""
    logged = _find_model(ws, model) if model else None
    found = None if model or not run else _find_run(ws, run)
    root = _model_root(logged) if logged else _run_root(found) if found else ""
    inside = _inside(source, root)
    if inside is None:
        named = "model_id" if model else "run_id"
        raise SourceRefused(source, f"The {named} request parameter must identify the resource that contains the source")
    origin = Origin(source=source, run=_run_id(run, logged), logged_model=model or None)
    location = logged.location if logged else found.location if found else ""
    if location:
        return Meant(origin, None)
    folder = model_folder(logged.experiment_id, logged.id) if logged else run_folder(found.experiment_id, found.id) if found else ""
    return Meant(origin, _tree(ws, "/".join((folder, *inside))))


def _local(ws: Workspace, source: str, run: str | None, model: str | None) -> Meant:
    """A path on some machine: taken only when the experiment's artifacts lie on that path, and never read by the server."""
    logged = _find_model(ws, model) if model else None
    found = None if model or not run else _find_run(ws, run)
    root = _model_root(logged) if logged else _run_root(found) if found else ""
    plain = urlsplit(source).path if urlsplit(source).scheme else source
    under = urlsplit(root).path if urlsplit(root).scheme in ("", "file") else ""
    if not under or ".." in plain.split("/") or not (plain + "/").startswith(under.rstrip("/") + "/"):
        raise SourceRefused(
            source,
            f"To use a local path as a model version source, the {'model_id' if model else 'run_id'} request parameter "
            "has to be specified, and the path has to lie within the artifacts of what it names",
        )
    return Meant(Origin(source=source, run=_run_id(run, logged), logged_model=model or None), None)


def _check_plain(source: str) -> None:
    """Raises SourceRefused for what leads upwards, however it is written."""
    seen = source
    for _ in range(_ROUNDS):
        if (decoded := unquote_plus(seen)) == seen:
            break
        seen = decoded
    path = re.sub(r"/+", "/", urlsplit(seen).path.rstrip("/"))
    if "\0" in seen or ".." in seen.split("/") or "." in path.split("/"):
        raise SourceRefused(source, "an absolute path must be provided, without parts such as '..'")


def _is_proxied(source: str) -> bool:
    parts = urlsplit(source)
    if parts.scheme.lower() == "mlflow-artifacts":
        return True
    path = tuple(part for part in parts.path.split("/") if part)
    return parts.scheme.lower() in ("http", "https") and any(path[at : at + len(_PROXY)] == _PROXY for at in range(len(path)))


def _inside(source: str, root: str) -> Sequence[str] | None:
    """Return the parts of a source's path below a root, None when it does not lie there."""
    (scheme, place, path), (root_scheme, root_place, top) = _parts(source), _parts(root)
    if not top or (scheme, place) != (root_scheme, root_place) or path[: len(top)] != top:
        return None
    return path[len(top) :]


def _parts(uri: str) -> tuple[str, str, tuple[str, ...]]:
    parts = urlsplit(uri)
    return parts.scheme.lower(), parts.netloc.lower(), tuple(unquote_plus(part) for part in parts.path.split("/") if part)


def _tree(ws: Workspace, path: str) -> Digest | None:
    """Return what lies below a path as one stored tree, None when nothing does."""
    try:
        return tree_of(ws, check_path(path))
    except FileNotKept:
        return None


def _run_root(run: Run) -> str:
    return f"{location_of(run.experiment_id, run.location)}/{run.id}/artifacts"


def _model_root(model: LoggedModel) -> str:
    return f"{location_of(model.experiment_id, model.location)}/models/{model.id}/artifacts"


def _find_run(ws: Workspace, run: str) -> Run | None:
    try:
        return read_run(ws, run)
    except NotFound:
        return None


def _find_model(ws: Workspace, model: str) -> LoggedModel | None:
    try:
        return read_logged_model(ws, model)
    except NotFound:
        return None


def _run_id(run: str | None, model: LoggedModel | None) -> RunId | None:
    """Return the run that a version is of: the one that was named, else the one that logged the model."""
    named = run or (model.source_run if model else None)
    return RunId(named) if named else None
