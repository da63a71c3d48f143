"""Point-to-point addresses: one pair per connection, out of an endpoint's prefixes.

```
prefix 172.16.1.100/30        free: .100 .101 .102 .103
  connection c1  ->  dst 172.16.1.100 (endpoint)  src 172.16.1.101 (client)
  connection c2  ->  dst 172.16.1.102             src 172.16.1.103
```

Prefixes come in groups. Every group gives each connection one pair, from its first prefix
that still has room, so that an IPv4 group and an IPv6 group make a dual-stack connection.
Nothing here does input or output.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer

from forwarder.api import connectioncontext_pb2 as context_pb
from forwarder.errors import ConfigError, RequestError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Span = tuple[int, int]
"""First and last address of a range, as numbers."""


class Policy(Enum):
    """What becomes of addresses in a request that are not the endpoint's own."""

    POLITE = "polite"
    """They stay: another endpoint on the way gave them."""
    STRICT = "strict"
    """They are dropped."""


class AddressPool:
    """The free addresses of one prefix, as a sorted list of spans.

    Costs memory for what is taken, not for the size of the prefix.
    """

    def __init__(self, prefix: Network) -> None:
        self.prefix = prefix
        self._address = type(prefix.network_address)
        self._free: list[Span] = [(int(prefix.network_address), int(prefix.broadcast_address))]

    def pair(self, excluded: Sequence[Span] = ()) -> tuple[Address, Address] | None:
        """Takes the two lowest free addresses outside `excluded`; None if there are no two.

        `excluded` is sorted and does not overlap itself.
        """
        lowest = self._lowest(excluded)
        first = next(lowest, None)
        second = next(lowest, None)
        if first is None or second is None:
            return None
        for number in (first, second):
            self._take(number)
        return self._address(first), self._address(second)

    def take(self, address: Address) -> bool:
        """Takes one given address; False if it is not of this prefix or not free."""
        return address in self.prefix and self._take(int(address))

    def give_back(self, address: Address) -> None:
        """Makes a taken address free again."""
        number = int(address)
        at = bisect_right(self._free, (number, -1))
        before = self._free[at - 1] if at else None
        after = self._free[at] if at < len(self._free) else None
        first = last = number
        low, high = at, at
        if before is not None and before[1] == number - 1:
            first, low = before[0], at - 1
        if after is not None and after[0] == number + 1:
            last, high = after[1], at + 1
        self._free[low:high] = [(first, last)]

    def _take(self, number: int) -> bool:
        at = bisect_right(self._free, (number, _BEYOND)) - 1
        if at < 0 or not self._free[at][0] <= number <= self._free[at][1]:
            return False
        first, last = self._free[at]
        rest = []
        if first < number:
            rest.append((first, number - 1))
        if number < last:
            rest.append((number + 1, last))
        self._free[at : at + 1] = rest
        return True

    def _lowest(self, excluded: Sequence[Span]) -> Iterator[int]:
        """Yields free addresses outside `excluded`, lowest first."""
        at = 0
        for first, last in self._free:
            number = first
            while number <= last:
                while at < len(excluded) and excluded[at][1] < number:
                    at += 1
                if at < len(excluded) and excluded[at][0] <= number:
                    number = excluded[at][1] + 1
                    continue
                yield number
                number += 1


_BEYOND = 1 << 129
"""Larger than every address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two ends of a connection, and the pool they came from."""

    dst: Address
    """The endpoint's."""
    src: Address
    """The client's."""
    pool: AddressPool


class PointToPointIpam:
    """Gives each connection its pairs, keyed by connection id."""

    def __init__(self, groups: Sequence[Sequence[str]], policy: Policy = Policy.POLITE) -> None:
        """Raises ConfigError for a prefix that is none, or that overlaps another one."""
        self._policy = policy
        self._groups = [[AddressPool(_prefix(text)) for text in group] for group in groups]
        self._pools = [pool for group in self._groups for pool in group]
        self._pairs: dict[str, list[Pair]] = {}
        for i, pool in enumerate(self._pools):
            for other in self._pools[:i]:
                if pool.prefix.version == other.prefix.version and pool.prefix.overlaps(other.prefix):
                    raise ConfigError(f"address prefix {pool.prefix} overlaps {other.prefix}")

    def assign(self, connection_id: str, context: context_pb.IPContext) -> None:
        """Writes the connection's addresses and routes into `context`.

        A known connection keeps its pairs unless one became excluded. An unknown one takes
        back the pair it brings along, if that is ours and free (we restarted), else the lowest
        free pair. Entries that are there already are not repeated.
        Raises RequestError when a group has no room; then nothing is taken and `context` is
        unchanged.
        """
        excluded = _spans(context.excluded_prefixes)
        known = self._pairs.get(connection_id)
        if known is not None and not any(_is_excluded(pair, excluded) for pair in known):
            pairs = known
        else:
            pairs = self._renew(connection_id, context, excluded, known or [])
            self._pairs[connection_id] = pairs
        self._drop_foreign(context, pairs)
        for pair in pairs:
            _append(context.dst_ip_addrs, _host(pair.dst))
            _append(context.src_ip_addrs, _host(pair.src))
            _append_route(context.src_routes, _host(pair.dst))
            _append_route(context.dst_routes, _host(pair.src))

    def release(self, connection_id: str) -> None:
        """Frees the connection's addresses; an unknown id is fine."""
        for pair in self._pairs.pop(connection_id, []):
            _give_back(pair)

    def _renew(
        self,
        connection_id: str,
        context: context_pb.IPContext,
        excluded: dict[int, list[Span]],
        known: list[Pair],
    ) -> list[Pair]:
        """Takes one pair per group, keeping those of `known` that are not excluded."""
        kept = {id(pair.pool): pair for pair in known if not _is_excluded(pair, excluded)}
        pairs: list[Pair] = []
        taken: list[Pair] = []
        for group in self._groups:
            pair = next((kept[id(pool)] for pool in group if id(pool) in kept), None)
            if pair is None:
                pair = self._recover(group, context, excluded) or _lowest_pair(group, excluded)
                if pair is None:
                    for other in taken:
                        _give_back(other)
                    prefixes = ", ".join(str(pool.prefix) for pool in group)
                    raise RequestError(
                        f"two addresses of {prefixes or 'an empty group'} for connection {connection_id}",
                        detail="none are free",
                        hint="addresses in use or excluded by the client leave no room",
                    )
                taken.append(pair)
            pairs.append(pair)
        for pair in known:
            if pair not in pairs:
                _give_back(pair)
        return pairs

    def _recover(
        self, group: Sequence[AddressPool], context: context_pb.IPContext, excluded: dict[int, list[Span]]
    ) -> Pair | None:
        """Takes the pair that the request brings along, if it is ours and free."""
        for pool in group:
            dst = next((a for a in _hosts(context.dst_ip_addrs) if a in pool.prefix), None)
            src = next((a for a in _hosts(context.src_ip_addrs) if a in pool.prefix), None)
            if dst is None or src is None:
                continue
            pair = Pair(dst=dst, src=src, pool=pool)
            if _is_excluded(pair, excluded) or not pool.take(dst):
                continue
            if pool.take(src):
                return pair
            pool.give_back(dst)
        return None

    def _drop_foreign(self, context: context_pb.IPContext, pairs: list[Pair]) -> None:
        """Removes what the policy does not allow, and what is ours but not this connection's.

        An address of our prefixes that this connection does not hold belongs, or may soon
        belong, to another connection, whatever the policy.
        """
        own = {address for pair in pairs for address in (pair.dst, pair.src)}
        foreign_goes = self._policy is Policy.STRICT

        def unwanted(text: str) -> bool:
            try:
                address = ip_interface(text).ip
            except ValueError:
                return foreign_goes
            if any(address in pool.prefix for pool in self._pools):
                return address not in own
            return foreign_goes

        for addresses in (context.src_ip_addrs, context.dst_ip_addrs):
            addresses[:] = [text for text in addresses if not unwanted(text)]
        for routes in (context.src_routes, context.dst_routes):
            for route in [route for route in routes if _is_host(route.prefix) and unwanted(route.prefix)]:
                routes.remove(route)


def _prefix(text: str) -> Network:
    """Reads a prefix. The address may have host bits when the prefix is written like 172.16.1.100/31."""
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"address prefix {text!r}", detail=str(error)) from error


def _spans(prefixes: Iterable[str]) -> dict[int, list[Span]]:
    """Returns the prefixes as sorted spans that do not overlap, by IP version; what is no prefix is skipped."""
    spans: dict[int, list[Span]] = {4: [], 6: []}
    for text in prefixes:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            continue
        spans[network.version].append((int(network.network_address), int(network.broadcast_address)))
    return {version: _merged(sorted(each)) for version, each in spans.items()}


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in spans:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _is_excluded(pair: Pair, excluded: dict[int, list[Span]]) -> bool:
    return any(
        first <= int(address) <= last for address in (pair.dst, pair.src) for first, last in excluded[address.version]
    )


def _lowest_pair(group: Sequence[AddressPool], excluded: dict[int, list[Span]]) -> Pair | None:
    for pool in group:
        addresses = pool.pair(excluded[pool.prefix.version])
        if addresses is not None:
            return Pair(dst=addresses[0], src=addresses[1], pool=pool)
    return None


def _give_back(pair: Pair) -> None:
    pair.pool.give_back(pair.dst)
    pair.pool.give_back(pair.src)


def _host(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"


def _hosts(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield ip_interface(text).ip
        except ValueError:
            continue


def _is_host(prefix: str) -> bool:
    try:
        network = ip_network(prefix, strict=False)
    except ValueError:
        return False
    return network.prefixlen == network.max_prefixlen


def _append(texts: RepeatedScalarFieldContainer[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def _append_route(routes: RepeatedCompositeFieldContainer[context_pb.Route], prefix: str) -> None:
    if all(route.prefix != prefix for route in routes):
        routes.add(prefix=prefix)
