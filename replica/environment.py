"""What this process runs on: interpreter, Python, installed distributions."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata

from serve_core.model.replica import Environment
from serve_core.runtime import log

PACKAGES_MAX = 2000
"""Distributions that are told at most; of more, the first by name."""

_log = log.get_logger(__name__)


def describe_environment(working_dir: str = "") -> Environment:
    """Looks at everything that can be imported, ``working_dir`` first. Blocks: call it in a thread."""
    places = [working_dir, *sys.path] if working_dir else sys.path
    return Environment(
        interpreter=sys.executable,
        python_version=platform.python_version(),
        packages=packages_of(metadata.distributions(path=list(places))),
    )


def packages_of(distributions: Iterable[metadata.Distribution]) -> dict[str, str]:
    """Versions by normalized name; of two with one name the first holds, as it does for imports."""
    found: dict[str, str] = {}
    for distribution in distributions:
        try:
            about = distribution.metadata
            if "Name" not in about or "Version" not in about:
                continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.debug("a distribution cannot be read", error=repr(error))
            continue
        found.setdefault(normalized(about["Name"]), about["Version"])
    return dict(sorted(found.items())[:PACKAGES_MAX])


def normalized(name: str) -> str:
    """The name of a distribution as indexes compare it: lower case, with single dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()
