"""The environment as it is, read from the names of folders alone."""

from importlib.metadata import distributions, version
from pathlib import Path

from tidemill.client.environment import installed_packages, read_environment


def test_what_is_installed_is_what_the_metadata_says() -> None:
    environment = read_environment(["python", "train.py"])
    packages = environment["packages"]
    for name in ("numpy", "msgspec", "sqlalchemy", "scikit-learn", "typing-extensions"):
        assert packages[name] == version(name)
    assert len(packages) >= len({found.metadata["Name"].lower().replace("_", "-").replace(".", "-") for found in distributions()}) - 2
    assert environment["command"] == ["python", "train.py"]
    assert environment["host"]["cpus_usable"] <= environment["host"]["cpus"]
    assert environment["host"]["memory_bytes"] > 1 << 28


def test_the_first_place_counts_as_it_does_for_imports(tmp_path: Path) -> None:
    for place, number in (("one", "1.0"), ("two", "2.0")):
        (tmp_path / place / f"My_Thing.x-{number}.dist-info").mkdir(parents=True)
        (tmp_path / place / "not-a-distribution.txt").touch()
    assert installed_packages((str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "none"))) == {"my-thing-x": "1.0"}
