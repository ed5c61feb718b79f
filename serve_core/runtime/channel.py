"""Channels to our own servers."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES

MAX_METADATA_BYTES = 64 * 1024
"""The largest metadata of one message, on every hop: users' own metadata passes through unchanged."""

KEEPALIVE_TIME_S = 30.0
"""How long a connection may be silent before a side asks whether the other is still there."""

KEEPALIVE_TIMEOUT_S = 10.0
"""How long the other side may take to answer that."""

TRY_TIMEOUT_S = 5.0
"""How long a server may take to greet who connects."""


def message_limit(max_message_bytes: int) -> int:
    """The size of a message that gRPC itself refuses; see ``size_options``."""
    return min(2 * max_message_bytes, 2**31 - 1)


def size_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """The limits of messages and metadata, for both ends.

    gRPC's own limit is twice what is configured: headroom for our envelopes, so that whoever takes a request can refuse
    one that is too large with a reason, which gRPC's own refusal lacks.
    """
    limit = message_limit(max_message_bytes)
    return [
        ("grpc.max_send_message_length", limit),
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    ]


def probe_options(*, probes_bandwidth: bool) -> list[tuple[str, int]]:
    """Whether a side looks how much a connection can carry, for both ends.

    gRPC sends a ping along with data for that, and widens its windows by what comes back. Where only small messages travel,
    that is half of what they cost.
    """
    return [] if probes_bandwidth else [("grpc.http2.bdp_probe", 0)]


def channel_options(max_message_bytes: int, *, probes_bandwidth: bool = True) -> list[tuple[str, int]]:
    """The options of every channel between our own processes."""
    return [
        *size_options(max_message_bytes),
        *probe_options(probes_bandwidth=probes_bandwidth),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_TIME_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A delivered request is never repeated behind our back.
        ("grpc.enable_retries", 0),
        # A server that is back is found at once, and one that is away does not fill the log.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # The time that one try has, whatever its name: a server that gets no CPU for a while is there.
        ("grpc.min_reconnect_backoff_ms", int(TRY_TIMEOUT_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Channels of one process share no connection: closing one says nothing about another.
        ("grpc.use_local_subchannel_pool", 1),
        # Our addresses are inside the cluster: neither a proxy of the environment nor service configs of a DNS apply.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]


def open_channel(
    address: str, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES, probes_bandwidth: bool = True
) -> grpc.aio.Channel:
    """A channel to one of our own servers, over plain text. Connects when first used, or by ``wait_ready``.

    Args:
        address: ``HOST:PORT``.
        max_message_bytes: The configured limit of one message.
        probes_bandwidth: See ``probe_options``.
    """
    options = channel_options(max_message_bytes, probes_bandwidth=probes_bandwidth)
    return grpc.aio.insecure_channel(address, options=options)


async def wait_ready(channel: grpc.aio.Channel, timeout_s: float, *, fail_fast: bool = False) -> bool:
    """Connect, and wait until the channel is READY.

    Args:
        channel: One of ``open_channel``.
        timeout_s: Seconds to wait at most. With 0 the answer is the state of now.
        fail_fast: Give up when the latest try to connect has failed, rather than trying until ``timeout_s``.

    Returns:
        Whether it is READY. False also when the channel is closed.
    """
    state = channel.get_state(try_to_connect=True)
    if state is grpc.ChannelConnectivity.READY or timeout_s <= 0:
        return state is grpc.ChannelConnectivity.READY
    try:
        async with asyncio.timeout(timeout_s):
            return await _until_ready(channel, state, fail_fast=fail_fast)
    except TimeoutError:
        return False


async def _until_ready(channel: grpc.aio.Channel, state: grpc.ChannelConnectivity, *, fail_fast: bool) -> bool:
    while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.SHUTDOWN):
        # gRPC keeps this state from a failed try until one succeeds, also while it tries again.
        if fail_fast and state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return False
        try:
            await channel.wait_for_state_change(state)
        except grpc.aio.UsageError:  # closed meanwhile
            return False
        state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY
