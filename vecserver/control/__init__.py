"""The control plane: HTTP routes that create, list, reset, step and delete pools. No batch of a trainer passes here."""
