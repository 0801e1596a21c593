"""What the doctor finds, and what it says about it."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from vecserver.cli.diagnosis import kernel, limits, packages, places
from vecserver.config import load
from vecserver.pools.spec import PoolSpec
from vecserver.pools.store import DurablePool, PoolStore


def free_ports(count):
    """Numbers of so many free ports, one behind the other."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        first = found.getsockname()[1]
    return (first, first + count - 1)


def test_a_healthy_machine_passes(vecserver, tmp_path, monkeypatch):
    """Nothing here would keep a server from working; every check has a line."""
    monkeypatch.setenv("VECSERVER_STATE_DIR", str(tmp_path))
    shown = vecserver("doctor", "--port", "0")
    assert shown.code == 0
    for check in ("shared memory", "open files", "processes", "cores", "memory", "runtime folder", "state folder"):
        assert f"  {check} " in shown.out
    report = vecserver("doctor", "--port", "0", "--json").json
    assert report["ok"]
    assert {each["status"] for each in report["checks"]} <= {"ok", "warn"}
    assert all(each["found"] for each in report["checks"])


def test_a_port_in_use_fails(vecserver):
    """With exit code 1 and what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown = vecserver("doctor", "--port", port)
    assert shown.code == 1
    assert f"fail  port {port}" in shown.out
    assert "→ choose another with --port" in shown.out


def test_a_wrong_setting_fails(vecserver, monkeypatch):
    """By the name of the variable that it came from."""
    monkeypatch.setenv("VECSERVER_GRACE", "soon")
    shown = vecserver("doctor")
    assert shown.code == 1
    assert "VECSERVER_GRACE is 'soon'" in shown.out


@pytest.mark.parametrize(
    ("soft", "hard", "status"),
    [(1024, 1 << 20, "ok"), (1024, resource.RLIM_INFINITY, "ok"), (512, 1024, "warn"), (64, 64, "fail")],
)
def test_open_files_are_held_against_the_caps(monkeypatch, soft, hard, status):
    """A server raises the soft limit itself; the hard one decides."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    finding = limits.check_descriptors(load())
    assert finding.status == status
    assert bool(finding.advice) == (status != "ok")


def test_open_files_are_held_against_the_connections(monkeypatch):
    """Each is a file of the server's."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 8192))
    assert limits.check_descriptors(load()).status == "ok"
    finding = limits.check_descriptors(load(max_connections=8000))
    assert finding.status == "warn"
    assert "8000 connections" in finding.found


@pytest.mark.parametrize(("allowed", "status"), [(None, "ok"), (100_000, "ok"), (50, "warn"), (1, "fail")])
def test_processes_are_held_against_the_caps(monkeypatch, allowed, status):
    """A host and a worker a core for each pool."""
    monkeypatch.setattr(limits, "process_limit", lambda: allowed)
    assert limits.check_processes(load()).status == status


def test_cores_that_the_group_does_not_give_are_named(monkeypatch):
    """Affinity says how many workers start, and the quota how many may run."""
    monkeypatch.setattr(limits, "core_limit", lambda: 0.5)
    finding = limits.check_cores()
    assert (finding.status, "0.5" in finding.found, "taskset -c 0-0" in finding.advice) == ("warn", True, True)
    monkeypatch.setattr(limits, "core_limit", lambda: None)
    assert limits.check_cores().status == "ok"


def test_a_cap_above_the_free_memory_is_named(monkeypatch):
    """And so is the limit of the group."""
    monkeypatch.setattr(limits, "memory_limit", lambda: 1 << 30)
    monkeypatch.setattr(limits, "group_memory", lambda: (2 << 30, 1 << 30))
    finding = limits.check_memory(load(max_total_arena_bytes=4 << 30))
    assert (finding.status, "1,024 MiB free of a limit of 2,048 MiB" in finding.found) == ("warn", True)
    assert limits.check_memory(load(max_total_arena_bytes=1 << 20)).status == "ok"


def test_data_ports_are_counted():
    """None free is a failure, fewer than pools a warning."""
    ports = free_ports(1)
    assert places.check_data_ports(load()).status == "ok"
    assert places.check_data_ports(load(data_port_range=ports, max_pools=1)).status == "ok"
    assert places.check_data_ports(load(data_port_range=ports, max_pools=2)).status == "warn"
    with socket.create_server(("127.0.0.1", ports[0])):
        assert places.check_data_ports(load(data_port_range=ports, max_pools=1)).status == "fail"


def test_an_address_of_another_machine_is_a_failure():
    """Which is not that the port is in use."""
    finding = places.check_http_port(load(host="192.0.2.1", insecure=True))
    assert (finding.status, "--host" in finding.advice) == ("fail", True)


def test_the_runtime_folder_takes_sockets(tmp_path, monkeypatch):
    """A path where there can be no folder is a failure."""
    assert places.check_runtime_dir(load()).status == "ok"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert places.check_runtime_dir(load(runtime_dir="file/x")).status == "fail"


def test_the_state_folder_is_looked_at_without_a_trace(tmp_path):
    """How many pools are kept there; a store of another server is a warning, and so is a folder that cannot be."""
    settings = load(state_dir=tmp_path / "state")
    assert places.check_state_dir(settings).status == "ok"
    assert not (tmp_path / "state").exists()
    store = PoolStore(tmp_path / "state")
    store.add(DurablePool("train", PoolSpec(env_id="CartPole-v1", num_envs=1)))
    finding = places.check_state_dir(settings)
    assert (finding.status, "another server" in finding.found) == ("warn", True)
    store.close()
    assert "1 durable pools" in places.check_state_dir(settings).found
    (tmp_path / "file").touch()
    assert places.check_state_dir(load(state_dir=tmp_path / "file" / "state")).status == "warn"


def test_what_the_kernel_refuses_is_named(monkeypatch):
    """Each call that a sandbox may forbid, with what to do."""

    def refuse(*_):
        raise PermissionError(1, "not permitted")

    for name, check in (
        ("memfd_create", kernel.check_shared_memory),
        ("pidfd_open", kernel.check_descriptors_of_processes),
        ("eventfd", kernel.check_descriptors_of_processes),
    ):
        assert check().status == "ok"
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            finding = check()
        assert (finding.status, name in finding.advice) == ("fail", True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 4711)
        assert kernel.check_peers().status == "warn"
    assert kernel.check_clock().status == "ok"


def test_packages_are_held_against_what_is_needed(monkeypatch):
    """One that is missing, and one that is too old."""
    needed = ["numpy>=1.26", "nothing-of-this-name>=1.0", "gymnasium>=99.5", 'plotly>=1; extra == "plot"']
    monkeypatch.setattr(packages.metadata, "requires", lambda _: needed)
    missing, old = packages.check_versions()
    assert (missing.status, missing.advice) == ("fail", "pip install 'nothing-of-this-name>=1.0'")
    assert (old.status, "99.5 or newer" in old.found) == ("fail", True)
    monkeypatch.setattr(packages.metadata, "requires", lambda _: needed[:1])
    assert [each.status for each in packages.check_versions()] == ["ok"]
    assert packages.check_extras().status == "ok"


def test_the_doctor_leaves_nothing(tmp_path, monkeypatch):
    """What it tries out is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    assert places.check_runtime_dir(load(runtime_dir=".")).status == "ok"
    assert not [*tmp_path.iterdir()]
