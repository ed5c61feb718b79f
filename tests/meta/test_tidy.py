"""Rules that a linter does not know."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("serve_core", "router", "replica")
LINES_MAX = 450
FUNCTION_LINES_MAX = 70


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in tracked(f"{package}/*.py")]
    return [path for path in found if "serve_core/v1/" not in path.as_posix()]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_there_are_sources() -> None:
    assert len(sources()) > 50


def test_modules_have_one_reason_to_exist() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in long.items() if lines > LINES_MAX and name != "serve_core/errors.py"} == {}


def test_functions_fit_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines"
        for path in sources()
        for node in functions(ast.parse(path.read_text()))
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def undocumented(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if any("overload" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        if not ast.get_docstring(node):
            yield f"{prefix}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}.{node.name}")


@pytest.mark.parametrize("name", ["api", "deployment_actor", "options", "handle", "context", "gang", "errors"])
def test_public_things_of_the_users_side_are_documented(name: str) -> None:
    tree = ast.parse((ROOT / "serve_core" / f"{name}.py").read_text())
    assert list(undocumented(tree.body, name)) == []


@pytest.mark.parametrize("word", ["pickle", "NotImplementedError", "TODO", "FIXME", "XXX"])
def test_banned_words_are_absent(word: str) -> None:
    pattern = re.compile(rf"(?<![\w-]){word}(?!\w)")
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.id] if isinstance(node, ast.Name) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if word in names:
                found.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
        if word.isupper():
            found.extend(
                f"{path.relative_to(ROOT)}: {line}" for line in path.read_text().splitlines() if pattern.search(line)
            )
    assert found == []


def test_the_environment_is_read_at_the_edge_only() -> None:
    allowed = re.compile(
        r"(__main__|config|cli|locate|client|connection|subprocesses|process|log)(/|\.py$)|backend/|forkserver/"
    )
    readers = [
        str(path.relative_to(ROOT))
        for path in sources()
        if re.search(r"os\.(environ|getenv)", path.read_text())
        and not allowed.search(path.relative_to(ROOT).as_posix())
    ]
    assert readers == []


def test_proto_folders_hold_protos_only() -> None:
    assert [path for path in (ROOT / "proto").rglob("*") if path.is_file() and path.suffix != ".proto"] == []


def test_every_make_target_that_newcomers_need_is_explained() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "run", "test", "check", "proto", "proto-check", "bench", "clean", "help"):
        assert f"make {target} " in shown
