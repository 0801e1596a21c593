"""Every engine keeps the contract; what Gymnasium's own vector environments do not keep is declared."""

from __future__ import annotations

import gymnasium

from tests.contract.engine_contract import EngineContract

OLD = tuple(map(int, gymnasium.__version__.split(".")[:2])) < (1, 4)


class TestEnvs(EngineContract):
    """Separate environments in one loop."""

    engine = "envs"


class TestSync(EngineContract):
    """Gymnasium's ``SyncVectorEnv``."""

    engine = "sync"
    steps_the_others = False  # the loop ends at the first row that raises
    survives_a_bad_call = False  # it is made again at the next reset
    takes_part_of_a_pool = False
    merges_infos = True


class TestAsync(EngineContract):
    """Gymnasium's ``AsyncVectorEnv``."""

    engine = "async"
    steps_the_others = False  # they do, and their results are lost
    survives_a_bad_call = False  # the process of a row that raised is gone
    refuses_odd_observations = False  # what fits after stretching is taken
    takes_half_floats = not OLD  # it had no shared memory for them
    closes_whatever_happens = False  # it makes one more environment at first, and closes that
    takes_part_of_a_pool = False
    merges_infos = True
