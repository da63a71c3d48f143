"""The responder answers exactly what is meant for it, and survives everything else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from forwarder.mesh import responder
from forwarder.mesh.responder import Host

MAC, PEER = "02:00:00:00:00:01", "02:00:00:00:00:02"
HOST = Host.of(bytes.fromhex(MAC.replace(":", "")), ["10.0.0.1/32", "fd00::1/128"])


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


def packet_of(frame, layer):
    return layer(frame)


def test_arp_for_our_address_is_answered():
    ask = Ether(src=PEER, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER, psrc="10.0.0.2", pdst="10.0.0.1")
    answer = Ether(HOST.answer_frame(bytes(ask)))
    assert (answer.dst, answer.src) == (PEER, MAC)
    assert (answer[ARP].op, answer[ARP].hwsrc, answer[ARP].psrc) == (2, MAC, "10.0.0.1")
    assert (answer[ARP].hwdst, answer[ARP].pdst) == (PEER, "10.0.0.2")


@pytest.mark.parametrize("change", [{"pdst": "10.0.0.9"}, {"op": 2}, {"hwtype": 6}, {"plen": 5}])
def test_other_arp_is_not_answered(change):
    ask = Ether(src=PEER, dst=MAC) / ARP(hwsrc=PEER, psrc="10.0.0.2", **{"pdst": "10.0.0.1", **change})
    assert HOST.answer_frame(bytes(ask)) is None


@given(st.binary(max_size=1472), st.integers(0, 65535), st.integers(0, 65535))
def test_an_ipv4_echo_comes_back_with_its_data(data, identifier, sequence):
    ask = Ether(src=PEER, dst=MAC) / IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(id=identifier, seq=sequence) / Raw(data)
    raw = HOST.answer_frame(bytes(ask))
    answer = Ether(raw)
    assert (answer.dst, answer.src, answer[IP].src, answer[IP].dst) == (PEER, MAC, "10.0.0.1", "10.0.0.2")
    assert (answer[ICMP].type, answer[ICMP].id, answer[ICMP].seq) == (0, identifier, sequence)
    assert bytes(answer[ICMP].payload) == data
    rebuilt = answer.copy()
    del rebuilt[IP].chksum
    del rebuilt[ICMP].chksum
    assert bytes(rebuilt) == raw


@given(st.binary(max_size=1452), st.integers(0, 65535))
def test_an_ipv6_echo_comes_back_with_its_data(data, sequence):
    ask = IPv6(src="fd00::2", dst="fd00::1") / ICMPv6EchoRequest(id=7, seq=sequence, data=data)
    raw = HOST.answer_packet(bytes(ask))
    answer = IPv6(raw)
    assert (answer.src, answer.dst) == ("fd00::1", "fd00::2")
    assert (answer[ICMPv6EchoReply].seq, answer[ICMPv6EchoReply].data) == (sequence, data)
    rebuilt = answer.copy()
    del rebuilt[ICMPv6EchoReply].cksum
    assert bytes(rebuilt) == raw


def test_a_neighbour_solicitation_is_answered():
    group, group_mac = "ff02::1:ff00:1", "33:33:ff:00:00:01"
    ask = Ether(src=PEER, dst=group_mac) / IPv6(src="fd00::2", dst=group, hlim=255) / ICMPv6ND_NS(tgt="fd00::1")
    answer = Ether(HOST.answer_frame(bytes(ask / ICMPv6NDOptSrcLLAddr(lladdr=PEER))))
    assert (answer.dst, answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (PEER, "fd00::1", "fd00::2", 255)
    advertisement = answer[ICMPv6ND_NA]
    assert (advertisement.S, advertisement.O, advertisement.R, advertisement.tgt) == (1, 1, 0, "fd00::1")
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == MAC


def test_duplicate_address_detection_is_answered_to_all_nodes():
    ask = Ether(src=PEER, dst="33:33:ff:00:00:01") / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
    answer = Ether(HOST.answer_frame(bytes(ask / ICMPv6ND_NS(tgt="fd00::1"))))
    assert (answer[IPv6].dst, answer[ICMPv6ND_NA].S) == ("ff02::1", 0)


def test_a_solicitation_that_was_forwarded_is_not_answered():
    ask = Ether(src=PEER, dst=MAC) / IPv6(src="fd00::2", dst="fd00::1", hlim=254) / ICMPv6ND_NS(tgt="fd00::1")
    assert HOST.answer_frame(bytes(ask)) is None


def echo(**ip):
    return bytes(IP(**{"src": "10.0.0.2", "dst": "10.0.0.1", **ip}) / ICMP(id=1, seq=2) / Raw(b"data"))


@pytest.mark.parametrize(
    "packet",
    [
        echo(dst="10.0.0.9"),
        echo(flags="MF"),
        echo(frag=8),
        echo(chksum=1),
        echo(ihl=4),
        echo(len=200),
        echo(proto=17),
        echo()[:-1],
        bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0)),
        bytes(IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(chksum=1)),
        bytes(IPv6(src="fd00::2", dst="fd00::1") / ICMPv6EchoRequest(cksum=1)),
        bytes(IPv6(src="fd00::2", dst="fd00::9") / ICMPv6EchoRequest()),
        bytes(IPv6(src="ff02::1", dst="fd00::1") / ICMPv6EchoRequest()),
    ],
)
def test_packets_that_are_damaged_or_not_ours_are_not_answered(packet):
    assert HOST.answer_packet(packet) is None


def test_a_packet_with_padding_behind_it_is_answered_without_the_padding():
    assert HOST.answer_packet(echo() + bytes(30)) == HOST.answer_packet(echo())


def test_a_frame_to_another_mac_is_not_answered():
    assert HOST.answer_frame(mac_bytes("02:00:00:00:00:09") + mac_bytes(PEER) + b"\x08\x00" + echo()) is None


def test_a_broadcast_ping_is_not_answered():
    assert HOST.answer_frame(b"\xff" * 6 + mac_bytes(PEER) + b"\x08\x00" + echo()) is None


def test_an_ethertype_that_disagrees_with_the_packet_is_not_answered():
    assert HOST.answer_frame(mac_bytes(MAC) + mac_bytes(PEER) + b"\x86\xdd" + echo()) is None


@given(st.binary(max_size=128))
@example(b"")
def test_any_bytes_are_survived(noise):
    assert HOST.answer_packet(noise) is None or len(noise) >= 28
    HOST.answer_frame(noise)
    responder.parse_echo_reply(noise)
    responder.parse_neighbour(noise)


seeds = st.sampled_from(
    [
        bytes(Ether(src=PEER, dst=MAC))[:12] + b"\x08\x00" + echo(),
        bytes(Ether(src=PEER, dst=MAC) / IPv6(src="fd00::2", dst="fd00::1") / ICMPv6EchoRequest(data=b"x" * 9)),
        bytes(Ether(src=PEER, dst=MAC) / IPv6(src="fd00::2", dst="fd00::1", hlim=255) / ICMPv6ND_NS(tgt="fd00::1")),
        bytes(Ether(src=PEER, dst=MAC) / ARP(hwsrc=PEER, psrc="10.0.0.2", pdst="10.0.0.1")),
    ]
)


@given(seeds, st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6), st.integers(0, 100))
def test_damaged_frames_are_survived_and_answers_go_to_the_sender(frame, changes, length):
    damaged = bytearray(frame)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    damaged = bytes(damaged[: max(0, len(damaged) - length // 4)])
    answer = HOST.answer_frame(damaged)
    if answer is not None:
        assert answer[:6] == damaged[6:12]
        assert answer[6:12] == HOST.mac
        assert len(answer) <= max(len(damaged), 86)
    responder.parse_neighbour(damaged)


def test_what_we_ask_we_answer():
    asker = Host.of(mac_bytes(PEER), ["10.0.0.2", "fd00::2"])
    arp = HOST.answer_frame(responder.arp_request(mac=asker.mac, source="10.0.0.2", target="10.0.0.1"))
    assert responder.parse_neighbour(arp) == (bytes([10, 0, 0, 1]), HOST.mac)
    na = HOST.answer_frame(responder.neighbour_solicitation(mac=asker.mac, source="fd00::2", target="fd00::1"))
    assert responder.parse_neighbour(na)[1] == HOST.mac
    for source, target in (("10.0.0.2", "10.0.0.1"), ("fd00::2/128", "fd00::1")):
        ask = responder.echo_request(source=source, destination=target, identifier=5, sequence=6, data=b"hello")
        reply = responder.parse_echo_reply(HOST.answer_packet(ask))
        assert (reply.identifier, reply.sequence, reply.data) == (5, 6, b"hello")


def test_our_solicitation_is_what_scapy_understands():
    asked = Ether(responder.neighbour_solicitation(mac=mac_bytes(PEER), source="fd00::2", target="fd00::1"))
    assert (asked.dst, asked[IPv6].dst, asked[ICMPv6ND_NS].tgt) == ("33:33:ff:00:00:01", "ff02::1:ff00:1", "fd00::1")
    assert asked[ICMPv6NDOptSrcLLAddr].lladdr == PEER


def test_a_generated_mac_is_local_unicast_and_stable():
    mac = responder.mac_of("connection-1")
    assert mac == responder.mac_of("connection-1") != responder.mac_of("connection-2")
    assert mac[0] & 3 == 2
