"""The parts of vwire that a bench runs as processes of their own; each may come from another commit."""
