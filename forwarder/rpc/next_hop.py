"""The next server on a connection's path, called over a channel."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import grpc

from forwarder.api.connection_pb2 import Connection, ConnectionEvent, MonitorScopeSelector
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.errors import InvalidRequest, RemoteProtocolError
from forwarder.rpc import descriptors, status
from forwarder.rpc.channel import Channel
from forwarder.rpc.connection_pb2_grpc import MonitorConnectionStub
from forwarder.rpc.networkservice_pb2_grpc import NetworkServiceStub


class NextHop:
    """Makes a connection's RPCs. Messages given are left unchanged; what comes back is new."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._service = NetworkServiceStub(channel.grpc)
        self._monitor = MonitorConnectionStub(channel.grpc)

    async def request(self, request: NetworkServiceRequest, *, timeout_s: float | None = None) -> Connection:
        """Asks for a connection and returns what was agreed.

        `timeout_s` goes along as the deadline; None means none. A namespace given as `file://`
        is sent as `inode://`, and comes back as it was given. One that the server sent the file of
        comes as `file:///proc/<pid>/fd/<n>`: `Channels.kept` says for how long.
        Raises NextHopError with the server's status and detail, and RemoteProtocolError if the answer
        names a namespace that cannot be meant; the connection is closed again then.
        """
        request = copy(request)
        offered = [*request.mechanism_preferences]
        if request.connection.HasField("mechanism"):
            offered.append(request.connection.mechanism)
        files = self._channel.files(request.connection.id, timeout_s)
        with files.kept():
            mapping = descriptors.send(files, offered)
            try:
                connection = await self._service.Request(request, timeout=timeout_s, metadata=self._channel.metadata())
            except grpc.aio.AioRpcError as error:
                raise status.next_hop_error(error, f"Request to {self._channel.address}") from error
            if connection.HasField("mechanism") and not descriptors.restore(mapping, connection.mechanism):
                try:
                    await descriptors.receive(files, [connection.mechanism])
                except InvalidRequest as error:
                    await self.close(connection, timeout_s=timeout_s)
                    raise RemoteProtocolError(
                        f"Request to {self._channel.address} was answered with an unusable mechanism",
                        detail=str(error),
                    ) from error
            return connection

    async def close(self, connection: Connection, *, timeout_s: float | None = None) -> None:
        """Closes a connection.

        Raises NextHopError with the server's status and detail.
        """
        connection = copy(connection)
        if connection.HasField("mechanism"):
            descriptors.send(self._channel.files(connection.id), [connection.mechanism])
        try:
            await self._service.Close(connection, timeout=timeout_s, metadata=self._channel.metadata())
        except grpc.aio.AioRpcError as error:
            raise status.next_hop_error(error, f"Close to {self._channel.address}") from error

    @asynccontextmanager
    async def monitor(self, selector: MonitorScopeSelector) -> AsyncIterator["Events"]:
        """Opens a stream of events about the connections within `selector`; leaving ends it."""
        stream = self._monitor.MonitorConnections(selector, metadata=self._channel.metadata())
        try:
            yield Events(stream, f"MonitorConnections to {self._channel.address}")
        finally:
            stream.cancel()


class Events:
    """What a monitor is told, one after the other.

    Ends when the server ends the stream; raises NextHopError when the stream breaks. Cancelling
    whoever waits for the next event ends the stream too.
    """

    def __init__(self, stream: "grpc.aio.UnaryStreamCall[MonitorScopeSelector, ConnectionEvent]", what: str) -> None:
        self._stream = stream
        self._what = what

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConnectionEvent:
        try:
            event = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise status.next_hop_error(error, self._what) from error
        if not isinstance(event, ConnectionEvent):
            raise StopAsyncIteration
        return event
