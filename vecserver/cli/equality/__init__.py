"""What ``vecserver verify`` does: plays a pool and a local ``SyncVectorEnv`` side by side and compares every bit."""
