"""How a deployment scales by itself, as the code and the file say it."""

from __future__ import annotations

import pytest

from serve_core.config.autoscaling import AutoscalingModel
from serve_core.errors import ConfigInvalidError
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.spec import DeploymentSpec
from serve_core.options import AutoscalingOptions
from serve_core.specs import make_spec


def _spec(**options: object) -> DeploymentSpec:
    return make_spec("A", "m:A", options, (), {})


def _wrong(**options: object) -> str:
    with pytest.raises(ConfigInvalidError) as caught:
        _spec(**options)
    return str(caught.value)


def test_the_code_and_the_file_say_the_same() -> None:
    assert set(AutoscalingModel.model_fields) == set(AutoscalingOptions.__annotations__)


def test_what_is_not_said_is_as_specified() -> None:
    spec = _spec(autoscaling={"max_replicas": 4})
    assert (spec.autoscaling, spec.num_replicas) == (AutoscalingPolicy(max_replicas=4), 1)
    assert _spec().autoscaling is None
    assert _spec(autoscaling=None).autoscaling is None


@pytest.mark.parametrize(
    ("given", "size", "num_replicas"),
    [
        ({"max_replicas": 8}, 4, 4),
        ({"min_replicas": 0, "max_replicas": 8}, 1, 1),
        ({"min_replicas": 0, "max_replicas": 8}, 2, 2),
        ({"min_replicas": 6, "max_replicas": 8}, 2, 6),
    ],
)
def test_it_begins_with_the_fewest_but_one_gang(given: dict[str, int], size: int, num_replicas: int) -> None:
    assert _spec(autoscaling=given, gang={"size": size}).num_replicas == num_replicas


def test_what_it_begins_with_may_be_said() -> None:
    assert _spec(num_replicas=3, autoscaling={"max_replicas": 4}).num_replicas == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"autoscaling": {}}, "autoscaling.max_replicas: is missing"),
        ({"autoscaling": {"max_replica": 2, "max_replicas": 2}}, "did you mean 'max_replicas'"),
        ({"autoscaling": {"min_replicas": 4, "max_replicas": 2}}, "max_replicas (2) is below min_replicas (4)"),
        ({"autoscaling": {"max_replicas": 5}, "gang": {"size": 2}}, "the nearest are 4 and 6"),
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 8}, "gang": {"size": 4}}, "the nearest are 0 and 4"),
        ({"autoscaling": {"max_replicas": 2}, "num_replicas": 3}, "3 is not from autoscaling.min_replicas = 1"),
        ({"autoscaling": {"max_replicas": 2, "target_ongoing_requests": 0}}, "autoscaling.target_ongoing_requests"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    assert said in _wrong(**options)
