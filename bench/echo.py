"""A gRPC server that answers every Request with its connection, and does nothing: python -m bench.echo SOCKET."""

import asyncio
import sys

import grpc

from forwarder.api import connection_pb2, networkservice_pb2
from forwarder.rpc import networkservice_pb2_grpc


class Echo(networkservice_pb2_grpc.NetworkServiceServicer):
    """Answers."""

    async def Request(  # noqa: N802 - gRPC's name
        self, request: networkservice_pb2.NetworkServiceRequest, context: object
    ) -> connection_pb2.Connection:
        return request.connection


async def main(socket: str) -> None:
    """Serves until the process is ended."""
    server = grpc.aio.server()
    networkservice_pb2_grpc.add_NetworkServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
