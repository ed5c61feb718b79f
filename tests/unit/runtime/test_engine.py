"""Which engine serves, and when grpc.aio has to stand in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_core.errors import ConfigInvalidError
from serve_core.runtime import engine
from serve_core.runtime.core import shape
from serve_core.runtime.core.binding import cygrpc
from serve_core.runtime.engine import Engine


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    engine._why_not.cache_clear()
    engine.choose({})
    yield
    engine._why_not.cache_clear()
    engine.choose({})


def test_our_own_serves_unless_said_otherwise() -> None:
    assert engine.chosen() is Engine.CORE
    engine.choose({engine.VARIABLE: "aio"})
    assert engine.chosen() is Engine.AIO
    engine.choose({})
    assert engine.chosen() is Engine.CORE


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match="SERVE_CORE_SERVER: 'twisted' must be core or aio"):
        engine.choose({engine.VARIABLE: "twisted"})


def test_grpc_aio_stands_in_where_grpcio_is_not_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "unsupported", lambda: "grpcio 9.9.9 is another one")
    engine.choose({engine.VARIABLE: "core"})
    assert engine.chosen() is Engine.AIO


@pytest.mark.parametrize("version", ["1.82.1", "1.84.2", "1.85.1"])
def test_a_version_of_the_range_is_supported(version: str) -> None:
    assert shape.unsupported(version=version) == ""


def test_the_installed_grpcio_is_supported() -> None:
    assert shape.unsupported() == ""


@pytest.mark.parametrize("version", ["1.81.2", "1.86.0", "2.0.0", "odd"])
def test_an_untried_version_is_not_supported(version: str) -> None:
    assert f"grpcio {version} is not from 1.82 to before 1.86" in shape.unsupported(version=version)


def test_all_that_is_taken_from_the_core_is_looked_for() -> None:
    text = "".join(path.read_text() for path in Path(shape.__file__).parent.glob("*.py"))
    taken = re.findall(r"\bcygrpc\.(\w+)(?:\.(\w+))?", text.replace("grpc._cython.cygrpc", ""))
    taken += re.findall(r'\bconstant\("(\w+)(?:\.(\w+))?"\)', text)
    assert len(taken) > 15
    assert [name for name, _ in taken if name not in shape._ATTRIBUTES] == []
    assert [(name, part) for name, part in taken if part and part not in shape._ATTRIBUTES[name]] == []


def test_a_core_that_lacks_something_is_not_supported() -> None:
    assert "has no CompletionQueue in its core" in shape.unsupported(core=SimpleNamespace())
    without_poll = SimpleNamespace(CompletionQueue=SimpleNamespace(shutdown=None), **{"Server": cygrpc.Server})
    assert "has no CompletionQueue.poll in its core" in shape.unsupported(core=without_poll)
