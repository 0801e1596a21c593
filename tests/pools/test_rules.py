"""What callers may have made: ids, modules and arguments, by the operator's lists."""

from __future__ import annotations

import sys

import gymnasium
import pytest

from vecserver.pools.rules import TRUSTING, EnvRules
from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import CapExceeded, ForbiddenEnv, InvalidSpec

STRICT = EnvRules()
FOREIGN = "foreign/Env-v0"


@pytest.fixture(autouse=True)
def foreign():
    """An id that another package has registered, and one of Gymnasium's environments in another's wrapper."""
    gymnasium.register(FOREIGN, "a_plugin.envs:Env")
    gymnasium.register(
        "foreign/Wrapped-v0",
        "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        additional_wrappers=(gymnasium.envs.registration.WrapperSpec("W", "a_plugin:W", {}),),
    )
    yield
    del gymnasium.registry[FOREIGN], gymnasium.registry["foreign/Wrapped-v0"]


def spec(env_id: str = "CartPole-v1", **options) -> PoolSpec:
    return PoolSpec(**{"env_id": env_id, "num_envs": 1} | options)


def refusal(rules: EnvRules, asked: PoolSpec) -> ForbiddenEnv:
    with pytest.raises(ForbiddenEnv) as caught:
        rules.check(asked)
    return caught.value


def test_by_default_gymnasiums_own_are_allowed():
    """What a plugin registers beside them is not, nor what it wraps."""
    for env_id in ("CartPole-v1", "FrozenLake-v1", "Ant-v5", "CarRacing-v3"):
        STRICT.check(spec(env_id))
    for env_id in (FOREIGN, "foreign/Wrapped-v0"):
        error = refusal(STRICT, spec(env_id))
        assert (error.details["setting"], error.details["env_id"]) == ("allow_env", env_id)
        assert f"--allow-env '{env_id}'" in error.message


def test_a_list_takes_the_place_of_the_default():
    """Globs allow what they match and nothing else; the word for Gymnasium's own may stand among them."""
    only = EnvRules(allow_env=("CartPole-*", "foreign/Env-*"))
    only.check(spec())
    only.check(spec(FOREIGN))
    refusal(only, spec("Ant-v5"))
    both = EnvRules(allow_env=("gymnasium", "foreign/*"))
    both.check(spec("Ant-v5"))
    both.check(spec(FOREIGN))


def test_what_is_offered_is_what_is_allowed():
    """The list of ids has no more than may be made."""
    assert FOREIGN not in STRICT.offered()
    assert "CartPole-v1" in STRICT.offered()
    assert EnvRules(allow_env=("foreign/Env-*",)).offered() == [FOREIGN]
    assert {FOREIGN, "CartPole-v1"} <= set(TRUSTING.offered())


def test_an_id_that_nobody_knows_is_for_others_to_refuse():
    """They name the nearest."""
    STRICT.check(spec("CartPoel-v1"))


@pytest.mark.parametrize("module", ["antigravity", "a.b", "", "..up", "os;x", "tests.pools.confined_environments "])
def test_a_module_is_refused_before_it_is_imported(module, monkeypatch):
    """By its name alone; nothing is loaded for it here."""
    before = {*sys.modules}
    error = refusal(
        EnvRules(allow_env=("*",), allow_module=("gymnasium", "tests.environments")), spec(f"{module}:E-v0")
    )
    assert error.details["setting"] == "allow_module"
    assert {*sys.modules} == before


def test_a_module_that_is_listed_may_register_what_it_likes():
    """By its whole name or by a glob; its ids are not asked for besides."""
    for listed in ("my_envs", "my_*"):
        EnvRules(allow_module=(listed,)).check(spec("my_envs:Thing-v0"))
    refusal(EnvRules(allow_module=("my_envs",)), spec("my_envs.more:Thing-v0"))


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}),
        ("FrozenLake-v1", {"desc": ["SFFF", "FHFH", "FFFH", "HFFG"]}),
        ("Ant-v5", {"ctrl_cost_weight": 0.5, "reset_noise_scale": 1e-3, "camera_name": "track"}),
        ("CarRacing-v3", {"lap_complete_percent": 0.95, "continuous": False}),
        ("LunarLander-v3", {"gravity": -9.8, "wind_power": 15.0}),
        ("CartPole-v1", {"render_mode": "rgb_array", "max_episode_steps": 5}),
    ],
)
def test_plain_arguments_are_taken(env_id, kwargs):
    """Numbers, names, maps in letters."""
    STRICT.check(spec(env_id, env_kwargs=kwargs))


@pytest.mark.parametrize(
    ("kwargs", "argument"),
    [
        ({"xml_file": "ant.xml"}, "xml_file"),
        ({"XML_FILE": 3}, "XML_FILE"),
        ({"map_name": "../../etc/passwd"}, "map_name"),
        ({"map_name": "maps/big"}, "map_name"),
        ({"map_name": "C:\\maps"}, "map_name"),
        ({"map_name": "~root"}, "map_name"),
        ({"map_name": ".."}, "map_name"),
        ({"map_name": "big.txt"}, "map_name"),
        ({"map_name": "http://example.org"}, "map_name"),
        ({"map_name": "x\0y"}, "map_name"),
        ({"reward": "os:system"}, "reward"),
        ({"options": {"deep": [["a", {"level": "a/b"}]]}}, "options"),
        ({"options": {"rom_path": 1}}, "rom_path"),
        ({"options": {"a/b": 1}}, "options"),
        ({"entry_point": "x"}, "entry_point"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_what_names_files_code_or_windows_is_refused(kwargs, argument):
    """By name, by what a text looks like, at any depth; the refusal says what would allow it."""
    error = refusal(STRICT, spec(env_kwargs=kwargs))
    assert (error.details["argument"], error.details["setting"]) == (argument, "allow_kwarg")
    assert f"--allow-kwarg 'CartPole-v1:{argument}'" in error.message
    EnvRules(allow_kwarg=(f"CartPole-*:{argument}",)).check(spec(env_kwargs=kwargs))
    refusal(EnvRules(allow_kwarg=(f"Ant-*:{argument}", "CartPole-v1:other")), spec(env_kwargs=kwargs))
    TRUSTING.check(spec(env_kwargs=kwargs))


def test_the_render_mode_and_the_wrappers_arguments_are_looked_at_too():
    """They reach the same code as the environment's own."""
    assert refusal(STRICT, spec(render_mode="human")).details["field"] == "render_mode"
    STRICT.check(spec(render_mode="rgb_array"))
    wrapped = spec(wrappers=["ClipAction", {"id": "TimeAwareObservation", "kwargs": {"dict_time_key": "/etc/x"}}])
    assert refusal(STRICT, wrapped).details["field"] == "wrappers"
    STRICT.check(spec(wrappers=[{"id": "FrameStackObservation", "kwargs": {"stack_size": 4, "padding_type": "zero"}}]))


def test_an_argument_may_be_denied_for_one_environment_alone():
    """EnvPool's task is another environment, which the list of ids would not see."""
    rules = EnvRules(allow_env=("EnvPool/Pong-v5",))
    with pytest.raises(ForbiddenEnv, match="task_id"):
        rules.check(spec("EnvPool/Pong-v5", env_kwargs={"task_id": "Other"}))


def test_arguments_have_a_size_and_a_depth():
    """Each refusal names what was met."""
    with pytest.raises(CapExceeded) as caught:
        STRICT.check(spec(env_kwargs={"desc": ["S" * 70_000]}))
    assert (caught.value.details["cap"], caught.value.details["limit"]) == ("max_kwargs_bytes", 64 << 10)
    with pytest.raises(CapExceeded, match="max_kwargs_bytes of this server is 10"):
        EnvRules(max_kwargs_bytes=10).check(spec(wrappers=[{"id": "ClipReward", "kwargs": {"min_reward": 12345}}]))
    deep: list = []
    for _ in range(20):
        deep = [deep]
    with pytest.raises(InvalidSpec, match="deeper than 12"):
        STRICT.check(spec(env_kwargs={"a": deep}))
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(InvalidSpec, match="deeper than 12"):
        STRICT.check(spec(env_kwargs={"a": deep}))
