"""The rest of the mesh around a forwarder: clients, endpoints, and the addresses they share."""
