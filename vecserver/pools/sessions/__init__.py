"""Sessions: one environment each, played by one client over OpenEnv, in a process of its own."""
