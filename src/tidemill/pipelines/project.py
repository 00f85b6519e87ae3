"""The user's project: Python files in the workspace folder, and the pipelines that tidemill.toml names there."""

import importlib
import sys
from pathlib import Path
from typing import Any

from tidemill.core.codec import convert
from tidemill.core.errors import Invalid, NotFound
from tidemill.core.settings import FILE_NAME, nearest, read_file
from tidemill.core.values import Value, field
from tidemill.pipelines.step import Pipeline


class PipelineDeclared(Value, frozen=True, kw_only=True):
    """A pipeline in tidemill.toml: where it is defined, and params that differ from its defaults."""

    target: str
    params: dict[str, Any] = field(default_factory=dict)


def declared_pipelines(home: Path) -> dict[str, PipelineDeclared]:
    """Return the pipelines of tidemill.toml by name."""
    return convert(read_file(home / FILE_NAME).get("pipelines", {}), dict[str, PipelineDeclared], what=f"[pipelines] of {FILE_NAME}")


def check_declared(home: Path, name: str) -> PipelineDeclared:
    """Return a pipeline's declaration, without importing it. Raises NotFound."""
    declared = declared_pipelines(home)
    entry = declared.get(name) or (PipelineDeclared(target=name) if ":" in name else None)
    if entry is None:
        raise NotFound(f"there is no pipeline {name!r}; {nearest(name, list(declared))} (declared under [pipelines] of {FILE_NAME})")
    return entry


def load_pipeline(home: Path, name: str) -> tuple[Pipeline, dict[str, Any]]:
    """Return a pipeline by its name in tidemill.toml or as `module:function`, with its declared params. Raises NotFound, Invalid."""
    entry = check_declared(home, name)
    found = load_object(home, entry.target)
    if not isinstance(found, Pipeline):
        raise Invalid(f"{entry.target} is a {type(found).__name__}, not a pipeline; decorate the function with @pipeline")
    return found, dict(entry.params)


def load_object(home: Path, target: str) -> Any:
    """Import `module:name` from the workspace folder. Raises NotFound, Invalid."""
    module_name, separator, name = target.partition(":")
    if not separator:
        raise Invalid(f"{target!r} was not understood; expected module:name, as in training:train")
    if str(home) not in sys.path:
        sys.path.insert(0, str(home))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise Invalid(f"{module_name}.py needs {error.name!r}, which is not installed; install it into this environment") from error
        raise NotFound(f"there is no file {module_name}.py in {home}; pipelines are looked for there") from error
    if not hasattr(module, name):
        raise NotFound(f"{module_name}.py defines no {name!r}")
    return getattr(module, name)
