"""Which rules are checked, and what happens when one denies.

A program has lists of masks, as NSM's have, and each mask selects rules: its own, which are built
in, and Rego files of the user.

Source: Network Service Mesh sdk, `pkg/tools/opa/policies.go`, and the defaults of its programs.
"""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from forwarder.clock import Clock, SystemClock
from forwarder.errors import ConfigError, NotAuthorized, PolicyError
from forwarder.security.policy_input import PolicyInput
from forwarder.security.rego import RegoFile
from forwarder.security.rules import RULES, Rule

_log = logging.getLogger(__name__)

COMMON: Final = "etc/nsm/opa/common/.*.rego"
SERVER: Final = "etc/nsm/opa/server/.*.rego"
CLIENT: Final = "etc/nsm/opa/client/.*.rego"
REGISTRY: Final = "etc/nsm/opa/registry/.*.rego"

NETWORK_SERVICE_SERVER: Final = (COMMON, SERVER)
"""What a server of NetworkService checks."""
NETWORK_SERVICE_CLIENT: Final = (COMMON, CLIENT)
"""What a client checks that has no server behind it; forwarders and managers check nothing."""
REGISTRY_SERVER: Final = (COMMON, REGISTRY, SERVER)
"""What a registry checks."""
REGISTRY_CLIENT: Final = (COMMON, REGISTRY, CLIENT)
"""What whoever registers checks."""

DENIED: Final = "no sufficient privileges"
"""What NSM's programs say."""


class _Policy(Protocol):
    """One thing to check; `name` is what denials name it by."""

    @property
    def name(self) -> str: ...

    async def denial(self, subject: PolicyInput, now: float) -> str | None:
        """Returns why it denies, or None; raises PolicyError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuiltIn:
    name: str
    rule: Rule
    looks_at: type[PolicyInput]

    async def denial(self, subject: PolicyInput, now: float) -> str | None:
        if self.looks_at is not PolicyInput and not isinstance(subject, self.looks_at):
            return f"it is not made for a {type(subject).__name__}"
        return self.rule(subject, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    file: RegoFile

    async def denial(self, subject: PolicyInput, now: float) -> str | None:
        del now  # the file asks for the time itself
        valid = await asyncio.to_thread(self.file.check, subject.json())
        return None if valid else "`valid` is false"


class Policies:
    """A list of policies, all of which have to allow a call."""

    def __init__(self, policies: Sequence[_Policy], clock: Clock) -> None:
        """For `load`."""
        self._policies = policies
        self._clock = clock

    @classmethod
    def load(cls, masks: Sequence[str], *, directory: Path = Path(), clock: Clock | None = None) -> Self:
        """Selects what the masks name; none allow everything.

        A mask is the path of a Rego file, or a regular expression for such paths, or a pattern with
        `*`, relative to `directory`. Rules of NSM have paths below `etc/nsm/opa` and are built in.
        Raises ConfigError for a mask that selects nothing, and for a file that cannot be used.
        """
        policies: dict[str, _Policy] = {}
        for mask in masks:
            found = dict(_selected(mask, directory))
            if not found:
                raise ConfigError(
                    f"policy {mask!r}: there is no such file and no such rule",
                    hint="built in are " + ", ".join(f"etc/nsm/opa/{name}.rego" for name in RULES),
                )
            policies.update(found)
        return cls(list(policies.values()), clock or SystemClock())

    def __bool__(self) -> bool:
        """Says whether there is anything to check."""
        return bool(self._policies)

    @property
    def names(self) -> tuple[str, ...]:
        """What is checked, in order."""
        return tuple(policy.name for policy in self._policies)

    async def check(self, subject: PolicyInput) -> None:
        """Returns if every policy allows it.

        Raises NotAuthorized that names the policy and says what it found, and PolicyError if one
        can neither allow nor deny. Either is in the log as well.
        """
        for policy in self._policies:
            try:
                reason = await policy.denial(subject, self._clock.now())
            except PolicyError as error:
                _log.error("policy %s failed: %s", policy.name, error)
                raise PolicyError(f"policy {policy.name} failed", detail=str(error)) from error
            if reason is not None:
                _log.warning("policy %s denies %s: %s", policy.name, _who(subject), reason)
                raise NotAuthorized(DENIED, detail=f"policy {policy.name}: {reason}")


def _who(subject: PolicyInput) -> str:
    return "a peer without certificate" if subject.peer is None else subject.peer.identity


def _selected(mask: str, directory: Path) -> Iterator[tuple[str, _Policy]]:
    """Yields what a mask selects, by path; a file on disk goes before a rule of the same path."""
    mask = mask.replace("etc/nsm/opa", "policies")
    if (directory / mask).is_file():
        yield mask, _File(name=mask, file=RegoFile(directory / mask))
        return
    folder = Path(mask).parent
    on_disk = sorted(path for path in (directory / folder).rglob("*") if path.is_file())
    paths = {str(folder / path.relative_to(directory / folder)): path for path in on_disk}
    built_in = {f"policies/{name}.rego": name for name in RULES}
    try:
        expression = re.compile(mask)
        matching = {each for each in (*paths, *built_in) if expression.fullmatch(each)}
    except re.error:
        matching = set()
    for path in sorted(matching or {each for each in paths if Path(each).match(mask)}):
        if path in paths:
            yield path, _File(name=path, file=RegoFile(paths[path]))
        else:
            rule, looks_at = RULES[built_in[path]]
            yield path, _BuiltIn(name=built_in[path], rule=rule, looks_at=looks_at)
