"""``gymnasium.make_vec("vecserver/Remote-v0", …)`` makes a pool, and nobody needs to import anything for it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import vecserver_client as vs
from tests.contract.compare import run_both
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from vecserver.registration import REMOTE_ID

ROOT = Path(__file__).resolve().parents[2]
COUNT = env_id("Count-v0")


def after(code):
    """What a fresh Python has loaded and registered after running some code: (modules, whether the id is registered)."""
    code += f"""
import json, sys
registry = sys.modules["gymnasium"].registry if "gymnasium" in sys.modules else {{}}
print(json.dumps([sorted(sys.modules), {REMOTE_ID!r} in registry]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    modules, registered = json.loads(result.stdout)
    return {name.partition(".")[0] for name in modules}, registered


def test_the_pth_file_registers_the_id_when_gymnasium_is_imported(tmp_path):
    """As an installation does at the start of Python; neither the client nor what it needs is loaded."""
    (tmp_path / "vecserver.pth").write_text((ROOT / "clients/vecserver.pth").read_text())
    at_start = f"import site; site.addsitedir({str(tmp_path)!r})"
    modules, registered = after(f"{at_start}\nimport gymnasium")
    assert registered
    assert not modules & {"vecserver_client", "zmq", "httpx", "msgspec", "fastapi"}
    modules, registered = after(at_start)
    assert not registered
    assert not modules & {"vecserver_client", "gymnasium", "numpy", "zmq", "httpx", "msgspec"}


def test_an_installation_has_the_pth_file():
    """It lies beside the packages, where Python looks for such files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["clients/vecserver.pth"] == "vecserver.pth"


@pytest.mark.parametrize(
    "code",
    [
        "import vecserver_client",
        "import gymnasium, vecserver_client",
        "import gymnasium, vecserver.registration as r; r.register_with_gymnasium(); r.register_with_gymnasium()",
        "import vecserver.registration as r; r.register_with_gymnasium(); r.register_with_gymnasium(); import gymnasium",
    ],
)
def test_the_id_is_registered_once_in_any_order(code):
    """Gymnasium does not warn that it was registered before."""
    modules, registered = after("import warnings; warnings.simplefilter('error')\n" + code)
    assert registered


def test_gymnasium_is_left_as_it_was():
    """Its module has its own loader, and nobody watches imports any more."""
    code = """
import sys, vecserver.registration as registration
registration.register_with_gymnasium()
assert [type(finder).__name__ for finder in sys.meta_path].count("_Watch") == 1
import gymnasium.envs
assert not any(type(finder).__name__ == "_Watch" for finder in sys.meta_path)
assert type(gymnasium.envs.__loader__) is type(gymnasium.envs.__spec__.loader) is type(gymnasium.__loader__)
"""
    assert after(code)[1]


def test_a_pool_is_made_by_gymnasiums_make_vec(server):
    """With the options of ``make_vec``; it steps as Gymnasium's own does."""
    made = gym.make_vec(REMOTE_ID, num_envs=3, env_id=COUNT, url=server.url, length=4, workers=1)
    with closing(made) as envs, closing(make_oracle(COUNT, 3, length=4)) as oracle:
        assert isinstance(envs, vs.RemoteVectorEnv)
        assert (envs.spec.id, envs.spec.kwargs["env_id"]) == (REMOTE_ID, COUNT)
        assert run_both(envs, oracle, 12) >= 6


def test_the_module_in_the_id_imports_the_client(server):
    """Gymnasium's own way to do without an import works where only the path knows the package."""
    code = f"""
import gymnasium
envs = gymnasium.make_vec("vecserver_client:{REMOTE_ID}", num_envs=2, env_id="CartPole-v1", url={server.url!r})
assert envs.reset(seed=1)[0].shape == (2, 4)
envs.close()
"""
    assert after(code)[1]


def test_a_limit_of_steps_reaches_the_environments(server):
    """``max_episode_steps`` is an argument of ``gymnasium.make``."""
    made = gym.make_vec(REMOTE_ID, num_envs=2, env_id="CartPole-v1", url=server.url, max_episode_steps=5)
    with closing(made) as envs:
        envs.reset(seed=1)
        truncations = [envs.step(np.array([number % 2] * 2))[3].tolist() for number in range(5)]
    assert truncations == [[False, False]] * 4 + [[True, True]]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: gym.make(REMOTE_ID), "is a vector environment"),
        (lambda: gym.make(REMOTE_ID, env_id="CartPole-v1"), "is a vector environment"),
        (lambda: gym.make_vec(REMOTE_ID, num_envs=2, vectorization_mode="sync"), "is a vector environment"),
        (lambda: gym.make_vec(REMOTE_ID, num_envs=2), "say of which"),
    ],
)
def test_what_is_no_pool_is_refused_with_a_sentence(make, text):
    """It says which call to make instead."""
    with pytest.raises(gym.error.Error, match=text) as caught:
        make()
    assert "gymnasium.make_vec(" in str(caught.value)


def test_a_pool_of_pools_is_refused(server):
    """By the server, before anything is started; its list does not offer it."""
    with pytest.raises(vs.errors.InvalidSpec, match="pool of pools"):
        gym.make_vec(REMOTE_ID, num_envs=2, env_id=REMOTE_ID, url=server.url)
    with vs.ControlClient(server.url) as control:
        assert control.envs("vecserver/") == []
