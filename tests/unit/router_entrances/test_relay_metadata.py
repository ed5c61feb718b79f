import pytest

from router.limits import check_size
from router.relay import MetadataPair, parted
from serve_core.errors import MessageTooLargeError


def test_users_own_metadata_passes_in_order_and_with_duplicates() -> None:
    pairs: list[MetadataPair] = [("a", "1"), ("b-bin", b"\0\xff"), ("a", "2"), ("authorization", "Bearer x")]
    assert parted(pairs) == ({}, pairs)


def test_tracing_passes() -> None:
    pairs: list[MetadataPair] = [("traceparent", "00-1-2-01"), ("grpc-trace-bin", b"x"), ("x-request-id", "r")]
    assert parted(pairs) == ({"x-request-id": "r"}, pairs)


@pytest.mark.parametrize(
    "key",
    [
        "user-agent",
        "te",
        "content-type",
        "host",
        "connection",
        ":authority",
        "grpc-timeout",
        "grpc-previous-rpc-attempts",
        "serve-core-app",
        "serve-core-slot",
        "serve-core-slots",
        "serve-core-owner",
        "serve-core-replica",
    ],
)
def test_what_belongs_to_the_hop_or_to_us_stays(key: str) -> None:
    assert parted([(key, "x"), ("kept", "y")]) == ({key: "x"}, [("kept", "y")])


def test_of_what_is_asked_twice_the_last_counts() -> None:
    pairs: list[MetadataPair] = [("serve-core-slots", "1"), ("x-request-id", "a"), ("serve-core-slots", "2")]
    assert parted([*pairs, ("x-request-id", "b")])[0] == {"serve-core-slots": "2", "x-request-id": "b"}


def test_a_message_up_to_the_limit_passes() -> None:
    check_size(b"x" * 10, 10, what="request")
    with pytest.raises(MessageTooLargeError, match="the request of 11 bytes is larger than the 10 bytes") as raised:
        check_size(b"x" * 11, 10, what="request")
    assert raised.value.details == {"size": "11", "maxMessageBytes": "10"}
