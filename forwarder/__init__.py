"""vwire: a forwarder for Network Service Mesh, and the mesh around it."""
