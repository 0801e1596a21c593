"""The widgets for the options of a pool that most pools leave as they are."""

from __future__ import annotations

from typing import Any, Final

from nicegui import ui

from vecserver.control.web.forms import infos_of, wrappers_of
from vecserver.pools.spec import INFOS, LEASE_EXPIRIES, OBSERVATION_MODES, ON_FAILURE, PoolSpec

__all__ = ["MoreOptions"]

_DENSE: Final = "dense outlined"
_USUAL: Final = PoolSpec(env_id="", num_envs=1)
_WRAPPERS: Final = '["TimeAwareObservation", {"id": "TimeLimit", "kwargs": {"max_episode_steps": 200}}]'


class MoreOptions:
    """Folded until somebody wants them; each begins as it is where nothing is said."""

    def __init__(self) -> None:
        with (
            ui.expansion("More options").classes("vs-wide vs-expansion").props("dense"),
            ui.element("div").classes("vs-form"),
        ):
            self._wrappers = (
                ui.textarea("Wrappers, as a JSON list, the innermost first", placeholder=_WRAPPERS)
                .props(f"{_DENSE} autogrow")
                .classes("vs-wide")
            )
            self._infos = ui.select(
                list(INFOS), value=_USUAL.info, label="Infos, or their keys", with_input=True, new_value_mode="add"
            ).props(_DENSE)
            self._observations = _choice("Observation mode", OBSERVATION_MODES, _USUAL.observation_mode)
            self._on_failure = _choice("When a worker dies", ON_FAILURE, _USUAL.on_failure)
            self._budget = ui.number(
                "Restarts a minute", value=_USUAL.restart_budget, min=0, precision=0, step=1, placeholder="any number"
            ).props(f"{_DENSE} clearable stack-label")
            self._step_timeout = ui.number("Step timeout, s", value=_USUAL.step_timeout, min=0).props(_DENSE)
            self._lease_ttl = ui.number("Lease, s", value=_USUAL.lease_ttl, min=0).props(_DENSE)
            self._expiry = _choice("When the lease expires", LEASE_EXPIRIES, _USUAL.lease_expiry)
            self._durable = ui.switch("Durable: made again when its host ends")

    @property
    def durable(self) -> bool:
        """Whether the pool is to be made again."""
        return bool(self._durable.value)

    def values(self) -> dict[str, Any]:
        """Options of a pool, by their names.

        Raises:
            InvalidSpec: A text is no JSON.
        """
        return {
            "wrappers": wrappers_of(self._wrappers.value or ""),
            "info": infos_of(str(self._infos.value or "")),
            "observation_mode": self._observations.value,
            "on_failure": self._on_failure.value,
            "restart_budget": None if self._budget.value is None else int(self._budget.value),
            "step_timeout": float(self._step_timeout.value or 0),
            "lease_ttl": float(self._lease_ttl.value or 0),
            "lease_expiry": self._expiry.value,
        }


def _choice(label: str, choices: tuple[str, ...], value: str) -> ui.select:
    return ui.select(list(choices), value=value, label=label).props(_DENSE)
