"""The responder reads frames that anybody may have sent: it survives all, and answers only the sender."""

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.mesh import responder
from forwarder.mesh.responder import Host

BUDGET = settings(max_examples=2000, deadline=None)
MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
HOST = Host.of(MAC, ["10.0.0.1", "fd00::1"])
ASKS = [
    responder.arp_request(mac=PEER, source="10.0.0.2", target="10.0.0.1"),
    responder.neighbour_solicitation(mac=PEER, source="fd00::2", target="fd00::1"),
    MAC + PEER + b"\x08\x00"
    + responder.echo_request(source="10.0.0.2", destination="10.0.0.1", identifier=1, sequence=2, data=b"abc"),
    MAC + PEER + b"\x86\xdd"
    + responder.echo_request(source="fd00::2", destination="fd00::1", identifier=1, sequence=2, data=b"abc"),
]  # fmt: skip
CORPUS = [*ASKS, *(answer for ask in ASKS if (answer := HOST.answer_frame(ask)) is not None)]
EDITS = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=8)


def damaged(frame, edits, cut, tail):
    changed = bytearray(frame)
    for at, value in edits:
        changed[at % len(changed)] = value
    return bytes(changed[: len(changed) - cut]) + tail


frames = st.one_of(
    st.binary(max_size=200),
    st.builds(damaged, st.sampled_from(CORPUS), EDITS, st.integers(0, 60), st.binary(max_size=20)),
)


def test_the_corpus_is_answered():
    assert len(CORPUS) == 2 * len(ASKS)


@BUDGET
@given(frames)
def test_whatever_arrives_is_survived_and_answered_to_the_sender_only(frame):
    answer = HOST.answer_frame(frame)
    if answer is not None:
        assert answer[:6] == frame[6:12]
        assert answer[6:12] == MAC
        assert len(answer) <= max(len(frame), 86)  # nothing to amplify an attack with
    packet = HOST.answer_packet(frame[14:])
    assert packet is None or len(packet) <= len(frame) - 14
    responder.parse_neighbour(frame)
    responder.parse_echo_reply(frame)
    responder.parse_echo_reply(frame[14:])


@BUDGET
@given(frames)
def test_an_answer_is_never_answered(frame):
    answer = HOST.answer_frame(frame)
    other = Host.of(PEER, ["10.0.0.2", "fd00::2"])
    assert answer is None or other.answer_frame(answer) is None
