"""PPO on NumPy alone, for any Gymnasium vector environment with flat observations and discrete actions.

Reads top to bottom: networks, optimiser, advantages, loss, rollout, training. It knows the environments only as a
`gymnasium.vector.VectorEnv`, so the same loop trains in this process, on worker processes or on a server elsewhere:

    python examples/ppo_numpy.py --env-id CartPole-v1 --num-envs 64 --url http://127.0.0.1:8000
    python examples/ppo_numpy.py --env-id CartPole-v1 --num-envs 64 --local

In shapes, T is steps of a rollout, N environments, D numbers in an observation, A actions, B rows of a batch.
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

ROLLOUT_STEPS = 32  # T: steps in each environment between two updates of the policy
EPOCHS = 4  # passes over each rollout
MINIBATCH = 64
HIDDEN = 64  # 64 x 64 x 64 is the largest product OpenBLAS leaves on one thread; more crawl while the cores are busy
LEARNING_RATE = 1e-3
GAMMA = 0.99
LAMBDA = 0.9
CLIP = 0.2
ENTROPY_BONUS = 0.01
MAX_GRAD_NORM = 0.5
RETURN_WINDOW = 100  # episodes that the mean return covers


class MLP:
    """Two tanh layers and a linear one, float32, with orthogonal initial weights."""

    def __init__(self, inputs: int, outputs: int, output_gain: float, rng: np.random.Generator) -> None:
        self.params: list[Floats] = []
        for fan_in, fan_out, gain in ((inputs, HIDDEN, 1.4), (HIDDEN, HIDDEN, 1.4), (HIDDEN, outputs, output_gain)):
            left, _, right = np.linalg.svd(rng.standard_normal((fan_in, fan_out)), full_matrices=False)
            self.params += [(gain * left @ right).astype(np.float32), np.zeros(fan_out, np.float32)]

    def forward(self, x: Floats) -> Floats:
        """Map rows (B, inputs) to (B, outputs), and remember the layers' inputs for `backward`."""
        w1, b1, w2, b2, w3, b3 = self.params
        h1 = np.tanh(x @ w1 + b1)
        h2 = np.tanh(h1 @ w2 + b2)
        self._inputs = x, h1, h2
        return h2 @ w3 + b3

    def backward(self, grad: Floats) -> list[Floats]:
        """Turn d loss / d output (B, outputs) of the last `forward` into gradients in the order of `params`."""
        x, h1, h2 = self._inputs
        _, _, w2, _, w3, _ = self.params
        grad2 = (grad @ w3.T) * (1 - h2 * h2)
        grad1 = (grad2 @ w2.T) * (1 - h1 * h1)
        return [x.T @ grad1, grad1.sum(0), h1.T @ grad2, grad2.sum(0), h2.T @ grad, grad.sum(0)]


class ActorCritic:
    """A policy network and a value network that share nothing."""

    def __init__(self, observation_size: int, actions: int, rng: np.random.Generator) -> None:
        self.actor = MLP(observation_size, actions, 0.01, rng)
        self.critic = MLP(observation_size, 1, 1.0, rng)
        self.params = self.actor.params + self.critic.params

    def act(self, observations: Floats, rng: np.random.Generator) -> Ints:
        """Sample one action per row: the arg max of logits plus Gumbel noise is a draw from their softmax."""
        logits = self.actor.forward(observations)
        return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=1))

    def log_probs(self, observations: Floats) -> Floats:
        """Return the log-probability of every action, (B, A)."""
        logits = self.actor.forward(observations)
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return logits

    def values(self, observations: Floats) -> Floats:
        """Return the discounted return expected from each observation, (B,)."""
        return self.critic.forward(observations)[:, 0]


class Adam:
    """Adam with a limit on the gradients' global norm; changes `params` in place."""

    def __init__(self, params: list[Floats]) -> None:
        self.params, self.steps = params, 0
        self.means = [np.zeros_like(p) for p in params]
        self.squares = [np.zeros_like(p) for p in params]

    def step(self, grads: list[Floats]) -> None:
        """Move every parameter one step against its gradient."""
        self.steps += 1
        norm = math.sqrt(sum(float(np.vdot(grad, grad)) for grad in grads))
        shrink = min(1.0, MAX_GRAD_NORM / (norm + 1e-8))
        rate = LEARNING_RATE * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for i, grad in enumerate(grads):
            self.means[i] += 0.1 * (shrink * grad - self.means[i])
            self.squares[i] += 0.001 * ((shrink * grad) ** 2 - self.squares[i])
            self.params[i] -= rate * self.means[i] / (np.sqrt(self.squares[i]) + 1e-8)


def gae(rewards: Floats, values: Floats, terminated: Bools, truncated: Bools) -> Floats:
    """Return generalised advantage estimates (T, N); `values` is (T + 1, N), all else (T, N).

    After a termination there is nothing to come. After a truncation there is: the value of the final observation, which
    NEXT_STEP environments return as the next one, so it is `values[t + 1]` as always. Neither lets advantages of the
    following episode through.
    """
    deltas = rewards + GAMMA * values[1:] * ~terminated - values[:-1]
    goes_on = ~(terminated | truncated)
    advantages = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantages[t] = following = deltas[t] + GAMMA * LAMBDA * following * goes_on[t]
    return advantages


class Batch(NamedTuple):
    """Steps to learn from, one per row."""

    observations: Floats
    actions: Ints
    old_log_probs: Floats
    advantages: Floats
    returns: Floats

    def rows(self, index: Ints | Bools) -> Batch:
        """Return the rows that `index` selects."""
        return Batch._make(column[index] for column in self)


def loss_and_grads(model: ActorCritic, batch: Batch) -> tuple[float, list[Floats]]:
    """Return PPO's loss (clipped policy, value, entropy) and its gradients in the order of `model.params`."""
    size = len(batch.actions)
    taken = np.arange(size), batch.actions
    log_probs = model.log_probs(batch.observations)
    probs = np.exp(log_probs)
    entropy = -(probs * log_probs).sum(1, keepdims=True)
    ratio = np.exp(log_probs[taken] - batch.old_log_probs)
    plain = ratio * batch.advantages
    clipped = np.clip(ratio, 1 - CLIP, 1 + CLIP) * batch.advantages
    value_errors = model.values(batch.observations) - batch.returns
    loss = (-np.minimum(plain, clipped) + 0.5 * value_errors**2).mean() - ENTROPY_BONUS * entropy.mean()

    taken_grad = np.where(plain <= clipped, -plain, 0)  # d loss / d log p(taken): none where the clip holds
    logits_grad = ENTROPY_BONUS * probs * (log_probs + entropy) - taken_grad[:, None] * probs
    logits_grad[taken] += taken_grad  # d log p(taken) / d logits is one-hot(taken) - p
    return float(loss), model.actor.backward(logits_grad / size) + model.critic.backward(value_errors[:, None] / size)


def learn(model: ActorCritic, adam: Adam, batch: Batch, rng: np.random.Generator) -> None:
    """Improve the model on one batch, in `EPOCHS` passes of shuffled minibatches."""
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    batch = batch._replace(advantages=advantages)
    size = len(advantages)
    for _ in range(EPOCHS):
        for index in np.array_split(rng.permutation(size), math.ceil(size / MINIBATCH)):
            adam.step(loss_and_grads(model, batch.rows(index))[1])


class Runner:
    """Resets environments, steps them with a policy and counts what they do; closing them is the caller's."""

    def __init__(self, envs: VectorEnv, seed: int) -> None:
        observations, actions = envs.single_observation_space, envs.single_action_space
        if not isinstance(observations, gym.spaces.Box):
            raise TypeError(f"observations must be a Box, not {observations}: wrap each env in FlattenObservation")
        if not isinstance(actions, gym.spaces.Discrete):
            raise TypeError(f"actions must be Discrete, not {actions}: choose an environment with Discrete actions")
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ValueError(f"autoreset mode must be NEXT_STEP, not {mode}: make envs with AutoresetMode.NEXT_STEP")
        self.envs, self.first_action, self.rng = envs, int(actions.start), np.random.default_rng(seed)
        self.model = ActorCritic(math.prod(observations.shape), int(actions.n), self.rng)
        self.env_steps, self.episodes, self.env_seconds = 0, 0, 0.0
        self.last_returns: deque[float] = deque(maxlen=RETURN_WINDOW)
        self._returns = np.zeros(envs.num_envs)
        self._over = np.zeros(envs.num_envs, np.bool_)
        self._observations = self._flat(envs.reset(seed=seed)[0])

    def step(self) -> tuple[Floats, Ints, Floats, Bools, Bools, Bools]:
        """Step every environment; return observations (N, D), actions, rewards, terminated, truncated, played (N,).

        The step after an episode's end is not played: it ignores the action, resets, and belongs to no episode.
        """
        observations, played = self._observations, ~self._over
        actions = self.model.act(observations, self.rng)
        asked = time.perf_counter()
        after, rewards, terminated, truncated, _ = self.envs.step(actions + self.first_action)
        self.env_seconds += time.perf_counter() - asked
        self._observations, self._over = self._flat(after), terminated | truncated
        self._returns += rewards
        self.env_steps += int(played.sum())
        self.episodes += int(self._over.sum())
        self.last_returns.extend(self._returns[self._over].tolist())
        self._returns[self._over] = 0
        return observations, actions, np.array(rewards, np.float32), np.array(terminated), np.array(truncated), played

    def rollout(self) -> Batch:
        """Take `ROLLOUT_STEPS` steps in every environment and return those played."""
        steps = zip(*(self.step() for _ in range(ROLLOUT_STEPS)), strict=True)
        observations, actions, rewards, terminated, truncated, played = (np.stack(column) for column in steps)
        values = np.stack([self.model.values(seen) for seen in (*observations, self._observations)])
        log_probs = np.stack([self.model.log_probs(seen) for seen in observations])
        log_probs = np.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
        advantages = gae(rewards, values, terminated, truncated)
        batch = Batch(observations, actions, log_probs, advantages, advantages + values[:-1])
        return batch.rows(played)

    def _flat(self, observations: Any) -> Floats:
        return np.array(observations, np.float32).reshape(self.envs.num_envs, -1)  # a copy: envs may reuse theirs


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training run stands; steps that only reset an environment are not environment steps."""

    update: int  # finished updates
    env_steps: int
    episodes: int
    mean_return: float  # over the last 100 finished episodes; nan before the first
    env_steps_per_s: float  # env_steps / elapsed_s
    rollout_steps_per_s: float  # env_steps / seconds spent in envs.step
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
    """Train until the last 100 episodes return `target_return` on average, or `max_env_steps` were taken.

    `envs` has Box observations, Discrete actions and autoreset mode NEXT_STEP (TypeError or ValueError otherwise), and
    is left open. `on_update` gets the progress after each update; the last one is returned.
    """
    runner = Runner(envs, seed)
    adam = Adam(runner.model.params)
    started = time.perf_counter()
    for update in itertools.count(1):
        learn(runner.model, adam, runner.rollout(), runner.rng)
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
    """Return environment steps per second of an untrained policy and `envs.step`; resets cost time but do not count."""
    runner = Runner(envs, seed)
    started = time.perf_counter()
    while True:
        runner.step()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return runner.env_steps / elapsed


def report(now: Progress) -> None:
    """Print a line for every fifth update."""
    if now.update % 5 == 0:
        counts = f"update {now.update:4d}  {now.env_steps:9,d} steps  {now.episodes:6,d} episodes"
        print(f"{counts}  mean return {now.mean_return:7.1f}  {now.env_steps_per_s:8,.0f} steps/s", flush=True)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="PPO on NumPy alone, for any Gymnasium vector environment.")
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target-return", type=float, default=475.0)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="server that runs the environments")
    where.add_argument("--local", action="store_true", help="run the environments in processes of this machine")
    args = parser.parse_args()
    if args.local:
        envs = gym.make_vec(args.env_id, num_envs=args.num_envs, vectorization_mode="async")
    else:
        import vecserver_client as vs

        envs = vs.make_vec(args.env_id, num_envs=args.num_envs, url=args.url)
    with contextlib.closing(envs):
        end = train(envs, seed=args.seed, target_return=args.target_return, on_update=report)
    print(f"{'solved' if end.solved else 'not solved'}: mean return {end.mean_return:.1f} in the last 100 episodes")
    print(f"{end.env_steps:,d} steps in {end.elapsed_s:.1f} s, {end.env_steps_per_s:,.0f} steps/s with learning")
    print(f"the environments alone: {end.rollout_steps_per_s:,.0f} steps/s")


if __name__ == "__main__":
    main()
