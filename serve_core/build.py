"""From what users bound, or wrote in a file, to what the controller is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_core.api import Application, Deployment
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.handle import DeploymentHandle
from serve_core.locate import import_path_of
from serve_core.model.ids import NAME_PATTERN
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.references import replace_references
from serve_core.specs import make_spec
from serve_core.wire.codec import HandleRef


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
            actors = bound.deployment.given.get("actors", ())
            replace_references((bound.args, bound.kwargs, actors), lambda value: _visit_inner(value, visit))
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
    def reference(value: Any) -> HandleRef | None:
        if isinstance(value, Application):
            return HandleRef(application, names[value])
        return value.__handle_reference__() if isinstance(value, DeploymentHandle) else None

    args, kwargs = replace_references((bound.args, bound.kwargs), reference)
    options = {key: value for key, value in given.items() if key != "name"}
    if "actors" in options:
        options["actors"] = replace_references(options["actors"], reference)
    return make_spec(name, import_path_of(bound.deployment.target), options, args, kwargs)
