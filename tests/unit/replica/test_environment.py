"""What a process runs on."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

from replica.environment import PACKAGES_MAX, describe_environment, normalized, packages_in


def install(place: Path, name: str, version: str) -> None:
    folder = place / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_it_tells_the_interpreter_and_what_is_installed() -> None:
    environment = describe_environment()
    assert environment.interpreter == sys.executable
    assert environment.python_version == platform.python_version()
    assert environment.packages["grpcio"] == metadata.version("grpcio")
    assert list(environment.packages) == sorted(environment.packages)


def test_names_are_those_that_indexes_compare() -> None:
    assert normalized("Zope.Interface__x-_.y") == "zope-interface-x-y"


def test_the_working_directory_goes_first(tmp_path: Path) -> None:
    install(tmp_path, "GRPCIO", "0.0.1")
    install(tmp_path, "My_Models", "2.5")
    packages = describe_environment(str(tmp_path)).packages
    assert packages["grpcio"] == "0.0.1"
    assert packages["my-models"] == "2.5"


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    install(tmp_path, "whole", "1")
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "nameless-1.dist-info").mkdir()
    (tmp_path / "nameless-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    assert packages_in([tmp_path, tmp_path / "missing"]) == {"whole": "1"}


def test_there_is_a_limit(tmp_path: Path) -> None:
    for number in range(PACKAGES_MAX + 5):
        install(tmp_path, f"p{number:05}", "1")
    packages = packages_in([tmp_path])
    assert len(packages) == PACKAGES_MAX
    assert f"p{PACKAGES_MAX:05}" not in packages


def test_only_what_precedes_the_description_counts(tmp_path: Path) -> None:
    install(tmp_path, "told", "1")
    with (tmp_path / "told-1.dist-info" / "METADATA").open("a") as metadata_file:
        metadata_file.write("\nName: other\nVersion: 2\n")
    assert packages_in([tmp_path]) == {"told": "1"}


def test_what_was_installed_in_place_counts(tmp_path: Path) -> None:
    (tmp_path / "old.egg-info").mkdir()
    (tmp_path / "old.egg-info" / "PKG-INFO").write_text("Name: old\nVersion: 3\n")
    assert packages_in([tmp_path]) == {"old": "3"}
