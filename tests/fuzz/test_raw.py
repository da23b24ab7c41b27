"""Any message on rides_raw ends up on rides_result or rides_dlq, and does not block later ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzzed
from tests.fuzz.messages import extremes, messages, values
from tests.fuzz.outcome import Tails, end_once
from tests.testkit.flow import Pricing
from tests.testkit.kafka import Raw

pytestmark = pytest.mark.timeout(3600)


@fuzzed
@given(sent=st.lists(messages(values), min_size=1, max_size=40))
def test_every_message_ends_once(pricing: Pricing, tails: Tails, sent: list[Raw]) -> None:
    end_once(pricing, tails, sent)


@fuzzed
@given(sent=st.lists(messages(extremes) | messages(values), min_size=1, max_size=6))
def test_deep_and_large_messages_end_once(pricing: Pricing, tails: Tails, sent: list[Raw]) -> None:
    end_once(pricing, tails, sent)
