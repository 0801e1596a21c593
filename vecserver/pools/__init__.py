"""Pools: what one is made from, its host process, and the registry that creates, watches and removes them."""
