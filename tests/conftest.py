"""Fixtures that all tests share: one real server of each kind a test session, started when first asked for."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import services, world
from tidemill.govern.workspace import Workspace

# How long an example takes says more of the machine than of the code, and a busy one would fail tests at random.
hypothesis.settings.register_profile("tidemill", deadline=None)
hypothesis.settings.load_profile("tidemill")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-requests", type=int, default=1000, help="Requests that schemathesis makes up for a serving worker.")


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
def postgres_databases(postgres_url: str) -> Callable[[], str]:
    """Make fresh databases: each call returns the URL of a new, empty one."""
    psycopg = pytest.importorskip("psycopg")

    def fresh() -> str:
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{postgres_url.rpartition('/')[0]}/{name}"

    return fresh


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty catalog of each kind."""
    return "sqlite:catalog.db" if request.param == "sqlite" else request.getfixturevalue("postgres_databases")()


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    """An embedded workspace, opened for its owner, at a moment that only the test moves."""
    with world.workspace(tmp_path / "home") as made:
        yield made


@pytest.fixture
def any_ws(tmp_path: Path, catalog_url: str) -> Iterator[Workspace]:
    """The same on each kind of catalog."""
    with world.workspace(tmp_path / "home", catalog=catalog_url) as made:
        yield made
