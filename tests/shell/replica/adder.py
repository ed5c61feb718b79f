"""A gRPC service of a user, generated anew for each test that wants one."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_tools import protoc  # type: ignore[import-untyped]

PROTO = """
syntax = "proto3";
package {package};
message Number {{ int64 value = 1; }}
service Adder {{
  rpc One(Number) returns (Number);
  rpc Split(Number) returns (stream Number);
  rpc Sum(stream Number) returns (Number);
  rpc Each(stream Number) returns (stream Number);
}}
"""

_names = itertools.count()


@dataclass
class Generated:
    """The generated code of one service."""

    module: str
    package: str
    pb2: Any
    grpc: Any


@contextmanager
def generated_in(tmp_path: Path) -> Iterator[Generated]:
    """Generates the service, with names that nobody else has."""
    number = next(_names)
    module, package = f"adder_{number}", f"adder{number}.v1"
    (tmp_path / f"{module}.proto").write_text(PROTO.format(package=package))
    arguments = ["", f"-I{tmp_path}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", f"{module}.proto"]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(tmp_path))
    try:
        yield Generated(
            module, package, importlib.import_module(f"{module}_pb2"), importlib.import_module(f"{module}_pb2_grpc")
        )
    finally:
        sys.path.remove(str(tmp_path))


async def numbers(generated: Generated, *values: int) -> AsyncIterator[Any]:
    """A stream of numbers."""
    for value in values:
        yield generated.pb2.Number(value=value)
