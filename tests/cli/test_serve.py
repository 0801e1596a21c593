from __future__ import annotations

import socket

import pytest


def test_a_port_in_use_is_one_clear_line(vecserver):
    """A port that is taken ends the command with the port and what to do, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = vecserver("serve", "--port", port)
    assert refused.code == 1
    assert refused.err.startswith(f"error [port_unavailable]: port {port} of 127.0.0.1 is in use")
    assert "--port" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--curve-key", "/nowhere/key"), "/nowhere/key cannot be read as a key"),
        (("--data-ports", "9-8"), "before it begins"),
        (("--port", "70000"), "port is 70000"),
        (("--parent-fd", "99"), "no open socket"),
        (("--parent-fd", "1"), "no open socket"),
    ],
)
def test_wrong_settings_are_wrong_usage(vecserver, arguments, words):
    """Settings that contradict each other or name nothing end the command with 2 and a sentence."""
    refused = vecserver("serve", *arguments)
    assert refused.code == 2
    assert words in " ".join(refused.err.split())
