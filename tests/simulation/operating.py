"""An operator: deploys, scales, pauses, resumes, undoes and deletes, at random."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan import deploy
from serve_core.plan.deploy import Change
from serve_core.plan.nodes import drain_node, undrain_node
from tests.simulation.autoscaling import Bounds
from tests.simulation.wishes import POOL, Wishes, behaviour_of

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

APPLICATION = "app"
KEYS = (DeploymentKey(APPLICATION, "main"), DeploymentKey(APPLICATION, "side"))
RESUME_S = 5.0
GENTLE = ("good", "good", "slow", "bad")
ROUGH = ("good", "good", "good", "slow", "bad", "sick", "hang")


Decide = Callable[..., Change]
"""What is asked of the controller, from its records."""


class Operator:
    """Changes what is wanted. What the controller does not take, it asks for again later.

    What is asked for may arrive twice: again at once, or, where the generation that it was decided upon comes with it, at
    any time.
    """

    def __init__(self, cluster: Cluster, *, deployments: int, every_s: float) -> None:
        self.cluster = cluster
        self._random = cluster.engine.randomness("operator")
        self._every_s = every_s
        self._revisions = 0
        self._going = True
        self._sick: dict[DeploymentKey, None] = {}
        nodes = cluster.nodes
        bounds = Bounds(cluster.engine.randomness("autoscaling"))
        pooled = len(nodes.usable(POOL)) > 0
        self._wishes = Wishes(self._random, nodes=len(nodes.offers), pooled=pooled, bounds=bounds)
        self._asked: deque[Decide] = deque()
        self._specs = {key: self._a_deployment(key, "good") for key in KEYS[:deployments]}

    @property
    def keys(self) -> tuple[DeploymentKey, ...]:
        """The deployments there are."""
        return tuple(self._specs)

    def begin(self) -> None:
        """Deploys, and goes on changing things."""
        self._deploy()
        self.cluster.engine.later(3.0 + self._random.random(), self._next)

    def stop(self) -> None:
        """The last change was made; nothing stays paused or deleted, and only some nodes drained."""
        self._going = False
        for key in self._sick:
            # What falls ill again and again, and what is rolled back to that, has no rest.
            self._specs[key] = self._a_deployment(key, "good")
        self._deploy()
        self._resume()
        for node_id in self.cluster.store.records.nodes:
            if self._random.random() < 0.5:
                self._use_node(node_id)

    def _resume(self) -> None:
        """Lets go on what was paused, or pauses by itself."""
        self.cluster.engine.later(RESUME_S, self._resume)
        for key, record in self.cluster.store.records.deployments.items():
            if record.paused and not record.deleting:
                self.ask(partial(deploy.pause, key=key, paused=False))

    def ask(self, decide: Decide) -> None:
        """Has the controller decide, in the order of asking, as soon as there is one. What it refuses is noted."""
        self._asked.append(decide)
        if len(self._asked) == 1:
            self._ask()

    def _ask(self) -> None:
        while self._asked:
            generation = self._generation
            if not self._tell(self._asked[0]):
                break
            self._repeat(self._asked.popleft(), generation)
        if self._asked:
            self.cluster.engine.later(0.5, self._ask)

    def _tell(self, decide: Decide) -> bool:
        """Says whether the controller answered."""
        controller = self.cluster.controller
        if controller is None or controller.stopped:
            return False
        try:
            return controller.change(decide)
        except ServeError as error:
            self.cluster.engine.note(f"refused: {type(error).__name__}")
            return True

    def _repeat(self, decide: Decide, generation: int) -> None:
        """Lets it arrive once more; whoever asked goes on. To go back is not to do twice, and nobody repeats it."""
        network = self.cluster.network
        what = decide.func if isinstance(decide, partial) else decide
        if what is deploy.roll_back or not network.is_repeated():
            return
        if what is deploy.deploy:
            late = partial(decide, expected_generation=generation)
            self.cluster.engine.later(network.strays_s(), partial(self._strays, late))
        else:
            self._tell(decide)

    def _strays(self, decide: Decide) -> None:
        self._tell(decide)

    @property
    def _generation(self) -> int:
        application = self.cluster.store.records.applications.get(APPLICATION)
        return application.generation if application is not None else 0

    def not_deployed(self) -> str:
        """What the operator wants and the records do not say; empty if they say all of it."""
        records = self.cluster.store.records.deployments
        for key, spec in self._specs.items():
            record = records.get(key)
            # How many there are is nobody's wish where they scale by themselves, and stays so where that is gone back upon.
            scales = record is not None and (spec.autoscaling or record.target_spec.autoscaling)
            if record is None or (not scales and record.num_replicas != spec.num_replicas):
                return f"{key} is not recorded as it was deployed last"
            newest = {kept.spec.import_path for kept in record.revisions}
            if spec.import_path not in newest:
                return f"{key} has no revision with {spec.import_path}"
        return ""

    def _next(self) -> None:
        if not self._going:
            return
        self.cluster.engine.later(self._random.expovariate(1 / self._every_s), self._next)
        key = self.keys[self._random.randrange(len(self._specs))]
        lot = self._random.random()
        self.cluster.engine.note(f"operator {lot:.2f} {key}")
        if lot < 0.45:
            behaviours = GENTLE if self.cluster.calm else ROUGH
            behaviour = behaviours[self._random.randrange(len(behaviours))]
            self._specs[key] = self._a_deployment(key, behaviour, behaviours)
            spec = self._specs[key]
            if "sick" in (behaviour_of(spec), *(behaviour_of(actor) for actor in spec.actors)):
                self._sick[key] = None
            self._deploy()
        elif lot < 0.60:
            self._scale(key)
        elif lot < 0.70:
            self._specs[key] = self._wishes.in_place(self._specs[key])
            self._deploy()
        elif lot < 0.77:
            self.ask(partial(deploy.pause, key=key, paused=self._random.random() < 0.5))
        elif lot < 0.82:
            self._ask_for_a_state(key)
        elif lot < 0.88:
            self.ask(partial(deploy.roll_back, key=key))
        elif lot < 0.95:
            self._drain_or_use_a_node()
        else:
            self.ask(partial(deploy.delete, application=key.application))
            self.cluster.engine.later(6.0 * self._random.random(), self._deploy)

    def _ask_for_a_state(self, key: DeploymentKey) -> None:
        controller, actors = self.cluster.controller, self._specs[key].actors
        if controller is not None and not controller.stopped and actors:
            try:
                controller.states.request(key, self._random.choice(actors).name)
            except ServeError as error:
                self.cluster.engine.note(f"refused: {type(error).__name__}")

    def _drain_or_use_a_node(self) -> None:
        nodes = [offer.node_id for offer in self.cluster.nodes.offers]
        drained = self.cluster.store.records.nodes
        node_id = self._random.choice(nodes)
        if node_id in drained:
            self._use_node(node_id)
            return
        if len(drained) + 1 < len(nodes):
            # What a deadline ends goes without a replacement: not where nothing is to fail.
            hurries = not self.cluster.calm and self._random.random() < 0.4
            deadline_s = 15.0 * self._random.random() if hurries else None
            now = self.cluster.engine.now
            self.ask(partial(drain_node, known=nodes, node_id=node_id, now=now, deadline_s=deadline_s))

    def _use_node(self, node_id: NodeId) -> None:
        self.ask(partial(undrain_node, known=(node_id,), node_id=node_id, now=self.cluster.engine.now))

    def _a_deployment(
        self, key: DeploymentKey, behaviour: str, behaviours: Sequence[str] = ("good",)
    ) -> DeploymentSpec:
        self._revisions += 1
        return self._wishes.deployment(key, f"app:{behaviour}_{self._revisions}", behaviours=behaviours)

    def _deploy(self) -> None:
        spec = ApplicationSpec(name=APPLICATION, ingress="main", deployments=tuple(self._specs.values()))
        self.cluster.engine.note(f"deploy {[one.import_path for one in spec.deployments]}")
        self.ask(partial(deploy.deploy, spec=spec, now=self.cluster.engine.now))

    def _scale(self, key: DeploymentKey) -> None:
        number = self._wishes.num_replicas(self._specs[key].gang)
        if self._specs[key].autoscaling is None:
            self._specs[key] = replace(self._specs[key], num_replicas=number)
        self.ask(partial(deploy.scale, key=key, num_replicas=number))
