from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest

from tests.cli.bench_command import TINY, run
from vecserver.arena.doorbell import Doorbell
from vecserver.cli.measure.stamps import Stamps
from vecserver.cli.measure.where import NoChains, _Client, _noted_rings, parts_of

US = 1000


@pytest.fixture(scope="module")
def report():
    options = ("--no-peers", "--where", "--engine", "envs", "--engine", "sync", "--seconds", "0.1", "--json")
    done = run(*TINY, *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
class TestTheWholeCommand:
    def test_every_pool_is_looked_into(self, report):
        """Over each transport and with each engine."""
        names = [
            f"vecserver {transport} {engine}" for transport in ("shm", "tcp", "ipc") for engine in ("envs", "sync")
        ]
        assert [one["subject"] for one in report["where"]] == names
        assert all(one["batches"] >= 5 for one in report["where"])

    def test_the_parts_sum_to_the_batch(self, report):
        """In time and in per cent; none is negative but the remainder."""
        for one in report["where"]:
            assert [part["name"] for part in one["parts"]] == [
                *("client", "wire", "host", "bells", "workers", "environment")
            ]
            assert sum(part["us"] for part in one["parts"]) == pytest.approx(one["batch_us"])
            assert sum(part["per_cent"] for part in one["parts"]) == pytest.approx(100)
            assert min(part["us"] for part in one["parts"] if part["found"] != "remainder") >= 0
            assert one["left_out"] <= one["batches"]

    def test_a_driver_of_shared_memory_needs_no_wire_and_no_host(self, report):
        """Over a socket both take their part."""
        for one in report["where"]:
            parts = {part["name"]: part["us"] for part in one["parts"]}
            over_shm = "shm" in one["subject"]
            assert (parts["wire"] == 0, parts["host"] == 0) == (over_shm, over_shm)
            assert parts["client"] > 0
            assert parts["bells"] > 0
            assert parts["environment"] > 0

    def test_what_is_calculated_is_called_so(self, report):
        """The rest is measured."""
        for one in report["where"]:
            found = {part["name"]: part["found"] for part in one["parts"]}
            assert (found.pop("environment"), found.pop("workers")) == ("bare loop", "remainder")
            assert set(found.values()) == {"measured"}

    def test_a_server_elsewhere_cannot_be_looked_into(self):
        """Wrong usage, found before anything starts."""
        assert run("--where", "--url", "http://127.0.0.1:1").returncode == 2


class TestParts:
    def test_each_span_counts_for_what_happens_in_it(self):
        """Two spans of the client are one part; the worker's is divided by what the bare loop takes for its rows."""
        chain = (np.array([[0, 10, 15, 115, 120, 140]] * 8) + 1) * US
        found = parts_of("a pool", chain, np.full(8, 4), ["client", "bells", "workers", "bells", "client"], 20 * US)
        assert (found.batch_us, found.batches) == (140, 8)
        us = {part.name: part.us for part in found.parts}
        assert us == {"client": 30, "wire": 0, "host": 0, "bells": 10, "workers": 20, "environment": 80}

    def test_a_worker_that_is_quicker_than_the_bare_loop_leaves_a_negative_remainder(self):
        """The sum stays, and that the bare loops were disturbed shows."""
        chain = np.array([[10, 20, 30]] * 4) * US
        found = parts_of("a pool", chain, np.full(4, 100), ["client", "workers"], US)
        us = {part.name: part.us for part in found.parts if part.us}
        assert us == {"client": 10, "workers": -90, "environment": 100}

    def test_one_who_begins_before_its_waker_has_noted_it_makes_no_negative_part(self):
        """It took its waker's core: the waker's note is late by then, and the earlier instant holds."""
        chain = np.array([[5, 10, 40, 20, 50, 60]] * 4) * US
        found = parts_of("a pool", chain, np.full(4, 1), ["wire", "host", "bells", "workers", "client"], 0)
        assert found.left_out == 0
        us = {part.name: part.us for part in found.parts if part.us}
        assert us == {"wire": 5, "host": 10, "workers": 30, "client": 10}

    WRONG: ClassVar = {
        "never written": [100, 110, 0, 0, 150, 160],
        "one not written": [100, 110, 120, 0, 150, 160],
        "of the batch before": [100, 110, 60, 90, 150, 160],
        "of the batch behind": [100, 110, 180, 200, 150, 160],
        "ended after it was heard of": [100, 110, 120, 158, 150, 160],
        "ended before it was called": [100, 110, 130, 120, 150, 160],
    }
    NAMES = ("client", "bells", "workers", "bells", "client")

    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_a_batch_whose_instants_contradict_each_other_is_left_out(self, wrong):
        """It is counted, and changes nothing of the others."""
        chain = np.array([[100, 110, 120, 140, 150, 160]] * 4 + [wrong] * 3) * US
        found = parts_of("a pool", chain, np.full(7, 1), self.NAMES, 0)
        assert (found.batches, found.left_out, found.batch_us) == (4, 3, 60)
        assert {part.name: part.us for part in found.parts if part.us} == {"client": 20, "bells": 20, "workers": 20}

    @pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
    def test_where_half_of_the_batches_do_it_gives_up(self, wrong):
        """A clean-looking table of them would be made up."""
        chain = np.array([[100, 110, 120, 140, 150, 160]] * 4 + [wrong] * 4) * US
        with pytest.raises(NoChains, match="in 4 of 8 batches what was noted contradicts itself"):
            parts_of("a pool", chain, np.full(8, 1), self.NAMES, 0)

    def test_batches_far_from_the_median_are_left_out(self):
        """One that took a hundred times as long does not count."""
        chain = (np.array([[0, 10]] * 20 + [[0, 1000]]) + 1) * US
        assert parts_of("a pool", chain, np.full(21, 1), ["client"], 0).batch_us == 10


def test_stamps_of_another_mapping_are_read(tmp_path):
    """Those behind the last batch are not written."""
    mine = Stamps.create(tmp_path / "stamps", 2, 3)
    theirs = Stamps(tmp_path / "stamps", 2, 3)
    theirs.note(1, 2, 7, 8)
    theirs.note(1, 3, 9, 9)
    read = mine.read()
    assert read.shape == (3, 3, 4)
    assert read[1, 2].tolist() == [7, 8, 0, 0]
    assert read.sum() == 15


def test_bells_are_as_they_were_afterwards():
    """What is measured is wrapped while it is measured, also where that fails."""
    before = Doorbell.take
    with pytest.raises(RuntimeError), _noted_rings(_Client()):
        assert Doorbell.take is not before
        raise RuntimeError
    assert Doorbell.take is before
