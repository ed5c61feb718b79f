"""The grpcio versions that pyproject.toml allows are those that the code is made for, and both ends of them are tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from serve_core.runtime.core import shape

ROOT = Path(__file__).parents[2]
COMPANIONS = ("grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status")
STUBS = sorted(path for folder in ("serve_core", "bench", "examples") for path in (ROOT / folder).rglob("*_pb2*.py"))

Version = tuple[int, ...]


def numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return read


def allowed(package: str) -> tuple[Version, Version]:
    """The first version that is allowed, and the first that no longer is."""
    found = [re.fullmatch(rf"{package}>=([\d.]+),<([\d.]+)", one) for one in project()["dependencies"]]
    (only,) = [one for one in found if one]
    return numbers(only[1]), numbers(only[2])


def locked(package: str) -> Version:
    found = re.search(rf"^{package}==([\d.]+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found
    return numbers(found[1])


def test_the_core_was_tried_with_what_may_be_installed() -> None:
    first, end = allowed("grpcio")
    assert (first[:2], end) == shape.SUPPORTED


@pytest.mark.parametrize("package", COMPANIONS)
def test_the_packages_of_grpcio_have_one_range_and_the_newest_of_it_is_developed_with(package: str) -> None:
    first, end = allowed(package)
    assert (first, end) == allowed("grpcio")
    assert locked(package) == locked("grpcio")
    assert locked(package)[:2] == (end[0], end[1] - 1)


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.relative_to(ROOT).as_posix())
def test_stubs_are_no_newer_than_the_oldest_that_may_be_installed(stub: Path) -> None:
    text = stub.read_text()
    if stub.name.endswith("_pb2_grpc.py"):
        (generated,) = re.findall(r"^GRPC_GENERATED_VERSION = '([\d.]+)'$", text, re.MULTILINE)
        assert numbers(generated) <= allowed("grpcio")[0]
    else:
        (generated,) = re.findall(r"^# Protobuf Python Version: ([\d.]+)$", text, re.MULTILINE)
        assert numbers(generated) <= allowed("protobuf")[0]
        assert numbers(generated)[0] == allowed("protobuf")[1][0] - 1, (
            "a newer major version of protobuf refuses them one day"
        )


@pytest.mark.parametrize("package", ["grpcio", "protobuf"])
def test_the_page_names_the_range(package: str) -> None:
    row = re.search(
        rf"^\| {package}\b[^|]*\| ([\d.]+) \| ([\d.]+) \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert row
    assert (numbers(row[1]), numbers(row[2])) == allowed(package)


def test_stubs_are_generated_by_the_oldest() -> None:
    oldest = ".".join(str(number) for number in allowed("grpcio")[0])
    assert f"grpcio-tools=={oldest}" in project()["optional-dependencies"]["dev"]
