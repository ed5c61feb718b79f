"""What a process runs on."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

from replica.environment import PACKAGES_MAX, describe_environment, normalized, packages_of


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
    assert packages_of(metadata.distributions(path=[str(tmp_path)])) == {"whole": "1"}


def test_there_is_a_limit(tmp_path: Path) -> None:
    install(tmp_path, "a", "1")

    class Named(metadata.PathDistribution):
        def __init__(self, name: str) -> None:
            super().__init__(tmp_path / "a-1.dist-info")
            self.given = name

        @property
        def metadata(self) -> metadata.PackageMetadata:
            message = super().metadata
            del message["Name"]  # type: ignore[attr-defined]
            message["Name"] = self.given  # type: ignore[index]
            return message

    packages = packages_of(Named(f"p{number:05}") for number in range(PACKAGES_MAX + 5))
    assert len(packages) == PACKAGES_MAX
    assert f"p{PACKAGES_MAX:05}" not in packages
