"""Options of a reset that differ from row to row, which Gymnasium's vector environments do not have."""

from __future__ import annotations

from contextlib import ExitStack, closing

import pytest

import vecserver_client as vs
from tests.environments import env_id
from tests.sampling import of_which
from vecserver.wire.errors import InvalidSpec

COUNT = env_id("Count-v0")
EACH = [{"mark": 1}, None, {"mark": 3, "path": ["a", 2.5]}]
SHOWN = ["[('mark', 1)]", "[]", "[('mark', 3), ('path', ['a', 2.5])]"]


@pytest.fixture(params=["local", "ipc"])
def make(request, server):
    """Makes a vector environment of three rows, with its arena here or at a server."""
    with ExitStack() as stack:

        def make_one(**options):
            if request.param == "local":
                made = vs.LocalVectorEnv(COUNT, 3, **options)
            else:
                made = vs.make_vec(COUNT, 3, url=server.url, transport="ipc", **options)
            return stack.enter_context(closing(made))

        yield make_one


@of_which("options", [{"workers": 2}, {"engine": "sync"}, {"engine": "async"}], 0)
def test_each_row_gets_its_own(make, options):
    """None is none, and the next reset has none again; with every engine, over the borders of workers."""
    envs = make(**options)
    assert envs.reset(seed=1, options=EACH)[1]["options"].tolist() == SHOWN
    assert envs.reset(seed=1, options=tuple(EACH[::-1]))[1]["options"].tolist() == SHOWN[::-1]
    assert envs.reset(seed=1)[1]["options"].tolist() == ["[]"] * 3


def test_as_many_as_rows_are_needed(make):
    """Nothing is reset otherwise."""
    with pytest.raises(ValueError, match="one entry a row: got 2 for 3"):
        make(workers=1).reset(options=EACH[:2])


def test_they_may_be_given_over_http(server):
    """As a list of objects and nulls."""
    with vs.ControlClient(server.url) as control:
        pool = control.create_pool(env_id=COUNT, num_envs=3, workers=1)["pool"]
        assert control.reset_pool(pool, 1, options=EACH)["infos"]["options"] == SHOWN
        with pytest.raises(InvalidSpec, match="options has 1 entries for 3 rows"):
            control.reset_pool(pool, 1, options=[None])
        control.delete_pool(pool)
