"""Servers, channels, deadlines, status codes and descriptors: the only room that knows gRPC.

    async with serve([network_service(handler), monitor_connection(handler)], [url]) as server: ...
    async with dial(url, timeout_s=0.75) as channel:
        connection = await NextHop(channel).request(request, timeout_s=15)

Handlers are plain objects: they take and return messages, raise exceptions of
`forwarder.errors`, and get a Call that tells deadline, peer and metadata.
"""

from forwarder.rpc.address import Address
from forwarder.rpc.call import Call
from forwarder.rpc.channel import Channel, Credentials, dial
from forwarder.rpc.channels import Channels
from forwarder.rpc.descriptors import Descriptors, PassThrough, held_socket
from forwarder.rpc.next_hop import Events, NextHop
from forwarder.rpc.registry import Found, NetworkServiceEndpointRegistry, NetworkServiceRegistry, Registered
from forwarder.rpc.server import Server, serve
from forwarder.rpc.services import (
    MonitorHandler,
    NetworkServiceHandler,
    Service,
    monitor_connection,
    network_service,
)
from forwarder.rpc.workload_api import WorkloadApi, WorkloadHandler, workload_api

__all__ = [
    "Address",
    "Call",
    "Channel",
    "Channels",
    "Credentials",
    "Descriptors",
    "Events",
    "Found",
    "MonitorHandler",
    "NetworkServiceEndpointRegistry",
    "NetworkServiceHandler",
    "NetworkServiceRegistry",
    "NextHop",
    "PassThrough",
    "Registered",
    "Server",
    "Service",
    "WorkloadApi",
    "WorkloadHandler",
    "dial",
    "held_socket",
    "monitor_connection",
    "network_service",
    "serve",
    "workload_api",
]
