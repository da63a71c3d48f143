"""Starts a program in a pod: enters the namespace, ties the program's life to ours, and execs.

Run as a file, not as a module, so that it starts in a few milliseconds and imports nothing of
ours: `python -I launch.py NETNS_FD PARENT_PID PROGRAM ARGUMENT...`. The program gets SIGKILL
when the process that launched it ends, however that ends.

Source: setns(2), prctl(2) PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
import sys

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
EXIT_CANNOT_START = 127


def main() -> None:
    """Does not return: becomes the program, or exits with the reason on stderr."""
    netns, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the process that launched this one has ended")
    if libc.setns(netns, CLONE_NEWNET) != 0:
        sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
    os.close(netns)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming another program is the point
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_CANNOT_START)


if __name__ == "__main__":
    main()
