"""Gymnasium environments that make a vectoriser's mistakes visible in the data.

Every environment counts: its observation holds the seed it was reset with, the number of its episode and of its step, the
last action and a running hash of all actions. A batch that is stale, swapped, doubled or skipped, or an action that was
changed on the way, therefore shows as a wrong number instead of passing for plausible data.

Importing the module registers the environments under ``vectest/``. A process that has not imported it names them
``tests.environments:vectest/Count-v0``, which ``env_id("Count-v0")`` spells.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

NO_SEED = -1
ENDS = ((True, False), (False, True), (True, True))
FAULT_KINDS = ("value", "unpicklable", "two_args", "keyboard", "systemexit")
FAULT_MESSAGE = "broken on purpose"
GATE_LIMIT_S = 60.0
HASH_RANGE = 2**31


def env_id(name: str) -> str:
    """The id by which a process that has not imported this module can make ``name``."""
    return f"tests.environments:vectest/{name}"


class CountEnv(gym.Env):
    """Six float64: the seed, the episode, the step in it, the last action, a hash of all actions, and ``tag``.

    An episode lasts 3 to 9 steps, depending on the seed and the episode, and ends terminated, truncated, and both, in
    turn. A reset without a seed goes on with the next episode. A step past the end is an error.

    Args:
        with_infos: Whether steps and resets give infos, of changing keys and many types.
        odd_info: Whether infos also hold the values that an encoding easily loses.
        length: Steps in every episode, instead of 3 to 9.
        render_mode: ``"rgb_array"`` for frames that show the seed, the episode and the step.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        *,
        with_infos: bool = True,
        odd_info: bool = False,
        length: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float64)
        self.action_space = spaces.Discrete(5)
        self.render_mode = render_mode
        self.tag = 0.0
        self.identity, self.episode, self.steps = NO_SEED, -1, 0
        self.last, self.hash, self.over = -1.0, 0, False
        self._with_infos, self._odd_info, self._length = with_infos, odd_info, length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is not None:
            self.identity, self.episode, self.hash = seed, -1, 0
        self.episode += 1
        self.steps, self.last, self.over = 0, -1.0, False
        info = {"seed": self.identity, "fresh": True, "options": repr(sorted((options or {}).items()))}
        return self.observe(), info if self._with_infos else {}

    def step(self, action: Any):
        if self.over:
            raise RuntimeError(f"step {self.steps + 1} of an episode of {self.steps} steps")
        self.steps += 1
        self.last, code = self.read(action)
        self.hash = (self.hash * 31 + code) % HASH_RANGE
        reward = self.identity / 3 + self.episode * 100 + self.steps / 7 + self.last / 11 + self.hash % 1000
        terminated = truncated = False
        if self.steps == (self._length or 3 + (self.identity * 5 + self.episode * 3) % 7):
            terminated, truncated = ENDS[(self.identity + self.episode) % len(ENDS)]
        self.over = terminated or truncated
        return self.observe(), float(reward), terminated, truncated, self.describe(action) if self._with_infos else {}

    def read(self, action: Any) -> tuple[float, int]:
        """The number to show for an action, and the one to hash."""
        return float(action), int(action) + 1

    def observe(self) -> Any:
        """A fresh observation of the state."""
        return np.array([self.identity, self.episode, self.steps, self.last, self.hash, self.tag], np.float64)

    def describe(self, action: Any) -> dict[str, Any]:
        """The info of a step: keys that come and go by row and step."""
        turn = self.identity + self.steps
        info: dict[str, Any] = {
            "steps": self.steps,
            "ratio": self.last / self.steps if self.steps % 3 else float("nan"),
            "single": np.float32(self.hash / 7),
            "short": np.int16(self.steps - 5),
            "even": self.steps % 2 == 0,
            "vector": np.array([self.identity, self.steps, self.hash], np.int64),
            "action_type": type(action).__name__,
            "nested": {"episode": self.episode, "deeper": {"last": self.last}},
        }
        if turn % 3 == 0:
            info["note"] = f"row seeded {self.identity} says {self.steps}"
            info["nested"]["deeper"]["rare"] = np.full((2, 2), self.steps, np.uint8)
        if turn % 4 == 1:
            info["sometimes"] = {"wide": self.hash, "mask": np.array([True, False])}
        return info | self.describe_oddly() if self._odd_info else info

    def describe_oddly(self) -> dict[str, Any]:
        """Values that an encoding easily loses: scalar types, tuples, extremes, types that differ between rows."""
        return {
            "flag": np.bool_(self.steps % 2),
            "pair": (self.steps, "two", [1.5, None, (np.int8(-3), b"\x00\xff")]),
            "nothing": None,
            "raw": bytes([self.steps]),
            "empty": np.zeros((0, 3), np.float16),
            "top": np.uint64(2**64 - 1),
            "bottom": -(2**63),
            "minus_zero": -0.0,
            "word": np.array(["row", "step"]),
            "objects": np.array([{"at": self.steps}, None], dtype=object),
            "mixed": self.steps if self.identity % 2 else self.steps + 0.5,
            "complex": np.complex64(1 - 2j),
            "unicode": "žluťoučký 🐎",
        }

    def add(self, a: Any, b: Any = 0) -> Any:
        """``a + b`` and the seed, so that every row answers differently."""
        return a + b + self.identity

    def echo(self, value: Any) -> Any:
        """The value as it arrived."""
        return value

    def render(self) -> np.ndarray:
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[self.steps % 6, self.episode % 8] = self.identity % 251, self.steps, 255
        return frame


class CountBoxEnv(CountEnv):
    """``Count`` with two float32 actions; it shows the first and hashes the bytes of both."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def read(self, action: Any) -> tuple[float, int]:
        return float(action[0]), zlib.crc32(action.tobytes())


class NestedEnv(CountEnv):
    """Observations and actions that are dicts of tuples and dicts."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pair = spaces.Tuple((spaces.Box(-np.inf, np.inf, (2, 3), np.float16), spaces.Discrete(5, start=3)))
        deep = spaces.Dict(image=spaces.Box(0, 255, (2, 2, 3), np.uint8), scalar=spaces.Box(-np.inf, np.inf, ()))
        self.observation_space = spaces.Dict(
            pair=pair, bits=spaces.MultiBinary(4), kinds=spaces.MultiDiscrete([7, 11]), deep=deep
        )
        self.action_space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1.0, 1.0, (2,), np.float32))

    def read(self, action: Any) -> tuple[float, int]:
        return float(action["a"]), zlib.crc32(action["b"].tobytes()) + int(action["a"])

    def observe(self) -> Any:
        return {
            "pair": (
                np.arange(6, dtype=np.float16).reshape(2, 3) * self.steps + self.identity,
                np.int64(3 + (self.identity + self.steps) % 5),
            ),
            "bits": (self.hash >> np.arange(4) & 1).astype(np.int8),
            "kinds": np.array([(self.identity + self.episode) % 7, self.hash % 11], np.int64),
            "deep": {
                "image": np.full((2, 2, 3), (self.identity * 16 + self.steps) % 256, np.uint8),
                "scalar": np.array(self.hash / 3, np.float32),
            },
        }


class NestedTupleEnv(CountEnv):
    """Observations and actions that are tuples."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Tuple(
            (
                spaces.Box(-np.inf, np.inf, (4,), np.float64),
                spaces.Tuple((spaces.Discrete(10), spaces.MultiBinary((2, 2)))),
            )
        )
        self.action_space = spaces.Tuple((spaces.Discrete(4, start=-1), spaces.MultiBinary(3)))

    def read(self, action: Any) -> tuple[float, int]:
        return float(action[0]), zlib.crc32(action[1].tobytes()) + int(action[0])

    def observe(self) -> Any:
        counts = np.array([self.identity, self.episode, self.steps, self.last], np.float64)
        bits = (self.hash >> np.arange(4).reshape(2, 2) & 1).astype(np.int8)
        return counts, (np.int64(self.hash % 10), bits)


class ReusedBufferEnv(CountEnv):
    """``Count`` that gives out one and the same array each time and overwrites it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._buffer = np.zeros(6, np.float64)

    def observe(self) -> Any:
        self._buffer[:] = super().observe()
        return self._buffer


class OneRewardEnv(CountEnv):
    """Rewards as arrays of shape (1,) and as numpy scalars in turn, and flags as ``np.bool_``; ``plain`` gives floats."""

    def __init__(self, *, plain: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._plain = plain

    def step(self, action: Any):
        observation, reward, terminated, truncated, info = super().step(action)
        scalar = np.float32(reward)
        if self._plain:
            return observation, float(scalar), terminated, truncated, info
        shown = np.array([scalar]) if self.steps % 2 else scalar
        return observation, shown, np.bool_(terminated), np.bool_(truncated), info


class Float64ActionEnv(CountEnv):
    """A float32 action space; shows the received action exactly, its item size in the tag, and hashes its bytes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def read(self, action: Any) -> tuple[float, int]:
        self.tag = float(action.dtype.itemsize)
        return float(action[0]), zlib.crc32(action.tobytes())


class KeeperEnv(CountBoxEnv):
    """Keeps the last action array and counts in the tag how often that array was changed by somebody else.

    Args:
        writes: Whether the environment also writes into the array, as one that clips in place does.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, writes: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._writes = writes
        self._kept: np.ndarray | None = None
        self._expected: np.ndarray | None = None

    def read(self, action: Any) -> tuple[float, int]:
        if self._kept is not None and not np.array_equal(self._kept, self._expected):
            self.tag += 1
        shown = super().read(action)
        if self._writes:
            action[:] = self.identity
        self._kept, self._expected = action, action.copy()
        return shown


def digest(value: Any, start: int = 0) -> int:
    """A checksum of a nested value that every type, dtype, shape and bit of it changes."""
    start = zlib.crc32(f"{type(value).__qualname__} {getattr(value, 'dtype', '')}".encode(), start)
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, (tuple, list)):
        for item in value:
            start = digest(item, start)
        return start
    if isinstance(value, np.ndarray):
        return zlib.crc32(f"{value.shape}".encode() + value.tobytes(), start)
    return zlib.crc32(repr(value).encode("utf-8", "surrogatepass"), start)


class AsideEnv(CountEnv):
    """The base of environments whose observations and actions have no fixed size; it hashes all of an action."""

    def read(self, action: Any) -> tuple[float, int]:
        code = digest(action)
        return float(code % 1000), code

    def count(self) -> int:
        """A small number that changes from step to step: how long a value of no fixed size is."""
        return (self.identity + self.episode + self.steps) % 4


class TextEnv(AsideEnv):
    """Says who it is and where; is told a word.

    Args:
        broken_at: The step whose text holds a lone surrogate, which cannot travel.
        seed: Only in the rows that were reset with it; None for every row.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, broken_at: int | None = None, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._broken_at, self._seed = broken_at, seed
        self.observation_space = spaces.Text(64, min_length=0, charset="0123456789-:ž🐎\x00 ")
        self.action_space = spaces.Text(7, min_length=0, charset="abcž🐎")

    def observe(self) -> Any:
        if self.steps == self._broken_at and self._seed in (None, self.identity):
            return "\ud800"
        text = f"{self.identity}:{self.episode}:{self.steps}:{self.hash}" + "ž🐎\x00"[: self.count()]
        return "" if self.steps % 5 == 4 else text


class GraphEnv(AsideEnv):
    """A graph that grows and shrinks, now and then without edges."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Graph(
            spaces.Box(-np.inf, np.inf, (2,), np.float16), spaces.Discrete(9, start=-3)
        )
        self.action_space = spaces.Graph(spaces.Discrete(5), spaces.Box(-1, 1, (3,)))

    def observe(self) -> Any:
        size = self.count()
        nodes = np.arange(2 * size + 2, dtype=np.float16).reshape(-1, 2) + np.float16(self.identity)
        if not size:
            return spaces.GraphInstance(nodes, None, None)
        links = np.stack([np.arange(size), np.arange(1, size + 1)], axis=1).astype(np.int32)
        return spaces.GraphInstance(nodes, np.full(size, self.steps % 6 - 3, np.int64), links)


class SequenceEnv(AsideEnv):
    """As many arrays as a count says; empty now and then.

    Args:
        stack: Whether they are stacked into one array.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, stack: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Sequence(spaces.Box(-np.inf, np.inf, (3,), np.float32), stack=stack)
        self.action_space = spaces.Sequence(spaces.MultiDiscrete([3, 4]), stack=stack)
        self._stack = stack

    def observe(self) -> Any:
        items = [np.array([self.identity, self.episode, self.steps + i], np.float32) for i in range(self.count())]
        return np.array(items, np.float32).reshape(-1, 3) if self._stack else tuple(items)


class OneOfEnv(AsideEnv):
    """A number, an array or a text in turn, with the number of its space."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        box = spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
        self.observation_space = spaces.OneOf(
            [spaces.Discrete(1000, start=-1), box, spaces.Text(40, charset="0123456789:-")]
        )
        self.action_space = spaces.OneOf([spaces.Discrete(4), spaces.Box(-1, 1, (2,)), spaces.Text(5)])

    def observe(self) -> Any:
        kind = np.int64((self.identity + self.steps) % 3)
        box = np.full((2, 2), self.steps, np.float64)
        return kind, (np.int64(self.identity), box, f"{self.identity}:{self.steps}")[kind]


class Words(spaces.Space):
    """A space of the tests' own: bags of words with a weight, which only Python can describe.

    Args:
        limit: Words of a sample at most.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        words = self.np_random.integers(0, 99, int(self.np_random.integers(0, self.limit + 1)))
        return {"words": [f"w{word}" for word in words], ("weight", 1): np.float32(self.np_random.random())}

    def contains(self, x: Any) -> bool:
        return isinstance(x, dict) and len(x["words"]) <= self.limit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and other.limit == self.limit

    def __repr__(self) -> str:
        return f"Words({self.limit})"


class CustomEnv(AsideEnv):
    """Observations and actions of a space that is none of Gymnasium's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space, self.action_space = Words(9), Words(4)

    def observe(self) -> Any:
        return {"words": [f"{self.identity}-{self.steps}"] * self.count(), ("weight", 1): np.float32(self.hash / 7)}


class MixedEnv(AsideEnv):
    """Arrays in the slot and values beside it, side by side at every depth."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        text = spaces.Text(40, charset="0123456789:-")
        deep = spaces.Tuple([spaces.Discrete(9, start=2), spaces.Sequence(text), spaces.Box(0, 1, (2,), np.bool_)])
        self.observation_space = spaces.Dict(
            box=spaces.Box(-np.inf, np.inf, (2,), np.float16), a=text, deep=deep, z=spaces.Dict(words=Words(9))
        )
        self.action_space = spaces.Dict(
            note=spaces.Text(3), push=spaces.Box(-1, 1, (2,)), list=spaces.Tuple([Words(3), spaces.Discrete(4)])
        )

    def observe(self) -> Any:
        name = f"{self.identity}:{self.steps}"
        words = {"words": [name] * self.count()}
        pair = np.array([self.steps % 2, self.episode % 2], np.bool_)
        return {
            "a": name,
            "box": np.array([self.identity, self.hash % 100], np.float16),
            "deep": (np.int64(2 + self.steps % 9), (name,) * self.count(), pair),
            "z": {"words": words},
        }


class BoundsEnv(CountEnv):
    """Three environments in turn have wider and wider bounds: rows that differ, and in nothing else.

    Args:
        grows: Whether its shape grows too, which no vector environment takes.
        **kwargs: As for ``CountEnv``.
    """

    made = 0

    def __init__(self, *, grows: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        turn = self.made % 3
        type(self).made += 1
        self._size = 6 + grows * turn
        bound = 2.0**32 * (1 + turn)
        self.observation_space = spaces.Box(-bound, bound, (self._size,), np.float64)

    def observe(self) -> Any:
        return np.resize(super().observe(), self._size)


class BigEnv(CountEnv):
    """An Atari-sized uint8 image, every pixel of which depends on the seed, the episode and the step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Box(0, 255, (210, 160, 3), np.uint8)
        self._pattern = (np.arange(210 * 160 * 3) * 7 % 256).astype(np.uint8).reshape(210, 160, 3)

    def observe(self) -> Any:
        return self._pattern + np.uint8((self.identity * 31 + self.episode * 17 + self.steps) % 256)


class StackEnv(CountEnv):
    """A stack of frames, the newest last, that mostly moves on by one; now and then it stands still or is all new.

    Args:
        shape: Of a frame.
        depth: Frames.
        axis: Of the stack: 0 or -1.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, shape: tuple[int, ...] = (8, 9), depth: int = 4, axis: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._frame, self._depth, self._axis = tuple(shape), depth, axis
        self._frames: list[np.ndarray] = []
        self.observation_space = spaces.Box(0, 255, np.stack([np.zeros(self._frame)] * depth, axis).shape, np.uint8)

    def observe(self) -> Any:
        state = (self.identity + 2, self.episode + 1, self.steps, self.hash)
        rng = np.random.default_rng(state)
        frame = rng.integers(256, size=self._frame, dtype=np.uint8)
        match self.steps and self.hash % 8:
            case 0:
                self._frames = [frame] * self._depth
            case 1:
                self._frames = [frame + np.uint8(i) for i in range(self._depth)]
            case 2:
                pass
            case _:
                self._frames = [*self._frames[1:], frame]
        return np.stack(self._frames, self._axis)


class UnpicklableError(Exception):
    """An error with a lock in it, as errors that carry a connection or a handle have."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class TwoArgumentError(Exception):
    """An error that cannot be made from its message alone."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code, self.detail = code, detail


def fail(kind: str, message: str) -> NoReturn:
    """Raises an error of one of ``FAULT_KINDS``."""
    match kind:
        case "value":
            raise ValueError(message)
        case "unpicklable":
            raise UnpicklableError(message)
        case "two_args":
            raise TwoArgumentError(7, message)
        case "keyboard":
            raise KeyboardInterrupt(message)
        case "systemexit":
            raise SystemExit(message)
    raise AssertionError(f"no such kind of fault: {kind}")


class _TrapEnv(CountEnv):
    """Does something bad at step ``at`` of an episode, in the rows that were reset with ``seed`` (None for all)."""

    def __init__(self, *, at: int = 1, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._at, self._seed = at, seed

    def is_due(self, count: int) -> bool:
        return count == self._at and self._seed in (None, self.identity)

    def spring(self) -> None:
        """What happens."""

    def step(self, action: Any):
        if self.is_due(self.steps + 1):
            self.spring()
        return super().step(action)


class RaiseEnv(_TrapEnv):
    """Raises an error.

    Args:
        where: ``"init"``, ``"reset"``, ``"step"``, ``"render"`` or ``"call"`` (of the method ``touch``).
        at: The step of an episode, for ``"reset"`` the number of the episode; the other places need none.
        seed: Only the rows that were reset with it; None for every row.
        kind: One of ``FAULT_KINDS``.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, where: str = "step", kind: str = "value", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._where, self._kind = where, kind
        if where == "init":
            self.spring()

    def spring(self) -> None:
        fail(self._kind, FAULT_MESSAGE)

    def is_due(self, count: int) -> bool:
        return self._where == "step" and super().is_due(count)

    def _at_place(self, where: str) -> bool:
        return self._where == where and self._seed in (None, self.identity)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        result = super().reset(seed=seed, options=options)
        if self._at_place("reset") and self.episode == self._at:
            self.spring()
        return result

    def render(self) -> np.ndarray:
        if self._at_place("render"):
            self.spring()
        return super().render()

    def touch(self) -> int:
        if self._at_place("call"):
            self.spring()
        return self.identity


class KillEnv(_TrapEnv):
    """Kills its own process with SIGKILL, as the kernel does when memory runs out."""

    def spring(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class HangEnv(_TrapEnv):
    """Blocks for ever."""

    def spring(self) -> None:
        threading.Event().wait()


class SlowEnv(_TrapEnv):
    """Blocks until the file ``gate`` is there, so that a test decides when the step ends."""

    def __init__(self, *, gate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._gate = Path(gate)

    def spring(self) -> None:
        deadline = time.monotonic() + GATE_LIMIT_S
        pause = threading.Event()
        while not self._gate.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._gate} was not made within {GATE_LIMIT_S:.0f} s")
            pause.wait(0.002)


ENVIRONMENTS: dict[str, type[CountEnv]] = {
    "Count-v0": CountEnv,
    "CountBox-v0": CountBoxEnv,
    "Nested-v0": NestedEnv,
    "NestedTuple-v0": NestedTupleEnv,
    "ReusedBuffer-v0": ReusedBufferEnv,
    "OneReward-v0": OneRewardEnv,
    "Float64Action-v0": Float64ActionEnv,
    "Keeper-v0": KeeperEnv,
    "Big-v0": BigEnv,
    "Stack-v0": StackEnv,
    "Text-v0": TextEnv,
    "Graph-v0": GraphEnv,
    "Sequence-v0": SequenceEnv,
    "OneOf-v0": OneOfEnv,
    "Custom-v0": CustomEnv,
    "Mixed-v0": MixedEnv,
    "Bounds-v0": BoundsEnv,
    "Raise-v0": RaiseEnv,
    "Kill-v0": KillEnv,
    "Hang-v0": HangEnv,
    "Slow-v0": SlowEnv,
}

for _name, _cls in ENVIRONMENTS.items():
    if f"vectest/{_name}" not in gym.registry:
        gym.register(f"vectest/{_name}", f"{__name__}:{_cls.__name__}", disable_env_checker=True)
