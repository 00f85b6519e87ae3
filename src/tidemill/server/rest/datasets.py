"""Routes of datasets."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from tidemill.core.values import Meta, Value
from tidemill.datasets import intake, keys, profile, versions
from tidemill.datasets.contracts import Contract
from tidemill.datasets.diff import DatasetDiff, diff_versions
from tidemill.datasets.intake import Admitted, Taken
from tidemill.datasets.keys import DatasetKey
from tidemill.datasets.profile import Profile
from tidemill.datasets.rows import RowsForm, read_rows
from tidemill.datasets.versions import Dataset, DatasetVersion
from tidemill.deploy.arrivals import arrive
from tidemill.govern.workspace import Workspace
from tidemill.server.rest.route import BYTES_TYPE, JSON_TYPE, Limit, Route

Form = Literal["parquet", "csv", "tsv"]
Once = Annotated[str, Meta(min_length=1, max_length=255)]


def list_datasets(ws: Workspace) -> list[Dataset]:
    """List datasets by name."""
    return versions.list_datasets(ws)


def list_versions(ws: Workspace, name: str, *, limit: Limit = 100) -> list[DatasetVersion]:
    """List the versions of a dataset, newest first."""
    return versions.list_versions(ws, name, limit=limit)


def get_version(ws: Workspace, reference: str, *, at: datetime | None = None) -> DatasetVersion:
    """Return the version that NAME@VERSION names; for NAME the newest, as of `at` when given."""
    return versions.read_version(ws, reference, at=at)


def get_profile(ws: Workspace, reference: str, *, fresh: bool = False) -> Profile:
    """Return what the columns of a version are like, measured once and kept; fresh: measured again."""
    return profile.describe(ws, reference, fresh=fresh)


def add_version(ws: Workspace, name: str, *, body: Path, form: Form = "parquet", description: str = "", reason: str = "") -> Admitted:
    """Make a version of exactly the rows sent, but for those that the contract sets aside; the same content again is the same version."""
    return intake.add(ws, name, {f"part-00000.{form}": body.rename(body.with_suffix(f".{form}"))}, description=description, reason=reason)


def append_rows(
    ws: Workspace, name: str, *, body: Path, form: RowsForm | None = None, reason: str = "", idempotency_key: Once | None = None
) -> Taken:  # fmt: skip
    """Make a version that has the newest one's rows and then those sent, but for those set aside, or there already by the declared key.

    JSON (a list of objects, or one a line), Parquet or an Arrow stream, told by the bytes unless form says so; CSV and TSV need form.
    """
    return arrive(ws, name, read_rows(body, form), once=idempotency_key, reason=reason)[0]


class SetKey(Value, frozen=True, kw_only=True):
    """The columns that tell one row of a dataset from another, and why."""

    columns: tuple[str, ...]
    reason: str = ""


def get_key(ws: Workspace, name: str) -> DatasetKey | None:
    """Return what tells the rows of a dataset apart, null when nobody has said."""
    return keys.read_key(ws, name)


def put_key(ws: Workspace, name: str, *, body: SetKey) -> DatasetKey:
    """Say what tells the rows of a dataset apart: rows that arrive from now on count once, and go online as well."""
    return keys.set_key(ws, name, body.columns, reason=body.reason)


class SetContract(Value, frozen=True, kw_only=True):
    """What a dataset shall promise, and why."""

    contract: Contract
    reason: str = ""


def get_contract(ws: Workspace, name: str) -> Contract | None:
    """Return what a dataset promises, null when nothing."""
    return intake.read_contract(ws, name)


def put_contract(ws: Workspace, name: str, *, body: SetContract) -> Contract:
    """Hold all rows that come in from now on to a contract."""
    return intake.set_contract(ws, name, body.contract, reason=body.reason)


def get_diff(ws: Workspace, before: str, after: str, *, key: str = "") -> DatasetDiff:
    """Tell how one version differs from another. key: columns that tell rows apart, separated by commas."""
    return diff_versions(ws, before, after, key=[name for name in key.split(",") if name])


ROUTES = (
    Route("GET", "/datasets", list_datasets),
    Route("GET", "/datasets/{name}/versions", list_versions),
    Route("POST", "/datasets/{name}/versions", add_version, status=201),
    Route("POST", "/datasets/{name}/rows", append_rows, status=201, takes=(JSON_TYPE, BYTES_TYPE)),
    Route("GET", "/datasets/{name}/key", get_key),
    Route("PUT", "/datasets/{name}/key", put_key),
    Route("GET", "/datasets/{name}/contract", get_contract),
    Route("PUT", "/datasets/{name}/contract", put_contract),
    Route("GET", "/dataset-versions/{reference}", get_version),
    Route("GET", "/dataset-versions/{reference}/profile", get_profile),
    Route("GET", "/dataset-versions/{before}/diff/{after}", get_diff),
)
