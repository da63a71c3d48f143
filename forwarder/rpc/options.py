"""gRPC's tuning, in one place.

Names and defaults: grpc/impl/channel_arg_names.h.
"""

from typing import Final

MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest message taken; what grpc-go takes too."""

_MESSAGES: Final[list[tuple[str, int]]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # Room for one from the beginning; otherwise gRPC learns how much is needed by a ping with each message.
    ("grpc.http2.lookahead_bytes", MESSAGE_BYTES),
    ("grpc.http2.bdp_probe", 0),
]

CHANNEL: Final[list[tuple[str, int]]] = [
    *_MESSAGES,
    # A channel is one connection: descriptors and identities belong to it.
    ("grpc.use_local_subchannel_pool", 1),
    # The mesh's addresses are not for a web proxy.
    ("grpc.enable_http_proxy", 0),
    # A Request is repeated by whoever made it, who knows whether that is right.
    ("grpc.enable_retries", 0),
    # Dial timeouts are below a second; the defaults are one second and two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # In spite of its name, how long an attempt may take: until the server's first frame is there,
    # however far or busy it is. Whoever dials has a limit of his own.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    # A dead peer is noticed on a quiet stream. grpc-go drops clients that ping more often than
    # every five minutes.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER: Final[list[tuple[str, int]]] = [
    *_MESSAGES,
    # Two servers on one port would take turns.
    ("grpc.so_reuseport", 0),
    # Streams of a caller that vanished are noticed by us.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
