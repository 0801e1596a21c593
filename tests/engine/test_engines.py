"""Every engine keeps the contract; what Gymnasium's own vector environments do not keep is declared."""

from __future__ import annotations

import gymnasium

from tests.contract.engine_contract import EngineContract
from tests.contract.vector_contract import DISABLED, NEXT_STEP, SAME_STEP, SIDE_ENVIRONMENTS, TEST_ENVIRONMENTS
from tests.environments import FAULT_KINDS
from tests.sampling import in_turn

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

    @in_turn("mode, name, num_envs, kwargs", [NEXT_STEP, SAME_STEP, DISABLED], TEST_ENVIRONMENTS + SIDE_ENVIRONMENTS)
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)

    @in_turn("where, kind", ["step", "reset", "render", "call"], FAULT_KINDS)
    def test_what_an_environment_raises_is_data(self, pair, where, kind):
        """Row, type, message and traceback come out whatever was raised, and the next reset works."""
        super().test_what_an_environment_raises_is_data(pair, where, kind)
