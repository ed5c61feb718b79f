"""Exceptions of user code that are, at the caller, instances of their own type as well."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any, cast

import grpc

from serve_core.errors import ApplicationError, ServeError

# Types that mean something to whoever runs the call, not to whoever asked for it: an exception of user code must not
# pass for "nothing was run", for a broken transport, or for the end of an iteration.
_NEVER_MIXED: tuple[type[Exception], ...] = (ServeError, grpc.RpcError, StopIteration, StopAsyncIteration)


def type_name(cls: type[BaseException]) -> str:
    """``module:qualified name`` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def as_remote_type(error: ApplicationError) -> ApplicationError:
    """The same error, as an instance of its remote type too if that is loaded here; else ``error`` itself.

    Nothing is imported, and neither constructor nor attributes of the remote type are used.
    """
    remote = _loaded(error.remote_type)
    if remote is None:
        return error
    mixed = _mixed(cast("Any", remote))
    if mixed is None:
        return error
    try:
        result = mixed.__new__(mixed, error.message)
        result.__dict__.update(error.__dict__)
        result.args = error.args
    except Exception:  # noqa: BLE001 - __new__ may be user code
        return error
    return result


def _loaded(name: str) -> type[Exception] | None:
    module_name, colon, qualified = name.partition(":")
    module = sys.modules.get(module_name)
    if not colon or not isinstance(module, ModuleType):
        return None
    # Neither the module's __getattr__ nor a lazy loader may run: both import.
    found: object = object.__getattribute__(module, "__dict__").get(qualified.split(".")[0])
    for part in qualified.split(".")[1:]:
        found = vars(found).get(part) if isinstance(found, type) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


@functools.lru_cache(maxsize=256)
def _mixed(remote: Any) -> type[ApplicationError] | None:
    """A subclass of both ApplicationError and ``remote``, or None if there cannot be one."""
    if issubclass(remote, ApplicationError):
        return cast("type[ApplicationError]", remote)
    if issubclass(remote, _NEVER_MIXED):
        return None
    body = {
        "__module__": remote.__module__,
        "__qualname__": remote.__qualname__,
        "__doc__": remote.__doc__,
        "__str__": lambda self: self.message,
        "__reduce__": _reduce,
    }
    try:
        return type(remote.__name__, (ApplicationError, remote), body)
    except Exception:  # noqa: BLE001 - the layouts conflict, or the type refuses subclasses
        return None


def _reduce(error: ApplicationError) -> tuple[object, ...]:
    """For ``copy``: the dynamic class is found through the remote type's name."""
    return _rebuild, (error.message, str(error.code), error.details, error.remote_type), error.__dict__


def _rebuild(message: str, code: str, details: dict[str, str], remote_type: str) -> ApplicationError:
    return as_remote_type(ApplicationError(message, code=code, details=details, remote_type=remote_type))
