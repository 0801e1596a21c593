"""``RemoteVectorEnv`` keeps Gymnasium's contract over every transport and with every engine, ``LocalVectorEnv`` too."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest
import zmq
from gymnasium.vector import AutoresetMode, VectorEnv

import vecserver_client as vs
from tests.clients.looped import LoopedVectorEnv
from tests.contract.vector_contract import (
    BAD_ACTIONS,
    BAD_MASKS,
    COUNT,
    NEXT_STEP,
    REAL_ENVIRONMENTS,
    TEST_ENVIRONMENTS,
    VectorEnvContract,
    in_every_mode,
)
from tests.environments import FAULT_KINDS
from tests.sampling import in_turn, of_which
from vecserver_client import factory
from vecserver_client.transport import ZmqTransport

MODES = list(AutoresetMode)
NAMES = ["Count-v0", "Nested-v0", "NestedTuple-v0", "Text-v0", "Graph-v0", "Sequence-v0", "OneOf-v0"]


class Sampled(VectorEnvContract):
    """What costs a pool for each of many cases: by default with samples of them, though of every mode."""

    @in_turn("mode, name", MODES, ["Count-v0", "Nested-v0", "Graph-v0"])
    def test_results_belong_to_the_caller(self, pair, mode, name):
        """Later steps and resets leave a result as it was, and writing into it changes no later result."""
        super().test_results_belong_to_the_caller(pair, mode, name)

    @of_which("mask", list(BAD_MASKS.values()), 1)
    def test_a_mask_that_is_none_is_refused(self, subject, mask):
        """A mask is a bool array with one element a row and one of them true."""
        super().test_a_mask_that_is_none_is_refused(subject, mask)


class PartContract(VectorEnvContract):
    """The second half of a pool of twice the rows, whose first half is not asked for anything."""

    @pytest.fixture(autouse=True)
    def _wholes(self):
        self.wholes = []
        yield
        for whole in self.wholes:
            whole.close()

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        whole = super().make(env_id, 2 * num_envs, autoreset_mode=autoreset_mode, workers=2, **env_kwargs)
        self.wholes.append(whole)
        return whole.split(2)[1]


class RemoteContract(VectorEnvContract):
    """A pool of the module's server."""

    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _connect(self, server):
        self.url = server.url

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return vs.make_vec(env_id, num_envs, url=self.url, autoreset_mode=autoreset_mode, **self.options, **env_kwargs)


class TestTcp(Sampled, RemoteContract):
    """One message a batch over tcp: the whole contract, with samples of environments that ``make slow`` has all of."""

    options: ClassVar = {"transport": "tcp"}

    @in_turn("mode, name, num_envs, kwargs", MODES, TEST_ENVIRONMENTS)
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)

    @in_turn("mode, name", MODES, NAMES)
    def test_results_have_the_declared_shapes_and_dtypes(self, subject, mode, name):
        """Observations lie in their space, rewards are float64, flags are bool, all of them one a row."""
        super().test_results_have_the_declared_shapes_and_dtypes(subject, mode, name)

    @of_which("name, actions", list(BAD_ACTIONS.values()), *range(0, len(BAD_ACTIONS), 2))
    def test_a_wrong_batch_of_actions_is_refused_before_anything_is_stepped(self, pair, name, actions):
        """A batch that does not fit raises, no row is stepped, and a right one can be sent next."""
        super().test_a_wrong_batch_of_actions_is_refused_before_anything_is_stepped(pair, name, actions)

    @in_turn("where, kind", ["step", "reset", "render", "call"], FAULT_KINDS)
    def test_an_error_in_an_environment_reaches_the_caller(self, pair, where, kind):
        """The caller gets the message and the row in time, whatever the error's type, and can reset and go on."""
        super().test_an_error_in_an_environment_reaches_the_caller(pair, where, kind)

    @in_turn("mode, name, num_envs, steps", MODES, REAL_ENVIRONMENTS[::4])
    def test_real_environments_equal_the_oracle(self, pair, mode, name, num_envs, steps):
        """Gymnasium's own environments give the same to the bit, across the ends of episodes."""
        super().test_real_environments_equal_the_oracle(pair, mode, name, num_envs, steps)

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Mixed-v0", 5, {})])
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Values in the slot and beside it are the same to the bit."""
        super().test_values_of_no_fixed_size_equal_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestWs(RemoteContract):
    """One message a batch over a WebSocket of the HTTP port: the whole contract."""

    options: ClassVar = {"transport": "ws"}


class LocalContract(VectorEnvContract):
    """The arena in this process."""

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return vs.LocalVectorEnv(env_id, num_envs, autoreset_mode=autoreset_mode, **env_kwargs)


@pytest.mark.slow
class TestLocal(LocalContract):
    """The whole contract."""


@pytest.mark.slow
class TestPartOfLocal(PartContract, LocalContract):
    """A part of it: the whole contract."""


@pytest.mark.slow
class TestEventLoop(RemoteContract):
    """``vecserver_client.aio`` over a Unix socket: the whole contract."""

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return LoopedVectorEnv(env_id, num_envs, url=self.url, autoreset_mode=autoreset_mode, **env_kwargs)


class ShortContract(RemoteContract):
    """The part of the contract that could depend on the transport or the engine; the rest is shown over tcp."""

    runs_real_environments = False
    test_an_error_in_an_environment_reaches_the_caller = None
    test_an_error_while_an_environment_is_made_reaches_the_caller = None
    test_a_wrong_batch_of_actions_is_refused_before_anything_is_stepped = None
    test_results_have_the_declared_shapes_and_dtypes = None
    test_actions_arrive_in_the_dtype_they_were_sent_in = None
    test_it_describes_itself_as_the_oracle_does = None


class TestWsInShort(Sampled, ShortContract):
    """The same, what of it could depend on the transport, with samples of environments."""

    options: ClassVar = {"transport": "ws"}
    test_a_reused_observation_buffer_changes_nothing = None
    test_one_element_rewards_and_numpy_flags_are_numbers = None
    test_episode_statistics_equal_the_oracles = None
    test_episode_statistics_survive_a_reset_by_mask = None
    # the client alone answers these, before it asks anybody: TestWs, which is slow, has them too
    test_a_list_of_seeds_of_the_wrong_length_is_refused = None
    test_a_mask_that_is_none_is_refused = None
    test_attribute_values_of_the_wrong_length_are_refused = None
    test_actions_may_be_a_list = None
    test_box_actions_may_lie_beyond_the_bounds = None
    test_the_caller_keeps_its_reset_options = None
    test_waiting_for_nothing_is_refused = None
    test_nothing_works_after_close = None

    @in_turn("mode, name, num_envs, kwargs", MODES, [("Count-v0", 7, {}), ("Big-v0", 3, {})])
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Mixed-v0", 5, {})])
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Values in the slot and beside it are the same to the bit."""
        super().test_values_of_no_fixed_size_equal_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestIpc(ShortContract):
    """One message a batch over a Unix socket."""

    options: ClassVar = {"transport": "ipc"}

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Count-v0", 7, {}), ("Nested-v0", 5, {})])
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestNetwork(ShortContract):
    """The transport that serves other machines, over tcp on this one."""

    options: ClassVar = {"transport": "tcp"}

    @pytest.fixture(autouse=True)
    def _as_from_afar(self, monkeypatch):
        monkeypatch.setattr(factory, "_opener", partial(partial, ZmqTransport))

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Count-v0", 7, {}), ("Nested-v0", 5, {})])
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)

    def test_its_socket_is_zeromqs(self, subject):
        """The choice is really another one here."""
        assert type(subject(COUNT, 1)._pool_link._connection._transport) is ZmqTransport


class CurveContract(ShortContract):
    """A pool of the module's other server, whose tcp ports speak CURVE."""

    options: ClassVar = {"transport": "tcp"}

    @pytest.fixture(autouse=True)
    def _connect(self, curve_server):
        self.url = curve_server.url


@pytest.mark.slow
class TestCurveInShort(CurveContract):
    """Encrypted: samples of what could depend on it."""

    test_a_reused_observation_buffer_changes_nothing = None
    test_one_element_rewards_and_numpy_flags_are_numbers = None
    test_episode_statistics_equal_the_oracles = None
    test_episode_statistics_survive_a_reset_by_mask = None
    test_every_result_equals_the_oracle = None

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Mixed-v0", 5, {})])
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Values in the slot and beside it are the same to the bit."""
        super().test_values_of_no_fixed_size_equal_the_oracle(pair, mode, name, num_envs, kwargs)

    def test_it_is_encrypted(self, subject):
        """The client has asked for it by itself."""
        transport = subject(COUNT, 1)._pool_link._connection._transport
        assert transport._socket.getsockopt(zmq.MECHANISM) == zmq.CURVE


@pytest.mark.slow
class TestCurve(RemoteContract):
    """Encrypted: the whole contract."""

    options: ClassVar = {"transport": "tcp"}

    @pytest.fixture(autouse=True)
    def _connect(self, curve_server):
        self.url = curve_server.url


@pytest.mark.slow
class TestPartOverCurve(PartContract, CurveContract):
    """A part over tcp that is encrypted."""


@pytest.mark.slow
class TestEventLoopOverCurve(CurveContract):
    """``vecserver_client.aio`` over tcp that is encrypted."""

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        options = {"url": self.url, "transport": "tcp", "autoreset_mode": autoreset_mode}
        return LoopedVectorEnv(env_id, num_envs, **options, **env_kwargs)


@pytest.mark.slow
class TestShm(RemoteContract):
    """The arena itself: the whole contract, over another transport where actions have no fixed size."""

    @pytest.fixture(autouse=True)
    def _is_direct(self, monkeypatch):
        monkeypatch.setattr(factory, "TRANSPORTS", ("shm", "ipc"))


@pytest.mark.slow
class TestEventLoopOverWs(ShortContract):
    """``vecserver_client.aio`` over a WebSocket."""

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        options = {"url": self.url, "transport": "ws", "autoreset_mode": autoreset_mode}
        return LoopedVectorEnv(env_id, num_envs, **options, **env_kwargs)


class WithoutCopies(ShortContract):
    """Observations that are not the caller's own: how long they stay is shown in ``test_copy.py``."""

    test_results_belong_to_the_caller = None

    @in_every_mode
    @pytest.mark.parametrize(
        ("name", "num_envs", "kwargs"), [("Count-v0", 7, {}), ("Nested-v0", 5, {}), ("Big-v0", 3, {})]
    )
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        super().test_every_result_equals_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestTcpWithoutCopies(WithoutCopies):
    """Large bodies are received into a few buffers in turn."""

    options: ClassVar = {"transport": "tcp", "copy": False}


@pytest.mark.slow
class TestShmWithoutCopies(WithoutCopies):
    """Observations stay in the arena."""

    options: ClassVar = {"copy": False}


@pytest.mark.slow
class TestPart(Sampled, PartContract, ShortContract):
    """A part over tcp; by default ``test_split.py`` shows what parts are."""

    options: ClassVar = {"transport": "tcp"}
    # the same code as the whole's, and in TestPartOverTcp
    test_actions_may_be_a_list = None
    test_box_actions_may_lie_beyond_the_bounds = None
    test_the_caller_keeps_its_reset_options = None
    test_waiting_for_nothing_is_refused = None
    test_a_missing_attribute_is_named = None
    test_a_step_before_any_reset_is_refused = None
    test_episode_statistics_survive_a_reset_by_mask = None
    test_one_element_rewards_and_numpy_flags_are_numbers = None
    test_every_result_equals_the_oracle = None
    test_episode_statistics_equal_the_oracles = None

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Mixed-v0", 5, {})])
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Values in the slot and beside it are the same to the bit."""
        super().test_values_of_no_fixed_size_equal_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestPartOverTcp(PartContract, RemoteContract):
    """A part over tcp: the whole contract."""

    options: ClassVar = {"transport": "tcp"}


@pytest.mark.slow
class TestPartInShm(PartContract, RemoteContract):
    """A part whose arena is lent: the whole contract, over another transport where actions have no fixed size."""

    @pytest.fixture(autouse=True)
    def _is_direct(self, monkeypatch):
        monkeypatch.setattr(factory, "TRANSPORTS", ("shm", "ipc"))


@pytest.mark.slow
class TestLocalWithoutCopies(WithoutCopies):
    """Observations stay in the arena of this process."""

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return vs.LocalVectorEnv(env_id, num_envs, copy=False, autoreset_mode=autoreset_mode, **env_kwargs)


class GymnasiumEngine(ShortContract):
    """One of Gymnasium's own vector environments in a worker: equality is shown in process, in ``tests/engine``."""

    test_every_result_equals_the_oracle = None
    test_results_belong_to_the_caller = None
    test_a_mask_that_is_none_is_refused = None

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), [("Mixed-v0", 5, {})])
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Values in the slot and beside it are the same to the bit."""
        super().test_values_of_no_fixed_size_equal_the_oracle(pair, mode, name, num_envs, kwargs)


@pytest.mark.slow
class TestSyncEngine(GymnasiumEngine):
    """Gymnasium's SyncVectorEnv in a worker."""

    options: ClassVar = {"engine": "sync", "transport": "ipc"}


@pytest.mark.slow
class TestAsyncEngine(GymnasiumEngine):
    """Gymnasium's AsyncVectorEnv in a worker: the reference."""

    options: ClassVar = {"engine": "async", "transport": "ipc"}
