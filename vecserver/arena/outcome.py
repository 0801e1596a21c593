"""What a command's payloads come to: infos or results for the caller, or the error that they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vecserver.wire.codec import unpack
from vecserver.wire.errors import EnvFault, MessageTooLarge, from_code
from vecserver.wire.frames import MAX_EXT
from vecserver.wire.infos import join

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["joined"]


def joined(parts: Iterable[tuple[bytes | memoryview, bool]], limit: int | None = MAX_EXT) -> bytes:
    """Put the workers' payloads together.

    Args:
        parts: In the order of the shards: each payload, and whether it holds faults.
        limit: Largest result in bytes; None for any.

    Returns:
        The ext of an answer; the caller's own memory.

    Raises:
        EnvFault: Environments raised; names the first row.
        WorkerDied: A worker ended over it, and another one says so.
        MessageTooLarge: The result is larger than a message takes.
    """
    payloads: list[bytes | memoryview] = []
    faults: list[dict[str, Any]] = []
    parts = list(parts)
    size = sum(len(payload) for payload, _ in parts)
    if limit is not None and size > limit:  # it need not be whole then
        raise _too_large(size, limit)
    for payload, faulted in parts:
        if faulted:
            faults += unpack(payload)
        else:
            payloads.append(payload)
    for fault in faults:
        if "code" in fault:
            raise from_code(fault["code"], fault["message"], fault["details"])
    if faults:
        raise _env_fault(faults)
    ext = join(payloads)
    if limit is not None and len(ext) > limit:
        raise _too_large(len(ext), limit)
    return ext


def _too_large(size: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"infos, results of calls and observations without a fixed size of {size} bytes; a message takes {limit}",
        limit=limit,
    )


def _env_fault(faults: list[dict[str, Any]]) -> EnvFault:
    ordered = sorted(faults, key=lambda fault: int(fault["row"]))
    first = ordered[0]
    more = f" (and {len(faults) - 1} more rows)" if len(faults) > 1 else ""
    return EnvFault(f"row {first['row']} raised {first['type']}: {first['message']}{more}", faults=ordered)
