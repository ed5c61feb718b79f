"""What this process runs on: interpreter, Python, installed distributions."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from serve_core.model.replica import Environment
from serve_core.runtime import log

PACKAGES_MAX = 2000
"""Distributions that are told at most; of more, the first by name."""

_KINDS = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}
"""The file that tells name and version, by the ending of the folder that it is in."""

_log = log.get_logger(__name__)


def describe_environment(working_dir: str = "") -> Environment:
    """Looks at everything that can be imported, ``working_dir`` first. Blocks: call it in a thread."""
    places = [working_dir, *sys.path] if working_dir else sys.path
    return Environment(
        interpreter=sys.executable,
        python_version=platform.python_version(),
        packages=packages_in(Path(place) for place in places),
    )


def packages_in(places: Iterable[Path]) -> dict[str, str]:
    """Versions by normalized name; of two with one name the first holds, as it does for imports."""
    found: dict[str, str] = {}
    for place in places:
        for name, version in _distributions(place):
            found.setdefault(normalized(name), version)
    return dict(sorted(found.items())[:PACKAGES_MAX])


def normalized(name: str) -> str:
    """The name of a distribution as indexes compare it: lower case, with single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions(place: Path) -> Iterator[tuple[str, str]]:
    """Not with importlib.metadata: that parses whole descriptions, which costs every start of a replica."""
    try:
        folders = sorted(place.iterdir())
    except OSError:
        return
    for folder in folders:
        file = _KINDS.get(folder.suffix)
        if file is None:
            continue
        try:
            headers = _headers(folder / file)
        except (OSError, ValueError) as error:
            _log.debug("a distribution cannot be read", error=repr(error))
            continue
        if "name" in headers and "version" in headers:
            yield headers["name"], headers["version"]


def _headers(path: Path) -> dict[str, str]:
    """What stands before the first empty line."""
    headers: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), value.strip())
    return headers
