"""From what users bound, or wrote in a file, to what the controller is told."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_core.api import Application, Deployment
from serve_core.config.options import check_options
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.handle import DeploymentHandle
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import NAME_PATTERN
from serve_core.model.payload import Encoding
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, OnFailure, RolloutPolicy
from serve_core.references import replace_references
from serve_core.wire.codec import HandleRef, encode_arguments, encode_value


def build_application(
    app: object,
    name: str,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    defaults: Mapping[str, Any] | None = None,
    ingress: str = "",
) -> ApplicationSpec:
    """The description of ``app`` and of all that is bound inside it.

    Args:
        app: What was bound.
        name: The application's name.
        overrides: Options by deployment, which go before those of the code.
        defaults: Options for deployments that do not give them.
        ingress: The deployment that calls to the application go to; by default that of ``app``.

    Raises:
        ConfigInvalidError: Lists every option and argument that is not valid.
    """
    if not isinstance(app, Application):
        hint = ": it is not bound; add .bind(...)" if isinstance(app, Deployment) else ""
        raise ConfigInvalidError([FieldViolation("app", f"is no bound deployment but {app!r}{hint}")], what="build()")
    names = _names(app)
    violations = _bad_names(name, names, overrides or {}, ingress)
    specs: list[DeploymentSpec] = []
    for bound, deployment_name in names.items():
        try:
            options = {**(defaults or {}), **bound.deployment.given, **(overrides or {}).get(deployment_name, {})}
            specs.append(_build_one(bound, deployment_name, name, names, options))
        except ConfigInvalidError as error:
            violations += [_within(deployment_name, violation) for violation in error.violations]
    if violations:
        raise ConfigInvalidError(violations, what=f"application '{name}'")
    return ApplicationSpec(name=name, ingress=ingress or names[app], deployments=tuple(specs))


def _within(deployment: str, violation: FieldViolation) -> FieldViolation:
    return FieldViolation(f"deployments[{deployment}].{violation.field}", violation.description)


def _names(app: Application[Any]) -> dict[Application[Any], str]:
    """Every bound deployment that can be reached from ``app``, what others need first, under a name of its own."""
    found: list[Application[Any]] = []

    def visit(bound: Application[Any]) -> None:
        if bound not in found:
            replace_references((bound.args, bound.kwargs), lambda value: _visit_inner(value, visit))
            found.append(bound)

    visit(app)
    names: dict[Application[Any], str] = {}
    for bound in found:
        wanted = name = bound.deployment.name
        number = 2
        while name in names.values():
            name = f"{wanted}-{number}"
            number += 1
        names[bound] = name
    return names


def _visit_inner(value: Any, visit: Any) -> Any:
    if isinstance(value, Application):
        visit(value)
        return HandleRef("", "")
    return None


def _bad_names(
    name: str,
    names: Mapping[Application[Any], str],
    overrides: Mapping[str, Any],
    ingress: str,
) -> list[FieldViolation]:
    rule = "should be a letter followed by up to 62 letters, digits, '_' or '-'"
    violations = [
        FieldViolation(f"deployments[{one}].name", f"{rule}, not {one!r}")
        for one in names.values()
        if not NAME_PATTERN.fullmatch(one)
    ]
    if not NAME_PATTERN.fullmatch(name):
        violations.append(FieldViolation("name", f"{rule}, not {name!r}"))
    known = ", ".join(names.values())
    violations += [
        FieldViolation(f"deployments[{one}]", f"is no deployment of the application, which has: {known}")
        for one in overrides
        if one not in names.values()
    ]
    if ingress and ingress not in names.values():
        violations.append(FieldViolation("ingress", f"'{ingress}' is no deployment of the application: {known}"))
    return violations


def _build_one(
    bound: Application[Any],
    name: str,
    application: str,
    names: Mapping[Application[Any], str],
    given: Mapping[str, Any],
) -> DeploymentSpec:
    options = {key: value for key, value in given.items() if key != "name"}

    def reference(value: Any) -> HandleRef | None:
        if isinstance(value, Application):
            return HandleRef(application, names[value])
        return value.__handle_reference__() if isinstance(value, DeploymentHandle) else None

    args, kwargs = replace_references((bound.args, bound.kwargs), reference)
    module, attribute = _location(bound.deployment.target)
    return make_spec(name, f"{module}:{attribute}", options, args, kwargs)


def make_spec(
    name: str, import_path: str, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> DeploymentSpec:
    """The description of one deployment; ``args`` and ``kwargs`` hold no bound deployments any more.

    Raises:
        ConfigInvalidError: Lists every option that is not valid, and arguments that cannot be sent.
    """
    options = check_options(given, where=f"deployment '{name}'")
    return DeploymentSpec(
        name=name,
        import_path=import_path,
        init_arguments=encode_arguments(list(args), dict(kwargs)) if args or kwargs else None,
        num_replicas=options.num_replicas,
        resources=Resources(
            cpus=options.cpus, gpus=options.gpus, memory_bytes=options.memory, custom=options.resources
        ),
        env=_environment(import_path, options.env),
        working_dir=options.working_dir or os.getcwd(),
        interpreter=options.interpreter,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        slot_ttl_s=options.slot_ttl_s,
        slot_ttl_max_s=options.slot_ttl_max_s,
        start_deadline_s=options.start_deadline_s,
        graceful_shutdown_timeout_s=options.graceful_shutdown_timeout_s,
        health=HealthPolicy(
            period_s=options.health_check_period_s,
            timeout_s=options.health_check_timeout_s,
            failure_threshold=options.health_check_failure_threshold,
            heartbeat_period_s=options.heartbeat_period_s,
            suspect_after_missed=options.suspect_after_missed,
            lost_after_missed=options.lost_after_missed,
            readiness_period_s=options.readiness_period_s,
        ),
        user_config=None if options.user_config is None else encode_value(options.user_config, like=Encoding.MSGPACK),
        metadata=options.metadata,
        max_start_failures=options.max_start_failures,
        thread_count=options.thread_count,
        rollout=RolloutPolicy(
            max_surge=options.max_surge,
            max_unavailable=options.max_unavailable,
            min_ready_s=options.min_ready_s,
            progress_deadline_s=options.progress_deadline_s,
            pause_at=options.pause_at,
            on_failure=OnFailure(options.on_failure),
            max_concurrent_starts=options.max_concurrent_starts,
        ),
    )


def _location(target: Any) -> tuple[str, str]:
    """Where a class or function can be imported from."""
    module = str(getattr(target, "__module__", ""))
    qualified = str(getattr(target, "__qualname__", ""))
    if module == "__main__":
        module = _main_module()
    if not module or not qualified or "<" in qualified:
        raise ConfigInvalidError(
            [FieldViolation("target", f"{target!r} is not at the top of a module, so no replica can import it")]
        )
    return module, qualified


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


def _environment(import_path: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of the replica's process: it must find the module, wherever this process found it."""
    root = import_root(import_path.partition(":")[0])
    if root is None or "PYTHONPATH" in given:
        return dict(given)
    inherited = os.environ.get("PYTHONPATH", "")
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
