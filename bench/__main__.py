"""Runs benches and keeps their numbers: python -m bench [--quick] [NAME...]."""

import argparse
import importlib
import signal
import sys

from bench.programs import first_in_line
from bench.results import FILE, commit, machine, save, table

BENCHES = {
    "memif": "memif to memif against dpdk-testpmd and a bare copy loop",
    "tcp": "TCP kernel to kernel against direct veth and the Linux bridge",
    "setup": "vWires set up per second: whole Requests, and the data plane alone",
    "memory": "resident memory of the forwarder with one vWire",
    "startup": "from process start to SERVING",
}


def main() -> int:
    """Runs the benches named, or all; a failing one does not keep the others from running."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: all benches in less than three minutes")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"unknown bench: {', '.join(sorted(unknown))}")
    print(f"commit {commit()}; " + "; ".join(machine().values()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    failed = []
    for name in arguments.names or BENCHES:
        print(f"\n{name}: {BENCHES[name]}", flush=True)
        try:
            with first_in_line():
                rows = importlib.import_module(f"bench.{name}").run(quick=arguments.quick)
        except Exception as error:
            print(f"{name}: failed: {error!r}", file=sys.stderr)
            failed.append(name)
            continue
        print(table(rows))
        save(name, "quick" if arguments.quick else "full", rows)
    print(f"\nresults in {FILE}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
