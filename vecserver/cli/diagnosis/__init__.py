"""Whether this machine can run a server with these settings: what ``vecserver doctor`` looks at."""
