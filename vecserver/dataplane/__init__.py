"""The data plane of one pool: sockets that speak ZeroMQ's protocol, a loop, and a pure dispatch."""
