"""PPO on NumPy alone, for any Gymnasium vector environment with flat observations and discrete actions.

The file reads top to bottom: networks, optimiser, advantages, loss, rollout, training loop, command line. It asks nothing of
the environments but the `gymnasium.vector.VectorEnv` interface, so the same loop trains on environments in this process, in
worker processes, or on a server elsewhere; only the line that makes `envs` differs:

    python examples/ppo_numpy.py --env-id CartPole-v1 --num-envs 64 --url http://127.0.0.1:8000
    python examples/ppo_numpy.py --env-id CartPole-v1 --num-envs 64 --local

Array shapes are written with T (steps of a rollout), N (environments), D (numbers in an observation), A (actions) and
B (rows of a minibatch).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]
    VectorEnv = gym.vector.VectorEnv[Any, Any, Any]

ROLLOUT_STEPS = 32  # T: steps per environment between two updates of the policy
EPOCHS = 10  # passes over each rollout
MINIBATCH = 256  # B: large enough that NumPy's cost per call does not matter
HIDDEN = 64
LEARNING_RATE = 1e-3
GAMMA = 0.99
LAMBDA = 0.9
CLIP = 0.2
ENTROPY_BONUS = 0.01
MAX_GRAD_NORM = 0.5
RETURN_WINDOW = 100  # episodes that `Progress.mean_return` averages over


class MLP:
    """A perceptron with two tanh layers and a linear output, float32, initialised orthogonally."""

    def __init__(self, sizes: tuple[int, int, int, int], output_gain: float, rng: np.random.Generator) -> None:
        self.params: list[Floats] = []
        gains = (math.sqrt(2), math.sqrt(2), output_gain)
        for fan_in, fan_out, gain in zip(sizes[:-1], sizes[1:], gains, strict=True):
            q, r = np.linalg.qr(rng.standard_normal((max(fan_in, fan_out), min(fan_in, fan_out))))
            q *= np.sign(np.diag(r))  # without the sign the draw is not uniform over orthogonal matrices
            weight = q if fan_in >= fan_out else q.T
            self.params += [(gain * weight).astype(np.float32), np.zeros(fan_out, np.float32)]
        self._inputs: list[Floats] = []

    def forward(self, x: Floats) -> Floats:
        """Map rows (B, in) to (B, out), and remember the layers' inputs for `backward`."""
        w1, b1, w2, b2, w3, b3 = self.params
        h1 = np.tanh(x @ w1 + b1)
        h2 = np.tanh(h1 @ w2 + b2)
        self._inputs = [x, h1, h2]
        return h2 @ w3 + b3

    def backward(self, grad: Floats) -> list[Floats]:
        """Turn d loss / d output (B, out) of the last `forward` into gradients in the order of `params`."""
        x, h1, h2 = self._inputs
        _, _, w2, _, w3, _ = self.params
        grad2 = (grad @ w3.T) * (1 - h2 * h2)
        grad1 = (grad2 @ w2.T) * (1 - h1 * h1)
        return [x.T @ grad1, grad1.sum(0), h1.T @ grad2, grad2.sum(0), h2.T @ grad, grad.sum(0)]


class ActorCritic:
    """A policy network and a value network that share nothing."""

    def __init__(self, observation_size: int, actions: int, rng: np.random.Generator) -> None:
        self.actor = MLP((observation_size, HIDDEN, HIDDEN, actions), 0.01, rng)
        self.critic = MLP((observation_size, HIDDEN, HIDDEN, 1), 1.0, rng)
        self.params = self.actor.params + self.critic.params

    def log_probs(self, observations: Floats) -> Floats:
        """Return the log-probability of every action, (B, A)."""
        logits = self.actor.forward(observations)
        logits = logits - logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def values(self, observations: Floats) -> Floats:
        """Return the discounted return expected from each observation, (B,)."""
        return self.critic.forward(observations)[:, 0]

    def act(self, observations: Floats, rng: np.random.Generator) -> Ints:
        """Sample one action index per row: the arg max of logits plus Gumbel noise is a draw from their softmax."""
        logits = self.actor.forward(observations)
        return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)

    def backward(self, logits_grad: Floats, values_grad: Floats) -> list[Floats]:
        """Return gradients in the order of `params` from those of the last logits (B, A) and values (B,)."""
        return self.actor.backward(logits_grad) + self.critic.backward(values_grad[:, None])


class Adam:
    """Adam with clipping of the global gradient norm; updates `params` in place."""

    def __init__(self, params: list[Floats], beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.params = params
        self.betas = beta1, beta2
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        self.steps = 0

    def step(self, grads: list[Floats]) -> None:
        """Move every parameter one step against its gradient."""
        self.steps += 1
        beta1, beta2 = self.betas
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads))
        shrink = min(1.0, MAX_GRAD_NORM / (norm + 1e-8))
        rate = LEARNING_RATE * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        for param, grad, (mean, square) in zip(self.params, grads, self.moments, strict=True):
            grad *= shrink
            mean += (1 - beta1) * (grad - mean)
            square += (1 - beta2) * (grad * grad - square)
            param -= rate * mean / (np.sqrt(square) + 1e-8)


def gae(rewards: Floats, values: Floats, terminated: Bools, truncated: Bools) -> Floats:
    """Return generalised advantage estimates, (T, N).

    A terminated step has no future. A truncated one has, and its value is that of the final observation, which NEXT_STEP
    environments return as the next one: `values[t + 1]`, as for any other step. Neither lets the advantages of the
    following episode through.

    Args:
        rewards: (T, N).
        values: (T + 1, N), the last row for the observations after the last step.
        terminated: (T, N).
        truncated: (T, N).
    """
    deltas = rewards + GAMMA * values[1:] * ~terminated - values[:-1]
    goes_on = ~(terminated | truncated)
    advantages = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + GAMMA * LAMBDA * following * goes_on[t]
        advantages[t] = following
    return advantages


class Batch(NamedTuple):
    """Rows to learn from; every array has one entry per row."""

    observations: Floats
    actions: Ints
    old_log_probs: Floats
    advantages: Floats
    returns: Floats

    def rows(self, index: Any) -> Batch:
        """Return the rows that `index` selects."""
        return Batch(*(column[index] for column in self))


def loss_and_grads(model: ActorCritic, batch: Batch) -> tuple[float, list[Floats]]:
    """Return PPO's clipped loss, with value loss and entropy bonus, and its gradients in the order of `model.params`."""
    size = len(batch.actions)
    row = np.arange(size)
    log_probs = model.log_probs(batch.observations)
    value_errors = model.values(batch.observations) - batch.returns
    probs = np.exp(log_probs)
    entropy = -(probs * log_probs).sum(1, keepdims=True)
    ratio = np.exp(log_probs[row, batch.actions] - batch.old_log_probs)
    unclipped = ratio * batch.advantages
    clipped = np.clip(ratio, 1 - CLIP, 1 + CLIP) * batch.advantages
    loss = -np.minimum(unclipped, clipped).mean() - ENTROPY_BONUS * entropy.mean() + 0.5 * (value_errors**2).mean()

    # d log p(a) / d logits = onehot(a) - p, and the clipped branch is constant.
    chosen_grad = np.where(unclipped <= clipped, -unclipped, 0)
    logits_grad = -chosen_grad[:, None] * probs + ENTROPY_BONUS * probs * (log_probs + entropy)
    logits_grad[row, batch.actions] += chosen_grad
    return float(loss), model.backward(logits_grad / size, value_errors / size)


class Rollout(NamedTuple):
    """T steps of N environments, as they happened."""

    observations: Floats  # (T + 1, N, D), the last row those after the last step
    actions: Ints  # (T, N)
    rewards: Floats  # (T, N)
    terminated: Bools  # (T, N)
    truncated: Bools  # (T, N)
    played: Bools  # (T, N), False where a step only reset its environment


class Runner:
    """Steps the environments with a policy, and counts what they did.

    Construction resets the environments; nothing here closes them.

    Raises:
        TypeError: The spaces are not a Box of observations and a Discrete of actions.
        ValueError: The environments do not reset themselves on the step after an episode's end.
    """

    def __init__(self, envs: VectorEnv, seed: int) -> None:
        observation_space, action_space = envs.single_observation_space, envs.single_action_space
        if not isinstance(observation_space, gym.spaces.Box):
            raise TypeError(
                f"this trainer reads Box observations, not {observation_space}: "
                "wrap each environment in gymnasium.wrappers.FlattenObservation"
            )
        if not isinstance(action_space, gym.spaces.Discrete):
            raise TypeError(
                f"this trainer takes Discrete actions, not {action_space}: choose an environment that has them"
            )
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"this trainer needs autoreset mode NEXT_STEP, not {mode}: "
                "make the environments with autoreset_mode=AutoresetMode.NEXT_STEP"
            )
        self.envs = envs
        self.observation_size = math.prod(observation_space.shape)
        self.actions = int(action_space.n)
        self.rng = np.random.default_rng(seed)
        self.env_steps = 0
        self.env_seconds = 0.0
        self.episodes = 0
        self.last_returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self._first_action = int(action_space.start)
        self._returns = np.zeros(envs.num_envs)
        self._observations = self._flat(envs.reset(seed=seed)[0])
        self._over = np.zeros(envs.num_envs, np.bool_)

    def collect(self, model: ActorCritic, steps: int) -> Rollout:
        """Take `steps` steps in every environment; the next call goes on from there."""
        n = self.envs.num_envs
        observations = np.empty((steps + 1, n, self.observation_size), np.float32)
        actions, rewards = np.empty((steps, n), np.int64), np.empty((steps, n), np.float32)
        terminated, truncated, played = (np.empty((steps, n), np.bool_) for _ in range(3))
        for t in range(steps):
            observations[t] = self._observations
            actions[t] = model.act(observations[t], self.rng)
            # The step after an episode's end only resets: it ignores the action and belongs to no episode.
            played[t] = ~self._over
            asked = time.perf_counter()
            after, rewards[t], terminated[t], truncated[t], _ = self.envs.step(actions[t] + self._first_action)
            self.env_seconds += time.perf_counter() - asked
            self._observations = self._flat(after)
            self._over = terminated[t] | truncated[t]
            self._count(rewards[t], played[t])
        observations[steps] = self._observations
        return Rollout(observations, actions, rewards, terminated, truncated, played)

    def _flat(self, observations: Any) -> Floats:
        return np.asarray(observations, np.float32).reshape(self.envs.num_envs, self.observation_size)

    def _count(self, rewards: Floats, played: Bools) -> None:
        self.env_steps += int(played.sum())
        self._returns += rewards
        self.episodes += int(self._over.sum())
        self.last_returns.extend(self._returns[self._over].tolist())
        self._returns[self._over] = 0.0


def to_batch(model: ActorCritic, rollout: Rollout) -> Batch:
    """Return the played steps of a rollout as rows to learn from.

    The parameters did not change during the rollout, so one pass over all of it gives the values and log-probabilities.
    """
    steps, n = rollout.actions.shape
    observations, actions = rollout.observations.reshape((steps + 1) * n, -1), rollout.actions.ravel()
    values = model.values(observations).reshape(steps + 1, n)
    log_probs = model.log_probs(observations[:-n])[np.arange(steps * n), actions]
    advantages = gae(rollout.rewards, values, rollout.terminated, rollout.truncated)
    returns = advantages + values[:-1]
    batch = Batch(observations[:-n], actions, log_probs, advantages.ravel(), returns.ravel())
    return batch.rows(rollout.played.ravel())


def learn(model: ActorCritic, adam: Adam, batch: Batch, rng: np.random.Generator) -> None:
    """Improve the model on one batch: `EPOCHS` passes in shuffled minibatches."""
    scaled = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    batch = batch._replace(advantages=scaled)
    size = len(batch.actions)
    for _ in range(EPOCHS):
        for index in np.array_split(rng.permutation(size), math.ceil(size / MINIBATCH)):
            _, grads = loss_and_grads(model, batch.rows(index))
            adam.step(grads)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands after an update.

    A step that only resets its environment is not an environment step.
    """

    update: int  # finished updates
    env_steps: int
    episodes: int
    mean_return: float  # over the last 100 finished episodes, nan before the first
    env_steps_per_s: float  # environment steps / elapsed_s
    rollout_steps_per_s: float  # environment steps / seconds spent in envs.step
    elapsed_s: float
    solved: bool


def train(
    envs: VectorEnv,
    *,
    seed: int = 1,
    target_return: float = 475.0,
    max_env_steps: int = 2_000_000,
    on_update: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train until the last 100 episodes return `target_return` on average, or `max_env_steps` have been taken.

    Args:
        envs: Any vector environment with Box observations, Discrete actions and autoreset mode NEXT_STEP; left open.
        seed: Of the environments, the networks and the sampling.
        target_return: Mean undiscounted return of an episode that counts as solved.
        max_env_steps: Checked after each update.
        on_update: Called with the progress after each update.

    Returns:
        The last progress.

    Raises:
        TypeError: The spaces are of another kind.
        ValueError: The autoreset mode is another one.
    """
    runner = Runner(envs, seed)
    model = ActorCritic(runner.observation_size, runner.actions, runner.rng)
    adam = Adam(model.params)
    started = time.perf_counter()
    for update in itertools.count(1):
        learn(model, adam, to_batch(model, runner.collect(model, ROLLOUT_STEPS)), runner.rng)
        elapsed = time.perf_counter() - started
        mean_return = float(np.mean(runner.last_returns)) if runner.last_returns else math.nan
        progress = Progress(
            update=update,
            env_steps=runner.env_steps,
            episodes=runner.episodes,
            mean_return=mean_return,
            env_steps_per_s=runner.env_steps / elapsed,
            rollout_steps_per_s=runner.env_steps / runner.env_seconds,
            elapsed_s=elapsed,
            solved=runner.episodes >= RETURN_WINDOW and mean_return >= target_return,
        )
        if on_update is not None:
            on_update(progress)
        if progress.solved or runner.env_steps >= max_env_steps:
            break
    return progress


def measure(envs: VectorEnv, seconds: float, seed: int = 0) -> float:
    """Return the environment steps per second of this trainer's rollouts: the policy and `envs.step`, no learning.

    Whole rollouts are timed, at least one, until `seconds` have passed. The environments stay open.
    """
    runner = Runner(envs, seed)
    model = ActorCritic(runner.observation_size, runner.actions, runner.rng)
    started = time.perf_counter()
    while True:
        runner.collect(model, ROLLOUT_STEPS)
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return runner.env_steps / elapsed


def report(progress: Progress) -> None:
    """Print one line for every fifth update."""
    if progress.update % 5 == 0 or progress.solved:
        print(
            f"update {progress.update:4d} | {progress.env_steps:9,d} steps | {progress.episodes:6,d} episodes"
            f" | mean return {progress.mean_return:7.1f} | {progress.env_steps_per_s:9,.0f} steps/s"
        )


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="PPO on NumPy alone, for any Gymnasium vector environment.")
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target-return", type=float, default=475.0)
    parser.add_argument("--max-env-steps", type=int, default=2_000_000)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="the server that runs the environments")
    where.add_argument("--local", action="store_true", help="run the environments in processes of this machine")
    args = parser.parse_args()

    if args.local:
        envs = gym.make_vec(args.env_id, num_envs=args.num_envs, vectorization_mode="async")
    else:
        import vecserver_client as vs

        envs = vs.make_vec(args.env_id, num_envs=args.num_envs, url=args.url)
    with contextlib.closing(envs):
        end = train(
            envs, seed=args.seed, target_return=args.target_return, max_env_steps=args.max_env_steps, on_update=report
        )
    print(
        f"{'solved' if end.solved else 'not solved'}: mean return {end.mean_return:.1f} over the last {RETURN_WINDOW} episodes"
        f" after {end.env_steps:,d} steps in {end.elapsed_s:.1f} s"
        f" ({end.env_steps_per_s:,.0f} steps/s; the environments alone {end.rollout_steps_per_s:,.0f} steps/s)"
    )


if __name__ == "__main__":
    main()
