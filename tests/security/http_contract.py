"""The OpenAPI document against the server, with every check of schemathesis on, and a stricter one for statuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

CONFIG = schemathesis.Config.from_dict(
    {
        "checks": {
            # what an environment, a pool and its space take, no schema can say: 422 is the answer to the rest
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "3xx", "401", "403", "404", "409", "410", "422", "429", "503"]
            },
        }
    }
)
HOST = {"Host": "127.0.0.1:8000"}
TIMEOUT_S = 60.0


@dataclass
class Found:
    """What a run found.

    Attributes:
        requests: How many were sent.
        statuses: Status → how often.
        failures: What is wrong → how often.
    """

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


def of_app(app: Any) -> Any:
    """The document of an app in this process."""
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=CONFIG, headers=HOST)


def of_server(url: str, headers: dict[str, str]) -> Any:
    """The document of a server."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=CONFIG, headers=headers)


def examine(schema: Any, examples: int, headers: dict[str, str], *, seed: int | None = None) -> Found:
    """Send so many right and as many wrong requests to each operation of a document.

    Args:
        schema: The document.
        examples: Of each kind, for each operation.
        headers: Of every request.
        seed: For other requests than those of every run.
    """
    found = Found()
    for each in schema.get_all_operations():
        operation = each.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _send(operation, mode, examples, headers, found, seed)
    return found


def _send(
    operation: Any, mode: GenerationMode, examples: int, headers: dict[str, str], found: Found, seed: Any
) -> None:
    documented = set(operation.definition.raw["responses"])

    @settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        answer = case.call(headers=headers, timeout=TIMEOUT_S)
        found.requests += 1
        found.statuses[answer.status_code] += 1
        where = f"{operation.label} ({mode.name.lower()})"
        if answer.status_code >= 500 and answer.status_code != 503:
            found.failures[f"{where}: status {answer.status_code}: {answer.text[:300]}"] += 1
        if str(answer.status_code) not in documented:
            found.failures[f"{where}: status {answer.status_code} is not documented: {answer.text[:200]}"] += 1
        try:
            case.validate_response(answer)
        except BaseExceptionGroup as group:
            for failure in group.exceptions:
                found.failures[f"{where}: {type(failure).__name__}: {str(failure)[:300]}"] += 1

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, f"no request for {operation.label}"  # it takes nothing to be wrong
