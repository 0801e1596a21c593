"""Several pools and the expected side, led through one script together and compared after every operation.

Of what is returned nothing is kept but hashes, so observations may be as large as they like. The expected side is
compared with its recording from a fresh process first, and a pool is blamed only while those two agree.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from gymnasium import spaces

from vecserver.cli.equality.canonical import encode, first_mismatch, path_text, without
from vecserver.cli.equality.fresh import Recording
from vecserver.cli.equality.report import Difference, ModeReport, Outcome, Result
from vecserver.cli.equality.script import FIELDS, Asynchronous, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gymnasium.vector import VectorEnv

    from vecserver.cli.equality.canonical import Path
    from vecserver.cli.equality.script import Fields, Operation, Script

__all__ = ["Contestant", "Driven", "compare", "row_of"]

_HASH_BYTES: Final = 16


class Driven(Asynchronous, Protocol):
    """What is compared: a pool's vector environment."""

    dropped_infos: dict[str, str]


class _Hashes:
    """A running hash a field."""

    def __init__(self) -> None:
        self._fields = {name: blake2b(digest_size=_HASH_BYTES) for name in FIELDS}

    def add(self, name: str, encoded: bytes) -> None:
        self._fields[name].update(encoded)

    def hex(self) -> dict[str, str]:
        return {name: running.hexdigest() for name, running in self._fields.items()}


class Contestant:
    """One combination during a run.

    Args:
        engine: Its engine.
        transport: Its transport.
        envs: The pool; stays the caller's.
        space: Its single observation space, which tells where in an observation the rows are.
    """

    def __init__(self, engine: str, transport: str, envs: Driven, space: spaces.Space[Any]) -> None:
        self._envs, self._space = envs, space
        self._hashes = _Hashes()
        self._answering = True
        self.outcome = Outcome(engine, transport, Result.EQUAL)

    def begin(self, operation: Operation) -> None:
        """Tell the pool."""
        if self._answering:
            self._guarded(operation, lambda: operation.begin(self._envs))

    def finish(self, operation: Operation, expected: Fields, encoded: dict[str, bytes]) -> None:
        """Wait for what the pool returns, and compare it.

        Args:
            operation: What was begun.
            expected: What is right.
            encoded: The same in canonical form.
        """
        if not self._answering:
            return
        got = self._guarded(operation, lambda: operation.finish(self._envs))
        if got is None:
            return
        outcome = self.outcome
        if dropped := self._envs.dropped_infos:
            outcome.dropped = dict(dropped)
            expected = {**expected, "infos": without(expected["infos"], dropped)}
            got = {**got, "infos": without(got["infos"], dropped)}
            encoded = {**encoded, "infos": encode(expected["infos"])}
        for name, value in got.items():
            canonical = encode(value)
            self._hashes.add(name, canonical)
            if canonical != encoded[name] and outcome.difference is None:
                outcome.difference = self._difference(operation, name, value, expected[name])
                outcome.result = Result.DIFFERS
        outcome.hashes = self._hashes.hex()

    def _guarded(self, operation: Operation, run: Callable[[], Fields | None]) -> Fields | None:
        try:
            return run()
        except Exception as error:  # noqa: BLE001 - whatever a pool raises is what it has to show
            self._answering = False
            self.outcome.reason = f"{operation.label}: {type(error).__name__}: {error}"
            if self.outcome.difference is None:
                self.outcome.result = Result.FAILED
            return None

    def _difference(self, operation: Operation, name: str, got: Any, expected: Any) -> Difference:
        mismatch = first_mismatch(got, expected)
        assert mismatch is not None
        path = mismatch.path
        return Difference(
            operation.number,
            operation.label,
            row_of(name, path, self._space),
            name,
            path_text(path),
            mismatch.got,
            mismatch.expected,
        )


def row_of(field: str, path: Path, space: spaces.Space[Any]) -> int | None:
    """The row that a place in a field belongs to; None for a place that all rows share.

    Args:
        field: One of ``FIELDS``.
        path: The place in it.
        space: Single observation space.
    """
    rest: Iterator[str | int] = iter(path)
    if field == "observations":
        while isinstance(space, spaces.Dict | spaces.Tuple):
            part = next(rest, None)
            children: dict[Any, spaces.Space[Any]] = (
                {key if type(key) is str else repr(key): child for key, child in space.spaces.items()}
                if isinstance(space, spaces.Dict)
                else dict(enumerate(space.spaces))
            )
            if part not in children:
                return None
            space = children[part]
        rest = islice(rest, 1)
    return next((part for part in rest if isinstance(part, int)), None)


def compare(
    autoreset_mode: str,
    local: VectorEnv[Any, Any, Any],
    script: Script,
    recordings: Sequence[Recording],
    contestants: Sequence[Contestant],
    advance: Callable[[int], None],
) -> ModeReport:
    """Play the script.

    Args:
        autoreset_mode: For the report.
        local: The expected side.
        script: What to do.
        recordings: What a fresh process returned for each operation.
        contestants: The pools.
        advance: Called with the number of the step that is done.
    """
    report = ModeReport(autoreset_mode, outcomes=[contestant.outcome for contestant in contestants])
    hashes = _Hashes()
    for operation, recording in zip(script, recordings, strict=True):
        for contestant in contestants:
            contestant.begin(operation)
        try:
            expected = perform(operation, local)
            here = Recording.of(expected)
        except Exception as error:  # noqa: BLE001 - an environment may raise anything
            report.reason = f"{operation.label} in a {type(local.unwrapped).__name__}: {type(error).__name__}: {error}"
            here = Recording.of_error(error)
        report.unsteady = _unsteady(operation, here, recording, local.single_observation_space)
        if report.unsteady is not None or report.reason:
            return report
        encoded = {name: encode(value) for name, value in expected.items()}
        for name, canonical in encoded.items():
            hashes.add(name, canonical)
        for contestant in contestants:
            contestant.finish(operation, expected, encoded)
        script.note(expected)
        advance(operation.number)
    report.hashes = hashes.hex()
    return report


def _unsteady(operation: Operation, here: Recording, there: Recording, space: spaces.Space[Any]) -> Difference | None:
    """Where a result is not what a fresh process returned."""
    found = here.first_difference(there)
    if found is None:
        return None
    name, path = found
    return Difference(operation.number, operation.label, row_of(name, path, space), name, path_text(path))
