"""Views and services from tidemill.toml: the same values as in code, and one sentence for what is not understood."""

from datetime import timedelta
from pathlib import Path

import pytest

from tidemill.core.errors import Invalid
from tidemill.core.settings import load_settings
from tidemill.features.declared import FeaturesDeclared, declared_features
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView

TEXT = """
[features]
targets = ["features:VIEWS"]

[features.views.landed]
entity = ["carrier"]
source = "flights"
event_timestamp = "landed_at"
event_key = "flight"
computed = { gain = "dep_delay - arr_delay" }
owner = "ops"
tags = ["delays"]

[features.views.landed.features]
gain_2h = { aggregation = { function = "mean", column = "gain", window = "PT2H" }, description = "made up in the air" }
late_7d = { aggregation = { function = "count", window = "P7D" } }

[features.services.delay]
features = ["landed:*"]
tags = ["live"]
"""


def declared(home: Path, text: str) -> FeaturesDeclared:
    (home / "tidemill.toml").write_text(text)
    load_settings(home)  # which knows the table
    return declared_features(home)


def test_what_is_declared_is_what_code_would_say(tmp_path: Path) -> None:
    found = declared(tmp_path, TEXT)
    assert found.targets == ("features:VIEWS",)
    gain = Aggregation(function="mean", column="gain", window=timedelta(hours=2))
    assert found.views == (
        FeatureView(
            name="landed",
            entity=("carrier",),
            source="flights",
            event_timestamp="landed_at",
            event_key="flight",
            computed={"gain": "dep_delay - arr_delay"},
            owner="ops",
            tags=("delays",),
            features=(
                Feature(name="gain_2h", aggregation=gain, description="made up in the air"),
                Feature(name="late_7d", aggregation=Aggregation(function="count", window=timedelta(days=7))),
            ),
        ),
    )
    assert found.services == (FeatureService(name="delay", features=("landed:*",), tags=("live",)),)


def test_a_file_without_features_declares_none(tmp_path: Path) -> None:
    assert declared_features(tmp_path) == declared(tmp_path, "[settings]\n") == FeaturesDeclared()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[features.services.delay]", "[features.service.delay]", r"\[features\] .* unknown key 'service'; did you mean 'services'"),
        ("entity =", "entities =", r"\[features.views.landed\] .* unknown key 'entities'; did you mean 'entity'"),
        ("owner =", "name =", "unknown key 'name'"),
        ("function = \"mean\"", "funtion = \"mean\"", "aggregation of 'gain_2h' .* unknown key 'funtion'; did you mean 'function'"),
        ("description =", "descripton =", "feature 'gain_2h' .* did you mean 'description'"),
        ('"mean"', '"median"', r"Invalid enum value 'median' - at `\$.features\[0\].aggregation.function`"),
        ('"PT2H"', '"2 hours"', r"Invalid ISO8601 duration - at `\$.features\[0\].aggregation.window`"),
        ('entity = ["carrier"]', "entity = []", "feature view 'landed' has no entity"),
        ('entity = ["carrier"]', "", "missing required field `entity`"),
        ('features = ["landed:*"]', 'features = ["landed"]', "expected view:feature"),
        ('targets = ["features:VIEWS"]', "targets = 3", "targets in .features. of tidemill.toml was not understood"),
        ("[features.views.landed.features]", "[[features.views.landed.features]]", "is a list; expected a table with a name for each"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(Invalid, match=message):
        declared(tmp_path, TEXT.replace(old, new))
