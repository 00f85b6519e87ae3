"""Fixtures that all tests share: one real server of each kind a test session, started when first asked for."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import catalogs, services, world
from tidemill.govern.workspace import Workspace

# How long an example takes says more of the machine than of the code, and a busy one would fail tests at random.
hypothesis.settings.register_profile("tidemill", deadline=None)
# Thousands of examples of what is to hold of every one: `pytest --hypothesis-profile thorough tests/features`, minutes long.
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=3000, suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.load_profile("tidemill")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-requests", type=int, default=1000, help="Requests that schemathesis makes up for a serving worker.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what may take longest, so that no worker is alone with it in the end."""
    items.sort(key=lambda item: max((mark.args[0] for mark in item.iter_markers("timeout")), default=0), reverse=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with services.redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def kafka_url() -> Iterator[str]:
    with services.kafka_cluster() as url:
        yield url


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with services.s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with services.postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_url: str) -> catalogs.Databases:
    """The databases of that server."""
    pytest.importorskip("psycopg")
    return catalogs.Databases(postgres_url)


@pytest.fixture
def postgres_catalog(postgres_databases: catalogs.Databases) -> Iterator[str]:
    """The URL of a database with the schema of today and no rows."""
    with postgres_databases.migrated() as url:
        yield url


@pytest.fixture(params=catalogs.ENGINES)
def catalog_url(request: pytest.FixtureRequest) -> str:
    """The URL of a catalog of each kind, without a schema."""
    return "sqlite:catalog.db" if request.param == "sqlite" else request.getfixturevalue("postgres_databases").fresh()


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    """An embedded workspace, opened for its owner, at a moment that only the test moves."""
    with world.workspace(tmp_path / "home") as made:
        yield made


@pytest.fixture(params=catalogs.ENGINES)
def any_ws(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workspace]:
    """The same on each kind of catalog."""
    with catalogs.without_rows(request.param, request) as url, world.workspace(tmp_path / "home", catalog=url) as made:
        yield made
