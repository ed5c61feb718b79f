"""Where a child finds modules, and whether what the fork server has imported is what it would have found there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

PYTHONPATH = "PYTHONPATH"
_AT_START = ("sitecustomize", "usercustomize")
"""Modules that Python imports when it starts."""


class ImportPaths:
    """The places of import that the fork server was started with.

    Args:
        found: Its ``sys.path``, without its working directory.
        environment: Its environment.
    """

    def __init__(self, found: Sequence[str], environment: Mapping[str, str]) -> None:
        self._own = _entries(environment)
        self._base = [entry for entry in found if entry not in self._own]

    def of(self, environment: Mapping[str, str], folder: str) -> list[str]:
        """The ``sys.path`` of ``python -m`` with such an environment, in such a working directory."""
        first = [] if sys.flags.safe_path else [folder]
        return [*first, *dict.fromkeys([*_entries(environment, folder), *self._base])]

    def why_not(self, environment: Mapping[str, str], folder: int) -> str:
        """Why a child would not have the modules that a new process has; empty if it would.

        Args:
            environment: The child's.
            folder: A descriptor of its working directory.
        """
        place = os.readlink(f"/proc/self/fd/{folder}")
        for entry in dict.fromkeys([place, *_entries(environment, place)]):
            if entry in self._own or entry in self._base:
                continue
            for name in _names_in(entry):
                if name in _AT_START:
                    return f"'{name}' in '{entry}' runs when Python starts"
                module = sys.modules.get(name)
                if module is not None and not _lies_in(module, entry):
                    return f"'{name}' in '{entry}' takes the place of a module that is imported already"
        missing = [entry for entry in self._own if entry not in _entries(environment, place)]
        return f"'{missing[0]}' is no place of import for it" if missing else ""


def _entries(environment: Mapping[str, str], folder: str = "/") -> list[str]:
    value = environment.get(PYTHONPATH, "")
    return [os.path.normpath(os.path.join(folder, entry)) for entry in value.split(os.pathsep)] if value else []


def _names_in(entry: str) -> Iterator[str]:
    """Modules and packages that a folder holds; none if it is none."""
    try:
        names = os.listdir(entry)
    except OSError:
        return
    for name in names:
        stem, _, ending = name.partition(".")
        if (
            ending in ("py", "pyc")
            or ending.endswith("so")
            or (not ending and stem in sys.modules and _is_package(os.path.join(entry, stem), sys.modules[stem]))
        ):
            yield stem


def _is_package(path: str, imported: ModuleType) -> bool:
    # A folder without __init__ only adds to a package that has none either.
    regular = getattr(imported, "__file__", None) is not None or not hasattr(imported, "__path__")
    return os.path.exists(os.path.join(path, "__init__.py")) or (not regular and os.path.isdir(path))


def _lies_in(module: ModuleType, entry: str) -> bool:
    file: str | None = getattr(module, "__file__", None)
    if file is None:
        return False
    place = os.path.dirname(file)
    return (os.path.dirname(place) if hasattr(module, "__path__") else place) == entry
