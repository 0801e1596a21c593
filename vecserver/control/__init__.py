"""The control plane: HTTP routes that create, list, reset, step and delete pools; and the relay of ``ws``."""
