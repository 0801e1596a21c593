"""Nothing that a decoder is given makes it raise what its callers do not expect, take what is only claimed, or hang."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.security.decoders import decoders, tried
from tests.wire.strategies import fixed

EXAMPLES = 60


@pytest.mark.parametrize("decoder", decoders(), ids=lambda decoder: decoder.name)
def test_changed_inputs_are_refused_by_name_or_taken(decoder):
    """Fields, lengths, counts and nesting of right inputs are changed; only typed errors come out."""

    @fixed(EXAMPLES)
    @given(st.integers(0, 2**64 - 1))
    def check(seed):
        tried(decoder, random.Random(seed))

    check()
