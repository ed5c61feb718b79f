"""From an import path to an object, or to a reason why not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_core
from replica.loader import StartFailure, construct, import_target, load
from serve_core.errors import ConstructorFailedError, ImportFailedError
from serve_core.wire.codec import HandleRef, encode_arguments

Write = Callable[[str], str]
_names = itertools.count()


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    def module(source: str) -> str:
        name = f"loader_user_{next(_names)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    before = list(sys.path)
    yield module
    sys.path[:] = before


def none(_: HandleRef) -> Any:
    raise AssertionError("there is no reference")


def test_classes_functions_and_what_is_inside_them(tmp_path: Path, write: Write) -> None:
    module = write("class A:\n    class B:\n        pass\ndef f():\n    pass\nasync def g():\n    pass\n")
    for name in ("A", "A.B", "f", "g"):
        target = import_target(f"{module}:{name}", working_dir=str(tmp_path))
        assert target.__qualname__ == name


def test_deployments_and_bound_deployments_lead_to_their_class(tmp_path: Path, write: Write) -> None:
    module = write(
        "import serve_core\n@serve_core.deployment(num_replicas=2)\nclass A:\n    pass\nbound = A.bind()\n"
        "class Own:\n    __serve_core_target__ = A\nown = Own()\n"
    )
    for name in ("A", "bound", "own"):
        target = import_target(f"{module}:{name}", working_dir=str(tmp_path))
        assert isinstance(target, type)
        assert target.__name__ == "A"
    assert serve_core.deployment(len).target is len


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("", "A", "has no 'A'"),
        ("class A:\n    pass\n", "A.b", "'A' has no 'b'"),
        ("A = 5\n", "A", "is of type int"),
        ("syntax error\n", "A", "importing raised SyntaxError"),
        ("raise SystemExit(3)\n", "A", "importing raised SystemExit: 3"),
        ("import no_such_thing\n", "A", "importing raised ModuleNotFoundError"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path: Path, write: Write, source: str, name: str, said: str) -> None:
    with pytest.raises(StartFailure) as caught:
        import_target(f"{write(source)}:{name}", working_dir=str(tmp_path))
    assert isinstance(caught.value.error, ImportFailedError)
    assert said in caught.value.error.message
    assert "\n" not in caught.value.error.message
    assert ("Traceback" in caught.value.user_traceback) is ("raised" in said)


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(StartFailure, match="there is no module 'no_such_package'"):
        import_target("no_such_package.inner:A", working_dir="")


def test_arguments_are_decoded_and_references_resolved(tmp_path: Path, write: Write) -> None:
    module = write("class A:\n    def __init__(self, n: float, *, other):\n        self.got = (n, other)\n")
    arguments = encode_arguments([2], {"other": HandleRef("app", "dep")})
    target = import_target(f"{module}:A", working_dir=str(tmp_path))
    instance = construct(target, arguments, resolve=lambda reference: f"handle of {reference.deployment}")
    assert instance.got == (2.0, "handle of dep")


def test_a_constructor_that_raises_is_told_with_the_users_traceback_only(tmp_path: Path, write: Write) -> None:
    module = write("class A:\n    def __init__(self):\n        raise OSError('disk is gone')\n")
    with pytest.raises(StartFailure) as caught:
        load(f"{module}:A", None, working_dir=str(tmp_path), resolve=none)
    assert isinstance(caught.value.error, ConstructorFailedError)
    assert caught.value.error.message == "the constructor of A raised OSError: disk is gone"
    assert caught.value.user_traceback.count("File ") == 1
    assert module in caught.value.user_traceback


def test_an_object_without_services_has_methods_only(tmp_path: Path, write: Write) -> None:
    module = write("class A:\n    def go(self):\n        return 1\n")
    loaded = load(f"{module}:A", None, working_dir=str(tmp_path), resolve=none)
    assert [method.name for method in loaded.methods.described] == ["go"]
    assert (loaded.services, loaded.handlers, loaded.file_descriptor_set) == ((), {}, b"")


def test_a_function_is_loaded_as_it_is(tmp_path: Path, write: Write) -> None:
    module = write("def f(x: int) -> int:\n    return x\n")
    loaded = load(f"{module}:f", None, working_dir=str(tmp_path), resolve=none)
    assert loaded.instance(3) == 3
    assert [method.name for method in loaded.methods.described] == ["__call__"]
