"""The short form of what ``make security`` does with a million messages."""

from __future__ import annotations

import pytest

from tests.pools.registries import open_registry
from tests.security.live import run

MESSAGES = 20_000
GROWTH = 10 << 20


@pytest.fixture(scope="module")
def registry():
    with open_registry() as registry:
        yield registry


def test_mutated_messages_neither_end_nor_stop_nor_fill_a_host(registry):
    """Hosts answer or hang up, keep their size, and an honest driver's batches are right to the bit meanwhile."""
    outcome = run(registry, MESSAGES, seed=1)
    assert outcome.sent >= MESSAGES
    assert outcome.batches > 0
    assert max(outcome.growth.values()) < GROWTH, outcome.growth
    refusals = set().union(*outcome.outcomes.values())
    reached = {"malformed_message", "message_too_large", "lease_lost", "sequence_gap", "STEP", "RESET", "CALL", "SPLIT"}
    assert refusals >= reached, "the messages did not get as far as they should"
