"""A program around OpenEnv's own client, run by a Python that has one of its releases and nothing of this project.

``their_client.py URL ACTION``: resets, steps, asks for the state, closes; prints what came as one line of JSON.
"""

from __future__ import annotations

import json
import sys

STEPS = 5


def by_websocket(url: str, action: object) -> dict:
    """With ``GenericEnvClient``, which every release since 0.2 has."""
    from openenv.core.generic_client import GenericEnvClient

    client = GenericEnvClient(base_url=url)
    client = client.sync() if hasattr(client, "sync") else client
    with client as env:
        first = env.reset(seed=7, episode_id="theirs")
        results = [env.step({"action": action}) for _ in range(STEPS)]
        return {"first": first.observation, "last": results[-1].observation, "state": env.state()} | flags(results)


def by_http(url: str, action: object) -> dict:
    """With ``HTTPEnvClient`` of 0.1, for which each environment's package wrote what goes in and what comes out."""
    from openenv_core.client_types import StepResult
    from openenv_core.http_env_client import HTTPEnvClient

    class GymClient(HTTPEnvClient):
        def _step_payload(self, action):
            return {"action": action}

        def _parse_result(self, payload):
            return StepResult(payload["observation"], payload["reward"], payload["done"])

        def _parse_state(self, payload):
            return payload

    env, other = GymClient(base_url=url), GymClient(base_url=url)
    first = env.reset()
    other.reset()
    results = [env.step(action) for _ in range(STEPS)]
    other.step(action)
    state = env.state()
    assert other.state()["step_count"] == 1, "clients are not isolated"
    for each in (env, other):
        each.close()
    return {"first": first.observation, "last": results[-1].observation, "state": state} | flags(results)


def flags(results: list) -> dict:
    return {"rewards": [each.reward for each in results], "done": [each.done for each in results]}


if __name__ == "__main__":
    try:
        import openenv_core.http_env_client  # noqa: F401

        play = by_http
    except ImportError:
        play = by_websocket
    sys.stdout.write(json.dumps(play(sys.argv[1], json.loads(sys.argv[2])) | {"by": play.__name__}))
