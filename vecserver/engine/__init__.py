"""What a worker runs: the engines, their loops, and the worker process itself."""
