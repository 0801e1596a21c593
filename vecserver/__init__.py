"""Step batches of Gymnasium environments from anywhere.

The server side: wire protocol, arena, engines, pools, data plane, control plane and command line.
Importing this package loads none of them. The client side is the package ``vecserver_client``.
"""

__version__ = "0.1.0"
