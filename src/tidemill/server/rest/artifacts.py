"""Routes of files that runs leave, models among them."""

from pathlib import Path
from typing import Annotated

from tidemill.core.ids import Digest, RunId
from tidemill.core.values import Meta, Value, field
from tidemill.govern.workspace import Workspace
from tidemill.registry import versions
from tidemill.registry.versions import ModelVersion
from tidemill.server.rest.route import Route
from tidemill.tracking import files, uploads
from tidemill.tracking.runs import RunArtifact
from tidemill.tracking.uploads import Receipt


class WholeFile(Value, frozen=True, kw_only=True):
    """A file that was sent in parts, or is about to be: its digest, and those of its parts in order."""

    path: str
    digest: Digest
    size_bytes: Annotated[int, Meta(ge=0)]
    parts: tuple[Digest, ...]


class RegisterFiles(Value, frozen=True, kw_only=True):
    """Which files of a run a version shall hold: those below a path, or of them the ones that are named."""

    path: str
    files: tuple[str, ...] | None = None
    tags: dict[str, str] = field(default_factory=dict)
    description: str = ""
    reason: str = ""


def log_artifact(ws: Workspace, run: RunId, path: str, *, body: Path) -> RunArtifact:
    """Keep the bytes sent under a path of a run."""
    return uploads.keep_artifact(ws, run, path, body)


def get_artifact(ws: Workspace, run: RunId, path: str) -> Path:
    """Return the bytes under a path of a run."""
    return ws.objects.local_path(uploads.find_artifact(ws, run, path).digest)


def put_part(ws: Workspace, digest: Digest, *, body: Path) -> None:
    """Keep a part of a file until the file is whole. It is named by its digest (BLAKE3)."""
    uploads.keep_part(ws, digest, body)


def put_whole(ws: Workspace, run: RunId, *, body: WholeFile) -> Receipt:
    """Keep a file that was sent in parts under a path of a run, or say which parts are missing."""
    return uploads.keep_whole(ws, run, body.path, body.digest, body.size_bytes, body.parts)


def register_model(ws: Workspace, run: RunId, name: str, *, body: RegisterFiles) -> ModelVersion:
    """Make the files below a path of a run a version of a model; the same files of the same run again are the same version."""
    bundle = files.tree_of(ws, uploads.artifact_path(ws, run, body.path), only=body.files)
    return versions.register(ws, name, bundle, run=run, once=True, tags=body.tags, description=body.description, reason=body.reason)


ROUTES = (
    Route("PUT", "/runs/{run}/artifacts/{path:path}", log_artifact, status=201),
    Route("GET", "/runs/{run}/artifacts/{path:path}", get_artifact),
    Route("PUT", "/file-parts/{digest}", put_part),
    Route("POST", "/runs/{run}/files", put_whole),
    Route("POST", "/runs/{run}/models/{name}", register_model, status=201),
)
