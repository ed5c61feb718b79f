"""The command line of a replica."""

from __future__ import annotations

import pytest

from replica.config import parse
from serve_core.model.bundles import BUNDLES_ENV, ChildBundle, bundles_text
from serve_core.model.resources import Resources
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES

NEEDED = ["--controller", "127.0.0.1:7070", "--replica-id", "a.b.c-0", "--epoch", "4"]


def test_defaults() -> None:
    config = parse(NEEDED, {})
    assert (config.controller, config.replica_id, config.epoch) == ("127.0.0.1:7070", "a.b.c-0", 4)
    assert (config.host, config.port, config.node_id, config.die_with) == ("127.0.0.1", 0, "node-0", 0)
    assert config.max_message_bytes == DEFAULT_MAX_MESSAGE_BYTES
    assert config.orphan_timeout_s == 3600


def test_every_flag_is_an_environment_variable_and_goes_before_it() -> None:
    environ = {
        "SERVE_CORE_REPLICA_CONTROLLER": "host:1",
        "SERVE_CORE_REPLICA_REPLICA_ID": "r",
        "SERVE_CORE_REPLICA_EPOCH": "1",
        "SERVE_CORE_REPLICA_HOST": "0.0.0.0",
        "SERVE_CORE_REPLICA_MAX_MESSAGE_BYTES": "1000",
        "SERVE_CORE_REPLICA_DIE_WITH": "77",
        "SERVE_CORE_REPLICA_NODE_ID": "n",
        "SERVE_CORE_REPLICA_ORPHAN_TIMEOUT_S": "0.5",
    }
    config = parse(["--epoch", "2"], environ)
    assert (config.controller, config.epoch, config.host) == ("host:1", 2, "0.0.0.0")
    assert (config.max_message_bytes, config.die_with, config.node_id) == (1000, 77, "n")
    assert config.orphan_timeout_s == 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--controller"),
        ([*NEEDED, "--controller", "nowhere"], "HOST:PORT"),
        ([*NEEDED, "--epoch", "-1"], "0 or more"),
        ([*NEEDED, "--port", "x"], "0 or more"),
        ([*NEEDED, "--max-message-bytes", "0"], "above 0"),
        ([*NEEDED, "--log-format", "xml"], "invalid choice"),
        ([*NEEDED, "--orphan-timeout-s", "-1"], "0 or more"),
        ([*NEEDED, "--orphan-timeout-s", "nan"], "0 or more"),
        ([*NEEDED, "--orphan-timeout-s", "soon"], "0 or more"),
        ([*NEEDED, "--no-such-flag"], "unrecognized"),
    ],
)
def test_wrong_use_exits_2_with_the_reason(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments, {})
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_bad_environment_variable_is_wrong_use_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(NEEDED[:-2], {"SERVE_CORE_REPLICA_EPOCH": "soon"})
    assert caught.value.code == 2


def test_what_children_may_use_comes_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    bundles = (
        ChildBundle(resources=Resources(cpus=2.0, gpus=0.5, memory_bytes=7, custom={"disk": 1.0}), gpu_ids=("GPU-3",)),
        ChildBundle(resources=Resources()),
    )
    assert parse(NEEDED, {}).bundles == ()
    assert parse(NEEDED, {BUNDLES_ENV: bundles_text(bundles)}).bundles == bundles
    for garbage in ("{", "7", "[7]", "[{}]", '[{"gpu_ids": [], "cpu": 1}]'):
        with pytest.raises(SystemExit):
            parse(NEEDED, {BUNDLES_ENV: garbage})
        assert BUNDLES_ENV in capsys.readouterr().err
