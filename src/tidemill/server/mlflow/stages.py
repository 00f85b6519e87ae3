"""MLflow's stages: what its clients call the environments that versions stand in."""

from collections.abc import Mapping, Sequence

from tidemill.core.errors import Invalid
from tidemill.govern.workspace import Workspace
from tidemill.registry.environments import newest_versions
from tidemill.registry.models import RegisteredModel
from tidemill.registry.versions import Environment, ModelVersion

NONE = "None"
# Development is no stage of MLflow's: a version that stands there has none.
TOLD: Mapping[Environment, str] = {
    "": NONE, "dev": NONE, "staging": "Staging", "production": "Production", "archived": "Archived",
}  # fmt: skip
STAGES = (NONE, "Staging", "Production", "Archived")


def stage_environments(stage: str) -> tuple[Environment, ...]:
    """Return the environments that a stage is told for, whatever its capitals; all for an empty one. Raises Invalid."""
    found = tuple(environment for environment, told in TOLD.items() if not stage or told.lower() == stage.lower())
    if not found:
        raise Invalid(f"Invalid Model Version stage: {stage[:80]}. Value must be one of {', '.join(STAGES)}.")
    return found


def newest_by_stage(ws: Workspace, models: Sequence[RegisteredModel]) -> dict[str, list[ModelVersion]]:
    """Return key of the model -> the newest version of each stage, by number."""
    newest: dict[tuple[str, str], ModelVersion] = {}
    for version in newest_versions(ws, models):
        place = version.key, TOLD[version.environment]
        if place not in newest or newest[place].version < version.version:
            newest[place] = version
    found: dict[str, list[ModelVersion]] = {model.key: [] for model in models}
    for version in sorted(newest.values(), key=lambda version: version.version):
        found[version.key].append(version)
    return found


def newest_at(ws: Workspace, model: RegisteredModel, environments: Sequence[Environment]) -> ModelVersion | None:
    """Return the newest version of a model that stands in one of these environments."""
    standing = [version for version in newest_versions(ws, [model]) if version.environment in environments]
    return max(standing, key=lambda version: version.version, default=None)
