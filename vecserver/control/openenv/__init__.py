"""OpenEnv's protocol: sessions of one environment each, over ``/ws`` and HTTP. No environment runs in this process."""
