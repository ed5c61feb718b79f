from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_core.cli.targets import load_target
from serve_core.errors import ConfigInvalidError, ImportFailedError
from serve_core.wire.codec import HandleRef, decode_value

MODULE = """
from serve_core import deployment

class Plain:
    pass

class Needs:
    def __init__(self, size):
        self.size = size

@deployment(num_replicas=2)
class Greeter:
    pass

@deployment
class Front:
    def __init__(self, part):
        self.part = part

app = Front.bind(Greeter.bind())
number = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "targets_under_test"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def file(text: str) -> str:
    Path("serve.yaml").write_text(text)
    return "serve.yaml"


def test_a_bound_application_is_found_in_the_working_directory(module: str, tmp_path: Path) -> None:
    (spec,) = load_target(f"{module}:app", name="n", defaults={"max_start_failures": 1, "num_replicas": 7})
    assert (spec.name, spec.ingress) == ("n", "Front")
    greeter, front = spec.deployments
    assert (greeter.num_replicas, front.num_replicas) == (2, 7)
    assert greeter.max_start_failures == 1
    assert greeter.working_dir == str(tmp_path)
    assert greeter.env == {}
    assert front.import_path == f"{module}:Front"


@pytest.mark.parametrize("attribute", ["Greeter", "Plain"])
def test_what_needs_no_arguments_is_bound_by_itself(module: str, attribute: str) -> None:
    (spec,) = load_target(f"{module}:{attribute}", name="n")
    assert spec.ingress == attribute


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("nowhere_at_all:app", "there is no module 'nowhere_at_all'"),
        ("{module}:nothing", "has no 'nothing'"),
        ("{module}:number", "is int, which cannot be deployed"),
        ("{module}:Front", "is not bound"),
        ("{module}:Needs", "is not bound"),
        ("{module}", "neither MODULE:ATTR nor a file"),
        (":app", "neither MODULE:ATTR nor a file"),
    ],
)
def test_what_cannot_be_deployed_is_explained(module: str, target: str, part: str) -> None:
    with pytest.raises(ImportFailedError) as caught:
        load_target(target.format(module=module), name="n")
    assert part in caught.value.message
    assert "traceback" not in caught.value.details


@pytest.mark.parametrize("line", ["raise ValueError('broken')", "import nowhere_at_all", "raise SystemExit(3)", "def"])
def test_a_module_that_raises_is_shown_with_its_traceback(module: str, line: str) -> None:
    Path("broken_under_test.py").write_text(f"{line}\n")
    with pytest.raises(ImportFailedError) as caught:
        load_target("broken_under_test:app", name="n")
    assert "importing 'broken_under_test' raised" in caught.value.message
    assert "broken_under_test.py" in caught.value.details["traceback"]


def test_a_file_may_override_and_add(module: str) -> None:
    (spec,) = load_target(
        file(
            f"applications: [{{name: a, import_path: '{module}:app', deployments: [{{name: Greeter, num_replicas: 5}}, "
            f"{{name: Extra, import_path: '{module}:Needs', args: [{{$deployment: Greeter}}], "
            "kwargs: {x: [1, {$deployment: Front}]}}]}]"
        ),
        name="ignored",
    )
    assert (spec.name, spec.ingress) == ("a", "Front")
    greeter, _, extra = spec.deployments
    assert greeter.num_replicas == 5
    assert extra.init_arguments is not None
    assert decode_value(extra.init_arguments) == [
        [HandleRef("a", "Greeter")],
        {"x": [1, HandleRef("a", "Front")]},
    ]


def test_deployments_may_be_defined_in_the_file_alone(module: str) -> None:
    (spec,) = load_target(
        file(
            f"applications: [{{name: a, ingress: B, deployments: [{{name: A, import_path: '{module}:Plain'}}, "
            f"{{name: B, import_path: '{module}:Plain', memory: 1Mi}}]}}]"
        ),
        name="ignored",
    )
    assert spec.ingress == "B"
    assert [one.resources.memory_bytes for one in spec.deployments] == [0, 2**20]


@pytest.mark.parametrize(
    ("deployments", "part"),
    [
        ("[{name: Other, num_replicas: 1}]", "is no deployment of the application"),
        ("[{name: Greeter, import_path: 'm:A'}]", "is defined in the code too"),
    ],
)
def test_what_does_not_fit_the_code_is_refused(module: str, deployments: str, part: str) -> None:
    path = file(f"applications: [{{name: a, import_path: '{module}:app', deployments: {deployments}}}]")
    with pytest.raises(ConfigInvalidError, match=part):
        load_target(path, name="n")


def test_a_reference_to_nothing_is_refused(module: str) -> None:
    path = file(
        f"applications: [{{name: a, deployments: [{{name: A, import_path: '{module}:A', args: [{{$deployment: B}}]}}]}}]"
    )
    with pytest.raises(ConfigInvalidError, match="refers to 'B'"):
        load_target(path, name="n")


def test_actors_in_a_file_may_be_given_handles_and_override_those_of_the_code(module: str) -> None:
    (spec,) = load_target(
        file(
            "applications:\n"
            "  - name: a\n"
            f"    import_path: {module}:app\n"
            "    deployments:\n"
            "      - name: Front\n"
            "        num_replicas: 4\n"
            "        gang: {size: 2}\n"
            "        actors:\n"
            "          - {name: cache, import_path: 'm:Cache', args: [{$deployment: Greeter}]}\n"
        ),
        name="unused",
    )
    front = spec.deployments[1]
    assert (front.num_replicas, front.gang.size) == (4, 2)
    (cache,) = front.actors
    assert cache.init_arguments is not None
    assert decode_value(cache.init_arguments) == [[HandleRef("a", "Greeter")], {}]


def test_an_override_must_go_with_the_code(module: str) -> None:
    text = f"applications: [{{name: a, import_path: '{module}:app', deployments: [{{name: Greeter, gang: {{size: 4}}}}]}}]\n"
    with pytest.raises(ConfigInvalidError, match=r"2 is no multiple of gang\.size = 4; the nearest are 0 and 4"):
        load_target(file(text), name="unused")
