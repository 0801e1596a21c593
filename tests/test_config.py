from __future__ import annotations

import os
import pwd
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests import leaks
from vecserver import config
from vecserver.config import Settings, is_loopback, load
from vecserver.pools.access import access_through, gate_of
from vecserver.pools.curve import new_keys, write_keys
from vecserver.pools.spec import Caps

SHORT = os.environ[leaks.RUNTIME_DIR]  # as a user's is: the path of a socket ends at 108 bytes


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("VECSERVER_", "GYM_"))]:
        monkeypatch.delenv(name)


def test_defaults_are_loopback_and_the_caps_of_pools():
    """Without any setting a server listens on loopback, port 8000, with the caps' own defaults."""
    settings = load()
    assert (settings.host, settings.port, settings.insecure) == ("127.0.0.1", 8000, False)
    assert replace(settings.caps, max_total_arena_bytes=None) == Caps()
    assert 0 < settings.max_total_arena_bytes < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_explicit_beats_environment_beats_default(monkeypatch):
    """A given value wins over the variable, and the variable over the default."""
    monkeypatch.setenv("VECSERVER_PORT", "9001")
    monkeypatch.setenv("VECSERVER_MAX_POOLS", "3")
    settings = load(port=9002, max_pools=None)
    assert (settings.port, settings.max_pools) == (9002, 3)
    assert settings.caps.max_pools == 3


def test_an_empty_variable_is_none(monkeypatch):
    """A variable that is set to nothing is as good as unset."""
    monkeypatch.setenv("VECSERVER_PORT", "")
    assert load().port == 8000


@pytest.mark.parametrize(("text", "ports"), [("9000-9100", (9000, 9100)), ("9000", (9000, 9000))])
def test_a_port_range_is_read_from_text(monkeypatch, text, ports):
    """``A-B`` is a range of ports and ``A`` one port, from both sources."""
    assert load(data_port_range=text).data_port_range == ports
    monkeypatch.setenv("VECSERVER_DATA_PORT_RANGE", text)
    assert load().data_port_range == ports


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": 65536}, "port is 65536"),
        ({"data_port_range": "9000-"}, "two ports"),
        ({"data_port_range": "0-9"}, "data_port_range"),
        ({"data_port_range": "9-8"}, "before it begins"),
        ({"max_pools": 0}, "max_pools is 0"),
        ({"start_timeout": float("inf")}, "start_timeout"),
        ({"runtime_dir": "/" + "x" * 80}, "too long"),
        ({"allow_kwarg": ("xml_file",)}, "no environment's id and an argument"),
        ({"worker_memory": 1024}, "worker_memory"),
        ({"worker_user": "nobody-of-this-name"}, "only root|no user"),
        ({"worker_user": "root"}, "only root|that is root"),
        ({"request_rate": 0}, "request_rate"),
        ({"max_ext_bytes": 1 << 30}, "max_ext_bytes"),
        ({"prot": 1}, "prot"),
    ],
)
def test_a_wrong_setting_is_named(given, words):
    """A value out of range is refused with the setting's name."""
    with pytest.raises(ValueError, match=words):
        load(**given)


def test_pools_are_declared_by_text_and_file(tmp_path):
    """Those of the command line first; names are unlike each other, and every option is looked at before the start."""
    path = tmp_path / "pools.toml"
    path.write_text('[pools.b]\nenv = "CartPole-v1"\nnum_envs = 2\n')
    text = "name=a,env=CartPole-v1,num_envs=1"
    assert [(pool.name, pool.spec.num_envs) for pool in load(pool=(text,), pools=path).declared] == [("a", 1), ("b", 2)]
    assert load().declared == []
    for given, words in (
        ({"pool": (text, text)}, "two pools are named a"),
        ({"pool": ("name=b,env=CartPole-v1,num_envs=1",), "pools": path}, "two pools are named b"),
        ({"pool": ("name=a,env=CartPol-v1,num_envs=1",)}, "CartPole-v1"),
        ({"pool": (text,), "max_num_envs": 1, "pools": path}, "max_num_envs of this server is 1"),
        ({"pools": tmp_path / "none.toml"}, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=words):
            load(**given)


def test_lists_are_written_with_commas(monkeypatch):
    """In a variable; and they are what decides about environments, the operator's own among them."""
    monkeypatch.setenv("VECSERVER_ALLOW_ENV", "gymnasium, ALE/*")
    monkeypatch.setenv("VECSERVER_ALLOW_MODULE", "my_envs")
    rules = load().rules
    assert (rules.allow_env, rules.allow_module, rules.allow_kwarg) == (("gymnasium", "ALE/*"), ("my_envs",), ())
    assert load(allow_env=("Ant-*",), openenv_env="Ant-v5").rules.allow_env == ("Ant-*",)
    with pytest.raises(ValueError, match=r"--allow-env 'CartPole-v1'"):
        load(allow_env=("Ant-*",))
    with pytest.raises(ValueError, match="--allow-module other"):
        load(pool=("name=a,env=other:Env-v0,num_envs=1",))
    with pytest.raises(ValueError, match=r"--allow-kwarg 'Ant-v5:xml_file'"):
        load(pool=('name=a,env=Ant-v5,num_envs=1,kwargs={"xml_file": "x"}',))


def test_only_root_names_a_user_for_workers(monkeypatch):
    """Who is not root is told so; the account is looked up by name."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ValueError, match="only root may run processes as another user"):
        load(worker_user="daemon")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = pwd.getpwnam("daemon")
    user = load(worker_user="daemon").worker_limits.user
    assert (user.uid, user.gid, user.home) == (found.pw_uid, found.pw_gid, found.pw_dir)


def test_the_state_dir_is_the_users_own(monkeypatch):
    """XDG_STATE_HOME, or where it is by default."""
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert load().state_dir == Path("/x/vecserver")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load().state_dir == Path("/home/somebody/.local/state/vecserver")


def test_a_wrong_variable_is_named(monkeypatch):
    """A value from the environment is refused with the variable's name."""
    monkeypatch.setenv("VECSERVER_GRACE", "soon")
    with pytest.raises(ValueError, match="VECSERVER_GRACE is 'soon'"):
        load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpu1", "127.0.0.1.evil.example", ""])
def test_a_host_beyond_loopback_has_keys(host, monkeypatch):
    """An address that others can reach is encrypted to; where that cannot be, it is refused with what to do."""
    assert not is_loopback(host)
    if host:
        first, second = (load(host=host).curve_keys() for _ in range(2))
        assert first != second
        assert load(host=host, insecure=True).curve_keys() is None
        monkeypatch.setattr(config, "has_curve", lambda: False)
        with pytest.raises(ValueError, match="no CURVE to encrypt with: install pyzmq .* or say --insecure"):
            load(host=host)
        assert load(host=host, insecure=True).host == host


def test_keys_of_a_file_are_taken_on_loopback_too(tmp_path):
    """They are the file's, each time; a file that others can read is refused, and so is what is no key."""
    keys = new_keys()
    secret, public = write_keys(tmp_path, keys)
    assert (secret.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)
    assert load(curve_key=secret).curve_keys() == keys
    assert load().curve_keys() is None
    with pytest.raises(ValueError, match="exclude each other"):
        load(curve_key=secret, insecure=True)
    with pytest.raises(ValueError, match="can be read by others"):
        load(curve_key=public)
    secret.write_text("nothing of the kind")
    with pytest.raises(ValueError, match="holds no secret key"):
        load(curve_key=secret)
    with pytest.raises(ValueError, match="cannot be read as a key"):
        load(curve_key=tmp_path / "missing")


def test_no_repr_shows_a_secret():
    """Of keys and of what is made from them, in any message of the server's that holds them."""
    keys = new_keys()
    gate = gate_of(keys)
    shown = repr([keys, gate, access_through(gate_of(None), None), access_through(gate, keys.public)])
    assert keys.secret not in shown
    assert gate.ticket not in shown
    assert "by ticket" in shown


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_nothing(host):
    """Loopback addresses are taken as they are."""
    assert load(host=host).host == host


def test_settings_do_not_change():
    """Settings are composed once."""
    with pytest.raises(ValidationError):
        load().port = 1


def test_the_runtime_dir_is_the_users_own(monkeypatch):
    """XDG_RUNTIME_DIR is used where it can be written, else the directory for temporary files."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", SHORT)
    assert Settings().runtime_dir == Path(SHORT)
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{SHORT}/none")
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert Settings().runtime_dir == Path("/tmp")


def test_openenvs_settings_have_the_variables_of_its_origin(monkeypatch):
    """GYM_ENVIRONMENT_ID and its siblings say what sessions play; our own name for the first one wins."""
    assert load().sessions.play.env_id == "CartPole-v1"
    for name, value in {
        "ENVIRONMENT_ID": "Acrobot-v1",
        "MAX_STEPS": "9",
        "SEED": "3",
        "RENDER_MODE": "rgb_array",
    }.items():
        monkeypatch.setenv(f"GYM_{name}", value)
    play = load().sessions.play
    assert (play.env_id, play.max_steps, play.seed, play.render_mode) == ("Acrobot-v1", 9, 3, "rgb_array")
    monkeypatch.setenv("VECSERVER_OPENENV_ENV", "Pendulum-v1")
    assert load().sessions.play.env_id == "Pendulum-v1"
    assert load(openenv_env="MountainCar-v0").sessions.play.env_id == "MountainCar-v0"


def test_openenvs_environment_exists():
    """A server whose default environment is unknown does not start, and names those that look like it."""
    with pytest.raises(ValueError, match=r"^openenv_env is 'CartPole'.*CartPole-v1"):
        load(openenv_env="CartPole")


@pytest.mark.parametrize("name", ["GYM_ENVIRONMENT_ID", "VECSERVER_OPENENV_ENV", "GYM_SEED", "GYM_MAX_STEPS"])
def test_a_wrong_variable_of_openenvs_is_named(monkeypatch, name):
    """By the name under which it was set."""
    monkeypatch.setenv(name, "-x")
    with pytest.raises(ValueError, match=f"^{name} is '-x'"):
        load()


def test_at_least_256_sessions_by_default():
    """Trainers open one a generation."""
    options = load(openenv_idle_timeout=5).sessions
    assert options.limit >= 256
    assert (options.idle_timeout, options.step_timeout) == (5.0, 60.0)


@pytest.mark.parametrize(
    "token", ["its-secret", "its-secret with a blank and of some length", "its-secret" * 5, "its-secret\x1b[0m" * 3]
)
@pytest.mark.parametrize(
    "wrong", [{}, {"port": 99999}, {"grace": "soon"}, {"token_file": "/no/file"}, {"tls_cert": "x"}]
)
def test_no_refusal_of_settings_repeats_a_token(monkeypatch, token, wrong):
    """Whether it is wrong itself or anything else is; nor do the settings show it."""
    monkeypatch.setenv("VECSERVER_TOKEN", token)
    try:
        shown = repr(load(**wrong)) + str(load(**wrong).model_dump())
    except ValueError as error:
        shown = "".join(traceback.format_exception(error))
    assert "its-secret" not in shown
