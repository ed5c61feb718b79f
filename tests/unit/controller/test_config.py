"""The controller's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_core.controller.config import ControllerConfig
from serve_core.errors import ConfigInvalidError


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        ControllerConfig(state_dir=Path("s"), port=70_000, gpus=0.5, cpus=-1.0, max_message_bytes=0)
    assert [violation.field for violation in caught.value.violations] == ["port", "cpus", "gpus", "max_message_bytes"]


@pytest.mark.parametrize(
    ("host", "advertise", "expected"),
    [
        ("127.0.0.1", "", "127.0.0.1"),
        ("0.0.0.0", "", "127.0.0.1"),
        ("::", "", "::1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("0.0.0.0", "node.example", "node.example"),
    ],
)
def test_replicas_get_an_address_that_can_be_connected_to(host: str, advertise: str, expected: str) -> None:
    config = ControllerConfig(state_dir=Path("s"), host=host, advertise_host=advertise)
    assert config.replica_host == expected


def test_the_store_is_in_the_state_folder() -> None:
    assert ControllerConfig(state_dir=Path("s")).store_path == Path("s/store.db")


def test_a_test_configuration_takes_changes(tmp_path: Path) -> None:
    config = ControllerConfig.for_test(tmp_path, cpus=3.0)
    assert (config.port, config.cpus, config.state_dir) == (0, 3.0, tmp_path)
