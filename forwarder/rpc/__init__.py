"""Servers, channels, deadlines and descriptors: the only room that knows gRPC."""
