"""The HTTP API as a Python class: make, list, reset, step and delete pools."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import msgspec

from vecserver.wire.errors import (
    DeadlineExceeded,
    MalformedMessage,
    ServerUnreachable,
    TransportUnavailable,
    UnknownPool,
    Unportable,
    VecServerError,
    from_code,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PROBLEM", "ControlClient", "HttpApi", "error_of_problem", "pool_path"]

PROBLEM: Final = "application/problem+json"
"""Content type of a refusal."""
_STANDARD: Final = frozenset({"type", "title", "status", "detail", "instance", "code"})
_POOL_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]*", re.IGNORECASE | re.ASCII)
_CONNECT_S: Final = 10.0
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class HttpApi:
    """What a request to a server is made of and what an answer means. No I/O.

    Args:
        url: Address of the server, as in ``http://127.0.0.1:8000``.
        token: Sent as a bearer token; None for a server that asks for none.
        timeout: Seconds to wait for an answer.

    Raises:
        TransportUnavailable: The address is no HTTP address.

    Attributes:
        url: The address.
        headers: What every request has besides.
        client_options: Arguments of an httpx client for this server.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        address = _parse(self.url)
        self._timeout = timeout
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client_options: dict[str, Any] = {
            "base_url": address,
            "headers": self.headers,
            "timeout": httpx.Timeout(timeout, connect=_CONNECT_S),
            # a proxy from the environment has no way to this machine's loopback
            "trust_env": address.host not in _LOOPBACK,
            # certificates take a while to load, which an event loop must not wait for where none is looked at
            "verify": address.scheme == "https" or address.host not in _LOOPBACK,
        }

    @staticmethod
    def request_options(body: dict[str, Any] | None, timeout: float | None) -> dict[str, Any]:
        """Arguments of an httpx request, besides method and path; None for no body, and for the usual timeout."""
        return {
            "content": None if body is None else msgspec.json.encode(body, enc_hook=_to_builtins),
            "headers": None if body is None else {"Content-Type": "application/json"},
            "timeout": httpx.USE_CLIENT_DEFAULT if timeout is None else httpx.Timeout(timeout),
        }

    def failure(self, error: httpx.TransportError, what: str, timeout: float | None) -> VecServerError:
        """The error for a request that got no answer; ``what`` is its method and path."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerUnreachable(
                f"nobody answers at {self.url} ({error}): `vecserver serve` starts a server",
                url=self.url,
                refused=_was_refused(error),
            )
        if isinstance(error, httpx.TimeoutException):
            return DeadlineExceeded(
                f"{self.url} did not answer {what} within {timeout or self._timeout:g} s", url=self.url
            )
        return ServerUnreachable(
            f"{self.url} went away during {what} ({error}): whether it was done is not known", url=self.url
        )

    def read(self, answer: httpx.Response) -> dict[str, Any]:
        """The value of an answer.

        Raises:
            VecServerError: What the server answered instead.
            MalformedMessage: It is no vecserver.
        """
        if answer.status_code == httpx.codes.NO_CONTENT:
            return {}
        try:
            value = msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise self._not_ours(answer) from None
        if answer.is_success:
            return value
        if not answer.headers.get("content-type", "").startswith(PROBLEM):
            raise self._not_ours(answer)
        raise error_of_problem(value)

    def _not_ours(self, answer: httpx.Response) -> VecServerError:
        return MalformedMessage(
            f"{self.url} answered with status {answer.status_code} and not as a vecserver does: is it one?"
        )


class ControlClient:
    """Speaks HTTP with one server. Any thread may use it; close it, or use it as a context manager.

    Every method raises the error that the server answered with, ``ServerUnreachable`` where nobody answers, and
    ``DeadlineExceeded`` where the answer did not come in time.

    Args:
        url: Address of the server, as in ``http://127.0.0.1:8000``.
        token: Sent as a bearer token; None for a server that asks for none.
        timeout: Seconds to wait for an answer. Making a pool of slow environments takes the server a while.

    Raises:
        TransportUnavailable: The address is no HTTP address.

    Attributes:
        url: The address.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 300.0) -> None:
        self._api = HttpApi(url, token, timeout)
        self.url = self._api.url
        self._http = httpx.Client(**self._api.client_options)

    @property
    def headers(self) -> dict[str, str]:
        """What every request has besides; not for a log, where there is a token."""
        return self._api.headers

    def create_pool(self, **options: Any) -> dict[str, Any]:
        """Make a pool.

        Args:
            **options: ``env_id``, ``num_envs`` and the other fields of ``POST /v1/pools``.

        Returns:
            The pool: its id under ``pool``, its addresses under ``endpoints``, and what it was made from.
        """
        return self._ask("POST", "/v1/pools", options)

    def list_pools(self) -> list[dict[str, Any]]:
        """All pools of the server."""
        pools: list[dict[str, Any]] = self._ask("GET", "/v1/pools")["pools"]
        return pools

    def get_pool(self, pool: str, *, timeout: float | None = None) -> dict[str, Any]:
        """One pool, as ``create_pool`` returned it, with its counters as they are now.

        Args:
            pool: Its id.
            timeout: Seconds to wait for the answer; None for the client's own.
        """
        return self._ask("GET", pool_path(pool), timeout=timeout)

    def delete_pool(self, pool: str, *, force: bool = False) -> None:
        """End a pool and its processes.

        Args:
            pool: Its id.
            force: Do not wait for the batch in flight, nor for the environments to close.
        """
        self._ask("DELETE", pool_path(pool), params={"force": "true"} if force else None)

    def take_lease(self, pool: str, driver: str = "operator", *, force: bool = False) -> dict[str, Any]:
        """Give the right to drive a pool to somebody; whoever had it is told so by its next call.

        Args:
            pool: Its id.
            driver: A name for people.
            force: Take the pool from the driver it has.

        Returns:
            Under ``resume`` what ``attach`` takes to drive with this lease, within the pool's ``lease_ttl``; under
            ``before`` who had it.
        """
        return self._ask("POST", f"{pool_path(pool)}/lease", {"driver": driver, "force": force})

    def reset_pool(
        self,
        pool: str,
        seed: int | list[int | None] | None = None,
        *,
        mask: list[bool] | None = None,
        options: dict[str, Any] | list[dict[str, Any] | None] | None = None,
        key: str | None = None,
        epoch: str | int | None = None,
    ) -> dict[str, Any]:
        """Reset rows of a pool that no driver holds.

        Args:
            pool: Its id.
            seed: One seed (row i gets ``seed + i``), or one a row.
            mask: Rows to reset; None for all.
            options: Passed to each environment's ``reset``; or a list with one dict or None a row.
            key: As in ``step_pool``.
            epoch: As in ``step_pool``.

        Returns:
            ``observations`` and ``infos``, as JSON values.
        """
        body = {"seed": seed, "mask": mask, "options": options}
        return self._ask("POST", f"{pool_path(pool)}/reset", body, key=key, epoch=epoch)

    def step_pool(
        self, pool: str, actions: Any, *, key: str | None = None, epoch: str | int | None = None
    ) -> dict[str, Any]:
        """Step a pool that no driver holds: for trying things out, not for training.

        Args:
            pool: Its id.
            actions: One action a row: lists or arrays, in dicts where the space is one.
            key: A text of your choice, another for each step. When a call got no answer, the same call with the same
                key gets it, and steps nothing twice.
            epoch: That of the pool which is meant, as ``get_pool`` has it: one that was made again since steps nothing.

        Returns:
            ``observations``, ``rewards``, ``terminated``, ``truncated`` and ``infos``, as JSON values.
        """
        return self._ask("POST", f"{pool_path(pool)}/step", {"actions": actions}, key=key, epoch=epoch)

    def envs(self, q: str | None = None) -> list[dict[str, Any]]:
        """Environments that are registered at the server; ``q`` for those whose id contains a text."""
        envs: list[dict[str, Any]] = self._ask("GET", "/v1/envs", params={"q": q} if q else None)["envs"]
        return envs

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
        timeout: float | None = None,
        key: str | None = None,
        epoch: str | int | None = None,
    ) -> dict[str, Any]:
        options = self._api.request_options(body, timeout)
        once = {"Idempotency-Key": key, "Pool-Epoch": None if epoch is None else str(epoch)}
        options["headers"] = {
            **(options["headers"] or {}),
            **{name: each for name, each in once.items() if each is not None},
        }
        try:
            answer = self._http.request(method, path, params=params, **options)
        except httpx.TransportError as error:
            raise self._api.failure(error, f"{method} {path}", timeout) from None
        return self._api.read(answer)


def _parse(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise TransportUnavailable(f"{url!r} is no address: {error}") from None
    if address.scheme not in {"http", "https"} or not address.host:
        raise TransportUnavailable(f"{url!r} is no HTTP address; one is http://127.0.0.1:8000")
    return address


def error_of_problem(problem: dict[str, Any]) -> VecServerError:
    """The error that a refusal, problem+json, stands for."""
    details = {name: item for name, item in problem.items() if name not in _STANDARD}
    return from_code(str(problem.get("code")), str(problem.get("detail")), details)


def pool_path(pool: str) -> str:
    """The path of a pool's route.

    Raises:
        UnknownPool: No pool can have this id.
    """
    if not _POOL_ID.fullmatch(pool):  # it would reach another route
        raise UnknownPool(f"{pool!r} is the id of no pool: ids are of letters, digits, '.', '_' and '-'", pool=pool)
    return f"/v1/pools/{pool}"


def _to_builtins(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a numpy array or scalar
        return value.tolist()
    raise Unportable(f"{value!r} is a {type(value).__name__}, which JSON cannot carry")


def _was_refused(error: BaseException | None) -> bool:
    """Whether the machine answered that nothing listens there, and not the network that it knows no way."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None
