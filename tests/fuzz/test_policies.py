"""The built-in rules and an independent opinion in Rego agree on whatever a peer may send."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forwarder.errors import PolicyError
from forwarder.security import MonitorInput, NetworkServiceInput, RegistryInput, owner_of
from forwarder.security.policy_input import PolicyInput
from forwarder.security.rego import RegoFile
from forwarder.security.rules import RULES
from tests.support.paths import NOW, chain, peer, segments, token, unsigned
from tests.support.rego_rules import RULES as OPINIONS

BUDGET = settings(max_examples=100, deadline=None)
NAMES = ("a", "b", "c")
IDS = [f"spiffe://example.org/{name}" for name in NAMES]
EXPIRES = {"exp": int(NOW) + 600}

SIGNED = st.builds(token, st.sampled_from(NAMES), st.sampled_from([None, *NAMES]), st.sampled_from([600, -600]))
UNSIGNED = st.fixed_dictionaries(
    {},
    optional={
        "exp": st.sampled_from([0, int(NOW) - 600, int(NOW) + 600, NOW + 600.5]),
        "sub": st.sampled_from(IDS),
        "aud": st.sampled_from([[], IDS[:1], IDS[:1] * 2, IDS[:2], IDS[1:], IDS[0]]),
    },
).map(lambda claims: unsigned(**claims))
BROKEN = st.one_of(
    st.sampled_from(["", ".", "..", "a.b.c", "é.é.é"]),
    st.text(max_size=20),
    st.tuples(SIGNED, st.integers(0, 300), st.sampled_from("A_.x")).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
    ),
)
GOOD = st.permutations(NAMES).map(lambda names: chain(*names))
TOKENS = GOOD | st.lists(SIGNED | UNSIGNED | BROKEN, max_size=4)
PEERS = st.sampled_from([None, *map(peer, NAMES)])
CALLS = st.builds(NetworkServiceInput, segments=TOKENS.map(segments), index=st.integers(0, 4), peer=PEERS)
IDS_OF_NAMES = st.dictionaries(st.sampled_from("xyz"), st.lists(st.sampled_from(IDS), max_size=2))


def native(name: str, subject: PolicyInput) -> str:
    try:
        return "denies" if RULES[name][0](subject, NOW) else "allows"
    except PolicyError:
        return "fails"


@pytest.fixture(scope="module")
def opinion(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, PolicyInput], str]:
    folder = tmp_path_factory.mktemp("rego")
    files: dict[str, RegoFile] = {}

    def ask(name: str, subject: PolicyInput) -> str:
        if name not in files:
            path: Path = folder / f"{name.replace('/', '-')}.rego"
            path.write_text("\n".join(line.strip() for line in OPINIONS[name].splitlines()))
            files[name] = RegoFile(path)
        try:
            return "allows" if files[name].check(subject.json()) else "denies"
        except PolicyError:
            return "fails"

    return ask


def test_there_is_an_opinion_on_every_rule() -> None:
    assert OPINIONS.keys() == RULES.keys()


@pytest.mark.parametrize("name", [name for name in RULES if name.partition("/")[0] in ("common", "server", "client")])
def test_rules_of_calls_agree(name: str, opinion: Callable[[str, PolicyInput], str]) -> None:
    seen = set()

    @BUDGET
    @given(CALLS)
    @example(NetworkServiceInput(segments=segments(chain("a", "b", "c")), index=1, peer=peer("c")))
    @example(NetworkServiceInput(segments=segments(chain("a", "b", "c")), index=1, peer=peer("a")))
    @example(NetworkServiceInput(segments=segments([unsigned(aud=IDS[:2]), token("a", "b")]), index=1, peer=peer("a")))
    def compare(call: NetworkServiceInput) -> None:
        verdict, other = native(name, call), opinion(name, call)
        seen.add(verdict)
        if native("common/tokens_valid", call) == "allows":
            assert verdict == other
        else:
            # Parsers differ in what they forgive a text that is no JWT. Ours forgives least.
            assert verdict != "allows" or other == "allows"

    compare()
    assert {"allows", "denies"} <= seen


@BUDGET
@given(st.sampled_from("xyz"), TOKENS, IDS_OF_NAMES, st.integers(0, 3), PEERS)
def test_the_rule_of_registrations_agrees(opinion, name, tokens, known, index, other):
    owner = owner_of(tokens[0]) if tokens else ""
    subject = RegistryInput(name=name, owner=owner, known=known, tokens=tokens, index=index, peer=other)
    assert native("registry/client_allowed", subject) == opinion("registry/client_allowed", subject)


@BUDGET
@given(
    st.dictionaries(st.sampled_from(IDS), st.lists(st.sampled_from("123"), max_size=3)),
    st.lists(st.sampled_from("1234"), max_size=3),
    st.sampled_from(["", *IDS]),
)
def test_the_rule_of_monitors_agrees(opinion, connections, selected, caller):
    subject = MonitorInput(connections=connections, selected=selected, caller=caller, peer=None)
    assert native("monitor/service_connection", subject) == opinion("monitor/service_connection", subject)
