"""The life of one connection, common to every program on the path.

`path` and `refresh` are arithmetic; `table` gives each connection one event at a time;
`expiry` ends connections that nobody refreshes; `monitor` tells watchers and listens to the
next hop. What a Request does between taking its turn and answering is not here.
"""
