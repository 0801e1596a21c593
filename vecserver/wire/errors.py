"""Every error vecserver raises, each with a stable code, a wire number and an HTTP status.

::

    VecServerError
    ├── LocalError                 you broke a rule; nothing was sent
    │   ├── InvalidAction          wrong length, shape, dtype or value of actions   (also ValueError and TypeError)
    │   ├── InvalidSpec            a pool option is missing, unknown or out of range        (also ValueError)
    │   ├── UnsupportedSpace       a space that no pool takes, or that only a server has    (also TypeError)
    │   ├── Unportable             a value that cannot travel                               (also TypeError)
    │   └── TransportUnavailable   the chosen transport cannot be used here
    ├── RemoteError                the peer says no; what it did is in the message
    │   ├── EnvFault               an environment raised; the row, the type, the traceback
    │   │   └── EnvCreationFailed  an environment could not be made; the same fields
    │   ├── UnknownEnv             no such environment id; the nearest ones
    │   ├── ForbiddenEnv           an id or an argument that the server's operator does not allow
    │   ├── TooManyRequests        faster than the server takes them; says when to come again
    │   ├── RequestTooSlow         its headers or its body did not arrive in time
    │   ├── CapExceeded            a limit of the server; names it
    │   ├── UnknownPool, UnknownRoute, MethodRefused
    │   ├── PoolBroken, PoolLost, PoolStopping, WorkerDied, PoolSplit
    │   ├── ResetNeeded            no episode is under way in this session
    │   ├── SessionLost            a session's process is gone; says how it ended
    │   ├── LeaseHeld, LeaseLost
    │   ├── SequenceStale, SequenceGap, SequenceConflict, EpochMismatch, StillRunning
    │   ├── PortUnavailable, HostStartFailed, StateUnavailable, NotReady
    │   ├── Unauthorized           no token, or not one of this server's
    │   ├── Forbidden              a token whose scope is too small; names the one it takes
    │   ├── TooManyAttempts        wrong tokens, one after the other; says when to come back
    │   └── InternalError          a defect of the server
    ├── ProtocolError              bytes that are no message of this protocol
    │   ├── MalformedMessage, MessageTooLarge, VersionMismatch
    └── DeadlineExceeded           nothing came in time; says where the time went           (also TimeoutError)
        │                          (and multiprocessing.TimeoutError, which Gymnasium raises)
        └── ServerUnreachable      nobody answered at all

An error is built from a message and named details; the details travel in the wire's error reply and in problem+json,
and ``from_code`` builds the same class again at the other end. All of them pickle.
"""

from __future__ import annotations

from multiprocessing import TimeoutError as ProcessTimeoutError
from typing import Any, ClassVar

__all__ = [
    "ERRORS",
    "CapExceeded",
    "DeadlineExceeded",
    "EnvCreationFailed",
    "EnvFault",
    "EpochMismatch",
    "Forbidden",
    "ForbiddenEnv",
    "HostStartFailed",
    "InternalError",
    "InvalidAction",
    "InvalidSpec",
    "LeaseHeld",
    "LeaseLost",
    "LocalError",
    "MalformedMessage",
    "MessageTooLarge",
    "MethodRefused",
    "NotReady",
    "PoolBroken",
    "PoolLost",
    "PoolSplit",
    "PoolStopping",
    "PortUnavailable",
    "ProtocolError",
    "RemoteError",
    "RequestTooSlow",
    "ResetNeeded",
    "SequenceConflict",
    "SequenceGap",
    "SequenceStale",
    "ServerUnreachable",
    "SessionLost",
    "StateUnavailable",
    "StillRunning",
    "TooManyAttempts",
    "TooManyRequests",
    "TransportUnavailable",
    "Unauthorized",
    "UnknownEnv",
    "UnknownPool",
    "UnknownRoute",
    "Unportable",
    "UnsupportedSpace",
    "VecServerError",
    "VersionMismatch",
    "WorkerDied",
    "from_code",
]


class VecServerError(Exception):
    """Base of all errors; carries a message for people and details for programs.

    Attributes:
        code: Stable name of the error, the same on the wire and in HTTP.
        number: The header's ``status`` of an error reply.
        http_status: Status of the problem+json answer.
        message: What happened and what to do about it.
        details: Named facts, each a msgpack and JSON value.
    """

    code: ClassVar[str] = "error"
    number: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[VecServerError], message: str, details: dict[str, Any]) -> VecServerError:
    return cls(message, **details)


class LocalError(VecServerError):
    """The caller broke a rule that could be checked before anything was done."""

    code, number, http_status = "local_error", 2, 400


class InvalidAction(LocalError, ValueError, TypeError):
    """An action batch of the wrong length, shape or dtype, or with a value no row's space holds."""

    code, number, http_status = "invalid_action", 10, 422


class InvalidSpec(LocalError, ValueError):
    """A pool option that is missing, unknown, or out of range."""

    code, number, http_status = "invalid_spec", 11, 422


class UnsupportedSpace(LocalError, TypeError):
    """A space that no pool takes, or one that cannot be sampled because its class is at the server only."""

    code, number, http_status = "unsupported_space", 12, 422


class Unportable(LocalError, TypeError):
    """A value that has no place in a message; the text names its path and type."""

    code, number, http_status = "unportable_value", 14, 422


class TransportUnavailable(LocalError):
    """The chosen transport cannot reach this pool from here."""

    code, number, http_status = "transport_unavailable", 13, 400


class RemoteError(VecServerError):
    """The other side refused or failed; its message says why."""

    code, number, http_status = "remote_error", 3, 500


class EnvFault(RemoteError):
    """An environment raised.

    Attributes:
        row: The first row that raised.
        type: The original exception's type name.
        traceback: The original traceback, as text.
        faults: Every row that raised in this batch: ``[{"row", "type", "message", "traceback"}, …]``.
    """

    code, number, http_status = "env_fault", 20, 500

    @property
    def faults(self) -> list[dict[str, Any]]:
        """Every row that raised in this batch."""
        return list(self.details.get("faults", ()))

    @property
    def row(self) -> int:
        """The first row that raised."""
        return int(self.faults[0]["row"]) if self.faults else -1

    @property
    def type(self) -> str:
        """The original exception's type name."""
        return str(self.faults[0]["type"]) if self.faults else ""

    @property
    def traceback(self) -> str:
        """The original traceback, as text."""
        return str(self.faults[0]["traceback"]) if self.faults else ""


class EnvCreationFailed(EnvFault):
    """An environment could not be made: its arguments or its constructor failed."""

    code, number, http_status = "env_creation_failed", 21, 422


class UnknownEnv(RemoteError):
    """No environment has this id; ``details["nearest"]`` names close ones."""

    code, number, http_status = "unknown_env", 22, 422


class CapExceeded(RemoteError):
    """A limit of the server; ``details`` name the cap, its value and what was asked for."""

    code, number, http_status = "cap_exceeded", 23, 422


class ForbiddenEnv(RemoteError):
    """The operator of the server does not allow this environment, or an argument of it; names the setting that does."""

    code, number, http_status = "forbidden_env", 28, 403


class TooManyRequests(RemoteError):
    """Requests come faster than the server takes them; ``retry_after`` says how many seconds to wait."""

    code, number, http_status = "too_many_requests", 29, 429


class RequestTooSlow(RemoteError):
    """The headers or the body of a request did not arrive in time."""

    code, number, http_status = "request_too_slow", 37, 408


class UnknownPool(RemoteError):
    """No pool has this id: it was deleted, or never made here."""

    code, number, http_status = "unknown_pool", 24, 404


class UnknownRoute(RemoteError):
    """No route has this path."""

    code, number, http_status = "unknown_route", 25, 404


class MethodRefused(RemoteError):
    """The route exists and does not take this HTTP method."""

    code, number, http_status = "method_refused", 26, 405


class PoolBroken(RemoteError):
    """The pool cannot step any more; ``details["reason"]`` says why. Delete it, or make another."""

    code, number, http_status = "pool_broken", 30, 409


class PoolLost(RemoteError):
    """The pool's host process is gone and its episodes with it."""

    code, number, http_status = "pool_lost", 31, 410


class PoolStopping(RemoteError):
    """The pool or its server is shutting down."""

    code, number, http_status = "pool_stopping", 32, 503


class WorkerDied(RemoteError):
    """A worker process ended; ``details`` hold ``shard``, ``rows`` and ``exitcode``."""

    code, number, http_status = "worker_died", 33, 500


class PoolSplit(RemoteError):
    """The pool is split: its parts step, and it does not itself. Join it first."""

    code, number, http_status = "pool_split", 34, 409


class ResetNeeded(RemoteError):
    """A session has no episode under way: it was never reset, or its episode is over."""

    code, number, http_status = "reset_needed", 35, 409


class SessionLost(RemoteError):
    """A session's process is gone, its episode with it; the message says how it ended."""

    code, number, http_status = "session_lost", 36, 410


class LeaseHeld(RemoteError):
    """Another driver steps this pool."""

    code, number, http_status = "lease_held", 40, 409


class LeaseLost(RemoteError):
    """This driver's lease ended or was taken over; attach again."""

    code, number, http_status = "lease_lost", 41, 409


class SequenceStale(RemoteError):
    """The number of a request that was acknowledged already."""

    code, number, http_status = "sequence_stale", 42, 409


class SequenceGap(RemoteError):
    """A request number that skips one."""

    code, number, http_status = "sequence_gap", 43, 409


class SequenceConflict(RemoteError):
    """A request number that was used already, with other bytes."""

    code, number, http_status = "sequence_conflict", 44, 409


class EpochMismatch(RemoteError):
    """A request meant for an earlier incarnation of this pool."""

    code, number, http_status = "epoch_mismatch", 45, 409


class StillRunning(RemoteError):
    """The pool is busy with another request and cannot take this one."""

    code, number, http_status = "still_running", 46, 409


class PortUnavailable(RemoteError):
    """The port is in use, or none of the configured range is free."""

    code, number, http_status = "port_unavailable", 50, 503


class HostStartFailed(RemoteError):
    """A pool's host process ended before it was ready, or was not ready in time."""

    code, number, http_status = "host_start_failed", 51, 500


class StateUnavailable(RemoteError):
    """The file in which a server keeps its durable pools cannot be read or written; the message says why."""

    code, number, http_status = "state_unavailable", 52, 503


class NotReady(RemoteError):
    """The server is still making its durable pools, each for the first time since its start."""

    code, number, http_status = "not_ready", 53, 503


class Unauthorized(RemoteError):
    """The asker shows no token, ticket or key that lets it in, or one that is another's; nothing was done."""

    code, number, http_status = "unauthorized", 80, 401


class Forbidden(RemoteError):
    """The token's scope is too small; ``details`` have the one that is ``needed`` and the one that was ``granted``."""

    code, number, http_status = "forbidden", 81, 403


class TooManyAttempts(RemoteError):
    """Too many wrong tokens came from this address; ``details["retry_after_s"]`` says how long to wait."""

    code, number, http_status = "too_many_attempts", 82, 429


class InternalError(RemoteError):
    """A defect of the server; its log has the traceback."""

    code, number, http_status = "internal_error", 59, 500


class ProtocolError(VecServerError):
    """Bytes that are no message of this protocol."""

    code, number, http_status = "protocol_error", 60, 400


class MalformedMessage(ProtocolError):
    """A frame is missing, truncated, of the wrong size or undecodable."""

    code, number, http_status = "malformed_message", 61, 400


class MessageTooLarge(ProtocolError):
    """A frame is larger than its limit."""

    code, number, http_status = "message_too_large", 62, 413


class VersionMismatch(ProtocolError):
    """The two ends speak different versions of the protocol; the message names both."""

    code, number, http_status = "version_mismatch", 63, 400


class DeadlineExceeded(VecServerError, TimeoutError, ProcessTimeoutError):
    """Nothing came in time; the message says where the time went. The call may be waited for again."""

    code, number, http_status = "deadline_exceeded", 70, 504


class ServerUnreachable(DeadlineExceeded):
    """Nobody answers at this address."""

    code, number, http_status = "server_unreachable", 71, 503


def _tree(cls: type[VecServerError]) -> list[type[VecServerError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _tree(child))]


ERRORS: dict[str, type[VecServerError]] = {cls.code: cls for cls in _tree(VecServerError)}
"""Code → class, for every error of the tree."""


def from_code(code: str, message: str, details: dict[str, Any]) -> VecServerError:
    """Build the error that the other side raised; an unknown code becomes a ``RemoteError``.

    Args:
        code: Stable name of the error.
        message: Its text.
        details: Its named facts.

    Returns:
        An instance of the class with this code, not raised.
    """
    return ERRORS.get(code, RemoteError)(message, **details)
