"""Policies that users bring, in Rego files, as NSM's programs run them.

A file has one `package` line and defines `valid`, which has to be true or false.

Source: Network Service Mesh sdk, `pkg/tools/opa/policy.go`; rego-cpp evaluates.
"""

import re
import threading
from pathlib import Path
from typing import Any, Final

from forwarder.api.redact import redact
from forwarder.errors import ConfigError, PolicyError

_PACKAGE: Final = re.compile(r"^package[ \t]+([^\s#]+)", re.MULTILINE)
_VALID: Final = re.compile(r"^[ \t]*(?:default[ \t]+)?valid\b(?![.\w])", re.MULTILINE)


class RegoFile:
    """A compiled Rego file. May be asked on any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        """Reads and compiles it.

        Raises ConfigError if it cannot be read or compiled, or does not define `valid`.
        """
        # Only who brings a file pays for it: 14 MiB of memory.
        from regopy import Interpreter  # noqa: PLC0415
        from regopy.rego_shared import LogLevel, RegoError  # noqa: PLC0415

        self._lock = threading.Lock()
        what = f"policy {path}"
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{what} cannot be read", detail=str(error)) from error
        package = _PACKAGE.search(source)
        if package is None or not _VALID.search(source):
            missing = "valid" if package else "package"
            raise ConfigError(f"{what} has no `{missing}`", hint="as in `package nsm`, `default valid = false`")
        self._rego = Interpreter()
        self._rego.log_level = LogLevel.NONE  # it would write to stdout
        try:
            self._rego.add_module(str(path), source)
            self._bundle = self._rego.build(f"valid = data.{package[1]}.valid")
            # What is not known until the policy runs, such as a function that does not exist.
            self._rego.set_input({})
            str(self._rego.query_bundle(self._bundle))
        except (RegoError, ValueError) as error:
            raise ConfigError(f"{what} cannot be compiled", detail=_reason(error)) from error

    def check(self, document: dict[str, Any]) -> bool:
        """Returns what `valid` is for this input.

        Raises PolicyError if it is neither true nor false, or evaluating fails.
        """
        with self._lock:
            try:
                self._rego.set_input(document)
                output = self._rego.query_bundle(self._bundle)
            except ValueError as error:
                raise PolicyError("it cannot be evaluated", detail=_reason(error)) from error
            results = output.results
        valid = results[0].bindings.get("valid") if results else None
        if not isinstance(valid, bool):
            said = "nothing" if valid is None else repr(valid)
            raise PolicyError(redact(f"`valid` is {said}"))
        return valid


def _reason(error: Exception) -> str:
    return redact(" ".join(str(error).split()))
