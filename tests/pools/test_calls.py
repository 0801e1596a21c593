"""What a driver may name: plain attributes, and what the operator has opened."""

from __future__ import annotations

import pytest

from vecserver.pools.calls import check_call
from vecserver.wire.codec import pack
from vecserver.wire.errors import ForbiddenEnv, InvalidSpec
from vecserver.wire.messages import Call


def call(name, /, *args, assign=False, **kwargs):
    return Call(name, pack([1.0] if assign else [list(args), kwargs]), assign=assign)


@pytest.mark.parametrize(
    "asked",
    [
        call("tag"),
        call("tag", assign=True),
        call("add", "_what_a_method_is_given"),
        call("__wrapper_classes__"),
        call("get_wrapper_attr", "tag"),
        call("set_wrapper_attr", "tag", 1.0),
        call("has_wrapper_attr"),
        call("get_attr", 5),
    ],
    ids=repr,
)
def test_plain_names_are_taken(asked):
    """As Gymnasium's vector environments take them; of wrong arguments the method speaks itself."""
    check_call(asked, "CartPole-v1", ())


@pytest.mark.parametrize(
    "asked",
    [
        call("__init__", "/etc/passwd"),
        call("__class__"),
        call("__class__", assign=True),
        call("__wrapper_classes", assign=True),
        call("_max_episode_steps"),
        call("get_wrapper_attr", "__dict__"),
        call("get_wrapper_attr", name="_saved_kwargs"),
        call("set_wrapper_attr", "__class__", 1),
        call("has_wrapper_attr", "_x"),
        call("call", "__init__"),
        call("set_attr", "_x", [1]),
        call("get_attr", name="_x"),
    ],
    ids=repr,
)
def test_names_with_an_underscore_are_refused(asked):
    """By themselves, and where a method of Gymnasium's takes them; the refusal names the setting."""
    with pytest.raises(ForbiddenEnv, match="--allow-kwarg 'CartPole-v1:_") as refused:
        check_call(asked, "module:CartPole-v1", ("Ant-*:*", "CartPole-*:other"))
    assert refused.value.details["setting"] == "allow_kwarg"
    check_call(asked, "module:CartPole-v1", (f"CartPole-*:{refused.value.details['argument']}",))
    check_call(asked, "module:CartPole-v1", ("*:*",))


@pytest.mark.parametrize("name", ["unwrapped.model", "unwrapped.__class__", "", "a b", "a[0]"])
def test_what_is_no_name_is_refused(name):
    """There is no way from one object to the next."""
    with pytest.raises(InvalidSpec, match="no name of an attribute"):
        check_call(call(name), "CartPole-v1", ("*:*",))
    with pytest.raises(InvalidSpec, match="no name of an attribute"):
        check_call(call("get_wrapper_attr", name), "CartPole-v1", ())
