"""How the programs are watched: logs and the live table. Reads; is never called by the rooms below."""
