"""The data plane of one pool: a ZeroMQ ROUTER loop around a pure dispatch."""
