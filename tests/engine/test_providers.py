"""Plain ids of packages that register environments when they are imported."""

from __future__ import annotations

import sys

import gymnasium
import pytest

from vecserver.engine import providers
from vecserver.engine.make import EnvMaker
from vecserver.engine.providers import is_registered
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import UnknownEnv

ID = "provided/Cart-v0"


@pytest.fixture
def provider(tmp_path, monkeypatch):
    """A package that is installed and not imported."""
    (tmp_path / "some_provider.py").write_text(
        "import gymnasium\n"
        f"gymnasium.register({ID!r}, 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(providers, "_PROVIDERS", ("not_installed_provider", "some_provider"))
    yield "some_provider"
    sys.modules.pop("some_provider", None)
    gymnasium.registry.pop(ID, None)


def test_a_provider_is_imported_when_one_of_its_ids_is_asked_for(provider):
    """Not before; one that is not installed is passed over."""
    assert is_registered("CartPole-v1")
    assert provider not in sys.modules
    assert is_registered(ID)
    assert provider in sys.modules


def test_a_pool_takes_the_plain_id(provider):
    """It passes the server's check, and a worker makes the environment."""
    PoolSpec(env_id=ID, num_envs=1).check(Caps())
    env = EnvMaker(ID, {}, None)()
    assert env.spec.max_episode_steps == 7
    env.close()


def test_an_id_that_nobody_provides_is_unknown(provider):
    """The providers were asked."""
    with pytest.raises(UnknownEnv):
        PoolSpec(env_id="provided/Other-v0", num_envs=1).check(Caps())
    assert provider in sys.modules


def test_a_module_in_an_id_is_left_to_gymnasium(provider):
    """It names its own module, and no provider is imported for it."""
    env = EnvMaker("some_provider:" + ID, {}, None)()
    env.close()
    with pytest.raises(ModuleNotFoundError):
        EnvMaker("no_such_module:" + ID, {}, None)()
