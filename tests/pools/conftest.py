from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.pools.registries import open_registry


@pytest.fixture(scope="module")
def registry():
    """One registry for a module, of the usual kind; its pools are the tests' to delete."""
    with open_registry() as registry:
        yield registry


@pytest.fixture
def make_registry():
    """Makes registries of special kinds, closed after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(open_registry(**options))


@pytest.fixture
def pool(registry):
    """Makes pools of the module's registry, deleted after the test."""
    made = []

    def make(spec, name=None):
        view = registry.create(spec, name)
        made.append(view.pool)
        return view

    yield make
    for name in made:
        if name in {view.pool for view in registry.list()}:
            registry.delete(name)
