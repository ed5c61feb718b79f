"""From an import path to the user's object, its methods, and its own gRPC services."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from replica.methods import MethodTable, methods_of, type_hints
from serve_core.errors import ConstructorFailedError, ImportFailedError, ServeError, StartError
from serve_core.model.payload import Payload
from serve_core.model.replica import Method, MethodKind, UserService
from serve_core.runtime.descriptors import serialize_files
from serve_core.runtime.handlers import MethodHandler
from serve_core.wire.codec import ArgumentDecoder, HandleRef

Resolve = Callable[[HandleRef], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a deployment's import path led to.

    Attributes:
        instance: The user's object, or function.
        methods: What callers may dispatch.
        services: The user's own gRPC services.
        handlers: Their handlers as the user wrote them, by ``/service/method``.
        file_descriptor_set: A serialized ``google.protobuf.FileDescriptorSet`` of them.
    """

    instance: Any
    methods: MethodTable
    services: tuple[UserService, ...]
    handlers: Mapping[str, MethodHandler]
    file_descriptor_set: bytes


class StartFailure(Exception):  # noqa: N818 - carries one
    """A start that failed: the error, and the user's traceback."""

    def __init__(self, error: StartError, user_traceback: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.user_traceback = user_traceback


def load(
    import_path: str, arguments: Payload | None, *, working_dir: str, resolve: Resolve, hooks: Iterable[str] = ()
) -> Loaded:
    """Imports, constructs and examines a deployment. Blocks: call it in a thread.

    Args:
        import_path: ``MODULE:QUALNAME`` of a deployment, a class or a function.
        arguments: The constructor's.
        working_dir: Where imports look first; empty means the current directory.
        resolve: Makes a handle of a reference among the arguments.
        hooks: Methods that are not offered to callers, beside those that never are.

    Raises:
        StartFailure: Nothing that can be deployed is there, or the constructor raised.
    """
    target = import_target(import_path, working_dir=working_dir)
    instance = construct(target, arguments, resolve=resolve)
    try:
        services, handlers = services_of(instance)
        served = [method.name for service in services for method in service.methods]
        return Loaded(
            instance=instance,
            methods=methods_of(instance, without=[*served, *hooks]),
            services=services,
            handlers=handlers,
            file_descriptor_set=serialize_files(service.name for service in services) if services else b"",
        )
    except Exception as error:
        raise _import_failed(import_path, f"cannot be examined: {_said(error)}", user_code=True) from error


def import_target(import_path: str, *, working_dir: str) -> Any:
    """The class or function that ``import_path`` leads to.

    Raises:
        StartFailure: There is none.
    """
    place = working_dir or os.getcwd()
    if place not in sys.path:
        sys.path.insert(0, place)
    module_name, _, qualified_name = import_path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and _leads_to(module_name, error.name):
            raise _import_failed(import_path, f"there is no module {error.name!r}", user_code=True) from error
        raise _import_failed(import_path, f"importing raised {_said(error)}", user_code=True) from error
    for name in qualified_name.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            message = f"{getattr(found, '__name__', found)!r} has no {name!r}"
            raise _import_failed(import_path, message, user_code=False) from error
    found = _unwrapped(found)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        kind = type(found).__name__
        raise _import_failed(
            import_path, f"is of type {kind}, neither a deployment nor a class or function", user_code=False
        )
    return found


def construct(target: Any, arguments: Payload | None, *, resolve: Resolve) -> Any:
    """The object of a class; a function is its own.

    Raises:
        StartFailure: The constructor raised, or does not take the arguments.
    """
    if not inspect.isclass(target):
        return target
    try:
        args, kwargs = _init_arguments(target, arguments, resolve)
        return target(*args, **kwargs)
    except BaseException as error:
        message = f"the constructor of {target.__qualname__} raised {_said(error)}"
        raise StartFailure(ConstructorFailedError(message), _user_traceback(error)) from error


def services_of(instance: Any) -> tuple[tuple[UserService, ...], dict[str, MethodHandler]]:
    """The gRPC services whose generated servicer classes the object's class derives from, and their handlers."""
    services: dict[str, UserService] = {}
    handlers: dict[str, MethodHandler] = {}
    for base in type(instance).__mro__ if not inspect.isroutine(instance) else ():
        register = getattr(sys.modules.get(base.__module__), f"add_{base.__name__}_to_server", None)
        if base.__name__.endswith("Servicer") and callable(register):
            registration = _Registration()
            register(instance, registration)
            for service, methods in registration.methods.items():
                described = (Method(name, _kind(handler)) for name, handler in methods.items())
                services.setdefault(service, UserService(service, tuple(described)))
                handlers |= {f"/{service}/{name}": handler for name, handler in methods.items()}
    return tuple(services.values()), handlers


class _Registration:
    """Stands in for a server while generated code registers a servicer, and keeps what it is told."""

    def __init__(self) -> None:
        self.methods: dict[str, dict[str, MethodHandler]] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Called by generated code of every age."""
        for generic in generic_rpc_handlers:
            # Older generated code tells of its methods in no public way.
            for path, handler in getattr(generic, "_method_handlers", {}).items():
                _, service, name = path.split("/")
                self.methods.setdefault(service, {})[name] = handler

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, MethodHandler]) -> None:
        """Called by generated code since grpcio-tools 1.65."""
        self.methods.setdefault(service_name, {}).update(method_handlers)


def _init_arguments(target: type, arguments: Payload | None, resolve: Resolve) -> tuple[list[Any], dict[str, Any]]:
    if arguments is None:
        return [], {}
    hints = type_hints(inspect.getattr_static(target, "__init__"))
    signature = inspect.signature(target)
    args, kwargs = ArgumentDecoder(signature, hints).decode(arguments, resolve=resolve)
    bound = signature.bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        bound.arguments[name] = _typed(value, hints.get(name))
    return list(bound.args), dict(bound.kwargs)


def _typed(value: Any, hint: Any) -> Any:
    """A handle whose parameter is annotated ``DeploymentHandle[X]`` gives results as the annotations of ``X`` say."""
    types = typing.get_args(hint)
    if not hasattr(value, "__handle_reference__") or len(types) != 1:
        return value
    target = _unwrapped(types[0])
    return value.typed(target) if inspect.isclass(target) else value


def _unwrapped(found: Any) -> Any:
    """The class or function inside a deployment, or inside a deployment that is bound."""
    for _ in range(2):
        inner = getattr(found, "__serve_core_target__", None)
        if inner is None and type(found).__module__ == "serve_core.api":
            inner = getattr(found, "target", None) or getattr(found, "deployment", None)
        if inner is None:
            break
        found = inner
    return found


def _kind(handler: MethodHandler) -> MethodKind:
    if handler.request_streaming:
        return MethodKind.BIDI_STREAM if handler.response_streaming else MethodKind.CLIENT_STREAM
    return MethodKind.SERVER_STREAM if handler.response_streaming else MethodKind.UNARY


def _leads_to(module_name: str, missing: str) -> bool:
    return module_name == missing or module_name.startswith(f"{missing}.")


def _import_failed(import_path: str, message: str, *, user_code: bool) -> StartFailure:
    error = ImportFailedError(f"import path {import_path!r}: {message}", details={"importPath": import_path})
    return StartFailure(error, traceback.format_exc() if user_code else "")


def _said(error: BaseException) -> str:
    if isinstance(error, ServeError):
        return error.message
    lines = traceback.format_exception_only(error)
    return lines[-1].strip()


def _user_traceback(error: BaseException) -> str:
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_globals.get("__name__") == __name__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
