"""What a version must show before it may be promoted, to an alias as to production. Pure: every way up asks here."""

from tidemill.core.errors import Conflict, Invalid
from tidemill.registry.versions import ModelVersion


class ChecksFailed(Conflict):
    """The version did not pass its checks."""

    def __init__(self, model: str, version: int) -> None:
        self.model, self.version = model, version
        super().__init__(
            f"model {model}@{version} failed its checks and cannot be promoted; see why with: tidemill model show {model}@{version}; "
            "an approver may override with --override and a reason"
        )


def permission(*, override: bool) -> str:
    """Return what an actor must be permitted to do in order to promote."""
    return "registry.approve" if override else "registry.write"


def check_override(*, override: bool, reason: str) -> None:
    """Raises Invalid for an override that does not say why."""
    if override and not reason:
        raise Invalid("an override needs a reason; say why with --reason")


def check_promotable(candidate: ModelVersion, *, override: bool) -> None:
    """Raises ChecksFailed for a version whose checks failed, unless it is overridden."""
    if candidate.verdict == "fail" and not override:
        raise ChecksFailed(candidate.name, candidate.version)
