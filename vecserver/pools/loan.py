"""What a host shares with a driver in another process, beside the arena, and whose turn it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vecserver.arena.doorbell import Doorbell, make_bell, make_tokens
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.orders import LentOrders
from vecserver.arena.views import DriverLine

if TYPE_CHECKING:
    from vecserver.wire.actions import ActionFormat

__all__ = ["Loan"]


class Loan:
    """One loan of an arena: memory for the driver's orders, a finish line of its own, and the turn.

    The arena is run by whoever has the turn: the driver from a step's begin until it has read the results, the host
    from a command's begin to its answer. The turn is the one ring of a bell: to take it is to read the bell.

    Args:
        workers: Of the pool.
        actions: How its action batches are stored.
    """

    def __init__(self, workers: int, actions: ActionFormat) -> None:
        self.orders_size = LentOrders.size(workers, actions)
        self._fds: list[int] = []
        try:
            self._fds.append(create("vecserver-orders"))
            size_and_seal(self._fds[0], self.orders_size)
            self._orders = LentOrders(workers, actions, map_memory(self._fds[0], self.orders_size))
            for make in (make_tokens, make_bell, make_bell, make_bell):
                self._fds.append(make())
        except OSError:
            self.close()
            raise
        self.turn, self.leave = Doorbell(self._fds[3]), Doorbell(self._fds[4])
        self.turn.ring()
        self.held = False
        """Whether the host has the turn."""

    @property
    def steps(self) -> int:
        """Steps that its driver has begun."""
        return self._orders.driver_lines[0][DriverLine.SEQ]

    def seq_of(self, worker: int) -> int:
        """The number of the last command that its driver has written for a worker."""
        return self._orders.driver_lines[worker][DriverLine.SEQ]

    @property
    def worker_fds(self) -> list[int]:
        """What a worker needs: the orders' memory, tokens and bell of the finish line."""
        return self._fds[:3]

    @property
    def driver_fds(self) -> list[int]:
        """What the driver needs: the same, the bell of the turn, and the bell of the host's leave."""
        return self._fds

    def take_turn(self) -> bool:
        """Take the turn, if it is to be had."""
        self.held = self.held or self.turn.take() > 0
        return self.held

    def give_turn(self) -> None:
        """Give the turn back."""
        self.held = False
        self.turn.ring()

    def close(self) -> None:
        """Let go of everything here; what others hold they keep."""
        while self._fds:
            os.close(self._fds.pop())
