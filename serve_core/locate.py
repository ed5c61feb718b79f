"""Where replicas can import a user's code from."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_core.errors import ConfigInvalidError, FieldViolation


def import_path_of(target: Any) -> str:
    """MODULE:ATTRIBUTE of a class or function.

    Raises:
        ConfigInvalidError: Another process cannot import it.
    """
    module = str(getattr(target, "__module__", ""))
    qualified = str(getattr(target, "__qualname__", ""))
    if module == "__main__":
        module = _main_module()
    if not module or not qualified or "<" in qualified:
        raise ConfigInvalidError(
            [FieldViolation("target", f"{target!r} is not at the top of a module, so no replica can import it")]
        )
    return f"{module}:{qualified}"


def environment(
    import_path: str, given: Mapping[str, str], *, beneath: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables of a process that must find ``import_path``, wherever this process found it.

    Args:
        import_path: MODULE:ATTRIBUTE.
        given: What the user gives it; a PYTHONPATH in there is taken as it is.
        beneath: What it has anyway, beneath ``given``; None if it starts with nothing of this process's.
    """
    root = import_root(import_path.partition(":")[0])
    if root is None or "PYTHONPATH" in given:
        return dict(given)
    inherited = (os.environ if beneath is None else beneath).get("PYTHONPATH", "")
    if beneath is not None and root in inherited.split(os.pathsep):
        return dict(given)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, inherited))), **given}


def import_root(module: str) -> str | None:
    """The folder that ``module`` is imported from, unless any process finds it there anyway."""
    loaded = sys.modules.get(module)
    if loaded is None and module == Path(getattr(sys.modules["__main__"], "__file__", None) or "").stem:
        loaded = sys.modules["__main__"]
    file = getattr(loaded, "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (1 if path.name == "__init__.py" else 0)
    root = path.parents[depth]
    installed = (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")))
    if root == Path.cwd() or any(root.is_relative_to(place) for place in installed):
        return None
    return str(root)


def _main_module() -> str:
    """The name under which others can import the script that runs."""
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name.removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if file is None:
        raise ConfigInvalidError(
            [FieldViolation("target", "was defined in an interactive session; put it into a module")]
        )
    return Path(file).stem
