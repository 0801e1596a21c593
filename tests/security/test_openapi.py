"""The short form of what ``make security`` does with a server that runs: an app in this process, a few requests each."""

from __future__ import annotations

from tests.control.fakes import FakeRegistry
from tests.security.http_contract import HOST, examine, of_app
from vecserver.control.app import create_app
from vecserver.pools.spec import Caps
from vecserver.wire.errors import EnvCreationFailed, VecServerError

EXAMPLES = 6


class _Registry(FakeRegistry):
    """Small pools, whose environments fail as those of a host do."""

    def create(self, *arguments, **options):
        try:
            return super().create(*arguments, **options)
        except VecServerError:
            raise
        except Exception as error:
            raise EnvCreationFailed(f"no environment: {error!r}") from None


def test_every_answer_is_one_that_the_document_has():
    """Right and wrong requests to every operation: no error of the server, no status or body without a description."""
    registry = _Registry(Caps(max_num_envs=4, max_pools=4))
    try:
        found = examine(of_app(create_app(registry)), EXAMPLES, HOST)
    finally:
        registry.close()
    assert found.requests > 50
    assert not found.failures, "\n".join(f"{count} × {what}" for what, count in found.failures.most_common())
