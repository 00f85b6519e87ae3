"""A Feast registry as `feast registry-dump` of Feast 0.67 prints it: its protobuf messages as JSON. Lenient, as a foreign standard is."""

from pathlib import Path
from shutil import which
from subprocess import run
from typing import Any

from tidemill.core.codec import decode
from tidemill.core.errors import Invalid, NotFound, Unavailable
from tidemill.core.values import Wire, field

CONFIG = "feature_store.yaml"


class _Wire(Wire, frozen=True, kw_only=True, rename="camel"):
    """A message of Feast's registry."""


class FeastField(_Wire, frozen=True, kw_only=True):
    """A feature, or a column of a request."""

    name: str
    value_type: str = "INVALID"
    description: str = ""


class FeastFile(_Wire, frozen=True, kw_only=True):
    """Where a file source lies."""

    uri: str = ""
    file_format: dict[str, Any] = field(default_factory=dict)


class FeastDataSource(_Wire, frozen=True, kw_only=True):
    """A source, of whatever type."""

    name: str = ""
    type: str = "INVALID"
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    timestamp_field: str = ""
    created_timestamp_column: str = ""
    field_mapping: dict[str, str] = field(default_factory=dict)
    file_options: FeastFile | None = None
    batch_source: "FeastDataSource | None" = None


class FeastEntity(_Wire, frozen=True, kw_only=True):
    """An entity."""

    name: str
    join_key: str = ""


class FeastView(_Wire, frozen=True, kw_only=True):
    """A feature view."""

    name: str
    entities: tuple[str, ...] = ()
    features: tuple[FeastField, ...] = ()
    batch_source: FeastDataSource | None = None
    stream_source: FeastDataSource | None = None
    ttl: str = "0s"
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    feature_transformation: dict[str, Any] = field(default_factory=dict)


class FeastProjection(_Wire, frozen=True, kw_only=True):
    """What a service takes of a view."""

    feature_view_name: str = ""
    feature_view_name_alias: str = ""
    feature_columns: tuple[FeastField, ...] = ()
    join_key_map: dict[str, str] = field(default_factory=dict)


class FeastService(_Wire, frozen=True, kw_only=True):
    """A feature service."""

    name: str
    features: tuple[FeastProjection, ...] = ()
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class FeastEntitySpec(_Wire, frozen=True, kw_only=True):
    """An entity, beside what Feast notes of it."""

    spec: FeastEntity


class FeastViewSpec(_Wire, frozen=True, kw_only=True):
    """A view, beside what Feast notes of it."""

    spec: FeastView


class FeastServiceSpec(_Wire, frozen=True, kw_only=True):
    """A service, beside what Feast notes of it."""

    spec: FeastService


class Registry(_Wire, frozen=True, kw_only=True):
    """What `feast registry-dump` prints."""

    project: str
    data_sources: tuple[FeastDataSource, ...] = ()
    entities: tuple[FeastEntitySpec, ...] = ()
    feature_views: tuple[FeastViewSpec, ...] = ()
    on_demand_feature_views: tuple[FeastViewSpec, ...] = ()
    stream_feature_views: tuple[FeastViewSpec, ...] = ()
    feature_services: tuple[FeastServiceSpec, ...] = ()


def read_registry(path: Path) -> Registry:
    """Read a dump, or let Feast make it of a repository. Raises NotFound, Invalid, Unavailable."""
    if not path.exists():
        raise NotFound(f"there is no {path}; give what `feast registry-dump` printed, or a Feast repository")
    if path.is_file() and path.suffix == ".json":
        return decode(path.read_bytes(), Registry, what=f"{path}, which should be what `feast registry-dump` prints,")
    folder = next((each for each in (path, *path.resolve().parents) if (each / CONFIG).is_file()), None)
    if folder is None:
        raise Invalid(f"{path} is neither a .json file of `feast registry-dump` nor in a Feast repository (no {CONFIG} is there)")
    feast = which("feast")
    command = f"feast -c {folder} registry-dump > registry.json"
    if feast is None:
        raise Unavailable(f"{folder} is a Feast repository, and Feast is not installed here; make a dump where it is: {command}")
    done = run([feast, "-c", str(folder), "registry-dump"], capture_output=True, text=True, check=False)
    begin = done.stdout.find("{")
    if done.returncode or begin < 0:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise Invalid(f"Feast could not dump {folder}: {last}; try it by hand: {command}")
    return decode(done.stdout[begin:], Registry, what="what `feast registry-dump` prints")
