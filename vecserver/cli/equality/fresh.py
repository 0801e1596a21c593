"""The same run in a fresh process: an environment that is deterministic returns the same there.

``python -m vecserver.cli.equality.fresh PARENT_PID`` reads a question, an autoreset mode and the actions from stdin,
plays the script on a ``SyncVectorEnv``, and writes a line of JSON for each operation: digests of what it returned. The
whole run is over before it is compared, so that what depends on the time of day differs too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from vecserver.cli.equality.canonical import fingerprints
from vecserver.cli.equality.local import Question, local_envs, script_for
from vecserver.cli.equality.script import perform
from vecserver.engine.orphans import die_with_parent
from vecserver.wire.codec import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from vecserver.cli.equality.canonical import Path
    from vecserver.cli.equality.script import Fields

__all__ = ["FreshRun", "Recording", "main", "play"]

_LEAVE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Recording:
    """Digests of what one operation returned: field → path → digest."""

    digests: dict[str, dict[Path, str]]

    @classmethod
    def of(cls, fields: Fields) -> Recording:
        """Take the digests."""
        return cls({name: fingerprints(value) for name, value in fields.items()})

    @classmethod
    def of_error(cls, error: Exception) -> Recording:
        """What is kept of an operation that raises."""
        return cls({"error": {(): type(error).__qualname__}})

    def to_line(self) -> str:
        """As a line of JSON."""
        return json.dumps({name: [*map(list, each.items())] for name, each in self.digests.items()})

    @classmethod
    def from_line(cls, line: bytes) -> Recording:
        """From a line of JSON."""
        digests = json.loads(line)
        return cls({name: {tuple(path): digest for path, digest in each} for name, each in digests.items()})

    def first_difference(self, other: Recording) -> tuple[str, Path] | None:
        """Field and path of the first part that is not the other's; None where all are the same."""
        for name in dict.fromkeys([*self.digests, *other.digests]):
            ours, theirs = self.digests.get(name, {}), other.digests.get(name, {})
            for path in dict.fromkeys([*ours, *theirs]):
                # an array's head stands before its rows and does not depend on them: here the first row is found
                if ours.get(path) != theirs.get(path):
                    return name, path
        return None


class FreshRun:
    """Starts the run; use it as a context manager. Ctrl-C is for the process that compares, which ends this one."""

    def __init__(self, question: Question, autoreset_mode: str, actions: Sequence[Any]) -> None:
        asked = pack([asdict(question), autoreset_mode, list(actions)])
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
            [sys.executable, "-m", "vecserver.cli.equality.fresh", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with (
            suppress(BrokenPipeError),
            self._process.stdin as stdin,
        ):  # it ended already: its answer, which is none, tells
            stdin.write(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self._process.kill()  # where it has ended already, this does nothing
        self._process.wait(_LEAVE_S)
        self._process.stdout.close()

    def recordings(self) -> list[Recording]:
        """Wait for the end of the run. Where an environment raises, the last one is the error's."""
        assert self._process.stdout is not None
        return [Recording.from_line(line) for line in self._process.stdout if line.endswith(b"\n")]


def play(question: Question, autoreset_mode: str, actions: Sequence[Any]) -> Iterator[Recording]:
    """Play the script here."""
    envs = local_envs(question, autoreset_mode)
    try:
        script = script_for(question, actions, autoreset_mode)
        for operation in script:
            try:
                fields = perform(operation, envs)
            except Exception as error:  # noqa: BLE001 - an environment may raise anything
                yield Recording.of_error(error)
                return
            script.note(fields)
            yield Recording.of(fields)
    finally:
        envs.close()


def main(asked: bytes) -> None:
    """Answer a question on stdout."""
    # what environments print must not mix with the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    described, autoreset_mode, actions = unpack(asked)
    with answers, warnings.catch_warnings(action="ignore"):
        for recording in play(Question(**described), autoreset_mode, actions):
            answers.write(f"{recording.to_line()}\n")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    main(sys.stdin.buffer.read())
