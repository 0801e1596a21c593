"""Whether an environment can be rebuilt from seeds and actions: tried, before a pool that replays has any rows.

Three copies play the same actions: the second from the beginning, the third from where an episode began without a
seed. Only what a pool sends is compared.
"""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vecserver.arena.record import How
from vecserver.engine.beginnings import begin_again, beginning_of
from vecserver.engine.infos import key_filter
from vecserver.wire.codec import pack
from vecserver.wire.errors import InvalidSpec, Unportable
from vecserver.wire.layout import leaf_values
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import gymnasium

    from vecserver.arena.record import Beginning
    from vecserver.engine.infos import InfoOptions

__all__ = ["check_replay"]

_STEPS: Final = 200
"""Of each copy, at most."""
_PARTS: Final = 3
"""Each but the first begins with a reset without a seed, whatever the environment says."""
_SECONDS: Final = 0.3
"""For the first copy; the others take as long."""
_FEWEST: Final = 4
_SEED: Final = 20_261
_OTHER_SEED: Final = 7


class _Shown(NamedTuple):
    """What a reset or step has shown, as bytes, by what it is."""

    parts: dict[str, bytes]
    is_over: bool

    def differs(self, other: _Shown) -> str:
        """What is different; nothing where all is the same."""
        names = [name for name in {**self.parts, **other.parts} if self.parts.get(name) != other.parts.get(name)]
        return names[0] if names else ""


class _Run(NamedTuple):
    """What the first copy did.

    Attributes:
        actions: Of each step; None for a reset without a seed.
        shown: By the first reset, and by each of these.
        beginnings: How each episode began, by the number of its reset among them; the first is 0.
    """

    actions: list[Any]
    shown: list[_Shown]
    beginnings: dict[int, Beginning]


class _Copy:
    """One of the environments."""

    def __init__(self, env: gymnasium.Env[Any, Any], infos: InfoOptions) -> None:
        self.env = env
        self._pick = key_filter(infos.keys)

    def show(self, observation: Any, info: dict[str, Any], *outcome: Any) -> _Shown:
        """As bytes, what a pool would send."""
        parts = {"the observation": pack(list(leaf_values(self.env.observation_space, observation)))}
        if outcome:
            for name, value in zip(("the reward", "terminated", "truncated"), outcome, strict=True):
                parts[name] = np.asarray(value, np.float64).tobytes()
        for key, value in self._pick(info).items():
            try:
                parts[f"the info {key!r}"] = pack(value)
            except Unportable:
                continue  # it is not sent either
        return _Shown(parts, any(outcome[1:]))

    def do(self, action: Any) -> _Shown:
        """Step, or reset without a seed where there is no action."""
        if action is None:
            return self.show(*self.env.reset())
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self.show(observation, info, reward, terminated, truncated)


def check_replay(make: Callable[[int], gymnasium.Env[Any, Any]], row: int, infos: InfoOptions) -> None:
    """Refuse an environment that cannot be rebuilt.

    Args:
        make: Makes the environment of a row; three are made here, stepped and closed.
        row: Its number.
        infos: What is sent beside observations, rewards and flags.

    Raises:
        InvalidSpec: Says what differs, and when; or what the environment raised.
    """
    with ExitStack() as stack:

        def copy() -> _Copy:
            env = make(row)
            stack.callback(env.close)
            return _Copy(env, infos)

        try:
            _try(copy)
        except InvalidSpec:
            raise
        except Exception as error:
            raise _refused(f"it raised {type(error).__name__} while that was tried: {error}") from error


def _try(copy: Callable[[], _Copy]) -> None:
    first = copy()
    _check_actions(first.env)
    run = _run(first)
    second = copy()
    _compare(run, 0, second.show(*second.env.reset(seed=_SEED)), second, "a copy with the same seed")
    second.env.reset(seed=_OTHER_SEED)
    # a seed says it all, whatever was before
    begun = second.show(*second.env.reset(seed=_SEED))
    _compare(run, 0, begun, second, "the same environment with its seed again")
    # not the first: it would be alike where an environment counts its resets
    number = sorted(run.beginnings)[2]
    third = copy()
    begun = third.show(*begin_again(third.env, run.beginnings[number]))
    _compare(run, number, begun, third, "a copy that begins its episode as it began")


def _check_actions(env: gymnasium.Env[Any, Any]) -> None:
    if SideLeaves(env.action_space):
        raise _refused("its actions have no fixed size, so that they cannot be kept")


def _run(first: _Copy) -> _Run:
    """Step with random actions; two episodes at least are over in between, or broken off."""
    actions = deepcopy(first.env.action_space)  # the environment may draw from its own
    actions.seed(_SEED)
    run = _Run([], [], {0: beginning_of(first.env.unwrapped, _SEED)})
    run.shown.append(first.show(*first.env.reset(seed=_SEED)))
    began = perf_counter()
    for part in range(1, _PARTS + 1):
        while len(run.actions) < part * _FEWEST or (
            len(run.actions) < part * _STEPS // _PARTS and perf_counter() - began < part * _SECONDS / _PARTS
        ):
            _go_on(run, first, None if run.shown[-1].is_over else actions.sample())
        if part < _PARTS:
            _go_on(run, first, None)
    return run


def _go_on(run: _Run, first: _Copy, action: Any) -> None:
    run.actions.append(action)
    if action is None:
        beginning = beginning_of(first.env.unwrapped)
        if beginning.how == How.OTHER_GENERATOR:
            raise _refused("it has no `np_random` of Gymnasium's kind (PCG64), so that it is not known what it draws")
        run.beginnings[len(run.actions)] = beginning
    run.shown.append(first.do(action))


def _compare(run: _Run, number: int, begun: _Shown, copy: _Copy, what: str) -> None:
    """Go through what was done from a reset on, and compare what is shown."""
    for at, shown in _pairs(run, number, begun, copy):
        if difference := run.shown[at].differs(shown):
            raise _refused(f"{difference} of {what} differs {_when(run, number, at)}")


def _pairs(run: _Run, number: int, begun: _Shown, copy: _Copy) -> Iterator[tuple[int, _Shown]]:
    yield number, begun
    for at in range(number + 1, len(run.shown)):
        yield at, copy.do(run.actions[at - 1])


def _when(run: _Run, number: int, at: int) -> str:
    if at == number or run.actions[at - 1] is None:
        return "at a reset"
    steps = sum(action is not None for action in run.actions[number:at])
    return f"at step {steps}"


def _refused(why: str) -> InvalidSpec:
    return InvalidSpec(
        f"on_failure is 'replay', and this environment cannot be rebuilt from its seed and its actions: {why}; "
        "on_failure='truncate' works with every environment",
        field="on_failure",
    )
