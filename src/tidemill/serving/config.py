"""What a serving worker serves: written by `deploy` as one file, read by every worker; and what a worker says of itself.

No worker asks a catalog: this file, the object store and the online store are all it needs.
"""

import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated

from tidemill.core.codec import decode, encode_text
from tidemill.core.errors import Conflict, Invalid
from tidemill.core.ids import Digest, check_name
from tidemill.core.process import lives
from tidemill.core.values import Meta, Value
from tidemill.features.online import ReadPlan, ViewPlan

CONFIG_FILE = "config.json"
DEFAULT_PROJECT = "default"
Share = Annotated[float, Meta(ge=0, le=1)]


class VariantConfig(Value, frozen=True, kw_only=True):
    """One model version behind an endpoint, and the tree that holds it."""

    name: str
    model: str
    version: int
    bundle: Digest

    def __post_init__(self) -> None:
        check_name(self.name, "variant")


class RoutePolicy(Value, frozen=True, kw_only=True):
    """Who gets which share of the rows. sticky_by: the column whose value decides, else each prediction's id does.

    Another salt deals all units out anew.
    """

    shares: dict[str, Share]
    sticky_by: str | None = None
    salt: str = ""

    def __post_init__(self) -> None:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise Invalid(f"the shares of a route policy must sum to 1, got {sum(self.shares.values())} ({self.shares})")


class EndpointOptions(Value, frozen=True, kw_only=True):
    """How an endpoint serves, whoever answers.

    threshold turns scores into labels, over the one that a model brings. cached_rows: for so many rows what a model said is kept, and
    said again when the same row comes; for models that say the same of the same row always.

    The journal: journal_inputs is the share of predictions whose inputs are kept, told by their ids; columns in journal_drop are never
    written, those in journal_hash only as keyed digests; after journal_days days predictions and their labels are removed (0: never).
    label_key names the column whose values labels may come by.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    cached_rows: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    journal_inputs: Share = 1.0
    journal_drop: tuple[str, ...] = ()
    journal_hash: tuple[str, ...] = ()
    journal_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    label_key: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if both := sorted({*self.journal_drop} & {*self.journal_hash}):
            raise Invalid(f"column {both[0]!r} cannot be both dropped and hashed; name it in journal_drop or in journal_hash")
        if self.label_key in self.journal_drop:
            raise Invalid(f"column {self.label_key!r} is the label key, and labels find their predictions by it; hash it (journal_hash)")


class EndpointConfig(Value, frozen=True, kw_only=True):
    """A name that callers use, with what answers behind it. shadows: variants that also see every row, and answer nobody."""

    project: str = DEFAULT_PROJECT
    name: str
    variants: tuple[VariantConfig, ...]
    route: RoutePolicy
    shadows: tuple[str, ...] = ()
    features: ReadPlan | None = None
    options: EndpointOptions = EndpointOptions()

    def __post_init__(self) -> None:
        check_name(self.name, "endpoint")
        check_name(self.project, "project")
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise Invalid(f"endpoint {self.name!r} has two variants of one name; expected distinct names, got {', '.join(names)}")
        if strange := sorted({*self.route.shares, *self.shadows} - set(names)):
            raise Invalid(f"endpoint {self.name!r} routes to {', '.join(strange)}, which it does not have (it has: {', '.join(names)})")

    @property
    def key(self) -> str:
        """How callers name it: `NAME`, or `PROJECT/NAME` outside the default project."""
        return endpoint_key(self.project, self.name)

    def variant(self, name: str) -> VariantConfig:
        """Return the variant of a name that the route or the shadows mention."""
        return next(variant for variant in self.variants if variant.name == name)


class KeyHash(Value, frozen=True, kw_only=True):
    """One API key that is let in: its id, SHA-256 of its secret, the project it is for ("*": all), and whether it may write."""

    id: str
    sha256: str
    project: str
    writes: bool
    expires_at: datetime


class ServingConfig(Value, frozen=True, kw_only=True):
    """All that workers serve. generation grows with each one published. keys None: every caller is let in.

    views: the feature view versions that the events of their sources go into, as callers push them. keyed: the sources, named as callers
    name them, whose events are journaled as well, to become rows of their dataset: those of which it is known what tells rows apart.
    services: the newest version of each feature service, for callers who look features up.
    """

    generation: int
    published_at: datetime
    endpoints: tuple[EndpointConfig, ...] = ()
    views: tuple[ViewPlan, ...] = ()
    services: tuple[ReadPlan, ...] = ()
    keyed: tuple[str, ...] = ()
    keys: tuple[KeyHash, ...] | None = None

    def __post_init__(self) -> None:
        names = [endpoint.key for endpoint in self.endpoints]
        if len(set(names)) != len(names):
            raise Invalid(f"a serving config has two endpoints of one name: {', '.join(sorted(names))}")


class EndpointTrouble(Value, frozen=True, kw_only=True):
    """Why a worker does not serve an endpoint as the config says. serves: the model versions that it serves instead, MODEL@VERSION."""

    endpoint: str
    reason: str
    attempts: int
    serves: tuple[str, ...] = ()


class WorkerState(Value, frozen=True, kw_only=True):
    """What one worker says of itself. generation: of the config it serves; refused: why it does not serve what is published.

    troubles: the endpoints of its config whose models it cannot load. ready: whether it answers for any endpoint, or has none.

    grpc_port: None without gRPC.
    """

    pid: int
    port: int
    grpc_port: int | None = None
    generation: int
    ready: bool
    refused: str = ""
    troubles: tuple[EndpointTrouble, ...] = ()


def endpoint_key(project: str, name: str) -> str:
    """Return how callers name an endpoint or a source of events: `NAME`, or `PROJECT/NAME` outside the default project."""
    return name if project == DEFAULT_PROJECT else f"{project}/{name}"


def project_of(key: str) -> str:
    """Return the project of what callers name so."""
    return key.rpartition("/")[0] or DEFAULT_PROJECT


def config_path(state: Path) -> Path:
    """Return where the config lies."""
    return state / "serving" / CONFIG_FILE


def save(state: Path, config: ServingConfig) -> Path:
    """Publish a config: workers serve it within moments. Raises Conflict when a newer one is there already."""
    path = config_path(state)
    try:
        there = load(state)
    except Invalid:
        there = None  # what cannot be read is no reason to keep it
    if there is not None and there.generation > config.generation:
        raise Conflict(f"serving config {config.generation} is older than {there.generation}, which is published; publish a newer one")
    write_atomic(path, encode_text(config, indent=2).encode())
    return path


def load(state: Path) -> ServingConfig | None:
    """Return the published config, None when there is none. Raises Invalid."""
    try:
        data = config_path(state).read_bytes()
    except FileNotFoundError:
        return None
    return read_config(data)


def read_config(data: bytes) -> ServingConfig:
    """Read a config. Raises Invalid naming the path of the fault."""
    return decode(data, ServingConfig, what="serving config")


def write_state(state: Path, index: int, worker: WorkerState) -> None:
    """Say how a worker is."""
    write_atomic(state / "run" / f"serve-{index}.json", encode_text(worker).encode(), sync=False)


def read_states(state: Path) -> dict[int, WorkerState]:
    """Return what the workers that live say of themselves, by index."""
    found: dict[int, WorkerState] = {}
    for path in sorted((state / "run").glob("serve-*.json")):
        try:
            worker = decode(path.read_bytes(), WorkerState, what=path.name)
            index = int(path.stem.removeprefix("serve-"))
        except (FileNotFoundError, ValueError):
            continue
        if lives(worker.pid):
            found[index] = worker
    return found


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace a file's content so that readers see the old one or the new one; with sync it survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
        if sync:
            descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        scratch.unlink(missing_ok=True)
