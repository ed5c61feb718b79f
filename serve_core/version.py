"""The version of the installed distribution."""

from importlib import metadata

UNKNOWN_VERSION = "0+unknown"
"""The version of a source tree that was never installed."""


def installed_version(distribution: str = "serve-core") -> str:
    """The version of an installed distribution, or ``UNKNOWN_VERSION`` where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


__version__ = installed_version()
