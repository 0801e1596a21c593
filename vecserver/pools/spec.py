"""What a pool is made from, checked before anything is started."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

import gymnasium
import msgspec

from vecserver.engine.providers import spec_of
from vecserver.engine.table import resolve
from vecserver.engine.wrappers import check_wrappers
from vecserver.registration import NAMESPACE
from vecserver.wire.errors import CapExceeded, InvalidSpec, UnknownEnv
from vecserver.wire.frames import MAX_EXT

__all__ = [
    "AUTORESET_MODES",
    "ENGINES",
    "INFOS",
    "LEASE_EXPIRIES",
    "OBSERVATION_MODES",
    "ON_FAILURE",
    "Caps",
    "PoolSpec",
    "check_pool_name",
    "nearest_env_ids",
    "offered_env_ids",
]

ENGINES: Final = ("auto", "envs", "async", "sync", "native")
AUTORESET_MODES: Final = ("NextStep", "SameStep", "Disabled")
OBSERVATION_MODES: Final = ("same", "different")
INFOS: Final = ("all", "episode", "none")
ON_FAILURE: Final = ("truncate", "raise", "replay")
LEASE_EXPIRIES: Final = ("keep", "reset", "destroy")
_POOL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.IGNORECASE | re.ASCII)
_NEAREST: Final = 5


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of one server; a refusal names the cap it met.

    Attributes:
        max_pools: Pools at once.
        max_num_envs: Rows of one pool.
        max_total_envs: Rows of all pools together.
        max_workers: Workers of one pool.
        max_slot_bytes: One batch of a pool, as it lies in its arena: what a reply has beside its infos.
        max_ext_bytes: What a request of a driver may have beside its actions.
        max_arena_bytes: Shared memory of one pool.
        max_total_arena_bytes: Shared memory of all pools together; None for as much as there is.
        max_creations: Pools that are made at the same time; some more requests wait for their turn.
        open_names: ``ENVGLOB:NAME`` each: names with a leading underscore that a driver may call, read or set.
    """

    max_pools: int = 64
    max_num_envs: int = 4096
    max_total_envs: int = 65536
    max_workers: int = 256
    max_slot_bytes: int = 1 << 30
    max_ext_bytes: int = MAX_EXT
    max_arena_bytes: int = 8 << 30
    max_total_arena_bytes: int | None = None
    max_creations: int = 8
    open_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """The options of a pool; the same names in ``make_vec``, in HTTP and on the command line.

    Attributes:
        env_id: A registered Gymnasium id, or ``module:Id-v0`` to import the module that registers it first.
        num_envs: Rows.
        engine: What a worker runs: ``envs`` (each row an environment of its own), ``async`` or ``sync`` (Gymnasium's
            vector environments, in one worker), ``native`` (the environment's own vector environment), ``auto`` for
            the fastest that gives the numbers of separate environments, which is never ``native``.
        workers: Worker processes; None for as many as pay. With ``native`` each has a vector environment of its part of
            the rows, and None is one.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``, as ``gymnasium.vector.AutoresetMode``.
        observation_mode: ``same`` where every row has the same observation space, ``different`` where they may differ
            in their bounds.
        render_mode: Passed to ``gymnasium.make``.
        env_kwargs: Passed to ``gymnasium.make``; JSON values.
        wrappers: Gymnasium's wrappers to put around each row's environment, the first innermost: names, or
            ``{"id": name, "kwargs": {…}}``.
        info: Which of the environments' infos are sent: ``all``, ``none``, ``episode`` (none, and
            ``episode_statistics``), or a list of their keys. ``final_obs`` always is.
        episode_statistics: Send return, length and time of each episode that ends, as Gymnasium's
            ``RecordEpisodeStatistics`` reports them.
        step_timeout: Seconds that a worker may take for a step, a reset or a call before it is killed and replaced.
        lease_ttl: Seconds of silence after which another driver may take the pool.
        on_failure: What a worker's death means for the batch: ``truncate`` (the episodes of its rows are truncated, and
            the batch is like any other), ``raise`` (the batch ends with WorkerDied) or ``replay`` (its rows are rebuilt
            from their seeds and actions, and go on as if nothing had happened; only with separate environments that
            can be rebuilt, which is tried when the pool is made). Another worker is started.
        restart_budget: How many workers may be replaced within a minute before the pool is broken; None for any number.
        lease_expiry: What else becomes of the pool then: ``keep`` it as it is, so that its driver may come back,
            ``reset`` all rows, or ``destroy`` it; with these two the lease ends.
    """

    env_id: str
    num_envs: int
    engine: str = "auto"
    workers: int | None = None
    autoreset_mode: str = "NextStep"
    observation_mode: str = "same"
    render_mode: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[str | dict[str, Any]] = field(default_factory=list)
    info: str | list[str] = "all"
    episode_statistics: bool = False
    step_timeout: float = 60.0
    lease_ttl: float = 60.0
    on_failure: str = "truncate"
    restart_budget: int | None = 30
    lease_expiry: str = "keep"

    def check(self, caps: Caps) -> None:
        """Refuse what can be refused without starting a process.

        Raises:
            InvalidSpec: An option out of range; names the option and what it may be.
            CapExceeded: A cap of the server; names the cap.
            UnknownEnv: The id is not registered here; names the nearest.
        """
        self.check_options(caps)
        self._check_registered()

    def check_options(self, caps: Caps) -> None:
        """The part of ``check`` that is not about the environment's id."""
        _check_range("num_envs", self.num_envs, "max_num_envs", caps.max_num_envs)
        if self.workers is not None:
            _check_range("workers", self.workers, "max_workers", caps.max_workers)
            if self.workers > self.num_envs:
                raise InvalidSpec(f"workers is {self.workers}, more than num_envs ({self.num_envs})", field="workers")
        _check_choice("engine", self.engine, ENGINES)
        _check_choice("autoreset_mode", self.autoreset_mode, AUTORESET_MODES)
        _check_choice("observation_mode", self.observation_mode, OBSERVATION_MODES)
        _check_choice("lease_expiry", self.lease_expiry, LEASE_EXPIRIES)
        if self.engine in ("async", "sync") and self.workers not in (None, 1):
            raise InvalidSpec(f"workers is {self.workers}; engine {self.engine!r} runs in one worker", field="workers")
        if self.engine == "native":
            self._check_native()
        for name in ("step_timeout", "lease_ttl"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidSpec(f"{name} is a finite number of seconds above 0", field=name)
        self._check_failures()
        try:
            json.dumps(self.env_kwargs, allow_nan=False)
            msgspec.msgpack.encode(self.env_kwargs)  # the way to a worker: integers of at most 64 bits
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidSpec(f"env_kwargs hold a value that JSON cannot carry: {error}", field="env_kwargs") from None
        check_wrappers(self.wrappers)
        self._check_info()

    def _check_failures(self) -> None:
        _check_choice("on_failure", self.on_failure, ON_FAILURE)
        if self.on_failure == "replay" and resolve(self.engine) != "envs":
            raise InvalidSpec(
                f"on_failure is 'replay', and rows of engine {self.engine!r} cannot be rebuilt one by one: choose "
                "engine 'envs', or on_failure 'truncate' or 'raise'",
                field="on_failure",
            )
        budget = self.restart_budget
        if budget is not None and (type(budget) is not int or budget < 0):
            raise InvalidSpec(
                f"restart_budget is {budget!r}; it is a whole number of at least 0, or None for no limit",
                field="restart_budget",
            )

    def _check_native(self) -> None:
        if self.wrappers:
            raise InvalidSpec(
                "wrappers go around single environments, and engine 'native' has none: leave them out, or give the "
                "vector environment's own options",
                field="wrappers",
            )
        if self.observation_mode != "same":
            raise InvalidSpec(
                "observation_mode is 'different'; the rows of engine 'native' have one space", field="observation_mode"
            )

    def _check_info(self) -> None:
        named = self.info in INFOS if isinstance(self.info, str) else all(type(key) is str for key in self.info)
        if not named:
            raise InvalidSpec(
                f"info is {self.info!r}; it is one of {', '.join(INFOS)}, or a list of keys", field="info"
            )

    def _check_registered(self) -> None:
        if self.env_id.rpartition(":")[2].startswith(NAMESPACE):
            raise InvalidSpec(
                f"{self.env_id!r} stands for a pool of a server, and a pool of pools is not made: name the environment",
                field="env_id",
            )
        # module:Id-v0 registers when it is imported, which only a worker may do
        if ":" in self.env_id:
            return
        known = spec_of(self.env_id)
        if known is None:
            nearest = nearest_env_ids(self.env_id)
            hint = (
                f"did you mean {', '.join(nearest)}?" if nearest else "GET /v1/envs lists the ids that are registered"
            )
            raise UnknownEnv(f"no environment is registered as {self.env_id!r}: {hint}", nearest=nearest)
        if self.engine == "native" and known.vector_entry_point is None:
            raise InvalidSpec(
                f"{self.env_id} has no vector environment of its own (vector_entry_point), which is what engine "
                "'native' runs: choose another engine",
                field="engine",
            )
        if self.engine != "native" and known.entry_point is None:
            raise InvalidSpec(
                f"{self.env_id} only exists as a vector environment: ask for engine 'native', and mind that its "
                "numbers are its own",
                field="engine",
            )


def _check_range(name: str, value: int, cap_name: str, cap: int) -> None:
    if value < 1:
        raise InvalidSpec(f"{name} is {value}; it is at least 1", field=name)
    if value > cap:
        raise CapExceeded(
            f"{name} is {value}; {cap_name} of this server is {cap}", cap=cap_name, limit=cap, asked=value
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSpec(f"{name} is {value!r}; it is one of {', '.join(choices)}", field=name)


def offered_env_ids() -> list[str]:
    """The registered ids that a pool can be made of, in order."""
    return sorted(known for known in gymnasium.registry if not known.startswith(NAMESPACE))


def nearest_env_ids(env_id: str) -> list[str]:
    """Registered ids that look like this one, most alike first."""
    lowered = {known.lower(): known for known in offered_env_ids()}
    close = difflib.get_close_matches(env_id.lower(), lowered, n=_NEAREST, cutoff=0.5)
    return [lowered[known] for known in close]


def check_pool_name(name: str) -> None:
    """Refuse a name that could not stand in a path or a file name.

    Raises:
        InvalidSpec: Says what a name may hold.
    """
    if not _POOL_NAME.fullmatch(name):
        raise InvalidSpec(
            f"{name!r} is no pool name: letters, digits, '.', '_', '-', at most 63, beginning with a letter or digit",
            field="name",
        )
