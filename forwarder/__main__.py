"""Runs the `vwire` command: `python -m forwarder`."""

from forwarder.cli import main

if __name__ == "__main__":
    main(prog_name="vwire")
