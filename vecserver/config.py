"""The settings of a server: from the command line, then ``VECSERVER_`` variables, then the defaults here.

Composed once, at the edge; nothing below this module reads the environment.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vecserver.connection_file import is_loopback, runtime_dir
from vecserver.control.access.tokens import check_token, read_token, read_tokens
from vecserver.control.limits import HttpLimits
from vecserver.control.openenv.sessions import SessionOptions
from vecserver.engine.limits import WorkerLimits, WorkerUser
from vecserver.pools.curve import NO_CURVE, has_curve, new_keys, read_keys
from vecserver.pools.declarations import pool_of_text, pools_of_file
from vecserver.pools.machine import memory_limit
from vecserver.pools.rules import EnvRules
from vecserver.pools.sessions.play import PlayOptions
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import VecServerError
from vecserver.wire.frames import MAX_EXT

if TYPE_CHECKING:
    from vecserver.control.access.tokens import Token
    from vecserver.pools.curve import KeyPair
    from vecserver.pools.store import DurablePool

__all__ = ["SECRET_VARIABLES", "Settings", "is_loopback", "load"]

_PREFIX: Final = "VECSERVER_"

_LEAST_MEMORY: Final = 256 << 20
"""Bytes: what an interpreter with Gymnasium has mapped before it makes anything."""

_LEAST_FILES: Final = 32
"""A worker has a dozen open before its environments open any."""

SECRET_VARIABLES: Final = (f"{_PREFIX}TOKEN",)
"""What a server takes out of its environment once it has read it, for the processes that it starts."""

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


def _parse_names(value: Any) -> Any:
    """``"a.example, b.example"`` as a tuple; anything else as it is."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _default_state_dir() -> Path:
    own = os.environ.get("XDG_STATE_HOME", "")
    return (Path(own) if own else Path("~/.local/state").expanduser()) / "vecserver"


def _half_of_memory() -> int:
    return max(1, memory_limit() // 2)


Port = Annotated[int, Field(ge=0, le=65535)]
DataPort = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_names)]


class Settings(BaseSettings):
    """How one server runs.

    Attributes:
        host: Address that HTTP and the pools' tcp sockets listen on.
        port: HTTP port; 0 for any free one.
        data_port_range: First and last port of the pools' tcp sockets; None for any free ones.
        max_pools: Pools at once.
        max_num_envs: Rows of one pool.
        max_total_envs: Rows of all pools together.
        max_slot_bytes: One batch of a pool, beside its infos.
        max_ext_bytes: What a request on the data plane may have beside its actions.
        max_kwargs_bytes: An environment's and its wrappers' arguments, as JSON.
        max_body_bytes: The body of a request over HTTP, and a WebSocket's message.
        max_total_body_bytes: The bodies of all requests over HTTP that are under way.
        max_connections: Open connections of the HTTP port, WebSockets included.
        max_websockets: Open WebSockets.
        request_rate: Requests a second from one address that are no mere reading; WebSockets that are opened count.
        total_request_rate: The same from all addresses together.
        header_timeout: Seconds for a request's headers to arrive.
        body_timeout: Seconds for its body.
        max_arena_bytes: Shared memory of one pool.
        max_total_arena_bytes: Shared memory of all pools together; if not given, half of what this process may have
            when it starts, by its control group and the machine's free memory.
        max_creations: Pools that are made at the same time; 16 more requests wait for their turn.
        allow_env: Globs of the ids that may be made; ``gymnasium`` stands for all that Gymnasium itself registers.
        allow_module: Globs of the modules that may be named in ``module:Id-v0``.
        allow_kwarg: ``ENVGLOB:NAME`` each: arguments that are taken although they name files or code, and attributes
            with a leading underscore that drivers may reach.
        pass_env: Globs of variables that environments have although they look like credentials or settings.
        worker_memory: Bytes of address space of each process of environments.
        worker_files: Files that each may have open.
        worker_processes: Processes and threads that their user may have, all of the user's together.
        worker_core: Bytes of the file that a crash of one leaves.
        worker_user: The account that they run as; only root can say so.
        pool: Durable pools, one text each, as ``vecserver.pools.declarations`` reads them.
        pools: A TOML file of durable pools.
        state_dir: Directory of the file in which durable pools are kept that were made over HTTP. One server at a time
            has it.
        start_timeout: Seconds that a pool may take to start.
        grace: Seconds that a pool may take to stop by itself.
        runtime_dir: Directory in which the server makes one of its own (mode 0700, removed at exit) for the pools' ipc
            sockets and logs.
        insecure: Listen beyond this machine although nothing there is encrypted; HTTP takes a token all the same.
        token: The admin token of this server; None for one that is made when it starts.
        token_file: A file with that token in it.
        tokens: A TOML file of further tokens, hashed, each with its scope.
        allowed_hosts: Names besides the loopback ones that a request's Host header may have; beyond loopback any name
            where there are none.
        tls_cert: A file with the certificate of this server and those above it, for HTTPS.
        tls_key: A file with its private key.
        openenv_public: Open OpenEnv's routes, and the page to look at, to everybody.
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
    max_total_envs: int = Field(Caps().max_total_envs, ge=1)
    max_slot_bytes: int = Field(Caps().max_slot_bytes, ge=1)
    max_ext_bytes: int = Field(Caps().max_ext_bytes, ge=1024, le=MAX_EXT)
    max_kwargs_bytes: int = Field(EnvRules().max_kwargs_bytes, ge=2)
    max_body_bytes: int = Field(HttpLimits().body_bytes, ge=1024)
    max_total_body_bytes: int = Field(HttpLimits().total_body_bytes, ge=1024)
    max_connections: int = Field(HttpLimits().connections, ge=1)
    max_websockets: int = Field(HttpLimits().websockets, ge=1)
    request_rate: float = Field(HttpLimits().rate, gt=0, allow_inf_nan=False)
    total_request_rate: float = Field(HttpLimits().total_rate, gt=0, allow_inf_nan=False)
    header_timeout: float = Field(HttpLimits().header_timeout, gt=0, allow_inf_nan=False)
    body_timeout: float = Field(HttpLimits().body_timeout, gt=0, allow_inf_nan=False)
    max_arena_bytes: int = Field(Caps().max_arena_bytes, ge=1)
    max_total_arena_bytes: int = Field(default_factory=_half_of_memory, ge=1)
    max_creations: int = Field(Caps().max_creations, ge=1)
    allow_env: Names = EnvRules().allow_env
    allow_module: Names = ()
    allow_kwarg: Names = ()
    pass_env: Names = ()
    worker_memory: int | None = Field(None, ge=_LEAST_MEMORY)
    worker_files: int | None = Field(None, ge=_LEAST_FILES)
    worker_processes: int | None = Field(None, ge=1)
    worker_core: int = Field(0, ge=0)
    worker_user: str | None = None
    pool: Annotated[tuple[str, ...], NoDecode] = ()
    pools: Path | None = None
    state_dir: Path = Field(default_factory=_default_state_dir)
    start_timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    grace: float = Field(5.0, gt=0, allow_inf_nan=False)
    runtime_dir: Path = Field(default_factory=runtime_dir)
    insecure: bool = False
    token: SecretStr | None = None
    token_file: Path | None = None
    tokens: Path | None = None
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_names)] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    openenv_public: bool = False
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

    @field_validator("allow_kwarg")
    @classmethod
    def _check_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if not all(each.rpartition(":")):
                raise ValueError(f"{each!r} is no environment's id and an argument's name, as in 'Ant-v5:xml_file'")
        return value

    @field_validator("worker_user")
    @classmethod
    def _check_user(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if os.geteuid() != 0:
            raise ValueError("only root may run processes as another user: start the server as root, or leave it out")
        if user_named(value).uid == 0:
            raise ValueError("that is root, which this is to keep environments from being")
        return value

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
            self.rules.check_id(self.openenv_env)
            declared = self.declared
            for each in declared:
                self.rules.check(each.spec)
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

    @model_validator(mode="after")
    def _check_access(self) -> Settings:
        if self.token is not None and self.token_file is not None:
            raise ValueError("a token comes from the variable VECSERVER_TOKEN or from a file, not from both")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS takes both a certificate (tls_cert) and its key (tls_key)")
        for path in filter(None, (self.tls_cert, self.tls_key)):
            if not os.access(path, os.R_OK):
                raise ValueError(f"{path} cannot be read, which TLS takes")
        self.given_token  # noqa: B018  # read now, so that what is wrong with it is said before anything is started
        self.further_tokens  # noqa: B018
        return self

    @property
    def given_token(self) -> str | None:
        """The admin token that the operator chose; None where one is to be made.

        Raises:
            ValueError: It is none, or its file cannot be read.
        """
        if self.token is not None:
            try:
                return check_token(self.token.get_secret_value())
            except ValueError as error:
                raise ValueError(f"VECSERVER_TOKEN: {error}") from None
        return None if self.token_file is None else read_token(self.token_file)

    @property
    def further_tokens(self) -> list[Token]:
        """Those of the operator's file.

        Raises:
            ValueError: It cannot be read, or says something else.
        """
        return [] if self.tokens is None else read_tokens(self.tokens)

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
            max_total_envs=self.max_total_envs,
            max_slot_bytes=self.max_slot_bytes,
            max_ext_bytes=self.max_ext_bytes,
            max_arena_bytes=self.max_arena_bytes,
            max_total_arena_bytes=self.max_total_arena_bytes,
            max_creations=self.max_creations,
            open_names=self.allow_kwarg,
        )

    @property
    def rules(self) -> EnvRules:
        """Which environments may be made."""
        return EnvRules(self.allow_env, self.allow_module, self.allow_kwarg, self.max_kwargs_bytes)

    @property
    def worker_limits(self) -> WorkerLimits:
        """What each process of environments may use."""
        return WorkerLimits(
            memory=self.worker_memory,
            files=self.worker_files,
            processes=self.worker_processes,
            core=self.worker_core,
            user=None if self.worker_user is None else user_named(self.worker_user),
        )

    @property
    def http_limits(self) -> HttpLimits:
        """How much its HTTP callers may have of it."""
        return HttpLimits(
            body_bytes=self.max_body_bytes,
            total_body_bytes=self.max_total_body_bytes,
            body_timeout=self.body_timeout,
            header_timeout=self.header_timeout,
            connections=self.max_connections,
            websockets=self.max_websockets,
            rate=self.request_rate,
            total_rate=self.total_request_rate,
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
                rules=self.rules,
                limits=self.worker_limits,
            ),
            limit=self.openenv_sessions,
            idle_timeout=self.openenv_idle_timeout,
            step_timeout=self.openenv_step_timeout,
            start_timeout=self.start_timeout,
            passed=self.pass_env,
        )


def user_named(name: str) -> WorkerUser:
    """An account of this machine.

    Raises:
        ValueError: There is none of this name.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"this machine has no user {name!r}") from None
    return WorkerUser(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)


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
