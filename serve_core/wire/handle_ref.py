"""A reference to a deployment, as it travels inside arguments."""

from __future__ import annotations


class HandleRef:
    """Names a deployment where a handle to it belongs.

    A plain class on purpose: msgspec would take a dataclass or a named tuple apart.
    """

    __slots__ = ("application", "deployment")

    def __init__(self, application: str, deployment: str) -> None:
        self.application = application
        self.deployment = deployment

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HandleRef):
            return NotImplemented
        return (self.application, self.deployment) == (other.application, other.deployment)

    def __hash__(self) -> int:
        return hash((self.application, self.deployment))

    def __repr__(self) -> str:
        return f"HandleRef({self.application!r}, {self.deployment!r})"
