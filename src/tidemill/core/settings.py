"""Every setting: name, default, unit, one line of help; and where its value came from.

Order: argument, then `TIDEMILL_*` in the environment, then `tidemill.toml`, then the default. The only module that reads the environment.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import quote

from tidemill.core.codec import convert
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.values import Meta, Value, fields_of, replace

FILE_NAME = "tidemill.toml"
STATE_NAME = ".tidemill"
PREFIX = "TIDEMILL_"
Origin = Literal["argument", "environment", "tidemill.toml", "default"]
# Names in the environment that are not settings: where the workspace is, how a caller reaches a server, where code that runs logs to.
CALLER = ("url", "token", "project", "offline", "run", "runs")
NOT_SETTINGS = frozenset({"HOME", *(name.upper() for name in CALLER)})
# Tables of tidemill.toml that declare things (views, endpoints, rules); their owners read them.
DECLARATIONS = frozenset({"features", "pipelines"})
_VARIABLE = re.compile(r"\$\{(\w+)\}")

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]


class Settings(Value, frozen=True, kw_only=True):
    """All settings of one workspace. Secrets are never settings' defaults, and are masked by `shown`."""

    catalog: str = "sqlite:catalog.db"
    objects: str = "file:objects"
    online: str = "lmdb:online"
    executor: str = "local"
    clock: str = "system"
    host: str = "127.0.0.1"
    port: Port = 7700
    serve_port: Port = 7701
    grpc_port: Port | None = None
    serve_workers: Annotated[int, Meta(ge=1, le=256)] = 1
    serve_memory_mb: Positive | None = None
    serve_pinned: tuple[str, ...] = ()
    job_workers: Positive = 1
    authentication: Literal["off", "keys"] = "off"
    journal_sync: Literal["process", "disk"] = "process"
    journal_local_days: Positive = 7
    body_limit_bytes: Positive = 16 << 20
    trusted_runtimes: tuple[str, ...] = ("lightgbm", "onnx", "xgboost")
    model_deadline_s: Positive = 10
    waiting_limit: Positive = 100
    together_ms: Annotated[float, Meta(ge=0)] = 1.0
    lease_s: Positive = 30
    gc_grace_s: Annotated[int, Meta(ge=0)] = 3600
    gc_every_hours: Annotated[int, Meta(ge=0)] = 24
    trash_keep_days: Annotated[int, Meta(ge=0)] = 30
    drain_s: Positive = 10
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "json"
    slow_request_ms: Positive | None = None
    traces: str = "off"
    traces_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.01


HELP: Mapping[str, str] = {
    "catalog": "where records live: sqlite:FILE (relative to the state folder) or postgresql://USER:PASSWORD@HOST/NAME",
    "objects": "where bytes live: file:FOLDER (relative to the state folder) or s3://BUCKET/PREFIX?endpoint=URL",
    "online": "where online feature values live: lmdb:FOLDER (relative to the state folder) or redis://HOST:PORT/DB",
    "executor": "what runs steps and trials: inline, local, local:N (processes) or ray",
    "clock": "the time of the world: system, or simulated:FILE (relative to the state folder)",
    "host": "address that servers bind to; anything but loopback needs authentication",
    "port": "port of the control plane and dashboard; 0 picks a free one",
    "serve_port": "port of the serving workers; 0 picks a free one",
    "grpc_port": "port of the serving workers for gRPC; 0 picks a free one; none unless set, as it wants the extra grpc and more memory",
    "serve_workers": "number of serving worker processes",
    "serve_memory_mb": "megabytes that the models of one worker may take; endpoints are loaded when asked then, all at start unless set",
    "serve_pinned": "endpoints that stay in memory whatever serve_memory_mb says",
    "job_workers": "number of processes that run jobs: pipelines, and upkeep at its time",
    "authentication": "off (one local owner), or keys (every call carries an API key)",
    "journal_sync": "an acknowledged prediction survives: process = a killed process, disk = a power cut (slower)",
    "journal_local_days": "days of predictions that stay local files; older ones are objects of the object store, fetched when read",
    "body_limit_bytes": "largest request body taken, in bytes; what the SDK logs comes in up to 4 MB at once",
    "trusted_runtimes": "model runtimes that may be loaded; python, mlflow and torch run code of a bundle, sklearn builds what it names",
    "model_deadline_s": "seconds that a model has to be loaded for its callers; and to answer, in its own process, which is replaced then",
    "waiting_limit": "requests that may wait for a model to come or to be free, by worker and endpoint; further ones are refused (429)",
    "together_ms": "milliseconds that rows of others, scored along with a request's own, may add to its answer; 0 scores each alone",
    "lease_s": "seconds without heartbeat after which another worker takes over a job",
    "gc_grace_s": "seconds for which an object that nothing refers to is kept",
    "gc_every_hours": "hours after which trash whose time is up, and objects that nothing refers to, are removed again; 0 leaves it to you",
    "trash_keep_days": "days for which deleted runs, experiments (if they say nothing else) and models, and left batch jobs, are kept",
    "drain_s": "seconds that a stopping server gives to requests under way",
    "log_level": "least severe log line written",
    "log_format": "what log lines look like: json (an object each) or text",
    "slow_request_ms": "milliseconds from which on an answered prediction request is logged; none unless set",
    "traces": 'where spans of prediction requests go: off, or otlp URL, as in "otlp http://127.0.0.1:4318" (wants the extra otel)',
    "traces_ratio": "share of the requests whose callers trace nothing that is traced all the same; the others' wish is followed",
}


class Loaded(Value, frozen=True, kw_only=True):
    """Settings with the place that each value came from."""

    settings: Settings
    origins: dict[str, Origin]


def load_settings(home: Path, *, arguments: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read the settings of a workspace. Raises Invalid naming the nearest valid key for one that is not known."""
    environ = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(fields_of(Settings), "default")
    layers: tuple[tuple[Origin, Mapping[str, Any], bool], ...] = (
        ("tidemill.toml", _file_values(home / FILE_NAME), True),
        ("environment", _environment_values(environ), False),
        ("argument", {k: v for k, v in (arguments or {}).items() if v is not None}, True),
    )
    for origin, layer, strict in layers:
        for key, value in layer.items():
            _check_known(key, origin)
            values[key] = _typed(key, value, origin, strict=strict)
            origins[key] = origin
    return Loaded(settings=replace(Settings(), **values), origins=origins)


def read_file(path: Path) -> dict[str, Any]:
    """Return all tables of a tidemill.toml, {} when there is none. Raises Invalid."""
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not valid TOML: {error}") from error


def find_home(start: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Path:
    """Return the workspace folder: TIDEMILL_HOME, else the nearest folder upward with a tidemill.toml. Raises NotFound."""
    named = (os.environ if environment is None else environment).get("TIDEMILL_HOME")
    if named:
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise NotFound(f"{here} is not inside a Tidemill workspace (no {FILE_NAME} found); make one with: tidemill init {here}")


def caller_environment() -> dict[str, str]:
    """Return what the environment says to a caller, as far as set.

    How a server is reached: url, token, project. Of the run that code logs to: offline (1: to files alone), run (the id that a
    parent process announced), runs (the folder that files of runs lie in).
    """
    return {name: os.environ[PREFIX + name.upper()] for name in CALLER if os.environ.get(PREFIX + name.upper())}


def announce_run(run: str | None) -> str | None:
    """Tell processes that are started from now on which run they are part of (None: of none); return what was told before."""
    name = f"{PREFIX}RUN"
    before = os.environ.pop(name, None)
    if run is not None:
        os.environ[name] = run
    return before


def hash_seed() -> str:
    """Return what decides the order of sets in this process: a number, or random."""
    return os.environ.get("PYTHONHASHSEED") or "random"


def with_variables(text: str) -> str:
    """Return a URL or other text with what the environment holds in place of each ${NAME}: quoted for a URL, unless it is all of the text.

    Raises Invalid for a variable that is not set.
    """
    for match in _VARIABLE.finditer(text):
        if not os.environ.get(match[1]):
            raise Invalid(f"the variable {match[1]} of {mask(text)!r} is not set; export {match[1]}=... where Tidemill runs")
    whole = _VARIABLE.fullmatch(text)
    return os.environ[whole[1]] if whole else _VARIABLE.sub(lambda match: quote(os.environ[match[1]], safe=""), text)


def state_folder() -> Path:
    """Return the folder in which programs keep the state of this user. Source: XDG Base Directory Specification 0.8."""
    named = os.environ.get("XDG_STATE_HOME", "")
    if Path(named).is_absolute():
        return Path(named)
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.environ.get("TMPDIR") or "/tmp")


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with some names added: for processes that are started from here."""
    return {**os.environ, **(extra or {})}


def as_environment(loaded: Loaded) -> dict[str, str]:
    """Return the settings that came as arguments, in the form in which child processes read them."""
    given = {name: getattr(loaded.settings, name) for name, origin in loaded.origins.items() if origin == "argument"}
    return {PREFIX + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings for people to read: passwords in URLs are masked."""
    return {name: mask(value) if isinstance(value := getattr(settings, name), str) else value for name in fields_of(Settings)}


def mask(url: str) -> str:
    """Return a URL without its password and without secrets in its query."""
    head, separator, rest = url.partition("://")
    if not separator:
        return url
    credentials, at, place = rest.rpartition("@")
    if at and ":" in credentials:
        credentials = credentials.partition(":")[0] + ":***"
    place, question, query = place.partition("?")
    pairs = [pair if not any(word in pair.lower() for word in ("secret", "token", "password")) else pair.partition("=")[0] + "=***"
             for pair in query.split("&")] if question else []  # fmt: skip
    return head + separator + credentials + at + place + question + "&".join(pairs)


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean X?` for the closest known word, or the list of them."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known)) or 'none'}"


def _file_values(path: Path) -> dict[str, Any]:
    tables = read_file(path)
    for name in tables:
        if name != "settings" and name not in DECLARATIONS:
            raise Invalid(f"{path.name} has an unknown table [{name}]; {nearest(name, ['settings', *DECLARATIONS])}")
    settings = tables.get("settings", {})
    if not isinstance(settings, dict):
        raise Invalid(f"{path.name}: settings must be a table, written [settings]")
    return settings


def _environment_values(environ: Mapping[str, str]) -> dict[str, str]:
    found = {key.removeprefix(PREFIX): value for key, value in environ.items() if key.startswith(PREFIX)}
    return {key.lower(): value for key, value in found.items() if key not in NOT_SETTINGS}


def _check_known(key: str, origin: Origin) -> None:
    known = list(fields_of(Settings))
    if key not in known:
        if origin == "environment":
            key, known = PREFIX + key.upper(), [PREFIX + name.upper() for name in known]
        raise Invalid(f"unknown setting {key!r} in {origin}; {nearest(key, known)}")


def _typed(key: str, value: Any, origin: Origin, *, strict: bool) -> Any:
    kind = get_type_hints(Settings, include_extras=True)[key]
    if not strict and kind == tuple[str, ...]:
        value = [part.strip() for part in value.split(",") if part.strip()]
    return convert(value, kind, what=f"setting {key!r} from {origin}", strict=strict)
