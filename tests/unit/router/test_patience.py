import pytest

from router.core.queue import patience_s


@pytest.mark.parametrize(("left_s", "expected_s"), [(10.0, 9.95), (0.5, 0.45), (0.1, 0.09), (0.0, 0.0)])
def test_a_refusal_arrives_before_the_caller_gives_up(left_s: float, expected_s: float) -> None:
    assert patience_s(left_s) == pytest.approx(expected_s)
