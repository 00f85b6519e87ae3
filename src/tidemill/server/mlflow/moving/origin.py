"""Which store an address means, and what tells one store from another."""

from pathlib import Path
from urllib.parse import urlsplit

from tidemill.core.digest import digest_value
from tidemill.core.errors import Invalid, NotFound
from tidemill.server.mlflow.moving.mlruns import MlrunsStore
from tidemill.server.mlflow.moving.remote import RemoteStore
from tidemill.server.mlflow.moving.sqlite import SqliteStore
from tidemill.server.mlflow.moving.store import Store


def open_store(address: str, *, artifacts: Path | None = None, token: str | None = None) -> Store:
    """Open the MLflow store at an address: http(s)://SERVER, sqlite:///FILE, the path of an SQLite file or of an mlruns folder.

    artifacts: the folder behind `mlflow-artifacts:`, for a store that is no server. Raises Invalid, NotFound, Unavailable.
    """
    scheme = urlsplit(address).scheme.lower()
    if scheme in ("http", "https"):
        return RemoteStore(address, token=token)
    if scheme not in ("", "file", "sqlite"):
        raise Invalid(f"{address!r} is no place to import from; expected http(s)://SERVER, sqlite:///FILE, or the path of a file or folder")
    path = Path(address.removeprefix("sqlite:///") if scheme == "sqlite" else urlsplit(address).path if scheme == "file" else address)
    if path.is_dir():
        return MlrunsStore(path, artifacts=artifacts)
    if not path.is_file():
        raise NotFound(f"there is nothing at {path}; expected the SQLite file or the mlruns folder of an MLflow server")
    return SqliteStore(path, artifacts=artifacts)


def identity(store: Store) -> str:
    """Return what a store is known by, whatever way leads to it: its first experiment, and the millisecond in which it was made."""
    oldest = min(store.experiments(), key=lambda experiment: (len(experiment.id), experiment.id), default=None)
    if oldest is None or not oldest.made_ms:  # a store of before 2022 does not say
        return digest_value(["mlflow", store.place])
    return digest_value(["mlflow", oldest.id, oldest.made_ms])
