"""Where settings come from, what is said of those that cannot be, and what is kept from being shown."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.errors import Invalid, NotFound
from tidemill.core.settings import (
    HELP,
    NOT_SETTINGS,
    PREFIX,
    Settings,
    announce_run,
    as_environment,
    caller_environment,
    child_environment,
    find_home,
    load_settings,
    mask,
    nearest,
    read_file,
    shown,
    state_folder,
)
from tidemill.core.values import fields_of


def write(home: Path, text: str) -> Path:
    (home / "tidemill.toml").write_text(text, "utf-8")
    return home


def load(home: Path, *, environment: dict[str, str] | None = None, **arguments: Any):
    return load_settings(home, arguments=arguments, environment=environment or {})


def test_each_place_counts_over_the_ones_below_it(tmp_path: Path) -> None:
    write(tmp_path, '[settings]\nport = 1\nserve_port = 1\nhost = "::1"\n')
    loaded = load(tmp_path, environment={"TIDEMILL_PORT": "2", "TIDEMILL_SERVE_PORT": "2"}, port=3, serve_port=None)
    found = {name: (getattr(loaded.settings, name), loaded.origins[name]) for name in ("port", "serve_port", "host", "clock")}
    assert found == {
        "port": (3, "argument"),
        "serve_port": (2, "environment"),
        "host": ("::1", "tidemill.toml"),
        "clock": ("system", "default"),
    }
    assert set(loaded.origins) == set(fields_of(Settings)) == set(HELP)


def test_a_folder_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path).settings == Settings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[settings]\nprot = 1\n", r"unknown setting 'prot' in tidemill.toml; did you mean 'port'\?"),
        ("[settings]\nqqqqqqq = 1\n", r"unknown setting 'qqqqqqq' in tidemill.toml; known are: authentication, body_limit_bytes"),
        ("[seting]\nport = 1\n", r"unknown table \[seting\]; did you mean 'settings'\?"),
        ("settings = 3\n", r"settings must be a table, written \[settings\]"),
        ("[settings\n", r"tidemill.toml is not valid TOML: .*line 1"),
        ('[settings]\nport = "1"\n', r"setting 'port' from tidemill.toml was not understood: Expected `int`, got `str`"),
        ("[settings]\nport = 65536\n", r"setting 'port' .*Expected `int` <= 65535"),
        ("[settings]\nport = true\n", r"setting 'port' .*Expected `int`, got `bool`"),
        ("[settings]\nserve_workers = 0\n", r"setting 'serve_workers' .*Expected `int` >= 1"),
        ('[settings]\nauthentication = "none"\n', r"setting 'authentication' .*Invalid enum value 'none'"),
        ('[settings]\ntrusted_runtimes = "python"\n', r"setting 'trusted_runtimes' .*Expected `array`, got `str`"),
    ],
)
def test_a_fault_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TIDEMILL_PROT", "1", r"unknown setting 'TIDEMILL_PROT' in environment; did you mean 'TIDEMILL_PORT'\?"),
        ("TIDEMILL_PORT", "many", r"setting 'port' from environment was not understood: Expected `int`"),
        ("TIDEMILL_PORT", "", r"setting 'port' from environment"),
        ("TIDEMILL_LOG_LEVEL", "loud", r"setting 'log_level' from environment .*Invalid enum value 'loud'"),
    ],
)
def test_a_fault_in_the_environment_is_named(tmp_path: Path, name: str, value: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load(tmp_path, environment={name: value})


def test_an_unknown_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="unknown setting 'ports' in argument; did you mean 'port'"):
        load(tmp_path, ports=1)


def test_the_environment_may_hold_what_is_no_setting(tmp_path: Path) -> None:
    environment = {f"{PREFIX}{name}": "x" for name in NOT_SETTINGS} | {"PATH": "/bin", "tidemill_port": "9"}
    assert load(tmp_path, environment=environment).settings == Settings()


def test_lists_in_the_environment_are_parted_by_commas(tmp_path: Path) -> None:
    assert load(tmp_path, environment={"TIDEMILL_TRUSTED_RUNTIMES": "onnx, python,"}).settings.trusted_runtimes == ("onnx", "python")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "port": st.integers(0, 65535),
            "host": st.sampled_from(["127.0.0.1", "::1", "10.0.0.1"]),
            "trusted_runtimes": st.lists(st.sampled_from(["onnx", "python", "lightgbm"])).map(tuple),
            "authentication": st.sampled_from(["off", "keys"]),
            "clock": st.just("simulated:a,b c.clock"),
        },
    )
)
def test_arguments_reach_child_processes_as_they_are(tmp_path_factory: pytest.TempPathFactory, arguments: dict[str, Any]) -> None:
    home = tmp_path_factory.getbasetemp()
    given_here = load(home, **arguments)
    assert load(home, environment=as_environment(given_here)).settings == given_here.settings


def test_home_is_named_or_found_upward(tmp_path: Path) -> None:
    inner = tmp_path / "home" / "notebooks" / "deep"
    inner.mkdir(parents=True)
    with pytest.raises(NotFound, match=r"is not inside a Tidemill workspace \(no tidemill.toml found\); make one with: tidemill init"):
        find_home(inner, environment={})
    write(tmp_path / "home", "")
    assert find_home(inner, environment={}) == tmp_path / "home"
    assert find_home(inner, environment={"TIDEMILL_HOME": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://me:pa55@db/tidemill", "postgresql://me:***@db/tidemill"),
        ("postgresql://me:p@55:x@db/tidemill", "postgresql://me:***@db/tidemill"),
        ("redis://:pa55@cache:6379/0", "redis://:***@cache:6379/0"),
        ("s3://bucket/x?endpoint=http://h&secret_access_key=pa55&a=1", "s3://bucket/x?endpoint=http://h&secret_access_key=***&a=1"),
        ("s3://bucket/x?session_token=pa55", "s3://bucket/x?session_token=***"),
        ("postgresql://me@db/tidemill", "postgresql://me@db/tidemill"),
        ("sqlite:catalog.db", "sqlite:catalog.db"),
        ("system", "system"),
    ],
)
def test_secrets_in_urls_are_masked(url: str, seen: str) -> None:
    assert mask(url) == seen
    assert "pa55" not in mask(url)


def test_what_is_shown_holds_no_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, catalog="postgresql://me:pa55@db/x", online="redis://:pa55@cache/0").settings
    assert "pa55" not in str(shown(settings))
    assert shown(settings)["port"] == 7700


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="is not valid TOML"):
        read_file(tmp_path / "tidemill.toml")


def test_the_nearest_word_is_offered() -> None:
    assert nearest("prot", ["port", "host"]) == "did you mean 'port'?"
    assert nearest("zzz", ["port", "host"]) == "known are: host, port"


def test_a_run_is_announced_to_processes_that_start_later_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEMILL_RUN", raising=False)
    assert announce_run("a" * 32) is None
    assert announce_run("b" * 32) == "a" * 32
    assert child_environment()["TIDEMILL_RUN"] == "b" * 32
    assert announce_run(None) == "b" * 32
    assert "run" not in caller_environment()


def test_an_empty_name_in_the_environment_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_URL", "")
    monkeypatch.setenv("TIDEMILL_PROJECT", "north")
    assert {name: value for name, value in caller_environment().items() if name in ("url", "project")} == {"project": "north"}


def test_the_state_of_a_user_lies_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert state_folder() == tmp_path / "me" / ".local" / "state"
