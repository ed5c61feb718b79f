"""The user's side: say what to serve, deploy it, and call it.

::

    @deployment(num_replicas=2)
    class Greeter:
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        async def greet(self, name: str) -> str:
            return f"{self.greeting}, {name}"

    app = Greeter.bind("Hello")

    async def main() -> None:
        async with run(app) as handle:
            print(await handle.greet("Ada"))
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from serve_core.client import ControllerClient, controller_address, use_controller
from serve_core.connection import close, connector
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.handle import DeploymentHandle
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import ClusterStatus
from serve_core.options import DeploymentOptions, check_names

__all__ = [
    "Application",
    "Deployment",
    "build",
    "close",
    "delete",
    "deploy",
    "deployment",
    "get_handle",
    "run",
    "status",
]

P = ParamSpec("P")
T = TypeVar("T")

if TYPE_CHECKING:

    class _StandsForHandle(DeploymentHandle[T]):
        """A bound deployment may be passed wherever a constructor wants the handle that it will arrive as."""
else:

    class _StandsForHandle(Generic[T]):
        pass


class Deployment(Generic[P, T]):
    """A class or function with what is to be known to serve it. Made by ``deployment``; immutable."""

    def __init__(self, target: Callable[P, T], options: DeploymentOptions) -> None:
        check_names(options, where=f"the deployment of {target!r}")
        self.target: Callable[P, T] = target
        self.given: DeploymentOptions = options
        self.__serve_core_target__ = target
        self.__doc__ = target.__doc__
        self.__module__ = target.__module__

    @property
    def name(self) -> str:
        """The deployment's name: as given, else that of its class or function."""
        return self.given.get("name") or str(getattr(self.target, "__name__", type(self.target).__name__))

    def options(self, **options: Unpack[DeploymentOptions]) -> Deployment[P, T]:
        """The same with some options changed; this one stays as it is.

        Raises:
            ConfigInvalidError: Some option does not exist.
        """
        return Deployment(self.target, {**self.given, **options})

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Application[T]:
        """Says what the constructor is to be called with, in each replica; bound deployments arrive as handles.

        Raises:
            TypeError: The constructor does not take these arguments.
        """
        if inspect.isclass(self.target):
            inspect.signature(self.target).bind(*args, **kwargs)
        return Application(self, args, kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Makes an instance here, or calls the function here, as if it were not decorated: for tests."""
        return self.target(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Deployment({self.name})"


class Application(_StandsForHandle[T]):
    """A deployment with its constructor's arguments: what can be deployed. Compares by identity."""

    def __init__(self, deployment: Deployment[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.deployment = deployment
        self.__serve_core_target__ = deployment.target
        self.args = args
        self.kwargs = kwargs

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"{self!r} has no {name!r}: it only describes; deploy it with serve_core.run(), which yields a handle"
            )

    def __repr__(self) -> str:
        return f"Application({self.deployment.name})"


@overload
def deployment(target: Callable[P, T], /, **options: Unpack[DeploymentOptions]) -> Deployment[P, T]: ...


@overload
def deployment(**options: Unpack[DeploymentOptions]) -> Callable[[Callable[P, T]], Deployment[P, T]]: ...


def deployment(target: Any = None, /, **options: Unpack[DeploymentOptions]) -> Any:
    """Makes a class or function deployable; ``DeploymentOptions`` lists the options.

    As a decorator, or as a function: ``greeter = deployment(Greeter, num_replicas=2)``. Both are typed for pyright;
    mypy looks through decorators of functions only, so with mypy use the second form for classes.

    Raises:
        ConfigInvalidError: Some option does not exist.
    """
    if target is not None:
        return Deployment(target, options)
    check_names(options, where="@deployment")
    return lambda decorated: Deployment(decorated, options)


def build(app: Application[Any], name: str = "default") -> ApplicationSpec:
    """What the controller is told: each deployment under its name, arguments encoded, nothing pickled.

    Raises:
        ConfigInvalidError: Lists every option and argument that is not valid.
    """
    from serve_core.build import build_application

    return build_application(app, name)


async def deploy(
    app: Application[Any] | ApplicationSpec,
    *,
    name: str = "default",
    controller: str | None = None,
    wait: bool = True,
    timeout_s: float = 600.0,
) -> None:
    """Makes an application be as described, and waits until it takes requests everywhere.

    Args:
        app: What to deploy.
        name: The application's name.
        controller: Where the controller listens; by default the environment's, else 127.0.0.1:7070.
        wait: Whether to wait until all of it is ready.
        timeout_s: How long to wait.

    Raises:
        ConfigInvalidError: Lists everything that is not valid; nothing was changed.
        ControllerUnreachableError: No controller answers.
        StartError: Its replicas cannot start; carries the reason and the user's traceback.
        DeploymentUnavailableError: It failed for another reason, or was not ready within ``timeout_s``.
    """
    spec = app if isinstance(app, ApplicationSpec) else build(app, name)
    async with ControllerClient(controller_address(controller)) as client:
        generation = await client.deploy(spec)
        if wait:
            await client.wait_ready(spec.name, generation=generation, timeout_s=timeout_s)


@asynccontextmanager
async def run(
    app: Application[T],
    *,
    name: str = "default",
    timeout_s: float = 600.0,
) -> AsyncIterator[DeploymentHandle[T]]:
    """Starts a cluster on this machine, deploys ``app``, yields its handle, and takes all of it down.

    Inside, ``get_handle``, ``status`` and the like mean this cluster unless they are given another controller.

    A deployment that fails to start once is not tried again, unless it says so with ``max_start_failures``.

    Raises:
        ServeError: As ``deploy``. Nothing is left running.
    """
    from serve_core.build import build_application
    from serve_core.launch import LocalCluster

    spec = build_application(app, name, defaults={"max_start_failures": 1})
    async with LocalCluster() as cluster:
        address = cluster.controller_address
        with use_controller(address):
            await deploy(spec, timeout_s=timeout_s)
            try:
                yield get_handle(name, target=app.deployment)
            finally:
                await close(address)


@overload
def get_handle(
    application: str, deployment: str = "", *, controller: str | None = None, target: Callable[..., T]
) -> DeploymentHandle[T]: ...


@overload
def get_handle(
    application: str, deployment: str = "", *, controller: str | None = None, target: None = None
) -> DeploymentHandle[Any]: ...


def get_handle(
    application: str,
    deployment: str = "",
    *,
    controller: str | None = None,
    target: Callable[..., Any] | None = None,
) -> DeploymentHandle[Any]:
    """A handle that calls from this process straight to the replicas; all handles of a process share one router.

    Args:
        application: The application.
        deployment: The deployment; by default the application's ingress.
        controller: Where the controller listens; in a replica its own, else the environment's, else 127.0.0.1:7070.
        target: The deployment or its class, if it is at hand: results then arrive as its annotations say.

    Raises:
        ConfigInvalidError: No application was named.
    """
    if not application:
        raise ConfigInvalidError([FieldViolation("application", "is empty")], what="get_handle()")
    plain = target.target if isinstance(target, Deployment) else target
    known = plain if inspect.isclass(plain) else None
    return DeploymentHandle(application, deployment, connect=connector(controller), target=known)


async def status(application: str = "", *, controller: str | None = None) -> ClusterStatus:
    """The state of everything, or of one application.

    Raises:
        ControllerUnreachableError: No controller answers.
    """
    async with ControllerClient(controller_address(controller)) as client:
        return await client.status(application)


async def delete(application: str, *, controller: str | None = None) -> None:
    """Drains and removes an application.

    Raises:
        DeploymentUnknownError: There is none of this name.
        ControllerUnreachableError: No controller answers.
    """
    async with ControllerClient(controller_address(controller)) as client:
        await client.delete(application)
