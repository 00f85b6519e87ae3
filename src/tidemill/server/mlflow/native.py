"""Versions that were registered here, as MLflow's clients fetch them: their files as a folder of artifacts, with an MLmodel beside them."""

import re

from tidemill.core.errors import Invalid, NotFound
from tidemill.core.ids import Digest
from tidemill.govern.workspace import Workspace
from tidemill.registry.bundles import describe_tree
from tidemill.registry.mlmodel import MLMODEL_FILE, mlmodel_of, write_mlmodel
from tidemill.registry.versions import ModelVersion, fetch_key
from tidemill.store.trees import read_tree
from tidemill.tracking.files import FileNotKept, FolderEntry

FOLDER = "registered-models"
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
_CODED = "="


def native_uri(version: ModelVersion) -> str:
    """Return where MLflow's clients find the files of a version that lies nowhere else."""
    # What a URL or a path would read otherwise is told in hexadecimal digits.
    part = version.key if _PLAIN.fullmatch(version.key) else _CODED + version.key.encode().hex()
    return f"mlflow-artifacts:/{FOLDER}/{part}/{version.version}"


def find_native(ws: Workspace, path: str) -> tuple[Digest, int] | bytes:
    """Return the object and size of a version's file under a path, or what was written for it. Raises FileNotKept."""
    version, below = _version_at(ws, path)
    files = {} if version is None else _files(ws, version)
    if below not in files:
        raise FileNotKept(path)
    return files[below]


def list_native(ws: Workspace, path: str) -> list[FolderEntry]:
    """Return what lies directly in a folder of a version's files; nothing where nothing is."""
    version, below = _version_at(ws, path)
    prefix = below + "/" if below else ""
    found: dict[str, FolderEntry] = {}
    for name, file in ({} if version is None else _files(ws, version)).items():
        if name.startswith(prefix):
            part, slash, _ = name.removeprefix(prefix).partition("/")
            size = None if slash else len(file) if isinstance(file, bytes) else file[1]
            found[part] = FolderEntry(name=part, is_dir=bool(slash), size_bytes=size)
    return [found[name] for name in sorted(found)]


def written_mlmodel(ws: Workspace, version: ModelVersion) -> bytes | None:
    """Return the MLmodel with which MLflow loads a bundle, None for files that hold one or are no bundle. Raises Invalid."""
    if version.bundle is None:
        return None
    described = describe_tree(ws, read_tree(ws.objects, version.bundle))
    if described.spec is None or described.mlmodel is not None:
        return None
    return write_mlmodel(mlmodel_of(described.spec, run_id=version.run, made_at=version.created_at))


def _version_at(ws: Workspace, path: str) -> tuple[ModelVersion | None, str]:
    """Return the version whose files a path is among, and the path there."""
    folder, _, rest = path.partition("/")
    key, _, rest = rest.partition("/")
    number, _, below = rest.partition("/")
    if folder != FOLDER or not number.isdecimal() or len(number) > 9:
        return None, ""
    try:
        key = bytes.fromhex(key.removeprefix(_CODED)).decode() if key.startswith(_CODED) else key
    except ValueError:
        return None, ""
    ws.require("registry.read", key)
    try:
        with ws.catalog.reading() as tx:
            found = fetch_key(tx, ws.project, key, int(number))
    except NotFound:
        return None, ""
    return (None if found.deleted_at is not None else found), below


def _files(ws: Workspace, version: ModelVersion) -> dict[str, tuple[Digest, int] | bytes]:
    if version.bundle is None:
        return {}
    tree = read_tree(ws.objects, version.bundle)
    files: dict[str, tuple[Digest, int] | bytes] = {entry.path: (entry.digest, entry.size_bytes) for entry in tree.entries}
    try:
        made = written_mlmodel(ws, version)
    except Invalid:
        made = None  # the files can be fetched all the same
    return files if made is None else {**files, MLMODEL_FILE: made}
