"""One script per number, each beside what it is compared with. `python -m bench --help`."""
