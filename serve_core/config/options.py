"""Checks a deployment's options outside of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from serve_core.config.explain import violations
from serve_core.config.model import OptionsModel
from serve_core.errors import ConfigInvalidError


def check_options(options: Mapping[str, Any], *, where: str) -> OptionsModel:
    """The options, checked and with their defaults.

    Args:
        options: What was said, without the name.
        where: What the options are of, for messages.

    Raises:
        ConfigInvalidError: Lists everything that is wrong.
    """
    try:
        return OptionsModel.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigInvalidError(violations(error, OptionsModel), what=where) from None
