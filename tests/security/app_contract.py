"""The OpenAPI document against an app of its own process: what schemathesis starts for that lives as long as a process."""

from __future__ import annotations

import sys

from tests.control.fakes import FakeRegistry
from tests.security.http_contract import HOST, examine, of_app
from vecserver.control.app import create_app
from vecserver.pools.spec import Caps
from vecserver.wire.errors import EnvCreationFailed, VecServerError


class _Registry(FakeRegistry):
    """Small pools, whose environments fail as those of a host do."""

    def create(self, *arguments, **options):
        try:
            return super().create(*arguments, **options)
        except VecServerError:
            raise
        except Exception as error:
            raise EnvCreationFailed(f"no environment: {error!r}") from None


def main(examples: int) -> None:
    """Write how many requests there were, and a line for each failure."""
    registry = _Registry(Caps(max_num_envs=4, max_pools=4))
    try:
        found = examine(of_app(create_app(registry)), examples, HOST)
    finally:
        registry.close()
    sys.stdout.write(f"{found.requests}\n")
    for what, count in found.failures.most_common():
        sys.stdout.write(f"{count} × {what!r}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
