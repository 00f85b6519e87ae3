"""Declared sources: what they hold becomes versions of datasets; what does not fit is said before anything is written."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import from_url

from tests.catalogs import Databases
from tidemill.catalog.lineage import walk
from tidemill.core.codec import encode_text
from tidemill.core.errors import Invalid, Unavailable
from tidemill.core.settings import with_variables
from tidemill.core.values import replace
from tidemill.datasets.keys import KeySet, list_keys
from tidemill.datasets.versions import DatasetNotFound, add, list_versions, open_table, paths, read_version
from tidemill.features.applied import apply, plan, refresh
from tidemill.features.declared import declared_features
from tidemill.features.history import history
from tidemill.features.sources import (
    FileSource,
    JoinedSource,
    PushSource,
    Source,
    SourceNotDeclared,
    SqlSource,
    StreamSource,
    list_sources,
    masked,
    read_source,
    stream_of,
)
from tidemill.features.taken import SourceUnreadable, take
from tidemill.features.views import Aggregation, Feature, FeatureService, FeatureView
from tidemill.govern.workspace import Workspace

HOUR = timedelta(hours=1)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
UTC_MICROS = "timestamp[us, tz=UTC]"
VIEW = FeatureView(
    name="last", entity=("carrier",), source="flights", event_timestamp="at", features=(Feature(name="delay"),),
)  # fmt: skip
ROWS = pa.table({"carrier": ["UA", "AA"], "at": pa.array([NOON, NOON], pa.timestamp("us", tz="UTC")), "delay": [3.0, 4.0]})
FILES = FileSource(name="flights", files=("in/*.parquet",), description="What landed")
PUSHED = PushSource(name="flights", columns={"carrier": "string", "at": UTC_MICROS, "delay": "double"})


@pytest.fixture
def home(ws: Workspace) -> Path:
    (ws.home / "in").mkdir()
    pq.write_table(ROWS, ws.home / "in" / "a.parquet")
    return ws.home


def aggregated(name: str, source: str, function: Any, column: str, window: timedelta) -> FeatureView:
    feature = Feature(name=f"{function}_{column}", aggregation=Aggregation(function=function, column=column, window=window))
    return FeatureView(name=name, entity=("carrier",), source=source, event_timestamp="at", features=(feature,))


def actions(made: Any) -> list[tuple[str, str, str, int]]:
    return [(change.kind, change.name, change.action, change.version) for change in made.changes]


@pytest.mark.slow
def test_files_become_versions_of_a_dataset_that_views_stand_on(ws: Workspace, home: Path) -> None:
    service = FeatureService(name="delay", features=("last:*",))
    planned = plan(ws, [VIEW], [service], sources=[FILES])
    assert not list_versions(ws, "flights")  # a plan writes nothing
    made = apply(ws, [VIEW], [service], sources=[FILES])
    named = [("source", "flights"), ("view", "last"), ("service", "delay")]
    assert actions(planned) == actions(made) == [(kind, name, "create", 1) for kind, name in named]
    assert paths(ws, "flights")[0].read_bytes() == (home / "in" / "a.parquet").read_bytes()
    assert not apply(ws, [VIEW], [service], sources=[FILES]).changed
    assert refresh(ws, "flights").version == 1  # the same content
    pq.write_table(ROWS.slice(0, 1), home / "in" / "b.parquet")
    assert not apply(ws, [VIEW], [service], sources=[FILES]).changed  # what is declared is what was declared
    assert (refresh(ws, "flights").version, read_version(ws, "flights").rows) == (2, 3)
    changed = plan(ws, [], sources=[replace(FILES, files=("in/a.parquet",))])
    assert (actions(changed), changed.changes[0].what) == ([("source", "flights", "change", 3)], ("files",))
    (told,) = list_sources(ws)
    assert (told.declaration, told.dataset, told.rows) == (FILES, "flights@2", 3)
    found = history(ws, pa.table({"carrier": ["AA"], "at": pa.array([NOON], pa.timestamp("us", tz="UTC"))}), "delay", timestamp="at")
    assert found["delay"].to_pylist() == [4.0]


@pytest.mark.slow
def test_files_of_a_bucket_are_fetched(ws: Workspace, s3_url: str, tmp_path: Path) -> None:
    place, _, query = s3_url.partition("?")
    bucket = from_url(place.removesuffix("/store"), config=dict(parse_qsl(query)), client_options={"allow_http": True})
    for name, rows in (("landed/b.parquet", ROWS.slice(1)), ("landed/a.parquet", ROWS.slice(0, 1)), ("landed/deep/c.parquet", ROWS)):
        pq.write_table(rows, tmp_path / "part.parquet")
        bucket.put(name, tmp_path / "part.parquet")
    source = FileSource(name="flights", files=(f"{place.removesuffix('/store')}/landed/*.parquet?{query}",))
    taken = take(ws, [source], {})["flights"]
    assert isinstance(taken.content, pa.Table)
    assert taken.content.equals(ROWS)
    assert "secret_access_key=***" in repr(source)
    assert "secret_access_key=***" in str(getattr(masked(source), "files", ""))
    with pytest.raises(SourceUnreadable, match=r"there is no object s3://.*/landed/\*.csv.*; check the URL"):
        take(ws, [replace(source, files=(source.files[0].replace("parquet?", "csv?"),))], {})
    with pytest.raises(SourceUnreadable, match="could not be fetched: "):
        take(ws, [replace(source, files=(source.files[0].replace("s3://tide-", "s3://ebb-"),))], {})
    assert not list(ws.state.glob(".taken-*"))


@pytest.mark.slow
def test_columns_get_names_and_types_as_declared(ws: Workspace, home: Path) -> None:
    (home / "in" / "late.csv").write_text("who,landed,text,delay\n1,2024-01-01 13:00:00,2024-01-01T12:00:00,3\n")
    source = FileSource(
        name="late", files=("in/late.csv",), rename={"who": "carrier"},
        types={"carrier": "string", "landed": "timestamp[us, tz=Europe/Oslo]", "text": UTC_MICROS},
    )  # fmt: skip
    taken = take(ws, [source], {})["late"]
    assert taken.columns == {"carrier": "string", "landed": "timestamp[us, tz=Europe/Oslo]", "text": UTC_MICROS, "delay": "int64"}
    assert isinstance(taken.content, pa.Table)
    assert taken.content.to_pylist() == [{"carrier": "1", "landed": NOON, "text": NOON, "delay": 3}]
    assert take(ws, [replace(FILES, types={"at": UTC_MICROS})], {})["flights"].content == [home / "in" / "a.parquet"]  # nothing to change


@pytest.mark.slow
def test_a_query_asks_datasets_files_and_other_sources(ws: Workspace, home: Path) -> None:
    add(ws, "planes", pa.table({"carrier": ["UA"], "plane": ["A320"]}))
    joined = SqlSource(name="joined", query="SELECT f.*, plane FROM flights f JOIN planes p USING (carrier) ORDER BY carrier")
    late = SqlSource(name="late", query="SELECT * FROM 'in/a.parquet' WHERE delay > 3")
    made = apply(ws, [replace(VIEW, source="late")], sources=[joined, FILES, late])
    assert actions(made)[:3] == [("source", name, "create", 1) for name in ("joined", "flights", "late")]
    assert open_table(ws, "joined").to_pylist() == [{"carrier": "UA", "at": NOON, "delay": 3.0, "plane": "A320"}]
    assert open_table(ws, "late")["carrier"].to_pylist() == ["AA"]
    with ws.catalog.reading() as tx:
        edges = {(edge.source, edge.target, edge.relation) for edge in walk(tx, ws.project, "dataset:joined@1")}
    assert edges >= {(f"dataset:{name}@1", "dataset:joined@1", "queried") for name in ("flights", "planes")}
    assert refresh(ws, "joined").version == 1
    with pytest.raises(Invalid, match=r"source 'a' is made of itself \(a asks b asks a"):
        take(ws, [SqlSource(name="a", query="FROM b"), SqlSource(name="b", query="FROM a")], {})
    with pytest.raises(SourceUnreadable, match="'a' could not be read: DuckDB says: Catalog Error: Table with name nowhere"):
        take(ws, [SqlSource(name="a", query="SELECT * FROM nowhere")], {})
    with pytest.raises(SourceUnreadable, match="DuckDB says: syntax error at or near"):
        take(ws, [SqlSource(name="a", query="SELECT FROM WHERE")], {})


@pytest.mark.slow
def test_features_of_features_stand_on_rows_with_features(ws: Workspace, home: Path) -> None:
    at = [NOON, NOON + HOUR, NOON + 2 * HOUR, None]
    landed = pa.table({"carrier": ["UA"] * 4, "at": pa.array(at, pa.timestamp("us", tz="UTC")), "delay": [3.0, 5.0, 10.0, 1.0]})
    pq.write_table(landed, home / "in" / "a.parquet")
    hourly = aggregated("hourly", "flights", "mean", "delay", HOUR)
    joined = JoinedSource(name="known", rows="flights", timestamp="at", features=("hourly:mean_delay",))
    worst = aggregated("worst", "known", "max", "mean_delay", 9 * HOUR)
    service = FeatureService(name="delay", features=("worst:*",))
    made = apply(ws, [worst, hourly], [service], sources=[joined, FILES])
    assert actions(made)[:2] == [("source", "known", "create", 1), ("source", "flights", "create", 1)]
    assert open_table(ws, "known").select(["delay", "mean_delay"]).to_pylist() == [
        {"delay": 3.0, "mean_delay": 3.0}, {"delay": 5.0, "mean_delay": 5.0}, {"delay": 10.0, "mean_delay": 10.0},
    ]  # fmt: skip
    rows = pa.table({"carrier": ["UA", "UA"], "at": pa.array([NOON + HOUR, NOON + 3 * HOUR], pa.timestamp("us", tz="UTC"))})
    assert history(ws, rows, "delay", timestamp="at")["max_mean_delay"].to_pylist() == [5.0, 10.0]
    assert not apply(ws, [worst, hourly], [service], sources=[joined, FILES]).changed
    pq.write_table(landed.slice(0, 2), home / "in" / "a.parquet")
    assert refresh(ws, "flights").version == 2
    assert (refresh(ws, "known").version, read_version(ws, "known").rows) == (2, 2)
    with ws.catalog.reading() as tx:
        assert "dataset:flights@2" in {edge.source for edge in walk(tx, ws.project, "dataset:known@2", depth=1)}
    with pytest.raises(Invalid, match="source 'known' is made of itself"):
        plan(ws, [replace(hourly, source="known")])
    with pytest.raises(Invalid, match="source 'known' is made of itself"):
        apply(ws, [hourly], sources=[replace(joined, rows="known")])
    with pytest.raises(
        Invalid, match="source 'known' asks for features that are not there: feature view 'hourly' has no feature 'mean_delay'"
    ):
        plan(ws, [replace(hourly, features=(replace(hourly.features[0], name="mean"),))])
    with pytest.raises(SourceUnreadable, match="there is no time column 'when'; flights has: carrier, at, delay"):
        plan(ws, [], sources=[replace(joined, timestamp="when")])
    with pytest.raises(Invalid, match="feature service 'known' names 'hourly'; expected view:feature"):
        replace(joined, features=("hourly",))


@pytest.mark.slow
def test_a_database_is_asked_and_its_password_never_shown(ws: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(home / "flights.db") as database:
        database.execute("CREATE TABLE landed (carrier TEXT, at TEXT, delay REAL)")
        database.executemany("INSERT INTO landed VALUES (?, ?, ?)", [("UA", "2024-01-01 12:00:00", 3.5), ("AA", None, None)])
    database.close()
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{home}/flights.db")
    source = SqlSource(name="flights", database="${WAREHOUSE}", query="SELECT * FROM landed ORDER BY carrier", types={"at": UTC_MICROS})
    apply(ws, [VIEW], sources=[source])
    assert open_table(ws, "flights").to_pylist() == [
        {"carrier": "AA", "at": None, "delay": None}, {"carrier": "UA", "at": NOON, "delay": 3.5},
    ]  # fmt: skip
    with pytest.raises(SourceUnreadable, match=r"WAREHOUSE\} says: no such table: nowhere; expected a query"):
        take(ws, [replace(source, query="SELECT * FROM nowhere")], {})
    with pytest.raises(Invalid, match=r"the variable NOTHING of .* is not set; export NOTHING="):
        take(ws, [replace(source, database="postgresql://u:${NOTHING}@h/db")], {})
    with pytest.raises(SourceUnreadable, match=r"nonsense://u:\*\*\*@h/db is not understood; expected an SQLAlchemy URL"):
        take(ws, [replace(source, database="nonsense://u:secret@h/db")], {})
    with pytest.raises(Unavailable, match=r"wants the library MySQLdb .*, which is not installed"):
        take(ws, [replace(source, database="mysql://u:secret@h/db")], {})


@pytest.mark.slow
def test_postgres_is_asked_with_types_of_its_own(ws: Workspace, postgres_databases: Databases) -> None:
    query = """
        SELECT * FROM (VALUES ('AA', NULL, NULL, NULL, false), ('UA', timestamptz '2024-01-01 13:00+01', 3.5::numeric, 7::bigint, true))
        AS landed (carrier, "at", delay, flight, late) ORDER BY carrier
    """
    source = SqlSource(name="flights", database=postgres_databases.fresh(), query=query)
    taken = take(ws, [source], {})["flights"]
    assert isinstance(taken.content, pa.Table)
    assert taken.content["at"].to_pylist() == [None, NOON]
    assert {name: kind.partition("(")[0] for name, kind in taken.columns.items()} == {
        "carrier": "string", "at": "timestamp[us, tz=UTC]", "delay": "decimal128", "flight": "int64", "late": "bool",
    }  # fmt: skip
    apply(ws, [VIEW], sources=[replace(source, types={"delay": "double"})])
    assert open_table(ws, "flights")["delay"].to_pylist() == [None, 3.5]


@pytest.mark.slow
def test_rows_that_come_by_themselves_have_columns_before_the_first_one(ws: Workspace) -> None:
    made = apply(ws, [VIEW], sources=[PUSHED])
    assert actions(made) == [("source", "flights", "create", 1), ("view", "last", "create", 1)]
    assert read_version(ws, "flights").rows == 0
    with pytest.raises(Invalid, match=r"come as they happen \(POST /push/flights\); there is nothing to refresh"):
        refresh(ws, "flights")
    add(ws, "flights", ROWS)
    changed = apply(ws, [VIEW], sources=[replace(PUSHED, owner="ops")])  # the rows that came stay
    assert actions(changed)[0] == ("source", "flights", "change", 2)
    assert read_version(ws, "flights").rows == 2
    with pytest.raises(Invalid, match=r"'flights' declares other columns than dataset flights@2 has \(at timestamp"):
        plan(ws, [], sources=[replace(PUSHED, columns={"carrier": "string"})])
    stream = StreamSource(name="wind", url="redis://:secret@127.0.0.1/0/wind", key=("id",))
    apply(ws, [], sources=[stream])
    assert stream_of(ws, "wind") == ("redis://:secret@127.0.0.1/0/wind", ("id",))
    with pytest.raises(Invalid, match="source 'flights' is no stream"):
        stream_of(ws, "flights")
    keyed = replace(PUSHED, name="landed", key=("carrier", "at"))
    apply(ws, [], sources=[keyed])
    assert [(key.dataset, key.columns) for key in list_keys(ws)] == [("landed", ("carrier", "at")), ("wind", ("id",))]
    for act in (plan, apply):
        with pytest.raises(KeySet, match="told apart by carrier, at"):
            act(ws, [], sources=[replace(keyed, key=("at",))])
    assert "secret" not in repr(stream) + repr(list_sources(ws)) + encode_text(list_sources(ws))
    assert not list_versions(ws, "wind")
    assert read_source(ws, "wind") == stream


@pytest.mark.slow
def test_what_does_not_fit_is_said_before_anything_is_written(ws: Workspace, home: Path) -> None:
    wrong: list[tuple[Source, str]] = [
        (replace(FILES, files=("in/*.csv",)), "source 'flights' could not be read: there is no file in/.*csv; expected a path or glob"),
        (replace(FILES, rename={"dely": "delay"}), "there is no column dely to rename; there are: carrier, at, delay"),
        (replace(FILES, types={"dely": "double"}), "there is no column 'dely', whose type is declared"),
        (replace(FILES, types={"carrier": "int64"}), "column 'carrier' is not of type int64: Failed to parse"),
        (
            SqlSource(name="flights", query="SELECT carrier, \"at\" FROM 'in/a.parquet'"),
            "double feature 'delay' is not a column of flights",
        ),
    ]
    for source, message in wrong:
        for act in (plan, apply):
            with pytest.raises(Invalid, match=message):
                act(ws, [VIEW], sources=[source])
    (home / "in" / "bad.parquet").write_text("no")
    with pytest.raises(SourceUnreadable, match="expected Parquet, CSV or TSV files of the same columns"):
        plan(ws, [], sources=[FILES])
    with pytest.raises(DatasetNotFound):
        read_version(ws, "flights")
    with pytest.raises(SourceNotDeclared, match=r"there is no source 'flights' \(declared are: none"):
        refresh(ws, "flights")
    (home / "in" / "bad.parquet").unlink()
    apply(ws, [VIEW], sources=[FILES])
    pq.write_table(ROWS.drop_columns(["delay"]), home / "in" / "a.parquet")
    with pytest.raises(Invalid, match="feature view 'last' does not fit its source: double feature 'delay'"):
        refresh(ws, "flights")
    assert read_version(ws, "flights").version == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FileSource(name="a", files=()), "source 'a' names no files"),
        (lambda: SqlSource(name="a", query=" "), "source 'a' asks nothing"),
        (lambda: PushSource(name="a", columns={}), "source 'a' is pushed and declares no columns"),
        (lambda: PushSource(name="a", columns={"b": "list"}), "column 'b' of source 'a' is of type 'list'; expected one of string, double"),
        (lambda: PushSource(name="a", columns={"b": "bool"}, key=("c",)), "source 'a' has no column c to tell rows apart by"),
        (lambda: StreamSource(name="a b", url="file:x/y"), "source name 'a b' is not usable"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        make()


def test_the_file_declares_sources_as_code_does(tmp_path: Path) -> None:
    text = """
        [features.sources.flights]
        kind = "files"
        files = ["in/*.parquet"]
        description = "What landed"

        [features.sources.wind]
        kind = "push"
        columns = { at = "timestamp[us, tz=UTC]", speed = "double" }
    """
    (tmp_path / "tidemill.toml").write_text(text)
    assert declared_features(tmp_path).sources == (FILES, PushSource(name="wind", columns={"at": UTC_MICROS, "speed": "double"}))
    for old, new, message in (
        ('"files"', '"file"', r"\[features.sources.flights\] .* is of kind 'file'; expected one of: files, sql, features, stream, push"),
        ("files = ", "file = ", "unknown key 'file'; did you mean 'files'"),
        ('["in/*.parquet"]', "3", r"Expected `array`, got `int` - at `\$.files`"),
    ):
        (tmp_path / "tidemill.toml").write_text(text.replace(old, new))
        with pytest.raises(Invalid, match=message):
            declared_features(tmp_path)


def test_a_variable_is_quoted_inside_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_WORD", "a@b/c")
    assert with_variables("postgresql://u:${SECRET_WORD}@h/db") == "postgresql://u:a%40b%2Fc@h/db"
    assert with_variables("${SECRET_WORD}") == "a@b/c"
    assert with_variables("sqlite:///x") == "sqlite:///x"
