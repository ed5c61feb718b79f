import pytest

from router.config import RouterConfig
from serve_core.errors import ConfigInvalidError


def test_defaults() -> None:
    config = RouterConfig(controller="localhost:7070", router_id="r1")
    assert (config.host, config.port, config.http_port) == ("127.0.0.1", 8000, 8080)
    assert config.max_message_bytes == 64 * 1024 * 1024
    assert config.drain_timeout_s == 30.0
    assert config.connection_age_s * 1.1 < config.linger_timeout_s, "clients have the time to leave"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigInvalidError) as raised:
        RouterConfig(
            controller="nowhere",
            router_id="",
            host="",
            port=70000,
            http_port=-1,
            max_message_bytes=1,
            workers=0,
            worker=1,
            drain_timeout_s=-1.0,
            linger_timeout_s=-1.0,
            quiet_s=-1.0,
            connection_age_s=-1.0,
        )
    assert [violation.field for violation in raised.value.violations] == [
        "controller",
        "router_id",
        "host",
        "port",
        "http_port",
        "max_message_bytes",
        "workers",
        "worker",
        "drain_timeout_s",
        "linger_timeout_s",
        "quiet_s",
        "connection_age_s",
    ]


@pytest.mark.parametrize("controller", ["", "host", "host:", ":7070", "host:x", "host:0", "host:70000"])
def test_a_controller_has_an_address(controller: str) -> None:
    with pytest.raises(ConfigInvalidError, match="controller"):
        RouterConfig(controller=controller, router_id="r1")


def test_the_servers_need_a_port_each() -> None:
    with pytest.raises(ConfigInvalidError, match="gRPC port too"):
        RouterConfig(controller="h:1", router_id="r1", port=9000, http_port=9000)
    assert RouterConfig(controller="h:1", router_id="r1", port=0, http_port=0).port == 0
