"""What ``run`` and ``deploy`` are given: MODULE:ATTR, or a YAML file."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_core.api import Application, Deployment
from serve_core.build import build_application
from serve_core.config.load import load_file
from serve_core.config.model import ApplicationModel, DeploymentModel
from serve_core.errors import ConfigInvalidError, FieldViolation, ImportFailedError
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.references import Replace, replace_references
from serve_core.specs import make_spec
from serve_core.wire.codec import HandleRef

_NOT_OPTIONS = {"name", "import_path", "args", "kwargs"}
_REFERENCE_KEY = "$deployment"


def load_target(target: str, *, name: str, defaults: Mapping[str, Any] | None = None) -> list[ApplicationSpec]:
    """The applications that ``target`` names.

    Args:
        target: MODULE:ATTR of a bound application, a deployment or a class; or a file's path.
        name: The name of the application, where ``target`` is no file.
        defaults: Options for deployments that do not give them.

    Raises:
        ImportFailedError: MODULE:ATTR leads to nothing that can be deployed.
        ConfigInvalidError: Lists everything that is not valid.
    """
    if target.endswith((".yaml", ".yml", ".json")) or Path(target).is_file():
        return _from_file(Path(target), defaults or {})
    return [build_application(load_application(target), name, defaults=defaults)]


def load_application(import_path: str) -> Application[Any]:
    """The bound application at MODULE:ATTR; a deployment or a class that needs no arguments is bound for it.

    Raises:
        ImportFailedError: It leads to nothing that can be deployed.
    """
    found = import_attribute(import_path)
    if isinstance(found, Application):
        return found
    if not isinstance(found, Deployment) and not callable(found):
        raise ImportFailedError(
            f"'{import_path}' is {type(found).__name__}, which cannot be deployed: bind a deployment, as in "
            "'app = MyDeployment.bind()'",
            details={"importPath": import_path},
        )
    deployment: Deployment[..., Any] = found if isinstance(found, Deployment) else Deployment(found, {})
    try:
        return deployment.bind()
    except TypeError as error:
        raise ImportFailedError(
            f"'{import_path}' is not bound, and cannot be without arguments ({error}): name a bound one, as in "
            f"'app = {deployment.name}.bind(...)'",
            details={"importPath": import_path},
        ) from None


def import_attribute(import_path: str) -> Any:
    """What MODULE:ATTR leads to; the working directory is searched first.

    Raises:
        ImportFailedError: It leads nowhere, or importing it raised; carries the traceback then.
    """
    module_name, colon, attribute = import_path.partition(":")
    details = {"importPath": import_path}
    if not colon or not module_name or not attribute:
        raise ImportFailedError(f"'{import_path}' is neither MODULE:ATTR nor a file that exists", details=details)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _import_module(module_name, import_path)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImportFailedError(
                f"module '{module_name}' has no '{attribute}': check '{import_path}'", details=details
            ) from None
    return found


def _import_module(name: str, import_path: str) -> Any:
    details = {"importPath": import_path}
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ImportFailedError(
                f"there is no module '{error.name}' in {os.getcwd()} or among the installed ones: check "
                f"'{import_path}'",
                details=details,
            ) from None
        raise _import_raised(error, name, details) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything
        raise _import_raised(error, name, details) from None


def _import_raised(error: BaseException, name: str, details: dict[str, str]) -> ImportFailedError:
    trace = "".join(traceback.format_exception(error))
    return ImportFailedError(
        f"importing '{name}' raised {type(error).__name__}: {error}", details={**details, "traceback": trace}
    )


def _from_file(path: Path, defaults: Mapping[str, Any]) -> list[ApplicationSpec]:
    specs: list[ApplicationSpec] = []
    violations: list[FieldViolation] = []
    for application in load_file(path).applications:
        try:
            specs.append(_application(application, defaults))
        except ConfigInvalidError as error:
            violations += [
                FieldViolation(f"{path}: {application.name}.{violation.field}", violation.description)
                for violation in error.violations
            ]
    if violations:
        raise ConfigInvalidError(violations, what=str(path))
    return specs


def _application(model: ApplicationModel, defaults: Mapping[str, Any]) -> ApplicationSpec:
    explicit = [one for one in model.deployments if one.import_path is not None]
    own = tuple(_explicit(model, one, defaults) for one in explicit)
    if model.import_path is None:
        ingress = model.ingress or model.deployments[0].name
        return ApplicationSpec(name=model.name, ingress=ingress, deployments=own)
    own_names = {one.name for one in explicit}
    overrides = {
        one.name: _options(one, _reference(model, one)) for one in model.deployments if one.import_path is None
    }
    ingress = model.ingress or ""
    built = build_application(
        load_application(model.import_path),
        model.name,
        overrides=overrides,
        ingress="" if ingress in own_names else ingress,
        defaults=defaults,
    )
    twice = sorted(own_names & {one.name for one in built.deployments})
    if twice:
        raise ConfigInvalidError(
            [
                FieldViolation(f"deployments[{one}]", "is defined in the code too; leave out import_path")
                for one in twice
            ]
        )
    return ApplicationSpec(name=model.name, ingress=ingress or built.ingress, deployments=(*built.deployments, *own))


def _options(model: DeploymentModel, reference: Replace) -> dict[str, Any]:
    options = {name: getattr(model, name) for name in model.model_fields_set - _NOT_OPTIONS}
    if "actors" in options:
        options["actors"] = [
            actor.model_copy(update=replace_references({"args": actor.args, "kwargs": actor.kwargs}, reference))
            for actor in model.actors
        ]
    return options


def _reference(application: ApplicationModel, model: DeploymentModel) -> Replace:
    """Finds what stands for a handle, inside the arguments of a deployment and of its actors."""
    known = [one.name for one in application.deployments]

    def reference(value: Any) -> HandleRef | None:
        if not isinstance(value, dict) or list(value) != [_REFERENCE_KEY]:
            return None
        named = value[_REFERENCE_KEY]
        if application.import_path is None and named not in known:
            raise ConfigInvalidError(
                [FieldViolation(f"deployments[{model.name}]", f"refers to '{named}', which is none of: {known}")]
            )
        return HandleRef(application.name, str(named))

    return reference


def _explicit(application: ApplicationModel, model: DeploymentModel, defaults: Mapping[str, Any]) -> DeploymentSpec:
    assert model.import_path is not None
    reference = _reference(application, model)
    args = tuple(replace_references(model.args, reference))
    kwargs = replace_references(model.kwargs, reference)
    return make_spec(model.name, model.import_path, {**defaults, **_options(model, reference)}, args, kwargs)
