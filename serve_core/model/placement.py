"""What is asked of the nodes for a gang."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.model.gang import Strategy
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRequest:
    """Room for a whole gang. Its members all ask for the same.

    Attributes:
        resources: What each member needs.
        bundles: What each member needs beside that, on the same node, for processes of its own.
        size: Members.
        strategy: How they are laid out over nodes.
        node_labels: What the labels of every node of it must be.
    """

    resources: Resources
    bundles: tuple[Resources, ...] = ()
    size: int = 1
    strategy: Strategy = Strategy.PACK
    node_labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: DeploymentSpec) -> GangRequest:
        """What a gang of a deployment needs."""
        return cls(
            resources=spec.resources,
            bundles=spec.bundles,
            size=spec.gang.size,
            strategy=spec.gang.placement,
            node_labels=spec.node_labels,
        )

    @property
    def parts(self) -> tuple[Resources, ...]:
        """All that one member needs: its own first."""
        return (self.resources, *self.bundles)
