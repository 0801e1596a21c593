"""Numbers, lines, charts and code as people read them."""

from __future__ import annotations

import pytest

from vecserver.control.web.charts import chart_options, chart_series, with_gaps
from vecserver.control.web.snippets import attach_code, make_code, play_code
from vecserver.control.web.wording import number_text, reward_text, seconds_text, sparkline, value_text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (0, "0"), (0.12345, "0.123"), (12.34, "12.3"), (-250.4, "-250"), (12345, "12.3 k"), (2.5e6, "2.5 M")],
)
def test_numbers_have_three_digits_that_count(number, text):
    """And a unit where there are more."""
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (3.5e-4, "350 µs"), (0.0123, "12.3 ms"), (2.0, "2 s"), (600, "10 min"), (86400, "24 h")],
)
def test_durations_have_the_unit_that_fits(seconds, text):
    """From microseconds to hours."""
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("reward", "text"), [(None, "–"), (1.0, "1"), (-0.123456, "-0.1235")])
def test_rewards_have_four_digits_that_count(reward, text):
    """One that is no number is a dash."""
    assert reward_text(reward) == text


def test_a_long_value_loses_its_middle():
    """And says how much of it."""
    text = value_text(list(range(10_000)), 100)
    assert "characters more" in text
    assert text.startswith("[0,1,2")


def test_a_small_line_has_gaps_and_a_label():
    """What is not known is not drawn; where there is nothing, nothing is."""
    drawn = sparkline([1.0, None, 2.0, 2.0], 'a "label"')
    assert drawn.count("M") == 2
    assert "a &quot;label&quot;" in drawn
    assert sparkline([0.0, 0.0], "x") == sparkline([], "x") == ""


def test_a_chart_is_sent_few_points():
    """The newest is always among them, and nobody's look is a gap."""
    points = [(float(i - 300), i / 3) for i in range(301)]
    series = chart_series(points)
    assert len(series) <= 151
    assert series[-1] == [0.0, 100.0]
    assert chart_series([]) == []
    assert with_gaps([(-20.0, 1.0), (-1.0, 2.0)]) == [(-20.0, 1.0), (-1.0, None), (-1.0, 2.0)]


def test_a_chart_says_what_it_shows():
    """To whoever does not see it, too."""
    options = chart_options("Returns", ["mean", "one"], dots=["one"])
    assert options["aria"]["label"]["description"] == "Returns"
    assert [each["type"] for each in options["series"]] == ["line", "scatter"]


@pytest.mark.parametrize(
    "code",
    [
        attach_code("http://h:1", "it's"),
        make_code(
            "http://h:1",
            {"env_id": "A-v0", "num_envs": 2, "render_mode": "rgb_array", "env_kwargs": {"no name": 1, "g": 2.0}},
        ),
        play_code("http://h:1", "A-v0", {"a": [1]}, 3, [[0.5]]),
        play_code("http://h:1", "A-v0", {}, None, list(range(500))),
    ],
)
def test_code_to_copy_is_python(code):
    """Whatever the names and values."""
    compile(code, "copied", "exec")


def test_code_says_what_was_done():
    """The seed, the parameters and the actions."""
    code = play_code("http://h:1", "A-v0", {"g": 5}, 3, [1, 0])
    assert "env_id='A-v0', kwargs={'g': 5}" in code
    assert "reset(seed=3)" in code
    assert code.count("env.step(") == 2
    usual = {"engine": "auto", "workers": None, "info": "all", "restart_budget": 30, "durable": False}
    made = make_code("http://h:1", {"env_id": "A-v0", "num_envs": 2, "env_kwargs": {"g": 1}, **usual})
    assert "make_vec('A-v0', num_envs=2, url='http://h:1', g=1)" in made
    options = {**usual, "restart_budget": None, "wrappers": ["ClipReward"], "durable": True}
    made = make_code("http://h:1", {"env_id": "A-v0", "num_envs": 2, **options})
    assert "restart_budget=None, durable=True, wrappers=['ClipReward'])" in made
