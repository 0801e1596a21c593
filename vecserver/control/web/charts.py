"""The options of a pool's charts, as ECharts takes them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Points", "chart_options", "chart_series", "with_gaps"]

Points = list[tuple[float, float | None]]
"""Seconds, zero or less, and values; None leaves a gap."""

_COLOURS: Final = ("#0d9488", "#d97706", "#6366f1")
_INK: Final = "#808a98"
_GRID_LINE: Final = "rgba(128, 138, 152, 0.25)"
"""Both are read on white as well as on black."""

_MOST_POINTS: Final = 150
_GAP_S: Final = 5.0


def chart_options(title: str, names: Sequence[str], *, dots: Sequence[str] = ()) -> dict[str, Any]:
    """An empty chart over the last minutes.

    Args:
        title: What it shows, for whoever does not see it.
        names: Its series, in order.
        dots: Those of them that are points and no line.
    """
    return {
        "animation": False,
        "aria": {"enabled": True, "label": {"description": title}},
        "color": list(_COLOURS),
        "grid": {"left": 4, "right": 12, "top": 28 if len(names) > 1 else 12, "bottom": 4, "containLabel": True},
        "legend": {
            "show": len(names) > 1,
            "top": 0,
            "left": 0,
            "icon": "circle",
            "itemWidth": 8,
            "itemHeight": 8,
            "textStyle": {"color": _INK},
        },
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {
            "type": "value",
            "max": 0,
            "axisLabel": {"color": _INK, "formatter": "{value} s", "hideOverlap": True},
            "axisLine": {"onZero": False, "lineStyle": {"color": _GRID_LINE}},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "scale": True,
            "splitNumber": 3,
            "axisLine": {"show": False},
            "axisTick": {"show": False},
            "axisLabel": {"color": _INK},
            "splitLine": {"lineStyle": {"color": _GRID_LINE}},
        },
        "series": [
            {"name": name, "type": "scatter", "symbolSize": 5, "data": []}
            if name in dots
            else {"name": name, "type": "line", "showSymbol": False, "lineStyle": {"width": 2}, "data": []}
            for name in names
        ],
    }


def with_gaps(points: Points) -> Points:
    """Points with a gap where nobody looked for a while."""
    found: Points = []
    for at, value in points:
        if found and at - found[-1][0] > _GAP_S:
            found.append((at, None))
        found.append((at, value))
    return found


def chart_series(points: Points) -> list[list[float | None]]:
    """Points as a series holds them: few enough to be drawn often, with few enough digits to be sent often."""
    step = -(-len(points) // _MOST_POINTS)
    return [
        [round(at, 1), None if value is None else float(f"{value:.4g}")]
        for at, value in (points[::-step][::-1] if step else points)
    ]
