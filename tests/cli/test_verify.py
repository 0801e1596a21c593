"""``vecserver verify`` as a command: what it prints, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

import vecserver_client as vs
from tests.sampling import of_which
from vecserver.cli import main

VERIFY = (sys.executable, "-m", "vecserver", "verify")
ODD = "tests.cli.unsteady_environments:vectest/"
QUICK = ("--engine", "envs", "--transport", "tcp", "--autoreset-mode", "SameStep", "--steps", "12", "-n", "3")
HASHES = {"observations", "rewards", "terminated", "truncated", "infos"}


def environment():
    """Without the variable that names a server: the command would use that one."""
    return {name: value for name, value in os.environ.items() if name != "VECSERVER_URL"}


def run(*arguments):
    return subprocess.run([*VERIFY, *arguments], capture_output=True, text=True, timeout=100, env=environment())


@of_which("modes", [["SameStep"], ["SameStep", "Disabled"]], 0)
def test_every_combination_is_compared(modes):
    """Three engines over four transports in each mode, each with five hashes, equal to those that were expected."""
    chosen = [part for mode in modes for part in ("--autoreset-mode", mode)]
    done = run("--env", "CartPole-v1", *chosen, "--num-envs", "3", "--steps", "30", "--seed", "5", "--kwargs", '{"sutton_barto_reward": true}', "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert (report["env_id"], report["result"]) == ("CartPole-v1", "equal")
    assert [mode["autoreset_mode"] for mode in report["modes"]] == modes
    for mode in report["modes"]:
        combinations = {(outcome["engine"], outcome["transport"]) for outcome in mode["outcomes"]}
        assert combinations == {
            (engine, transport) for engine in ("envs", "async", "sync") for transport in ("shm", "ipc", "tcp", "ws")
        }
        assert {outcome["result"] for outcome in mode["outcomes"]} == {"equal"}
        assert set(mode["hashes"]) == HASHES
        assert all(outcome["hashes"] == mode["hashes"] for outcome in mode["outcomes"])
    assert "CartPole-v1 SameStep: 30 steps\n" in done.stderr
    assert done.stderr.endswith("CartPole-v1: equal\n")


@of_which("transports", [["shm"], ["shm", "tcp"]], 0)
def test_a_native_engine_is_compared_with_its_own_vector_environment(transports):
    """In the autoreset modes that it has; beside another engine, each has its own report."""
    over = [part for transport in transports for part in ("--transport", transport)]
    done = run("--env", "CartPole-v1", "--engine", "native", "--engine", "envs", "--steps", "60", "--json", *over)
    assert done.returncode == 0, done.stderr
    separate, native = json.loads(done.stdout)
    for report, engine, modes in ((separate, "envs", 3), (native, "native", 1)):
        assert report["result"] == "equal"
        assert len(report["modes"]) == modes
        found = {(outcome["engine"], outcome["transport"]) for mode in report["modes"] for outcome in mode["outcomes"]}
        assert found == {(engine, transport) for transport in transports}
    assert native["modes"][0]["autoreset_mode"] == "NextStep"
    assert native["modes"][0]["hashes"] != separate["modes"][0]["hashes"]


def test_an_environment_that_has_no_vector_environment_is_no_success():
    """In the mode that is asked for, that is; one that has none at all is refused before anything starts."""
    done = run("--env", "CartPole-v1", "--engine", "native", "--autoreset-mode", "SameStep")
    assert done.returncode == 2
    assert "no autoreset mode SameStep" in done.stderr


@of_which(
    "env, place",
    [
        ("Hashed", "step 2, row 0, observations[0]"),
        ("Clock", "step 3, row 1, rewards[1]"),
        ("Global", "infos['luck'][0]"),
    ],
    0,
)
def test_an_environment_that_is_not_deterministic_is_called_that(env, place):
    """Whether a process, the time or global state is in its values; status 3, and no pool is blamed.

    Step 3 is row 1's third: the script has reset rows 0 and 2 after step 2.
    """
    done = run(*QUICK, "--env", f"{ODD}{env}-v0")
    assert done.returncode == 3, done.stderr
    assert f"{ODD}{env}-v0: not deterministic (two runs in different processes differ: SameStep, " in done.stdout
    assert place in done.stdout
    assert "differs" not in done.stdout


@pytest.mark.slow
def test_infos_that_cannot_travel_are_noted_and_nothing_else_is_missed():
    """Not a difference, and not a failed step at the end of an episode either."""
    done = run(*QUICK, "--engine", "sync", "--env", f"{ODD}Locked-v0")
    assert done.returncode == 0, done.stdout + done.stderr
    for path in ("lock", "deep.lock", "final_info.lock", "final_info.deep.lock"):
        assert f"not compared, because it cannot travel: the info '{path}' (" in done.stdout


@pytest.mark.slow
def test_what_an_environment_prints_is_kept_away_from_the_result():
    """From its workers, from the fresh process and from here."""
    done = run(*QUICK, "--env", f"{ODD}Loud-v0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["result"] == "equal"
    assert "loud" not in done.stderr


def test_an_environment_that_cannot_be_made_is_skipped_with_its_reason():
    """Status 2 where it was named; the others are verified all the same."""
    done = run(*QUICK, "--env", f"{ODD}Missing-v0", "--env", "CartPole-v1")
    assert done.returncode == 2, done.stderr
    assert f"{ODD}Missing-v0: skipped (DependencyNotInstalled: no such package)\n" in done.stdout
    assert "CartPole-v1: equal\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "say --all"),
        (("--env", "CartPole-v1", "--engine", "warp"), "'warp' is none of envs, async, sync, native"),
        (("--env", "CartPole-v1", "--transport", "auto"), "'auto' is none of shm, ipc, tcp, ws"),
        (("--env", "CartPole-v1", "--autoreset-mode", "never"), "'never' is none of NextStep"),
        (("--env", "CartPole-v1", "--kwargs", "{"), "no JSON"),
        (("--env", "CartPole-v1", "--steps", "0"), "'--steps'"),
        (("--env", "Cartpole-v1"), "did you mean CartPole-v1"),
        (("--env", "Pendulum-v1", "--engine", "native"), "vector_entry_point"),
        (("--env", "CartPole-v1", "--url", "http://127.0.0.1:1"), "server_unreachable"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments, text, monkeypatch, capsys):
    """It says what was wrong."""
    monkeypatch.delenv("VECSERVER_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["vecserver", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert text in " ".join(said.replace("│", " ").split())


@pytest.mark.slow
def test_a_server_that_runs_elsewhere_has_no_pool_left():
    """Only the pools are the command's."""
    server = vs.LocalServer()
    try:
        done = run(*QUICK, "--env", "CartPole-v1", "--url", server.url)
        with vs.ControlClient(server.url) as client:
            left = client.list_pools()
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    assert left == []


def test_ctrl_c_ends_everything_without_a_word():
    """A terminal's Ctrl-C reaches the whole group: no process stays, and none prints a traceback."""
    arguments = ("--env", "CartPole-v1", "--steps", "100000", "--engine", "envs", "--transport", "ipc")
    command = subprocess.Popen(
        [*VERIFY, *arguments], stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    with command:
        for line in command.stderr:
            if line.startswith("CartPole-v1 NextStep"):
                break
        os.killpg(command.pid, signal.SIGINT)
        rest = command.stderr.read()
        assert command.wait(30) == 130
    assert "Traceback" not in rest


@pytest.mark.slow
def test_an_interrupted_command_removes_its_pools():
    """Also where the server is not its own, and in the middle of a run."""
    server = vs.LocalServer()
    try:
        arguments = ("--env", "CartPole-v1", "-n", "1", "--steps", "20000", "--engine", "envs", "--transport", "ipc")
        command = subprocess.Popen(
            [*VERIFY, *arguments, "--url", server.url],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        with command, vs.ControlClient(server.url) as client:
            pause = threading.Event()
            while not any(pool["stats"] and pool["stats"]["batches"] > 10 for pool in client.list_pools()):
                assert command.poll() is None, command.stderr.read()
                pause.wait(0.05)
            os.killpg(command.pid, signal.SIGINT)
            assert "Traceback" not in command.stderr.read()
            assert command.wait(30) == 130
            assert client.list_pools() == []
    finally:
        server.close()


@pytest.mark.slow
def test_a_terminal_sees_a_bar_and_then_the_table():
    """What moves is gone at the end."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with os.fdopen(theirs, "wb", buffering=0) as terminal:
            command = subprocess.Popen([*VERIFY, *QUICK, "--env", "CartPole-v1"], stdout=terminal, stderr=terminal,
                                       env={**environment(), "TERM": "xterm", "COLUMNS": "100"})  # fmt: skip
        shown = b""
        try:
            while chunk := screen.read(4096):
                shown += chunk
        except OSError:  # EIO: the last one who had the terminal open is gone
            pass
        assert command.wait(30) == 0
    text = shown.decode()
    assert "━" in text
    assert "CartPole-v1 SameStep" in text
    assert text.replace("\r", "").rstrip().splitlines()[-1].startswith("  envs tcp         equal")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")
def test_an_atari_game_is_known_by_its_plain_id():
    """In the server, in the workers and here, where the package is installed."""
    done = run(*QUICK, "--env", "ALE/Pong-v5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ALE/Pong-v5: equal\n" in done.stdout
