"""Pickles pass between a program and its own workers, and nowhere else."""

from __future__ import annotations

import os
import pickle
from base64 import b64encode
from dataclasses import fields
from threading import Lock

import gymnasium
import msgspec
import pytest

from vecserver.arena.outcome import joined
from vecserver.engine.base import fault_of
from vecserver.engine.channel import Ready
from vecserver.engine.pickled import Program, RowMaker, by_pickle
from vecserver.pools.agreement import understood
from vecserver.pools.handshake import HostStart
from vecserver.pools.host import Host
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.codec import FOREIGN, pack, unpack
from vecserver.wire.errors import EnvFault, MalformedMessage, Unportable
from vecserver_client.faults import as_original


class Trap:
    """Makes a folder where a pickle of it is loaded."""

    def __init__(self, path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_nothing_but_plain_values_travels_by_itself():
    """Without being asked for, pickles are neither written nor read."""
    with pytest.raises(Unportable):
        pack({"a": slice(3)})
    with by_pickle():
        data = pack({"a": [slice(3), (1, range(4))]})
        assert unpack(data) == {"a": [slice(3), (1, range(4))]}
    with pytest.raises(MalformedMessage, match="extension type"):
        unpack(data)


def test_an_error_on_the_way_ends_the_pickling():
    """Whatever happens inside, afterwards only plain values travel."""
    with pytest.raises(ZeroDivisionError), by_pickle():
        raise ZeroDivisionError
    assert FOREIGN.get() is None


def test_a_servers_host_sends_no_callables():
    """The start message of a host that was made from a spec has none, so its workers load no pickle."""
    host = Host("p", PoolSpec(env_id="CartPole-v1", num_envs=2), Caps())
    try:
        assert host.start_message((0, 2)).program == b""
    finally:
        host.stop(0.0)


def test_a_server_has_no_place_for_callables(tmp_path):
    """Neither a pool's options nor what a server tells its host hold bytes; a field that is made up is dropped."""
    trap = tmp_path / "sprung"
    assert not [field for field in fields(PoolSpec) if "bytes" in str(field.type)]
    assert not [field for field in msgspec.structs.fields(HostStart) if field.type is bytes]
    spec = {"env_id": "CartPole-v1", "num_envs": 1, "program": b64encode(pickle.dumps(Trap(trap))).decode()}
    assert not hasattr(msgspec.convert(spec, PoolSpec), "program")
    assert not trap.exists()


def test_a_faults_exception_is_not_loaded_from_a_server(tmp_path):
    """Only a program's own link looks at it; any other goes by the name."""
    trap = tmp_path / "sprung"
    original = b64encode(pickle.dumps(Trap(trap))).decode()
    fault = {"row": 0, "type": "ValueError", "message": "it", "traceback": "", "original": original}
    assert isinstance(as_original(EnvFault("row 0 raised it", faults=[fault])), ValueError)
    assert not trap.exists()


def test_a_fault_has_its_exception_only_for_a_program():
    """Towards a server it is words alone."""
    assert "original" not in fault_of(0, ValueError("it"))
    with by_pickle():
        assert "original" in fault_of(0, ValueError("it"))


def test_an_exception_of_any_size_makes_a_small_fault():
    """What it holds is left behind where it is large, and its class arrives."""
    error = ValueError("it")
    error.state = bytes(1 << 20)
    with by_pickle():
        assert len(fault_of(0, error)["original"]) < 1 << 15


def test_each_shard_gets_its_own_callables():
    """Rows are counted in the pool, not in the shard."""
    program = Program([lambda row=row: row for row in range(5)])
    maker = RowMaker(program.dump((2, 4)), 2)
    assert [maker(2), maker(3)] == [2, 3]


def test_an_environment_that_cannot_be_pickled_hinders_no_other():
    """A program may have registered something that has nothing to do with these rows."""
    gymnasium.register("vectest/Unpicklable-v0", "tests.environments:CountEnv", kwargs={"lock": Lock()})
    try:
        assert RowMaker(Program([lambda: 7]).dump((0, 1)), 0)(0) == 7
    finally:
        del gymnasium.registry["vectest/Unpicklable-v0"]


def test_a_servers_host_loads_no_pickle_of_a_worker(tmp_path):
    """Whatever an environment's code sends in its worker's name: faults, spaces, results of calls."""
    trap = tmp_path / "sprung"
    with by_pickle():
        said = pack([Trap(trap)])
    with pytest.raises(MalformedMessage, match="extension type"):
        joined([(said, True)])
    results = joined([(said, False)])  # not looked at here, and the client looks as little
    with pytest.raises(MalformedMessage, match="extension type"):
        unpack(results)
    with pytest.raises(MalformedMessage, match="not the description of a space"):
        understood(Ready({}, {}, {}, None, objects=said), own_program=False)
    assert not trap.exists()
