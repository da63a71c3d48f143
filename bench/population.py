"""Many vWires in one data plane: memif ones with clients that are connected, kernel ones with links."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import Driven, compiled, driven
from bench.trees import Tree
from tests.support.netns import Netns, network_namespaces

LOG2_RING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """A data plane, and the namespaces of its links: `aN` here goes to `pN` left, `bN` to `pN` right."""

    tree: Tree
    scratch: Path
    ours: Driven
    node: Netns
    left: Netns
    right: Netns
    stack: ExitStack

    def memif(self, first: int, last: int) -> float:
        """Sets up vWires between memif servers, with clients that stay connected; returns the seconds."""
        log = self.scratch / f"clients-{first}.log"
        self.ours.tell("servers", self.scratch, first, last, LOG2_RING)
        self.stack.enter_context(driven([compiled("clients"), str(self.scratch), str(first), str(last)], log))
        return self.ours.answer("servers")[0]

    def kernel(self, first: int, last: int) -> float:
        """Makes links and sets up vWires between them; returns the seconds of the latter."""
        lines = []
        for number in range(first, last):
            for end, pod in (("a", self.left), ("b", self.right)):
                name, peer = f"{end}{number}", f"p{number}"
                lines.append(f"link add {name} type veth peer name {peer} netns /proc/self/fd/{pod.fd}")
                lines.append(f"link set {name} up arp off multicast off")
        batch(self.node, lines, self.left, self.right)
        for pod in (self.left, self.right):
            batch(pod, [f"link set p{number} up" for number in range(first, last)])
        return self.ours.ask("kernel", first, last)[0]


def batch(netns: Netns, lines: list[str], *others: Netns) -> None:
    """Has `ip` do many things in a namespace."""
    fds = [netns.fd, *(other.fd for other in others)]
    subprocess.run(netns.argv("ip", "-batch", "-"), input="\n".join(lines), text=True, pass_fds=fds, check=True)


@contextmanager
def population(tree: Tree) -> Iterator[Population]:
    """Starts an empty data plane in a namespace of its own."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        node, left, right = stack.enter_context(network_namespaces(3))
        for netns in (node, left, right):  # or every link would announce itself to a vWire that is meant to be idle
            netns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
        options = {"env": tree.environment(), "pass_fds": (node.fd,)}
        ours = stack.enter_context(driven(node.argv(*tree.ours("vwires")), scratch / "ours.log", **options))
        ours.answer("ready")
        yield Population(tree=tree, scratch=scratch, ours=ours, node=node, left=left, right=right, stack=stack)
