"""The settings of a server: from the command line, then ``VECSERVER_`` variables, then the defaults here.

Composed once, at the edge; nothing below this module reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vecserver.control.openenv.sessions import SessionOptions
from vecserver.pools.curve import NO_CURVE, has_curve, new_keys, read_keys
from vecserver.pools.declarations import pool_of_text, pools_of_file
from vecserver.pools.machine import memory_limit
from vecserver.pools.sessions.play import PlayOptions
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import VecServerError

if TYPE_CHECKING:
    from vecserver.pools.curve import KeyPair
    from vecserver.pools.store import DurablePool

__all__ = ["Settings", "is_loopback", "load"]

_PREFIX: Final = "VECSERVER_"

_LONGEST_RUNTIME_DIR: Final = 70
"""Bytes: a Unix socket's path has at most 107, of which the server's own folder and file take up to 37."""


def _parse_port_range(value: Any) -> Any:
    """``"9000-9100"`` or ``"9000"`` as a pair; anything else as it is."""
    if not isinstance(value, str):
        return value
    first, dash, last = value.partition("-")
    try:
        return int(first), int(last if dash else first)
    except ValueError:
        raise ValueError("two ports with a dash between, as in 9000-9100") from None


def _default_runtime_dir() -> Path:
    """The user's own runtime directory where there is a usable one, else that for temporary files."""
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(own if own and os.access(own, os.W_OK | os.X_OK) else tempfile.gettempdir())


def _default_state_dir() -> Path:
    own = os.environ.get("XDG_STATE_HOME", "")
    return (Path(own) if own else Path("~/.local/state").expanduser()) / "vecserver"


def _half_of_memory() -> int:
    return max(1, memory_limit() // 2)


Port = Annotated[int, Field(ge=0, le=65535)]
DataPort = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """How one server runs.

    Attributes:
        host: Address that HTTP and the pools' tcp sockets listen on.
        port: HTTP port; 0 for any free one.
        data_port_range: First and last port of the pools' tcp sockets; None for any free ones.
        max_pools: Pools at once.
        max_num_envs: Rows of one pool.
        max_arena_bytes: Shared memory of one pool.
        max_total_arena_bytes: Shared memory of all pools together; if not given, half of what this process may have
            when it starts, by its control group and the machine's free memory.
        max_creations: Pools that are made at the same time; 16 more requests wait for their turn.
        pool: Durable pools, one text each, as ``vecserver.pools.declarations`` reads them.
        pools: A TOML file of durable pools.
        state_dir: Directory of the file in which durable pools are kept that were made over HTTP. One server at a time
            has it.
        start_timeout: Seconds that a pool may take to start.
        grace: Seconds that a pool may take to stop by itself.
        runtime_dir: Directory in which the server makes one of its own (mode 0700, removed at exit) for the pools' ipc
            sockets and logs.
        insecure: Listen beyond this machine although nothing there is encrypted.
        curve_key: File of the secret key by which pools speak CURVE on tcp, as ``vecserver keygen`` writes it; on
            loopback too. If not given, one is made at start where pools can be reached from other machines.
        openenv_env: The environment of OpenEnv clients that name none. Also ``GYM_ENVIRONMENT_ID``.
        openenv_sessions: OpenEnv sessions at once, each a process.
        openenv_idle_timeout: Seconds without a message after which a session is ended.
        openenv_step_timeout: Seconds that an environment may take for a message before its session is ended.
        gym_render_mode: Render mode of sessions' environments. Only ``GYM_RENDER_MODE``, as the next two.
        gym_max_steps: Steps after which a session's episode is truncated, if it is not over before.
        gym_seed: Seed of a session's first reset that has none; the next one has the number after it.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Port = 8000
    data_port_range: Annotated[
        tuple[DataPort, DataPort] | None,
        NoDecode,
        BeforeValidator(_parse_port_range),
    ] = None
    max_pools: int = Field(Caps().max_pools, ge=1)
    max_num_envs: int = Field(Caps().max_num_envs, ge=1)
    max_arena_bytes: int = Field(Caps().max_arena_bytes, ge=1)
    max_total_arena_bytes: int = Field(default_factory=_half_of_memory, ge=1)
    max_creations: int = Field(Caps().max_creations, ge=1)
    pool: Annotated[tuple[str, ...], NoDecode] = ()
    pools: Path | None = None
    state_dir: Path = Field(default_factory=_default_state_dir)
    start_timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    grace: float = Field(5.0, gt=0, allow_inf_nan=False)
    runtime_dir: Path = Field(default_factory=_default_runtime_dir)
    insecure: bool = False
    curve_key: Path | None = None
    openenv_env: str = Field(
        PlayOptions().env_id,
        validation_alias=AliasChoices("openenv_env", f"{_PREFIX}OPENENV_ENV", "GYM_ENVIRONMENT_ID"),
    )
    openenv_sessions: int = Field(SessionOptions().limit, ge=1)
    openenv_idle_timeout: float = Field(SessionOptions().idle_timeout, gt=0, allow_inf_nan=False)
    openenv_step_timeout: float = Field(SessionOptions().step_timeout, gt=0, allow_inf_nan=False)
    gym_render_mode: str | None = Field(None, validation_alias="GYM_RENDER_MODE")
    gym_max_steps: int | None = Field(None, ge=1, validation_alias="GYM_MAX_STEPS")
    gym_seed: int | None = Field(None, ge=0, validation_alias="GYM_SEED")

    @field_validator("openenv_env")
    @classmethod
    def _check_env(cls, value: str) -> str:
        try:
            PoolSpec(env_id=value, num_envs=1).check(Caps())
        except VecServerError as error:
            raise ValueError(error.message) from None
        return value

    @model_validator(mode="after")
    def _check_declared(self) -> Settings:
        try:
            declared = self.declared
            for each in declared:
                each.spec.check(self.caps)
        except VecServerError as error:
            raise ValueError(error.message) from None
        names = [each.name for each in declared]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two pools are named {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.data_port_range is not None and self.data_port_range[0] > self.data_port_range[1]:
            raise ValueError(f"data_port_range ends ({self.data_port_range[1]}) before it begins")
        if len(os.fsencode(self.runtime_dir)) > _LONGEST_RUNTIME_DIR:
            raise ValueError(
                f"runtime_dir {self.runtime_dir} is too long for the path of a Unix socket: choose one of at most "
                f"{_LONGEST_RUNTIME_DIR} bytes"
            )
        if self._wants_curve and not has_curve():
            raise ValueError(
                f"host {self.host} can be reached from other machines, and this installation's libzmq has no CURVE "
                f"to encrypt with: {NO_CURVE}, keep 127.0.0.1 and tunnel to it (ssh -L), or say --insecure where "
                "everybody on the network is trusted"
            )
        if self.curve_key is not None:
            read_keys(self.curve_key)
        if self.insecure and self.curve_key is not None:
            raise ValueError("insecure and curve_key exclude each other: leave one of them out")
        return self

    @property
    def _wants_curve(self) -> bool:
        return self.curve_key is not None or not (self.insecure or is_loopback(self.host))

    def curve_keys(self) -> KeyPair | None:
        """The keys by which pools speak CURVE on tcp; None where they do not.

        Raises:
            ValueError: The file cannot be read any more.
        """
        if self.curve_key is not None:
            return read_keys(self.curve_key)
        return new_keys() if self._wants_curve else None

    @property
    def caps(self) -> Caps:
        """The limits that the registry enforces."""
        return Caps(
            max_pools=self.max_pools,
            max_num_envs=self.max_num_envs,
            max_arena_bytes=self.max_arena_bytes,
            max_total_arena_bytes=self.max_total_arena_bytes,
            max_creations=self.max_creations,
        )

    @property
    def declared(self) -> list[DurablePool]:
        """The durable pools of the command line and of the file.

        Raises:
            InvalidSpec: One of them is none, or the file cannot be read.
        """
        return [*map(pool_of_text, self.pool), *(pools_of_file(self.pools) if self.pools is not None else [])]

    @property
    def sessions(self) -> SessionOptions:
        """How OpenEnv's sessions are served."""
        return SessionOptions(
            play=PlayOptions(
                env_id=self.openenv_env,
                render_mode=self.gym_render_mode,
                max_steps=self.gym_max_steps,
                seed=self.gym_seed,
            ),
            limit=self.openenv_sessions,
            idle_timeout=self.openenv_idle_timeout,
            step_timeout=self.openenv_step_timeout,
            start_timeout=self.start_timeout,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than ``localhost`` counts as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(name: str) -> str:
    """The variable that a setting came from."""
    ours = f"{_PREFIX}{name.upper()}"
    if name.upper().startswith("GYM_"):
        return name.upper()
    return "GYM_ENVIRONMENT_ID" if name == "openenv_env" and not os.environ.get(ours) else ours


def load(**given: Any) -> Settings:
    """Compose the settings.

    Args:
        **given: Settings that were given explicitly; None for one that was not.

    Raises:
        ValueError: One sentence that names the setting, where it came from and what it may be.
    """
    explicit = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**explicit)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            raise ValueError(message) from None
        name = str(first["loc"][0])
        source = name if name in explicit else _variable(name)
        raise ValueError(f"{source} is {first['input']!r}: {message}") from None
