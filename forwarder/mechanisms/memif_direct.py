"""The memif datapath: two applications on this node share memory, and we only introduce them.

NSM calls it direct memif. Towards the caller we listen where the MEMIF mechanism would; who
connects there is relayed to the endpoint's socket. Nobody counts the frames, and none passes
through us.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.api.mechanisms import Memif
from forwarder.dataplane.memif_relay import MemifRelay, MemifTarget, open_memif_relay
from forwarder.mechanisms import Broken, memif_place
from forwarder.mechanisms.memif_place import MemifEnd, Place


class _Listening(MemifEnd):
    """The caller's side: applications connect here."""

    def __init__(self, connection: Connection, place: Place, relay: MemifRelay) -> None:
        super().__init__(Side.CLIENT, connection, place, relay.address)
        self.relay = relay


class DirectMemifJoint:
    """Two sides whose applications are relayed to each other."""

    def statistics(self) -> None:
        """Returns None: the frames are the applications' own."""
        return


class DirectMemif:
    """Joins MEMIF to MEMIF on one node."""

    name = "memif"
    keeps_client = False

    def __init__(self, *, directory: str = "") -> None:
        """`directory` starts the names of our sockets; TMPDIR, or /tmp, when empty."""
        self._directory = directory or memif_place.default_directory()

    def carries(self, client: str, endpoint: str) -> bool:
        """Says whether both are MEMIF."""
        return client == endpoint == constants.MEMIF

    @asynccontextmanager
    async def open(self, side: Side, connection: Connection) -> AsyncIterator[MemifEnd]:
        """Listens for the caller's application; finds the endpoint's namespace, and does not connect yet.

        Raises InvalidRequest for a namespace that is not there, NetlinkError when it may not be
        entered, DataplaneError when the socket cannot be made.
        """
        memif_place.check(connection.mechanism, side)
        view = Memif(connection.mechanism)
        async with AsyncExitStack() as stack:
            place = await Place.find(view.inode_url)
            stack.callback(place.close)
            if side is Side.ENDPOINT:
                yield MemifEnd(side, connection, place, place.target(view))
                return

            async def listen(address: str) -> MemifRelay:
                return await stack.enter_async_context(open_memif_relay(address, place.descriptor))

            relay = await place.listen(self._directory, connection.id, listen)
            place.tell(connection, relay.address)
            yield _Listening(connection, place, relay)

    @asynccontextmanager
    async def join(
        self, client: _Listening, endpoint: MemifEnd, *, name: str, broken: Broken
    ) -> AsyncIterator[DirectMemifJoint]:
        """Relays who connects to the endpoint's socket. Nothing of it is ever broken for good."""
        del name, broken
        async with client.relay.towards(MemifTarget(address=endpoint.address, netns=endpoint.place.descriptor)):
            yield DirectMemifJoint()
