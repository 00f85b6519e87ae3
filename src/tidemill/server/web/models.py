"""Models: every registered model with its versions."""

from collections.abc import Mapping

from tidemill.core.values import Value
from tidemill.govern.workspace import Workspace
from tidemill.registry.aliases import AliasSet, alias_history, read_aliases
from tidemill.registry.models import RegisteredModel, list_models
from tidemill.registry.versions import ModelVersion, list_versions
from tidemill.server.web.page import Page

SHOWN_METRICS = 4


class VersionLine(Value, frozen=True, kw_only=True):
    """A version with the aliases that point at it now."""

    version: ModelVersion
    aliases: tuple[str, ...]


class ModelTable(Value, frozen=True, kw_only=True):
    """A model with its versions, newest first; metrics names the columns, those that most versions have."""

    model: RegisteredModel
    metrics: tuple[str, ...]
    versions: tuple[VersionLine, ...]
    history: tuple[AliasSet, ...]


class ModelsPage(Value, frozen=True, kw_only=True):
    """Context of the models page."""

    models: tuple[ModelTable, ...]


def build(ws: Workspace, _path: Mapping[str, str], _query: Mapping[str, str]) -> ModelsPage:
    """Build the models page's context."""
    return ModelsPage(models=tuple(_table(ws, model) for model in list_models(ws)))


def _table(ws: Workspace, model: RegisteredModel) -> ModelTable:
    versions = list_versions(ws, model.name)
    pointing = read_aliases(ws, model.name)
    lines = tuple(
        VersionLine(version=version, aliases=tuple(name for name, number in pointing.items() if number == version.version))
        for version in versions
    )
    return ModelTable(model=model, metrics=common_metrics(versions), versions=lines, history=tuple(alias_history(ws, model.name)[:12]))


def common_metrics(versions: list[ModelVersion]) -> tuple[str, ...]:
    """Return the metrics that most versions have, at most so many that a table holds them."""
    counts: dict[str, int] = {}
    for version in versions:
        for name in version.metrics:
            counts[name] = counts.get(name, 0) + 1
    return tuple(sorted(counts, key=lambda name: (-counts[name], name))[:SHOWN_METRICS])


PAGE = Page(path="/models", template="models.html", section="models", build=build, title=lambda _: "Models", context=ModelsPage)
