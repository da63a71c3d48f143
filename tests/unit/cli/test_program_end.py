"""How a process ends: a signal is an end that was meant, whenever it comes."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
    import asyncio, os, signal, sys, threading
    from forwarder import config
    from forwarder.cli import program

    program.start("authority", config.AuthoritySettings())

    def now(*_):
        os.kill(os.getpid(), signal.SIGTERM)
"""
FOR_EVER = """
    async def main():
        print("running", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("undone", flush=True)
"""
# A second signal while the loop closes: before that it cuts the undoing short, afterwards it is too late.
WHILE_THE_LOOP_CLOSES = """
    close = asyncio.SelectorEventLoop.close

    def close_and_signal(loop):
        now()
        close(loop)
        now()

    asyncio.SelectorEventLoop.close = close_and_signal
"""
# All threads take signals; here only another one than the loop's does.
BY_ANOTHER_THREAD = """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, program.ENDING)
"""
RUN = """
    program.run("authority", main())
    now()
    print("ended", flush=True)
"""


def ended(*parts: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[str]]:
    """Runs a program, signals it once it runs; returns its exit status and what it printed."""
    source = "".join(map(textwrap.dedent, parts))
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        os.kill(process.pid, number)
        printed, _ = process.communicate(timeout=20)
    return process.returncode, printed.split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_undoes_everything_and_the_status_is_0(number: signal.Signals) -> None:
    assert ended(BEGIN, FOR_EVER, RUN, number=number) == (0, ["undone", "ended"])


def test_a_second_signal_while_the_loop_closes_does_not_change_the_status() -> None:
    assert ended(BEGIN, FOR_EVER, WHILE_THE_LOOP_CLOSES, RUN) == (0, ["undone", "ended"])


def test_a_signal_that_another_thread_takes_wakes_the_loop() -> None:
    assert ended(BEGIN, FOR_EVER, BY_ANOTHER_THREAD, RUN) == (0, ["undone", "ended"])
