"""MLflow's artifact proxy: files in and out of the object store as streams, listing, deletion."""

import posixpath
from pathlib import Path
from urllib.parse import parse_qsl

from tidemill.core.values import UNSET, UnsetType, Wire
from tidemill.govern.workspace import Workspace
from tidemill.server.mlflow import bodies, native
from tidemill.server.mlflow.bodies import Enter, Taken
from tidemill.server.mlflow.endpoint import Endpoint
from tidemill.server.mlflow.exchange import Exchange, Stream
from tidemill.server.mlflow.logged_models import model_uri
from tidemill.server.mlflow.paths import attachment, folder_path, media_type, safe_path
from tidemill.server.mlflow.runs import artifact_uri, read_run
from tidemill.server.mlflow.wire import DONE, Empty, Filled
from tidemill.tracking import files, logged_models
from tidemill.tracking.files import FileNotKept, FolderEntry, PathRefused, StoredFile

PROXY = "/mlflow-artifacts/artifacts"


class FileInfo(Wire, frozen=True, kw_only=True):
    """A file or folder as MLflow lists it."""

    path: str
    is_dir: bool
    file_size: int | UnsetType = UNSET


class List(Wire, frozen=True, kw_only=True):
    """Which folder is asked for."""

    path: str = ""


class ListOfRun(Wire, frozen=True, kw_only=True):
    """Which folder of a run's artifacts is asked for."""

    run_id: Filled
    path: str = ""


class ListOfModel(Wire, frozen=True, kw_only=True):
    """Which folder of a logged model's files is asked for."""

    model_id: Filled
    artifact_directory_path: str = ""


class ByPath(Wire, frozen=True, kw_only=True):
    """Names a file or folder."""

    path: str


class Listed(Wire, frozen=True, kw_only=True):
    """What lies in a folder."""

    files: tuple[FileInfo, ...] | UnsetType = UNSET


class ListedBelow(Listed, frozen=True, kw_only=True):
    """What lies in a folder of a run's or a logged model's files."""

    root_uri: str


async def upload(exchange: Exchange, path: str) -> None:
    """Keep the body under a path."""
    await keep_body(exchange, path, exchange.enter)
    await exchange.answer(200, b"", b"text/plain")


async def download(exchange: Exchange, path: str) -> None:
    """Give the file under a path."""
    await give(exchange, path, await exchange.run(_find, exchange, path))


async def keep_body(exchange: Exchange, path: str, enter: Enter) -> None:
    """Receive the body, then keep it under a path of the workspace that enter opens."""
    if path.endswith("/"):
        raise PathRefused(path, "it ends with a slash, so it names no file")
    # Nobody unknown may fill the disk: a body that does not fit into memory is let in before it is taken.
    taken = await bodies.take(exchange, exchange.access.scratch(), check=lambda: enter().require("tracking.write", safe_path(path)))
    try:
        await exchange.run(_keep, enter, path, taken)
    finally:
        if taken.path is not None:
            taken.path.unlink(missing_ok=True)


async def give(exchange: Exchange, path: str, found: Path | bytes) -> None:
    """Send what was found under a path: a file in pieces, a small one at once."""
    headers = attachment(path)
    if isinstance(found, bytes):
        await exchange.answer(200, found, media_type(path), [*headers, (b"accept-ranges", b"bytes")])
    else:
        await bodies.give_file(exchange, found, media_type(path), headers)


def list_proxy(ws: Workspace, request: List) -> Listed:
    """List a folder, wherever it lies: names, not paths."""
    path = folder_path(request.path)
    return Listed(files=told(files.list_folder(ws, path) or native.list_native(ws, path), "") or UNSET)


def list_of_run(ws: Workspace, request: ListOfRun) -> ListedBelow:
    """List a folder of a run's artifacts: paths below their root."""
    run, folder = read_run(ws, request.run_id), folder_path(request.path)
    root = files.run_folder(run.experiment_id, run.id)
    found = files.list_folder(ws, posixpath.join(root, folder) if folder else root)
    return ListedBelow(root_uri=artifact_uri(run), files=told(found, folder) or UNSET)


def list_of_model(ws: Workspace, request: ListOfModel) -> ListedBelow:
    """List a folder of a logged model's files: paths below their root."""
    model, folder = logged_models.read_logged_model(ws, request.model_id), folder_path(request.artifact_directory_path)
    root = files.model_folder(model.experiment_id, model.id)
    found = files.list_folder(ws, posixpath.join(root, folder) if folder else root)
    return ListedBelow(root_uri=model_uri(model), files=told(found, folder) or UNSET)


async def get_of_run(exchange: Exchange) -> None:
    """Give the file that the query names by its run and its path there."""
    query = _query(exchange)
    run_id, path = query.get("run_id") or query.get("run_uuid", ""), query.get("path", "")

    def find() -> Path | bytes:
        ws = exchange.enter()
        run = read_run(ws, run_id)
        return read_stored(ws, files.find_file(ws, f"{files.run_folder(run.experiment_id, run.id)}/{safe_path(path)}"))

    await give(exchange, path, await exchange.run(find))


async def get_of_model(exchange: Exchange, model_id: str) -> None:
    """Give the file of a logged model that the query names by its path."""
    path = _query(exchange).get("artifact_file_path", "")

    def find() -> Path | bytes:
        ws = exchange.enter()
        model = logged_models.read_logged_model(ws, model_id)
        return read_stored(ws, files.find_file(ws, f"{files.model_folder(model.experiment_id, model.id)}/{safe_path(path)}"))

    await give(exchange, path, await exchange.run(find))


def delete(ws: Workspace, request: ByPath) -> Empty:
    """Remove a file, or a folder with all that it holds. MLflow does not mind when nothing is there."""
    files.delete_files(ws, safe_path(request.path))
    return DONE


def told(found: list[FolderEntry], folder: str) -> tuple[FileInfo, ...]:
    """Return what lies in a folder as MLflow lists it, by name."""
    return tuple(
        FileInfo(path=posixpath.join(folder, entry.name), is_dir=entry.is_dir, file_size=UNSET if entry.is_dir else entry.size_bytes or 0)
        for entry in sorted(found, key=lambda entry: entry.name)
    )


def read_stored(ws: Workspace, found: StoredFile) -> Path | bytes:
    """Return a stored file: a small one as bytes, any other as a place on this machine."""
    place = ws.objects.local_path(found.digest)
    return place.read_bytes() if found.size_bytes <= bodies.SMALL_BYTES else place


def _query(exchange: Exchange) -> dict[str, str]:
    return dict(parse_qsl(exchange.query.decode("latin-1"), keep_blank_values=True))


def _find(exchange: Exchange, path: str) -> Path | bytes:
    ws = exchange.enter()
    try:
        found = files.find_file(ws, safe_path(path))
    except FileNotKept:
        of_version = native.find_native(ws, path)
        return of_version if isinstance(of_version, bytes) else ws.objects.local_path(of_version[0])
    # A range is served from a file, so that it need not be cut here.
    return ws.objects.local_path(found.digest) if exchange.header(b"range") else read_stored(ws, found)


def _keep(enter: Enter, path: str, taken: Taken) -> None:
    ws = enter()
    if taken.path is not None and taken.digest is not None:
        ws.objects.adopt(taken.path, taken.digest)
        files.keep_file(ws, safe_path(path), taken.digest, taken.size_bytes)
    else:
        data = taken.data or b""
        files.keep_file(ws, safe_path(path), ws.objects.put(data), len(data))


_PLACES = tuple(f"/{api}/2.0{PROXY}/{{path:path}}" for api in ("api", "ajax-api"))
ENDPOINTS = (
    Endpoint("GET", PROXY, List, list_proxy),
    Endpoint("DELETE", PROXY + "/{path:path}", ByPath, delete),
    Endpoint("GET", "/mlflow/artifacts/list", ListOfRun, list_of_run),
    Endpoint("GET", "/mlflow/logged-models/{model_id}/artifacts/directories", ListOfModel, list_of_model),
)
STREAMS = (
    Stream("PUT", _PLACES, upload),
    Stream("GET", _PLACES, download),
    Stream("GET", ("/get-artifact",), get_of_run),
    Stream("GET", ("/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files",), get_of_model),
)
