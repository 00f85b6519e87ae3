"""The shapes that Feast's feature server takes and gives, lenient about unknown fields.

Source: feast 0.67, feast/feature_server.py and protos/feast/serving/ServingService.proto.
"""

from typing import Any, Literal

from tidemill.core.values import UNSET, UnsetType, Wire, field

Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
Key = str | int | float | bool | None


class OnlineFeaturesRequest(Wire, frozen=True, kw_only=True):
    """POST /get-online-features. features: `view:feature` each; or all of a feature service."""

    entities: dict[str, list[Key]]
    feature_service: str | None = None
    features: tuple[str, ...] = ()
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False


class FeatureVector(Wire, frozen=True, kw_only=True):
    """One feature, or one join key, of all rows."""

    values: list[Key]
    statuses: list[Status]
    event_timestamps: list[str]


class ViewMetadata(Wire, frozen=True, kw_only=True):
    """A view that was read."""

    name: str
    version: int


class Metadata(Wire, frozen=True, kw_only=True):
    """What the vectors are, in order."""

    feature_names: list[str]
    feature_view_metadata: list[ViewMetadata] | UnsetType = UNSET


class OnlineFeatures(Wire, frozen=True, kw_only=True):
    """The answer: join keys first, then features."""

    metadata: Metadata
    results: list[FeatureVector]


class PushFeaturesRequest(Wire, frozen=True, kw_only=True):
    """POST /push. df: columns of rows."""

    push_source_name: str
    df: dict[str, list[Any]] = field(default_factory=dict)
    to: str = "online"
