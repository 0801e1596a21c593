"""The example trainer: its arithmetic against slow literal versions, and what it makes of resets and misuse."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections import deque
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from examples import ppo_numpy as ppo


class Countdown(gym.Env):
    """Observes (row, step); every step pays 1; ends after `length` steps, by termination or truncation."""

    observation_space = gym.spaces.Box(0, 100, (2, 1))
    action_space = gym.spaces.Discrete(3, start=5)

    def __init__(self, row, length, truncates=False):
        self.row, self.length, self.truncates, self.actions = row, length, truncates, []

    def _observe(self):
        return np.array([[self.row], [self.at]], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._observe(), {}

    def step(self, action):
        self.actions.append(int(action))
        self.at += 1
        over = self.at == self.length
        return self._observe(), 1.0, over and not self.truncates, over and self.truncates, {}


def vector(*envs, **options):
    return SyncVectorEnv([lambda env=env: env for env in envs], **options)


def cartpoles(num_envs):
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="sync")


def sampled_batch(rng, model, size, observation_size, actions):
    """A batch whose old policy differs enough for both signs of advantage to meet both clip bounds."""
    observations = rng.standard_normal((size, observation_size))
    taken = rng.integers(actions, size=size)
    old = model.log_probs(observations)[np.arange(size), taken] + rng.uniform(-0.5, 0.5, size)
    return ppo.Batch(observations, taken, old, rng.standard_normal(size), rng.standard_normal(size))


@pytest.fixture
def model():
    """A small network pair in float64, with a policy that is not uniform."""
    made = ppo.ActorCritic(3, 4, np.random.default_rng(0))
    for mlp in (made.actor, made.critic):
        mlp.params = [p.astype(np.float64) for p in mlp.params]
    made.actor.params[4] *= 100
    made.params = made.actor.params + made.critic.params
    return made


class TestGae:
    @staticmethod
    def literal(rewards, values, terminated, truncated):
        """Sum the discounted one-step errors of each step's own episode, straight from the definition."""
        steps, n = rewards.shape
        advantages = np.zeros((steps, n))
        for i in range(n):
            for t in range(steps):
                for k in range(t, steps):
                    after = 0.0 if terminated[k, i] else values[k + 1, i]
                    error = rewards[k, i] + ppo.GAMMA * after - values[k, i]
                    advantages[t, i] += (ppo.GAMMA * ppo.LAMBDA) ** (k - t) * error
                    if terminated[k, i] or truncated[k, i]:
                        break
        return advantages

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_definition_across_terminations_and_truncations(self, seed):
        """Random ends of both kinds, some of both at once, give what the sum gives."""
        rng = np.random.default_rng(seed)
        rewards, values = rng.standard_normal((25, 6)), rng.standard_normal((26, 6))
        terminated, truncated = rng.random((2, 25, 6)) < 0.15
        expected = self.literal(rewards, values, terminated, truncated)
        np.testing.assert_allclose(ppo.gae(rewards, values, terminated, truncated), expected, rtol=1e-12)

    def test_a_truncation_counts_the_final_observation_and_a_termination_does_not(self):
        """The value after the end enters only where the episode could have gone on."""
        rewards, values = np.ones((1, 3)), np.array([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]])
        advantages = ppo.gae(rewards, values, np.array([[True, False, True]]), np.array([[False, True, True]]))
        np.testing.assert_allclose(advantages, [[1.0, 1.0 + 10.0 * ppo.GAMMA, 1.0]])

    def test_stays_in_single_precision(self):
        """No factor widens the arrays."""
        ends = np.zeros((4, 2), np.bool_)
        assert ppo.gae(np.ones((4, 2), np.float32), np.ones((5, 2), np.float32), ends, ends).dtype == np.float32


class TestGradients:
    def test_equal_finite_differences_in_every_parameter(self, model):
        """The backward pass of the whole loss, clip, entropy and values included, is its derivative."""
        batch = sampled_batch(np.random.default_rng(1), model, 16, 3, 4)
        _, grads = ppo.loss_and_grads(model, batch)
        rng, width = np.random.default_rng(2), 1e-6
        for param, grad in zip(model.params, grads, strict=True):
            assert grad.shape == param.shape
            flat = param.reshape(-1)
            for i in rng.choice(flat.size, min(flat.size, 40), replace=False):
                kept = flat[i]
                flat[i] = kept + width
                above, _ = ppo.loss_and_grads(model, batch)
                flat[i] = kept - width
                below, _ = ppo.loss_and_grads(model, batch)
                flat[i] = kept
                assert grad.reshape(-1)[i] == pytest.approx((above - below) / (2 * width), rel=1e-4, abs=1e-7)

    def test_clipped_steps_move_the_policy_only_by_the_entropy_bonus(self, model, monkeypatch):
        """A ratio past the bound that its advantage pushes it over gives no policy gradient."""
        monkeypatch.setattr(ppo, "ENTROPY_BONUS", 0.0)
        batch = sampled_batch(np.random.default_rng(3), model, 8, 3, 4)
        now = model.log_probs(batch.observations)[np.arange(8), batch.actions]
        signs = np.array([1, -1] * 4)
        _, grads = ppo.loss_and_grads(model, batch._replace(old_log_probs=now - signs, advantages=signs * 1.0))
        assert all(not grad.any() for grad in grads[:6])
        _, grads = ppo.loss_and_grads(model, batch._replace(old_log_probs=now + signs, advantages=signs * 1.0))
        assert all(grad.any() for grad in grads[:6])


class TestNetworks:
    def test_actions_follow_the_policy(self, model):
        """Sampled frequencies are the probabilities that `log_probs` states."""
        observations = np.tile([0.5, -1.0, 2.0], (20_000, 1))
        taken = model.act(observations, np.random.default_rng(0))
        expected = np.exp(model.log_probs(observations[:1]))[0]
        assert expected.max() - expected.min() > 0.1
        np.testing.assert_allclose(np.bincount(taken, minlength=4) / 20_000, expected, atol=0.02)

    def test_weights_start_orthogonal_and_single_precision(self):
        """Rows or columns, whichever are fewer, are orthogonal and of the layer's gain."""
        first, bias, second, *_ = ppo.MLP(4, 2, 0.01, np.random.default_rng(0)).params
        np.testing.assert_allclose(first @ first.T, 1.96 * np.eye(4), atol=1e-5)
        np.testing.assert_allclose(second.T @ second, 1.96 * np.eye(ppo.HIDDEN), atol=1e-5)
        assert first.dtype == bias.dtype == np.float32

    def test_adam_takes_its_first_step_at_the_learning_rate_whatever_the_gradient(self, model):
        """The bias correction and the norm limit cancel out of the first step, which only has a sign."""
        before = [p.copy() for p in model.params]
        ppo.Adam(model.params).step([np.full_like(p, -30.0) for p in model.params])
        for now, then in zip(model.params, before, strict=True):
            np.testing.assert_allclose(now - then, ppo.LEARNING_RATE, rtol=1e-3)


class TestRollout:
    @pytest.fixture
    def envs(self):
        """Three rows: terminated after 3 steps, truncated after 4, and never over."""
        made = vector(Countdown(0, 3), Countdown(1, 4, truncates=True), Countdown(2, 1000))
        yield made
        made.close()

    @pytest.fixture
    def runner(self, envs):
        """A runner whose value of an observation is its step number."""
        made = ppo.Runner(envs, seed=0)
        made.model.values = lambda observations: observations[:, 1]
        return made

    def test_leaves_out_the_steps_that_only_reset(self, envs, runner):
        """Each finished episode gives exactly its own steps, and the environments saw exactly those."""
        for _ in range(3):
            batch = runner.rollout()
            row, at = batch.observations.T
            assert at[row == 0].max() == 2
            assert at[row == 1].max() == 3
            assert (np.diff(at[row == 2]) == 1).all()
        steps = 3 * ppo.ROLLOUT_STEPS
        played = [steps - steps // 4, steps - steps // 5, steps]
        assert [len(env.actions) for env in envs.envs] == played
        assert runner.env_steps == sum(played)

    def test_keeps_each_action_with_the_observation_it_answered(self, envs, runner):
        """Rows of an environment hold its actions in order, counted from the action space's start."""
        batch = runner.rollout()
        for row, env in enumerate(envs.envs):
            assert (batch.actions[batch.observations[:, 0] == row] + 5).tolist() == env.actions
            assert set(env.actions) <= {5, 6, 7}

    def test_values_the_last_step_by_how_the_episode_ended(self, runner):
        """The advantage of a terminated step stops at its reward; of a truncated one, at the final observation."""
        batch = runner.rollout()
        row, at = batch.observations.T
        np.testing.assert_allclose(batch.advantages[(row == 0) & (at == 2)], 1 - 2, rtol=1e-5)
        np.testing.assert_allclose(batch.advantages[(row == 1) & (at == 3)], 1 + ppo.GAMMA * 4 - 3, rtol=1e-5)
        np.testing.assert_allclose(batch.returns, batch.advantages + at, rtol=1e-5)

    def test_lets_no_advantage_through_from_the_next_episode(self, runner):
        """Every pass through a finished episode has the same advantages, wherever it lies in the rollout."""
        batch = runner.rollout()
        row, at = batch.observations.T
        for step in range(3):
            own = batch.advantages[(row == 0) & (at == step)][:-1]
            np.testing.assert_allclose(own, own[0], rtol=1e-5)

    def test_counts_finished_episodes_and_their_returns(self, runner):
        """A return is the sum of the rewards between two resets, also across rollouts."""
        runner.last_returns = deque(maxlen=1000)
        for _ in range(2):
            runner.rollout()
        steps = 2 * ppo.ROLLOUT_STEPS
        assert sorted(runner.last_returns) == [3.0] * ((steps + 1) // 4) + [4.0] * ((steps + 1) // 5)
        assert runner.episodes == len(runner.last_returns)

    def test_keeps_observations_that_the_environments_overwrite(self):
        """With copy=False every step returns the same buffer; the rows of a rollout still differ."""
        envs = vector(Countdown(0, 1000), copy=False)
        assert ppo.Runner(envs, seed=0).rollout().observations[:, 1].tolist() == list(range(ppo.ROLLOUT_STEPS))
        envs.close()


class TestTrain:
    def test_reports_each_update_and_returns_the_last(self):
        """Two updates on four environments give two plausible reports, and the environments stay open."""
        envs, seen = cartpoles(4), []
        end = ppo.train(envs, max_env_steps=4 * ppo.ROLLOUT_STEPS + 1, on_update=seen.append)
        assert [p.update for p in seen] == [1, 2]
        assert seen[-1] is end
        assert 0 < 8 * ppo.ROLLOUT_STEPS - end.env_steps <= end.episodes
        assert 8 <= end.mean_return <= 200
        assert 0 < seen[0].elapsed_s < end.elapsed_s
        assert end.env_steps_per_s == pytest.approx(end.env_steps / end.elapsed_s)
        assert end.rollout_steps_per_s > end.env_steps_per_s
        assert not end.solved
        envs.step(envs.action_space.sample())
        envs.close()

    def test_has_no_mean_return_before_the_first_episode_ends(self):
        """The mean of no episodes is nan, without a warning."""
        envs = vector(Countdown(0, 1000))
        end = ppo.train(envs, max_env_steps=1)
        envs.close()
        assert math.isnan(end.mean_return)
        assert (end.update, end.env_steps, end.episodes, end.solved) == (1, ppo.ROLLOUT_STEPS, 0, False)

    def test_is_solved_only_after_a_hundred_episodes(self):
        """A target that every episode meets still takes a full window of them."""
        envs = cartpoles(16)
        seen = []
        end = ppo.train(envs, target_return=1.0, on_update=seen.append)
        envs.close()
        assert end.solved
        assert end.episodes >= 100
        assert all(p.episodes < 100 and not p.solved for p in seen[:-1])

    def test_repeats_itself_for_a_seed(self):
        """Counts and returns depend on the seed alone."""

        def run(seed):
            envs = cartpoles(4)
            end = ppo.train(envs, seed=seed, max_env_steps=500)
            envs.close()
            return end.env_steps, end.episodes, end.mean_return

        assert run(1) == run(1) != run(2)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_solves_cartpole(self, seed):
        """The default settings reach a mean return of 475 within 200,000 steps of 64 environments."""
        envs = cartpoles(64)
        end = ppo.train(envs, seed=seed, max_env_steps=200_000)
        envs.close()
        assert end.solved
        assert end.mean_return >= 475.0


class TestMeasure:
    def test_counts_the_steps_played_per_second(self, monkeypatch):
        """Every second step of one-step episodes is a reset, so half of the steps count."""
        envs = vector(Countdown(0, 1), Countdown(1, 1))
        now = iter(range(1000))
        monkeypatch.setattr(ppo.time, "perf_counter", lambda: float(next(now)))
        # The clock ticks once per reading: one to start, three a step. Four steps of two environments play four.
        assert ppo.measure(envs, seconds=12) == pytest.approx(4 / 12)
        envs.close()


class TestMisuse:
    @pytest.mark.parametrize("call", [ppo.train, lambda envs: ppo.measure(envs, 0.1)])
    @pytest.mark.parametrize(
        ("attribute", "space", "advice"),
        [
            ("observation_space", gym.spaces.Dict(a=gym.spaces.Box(0, 1)), "must be a Box, .* FlattenObservation"),
            ("observation_space", gym.spaces.Discrete(4), "must be a Box, .* FlattenObservation"),
            ("action_space", gym.spaces.Box(-1, 1), "must be Discrete, .* choose"),
            ("action_space", gym.spaces.MultiDiscrete([2, 2]), "must be Discrete, .* choose"),
        ],
    )
    def test_other_spaces_are_refused_with_advice(self, call, attribute, space, advice):
        """The error names the space and says what to do."""
        env = Countdown(0, 3)
        setattr(env, attribute, space)
        envs = vector(env)
        with pytest.raises(TypeError, match=advice):
            call(envs)
        envs.close()

    @pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
    def test_other_autoreset_modes_are_refused_with_advice(self, mode):
        """The error names the mode and the one to ask for."""
        envs = vector(Countdown(0, 3), autoreset_mode=mode)
        with pytest.raises(ValueError, match=rf"must be NEXT_STEP, not {mode}: make"):
            ppo.train(envs)
        envs.close()

    def test_environments_that_do_not_say_their_mode_are_refused(self):
        """Without the metadata the mode cannot be known."""
        envs = vector(Countdown(0, 3))
        del envs.metadata["autoreset_mode"]
        with pytest.raises(ValueError, match="must be NEXT_STEP, not None"):
            ppo.train(envs)
        envs.close()


def test_the_command_line_trains_on_local_processes_and_says_how_it_went():
    """`--local` needs no server; progress lines are followed by a summary."""
    path = Path(inspect.getfile(ppo))
    options = ["--local", "--num-envs", "2", "--target-return", "1"]
    done = subprocess.run([sys.executable, path, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, *_, verdict, rate, alone = done.stdout.splitlines()
    assert first.startswith("update    5 ")
    assert verdict.startswith("solved: mean return ")
    assert rate.endswith(" steps/s with learning")
    assert alone.startswith("the environments alone: ")


def test_importing_the_trainer_loads_no_server_package():
    """The trainer is NumPy and Gymnasium; only its command line reaches for a client."""
    code = (
        "import sys; before = set(sys.modules); import examples.ppo_numpy; "
        "sys.exit(any(m.startswith(('vecserver', 'zmq', 'torch')) for m in set(sys.modules) - before))"
    )
    root = Path(inspect.getfile(ppo)).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
