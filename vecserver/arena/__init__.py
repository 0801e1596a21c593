"""The shared memory of one pool: commands, actions and result slots, and the class that drives it."""
