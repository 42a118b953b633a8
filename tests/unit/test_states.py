"""State tables and the words of the API."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hyperd.api.hyper.pod_views import info_phase, list_word
from hyperd.errors import Conflict
from hyperd.pod.states import ALLOWED, PodState, check


def test_every_state_has_words():
    for state in PodState:
        assert list_word(state, "") in {"pending", "running", "paused", "stopping", "failed"}
        assert info_phase(state, "") in {"Pending", "Running", "Paused", "Failed"}
    assert list_word(PodState.STOPPED, "succeeded") == "succeeded"
    assert info_phase(PodState.STOPPED, "succeeded") == "Succeeded"


def test_the_table_names_every_state_and_every_pod_can_be_removed():
    assert set(ALLOWED) == set(PodState)
    for state, wanted in ALLOWED.items():
        assert state == PodState.REMOVING or PodState.REMOVING in wanted


class Pods(RuleBasedStateMachine):
    """Whatever is asked, a pod is only ever in a state it can leave towards its removal."""

    def __init__(self):
        super().__init__()
        self.state = PodState.PENDING

    @rule(wanted=st.sampled_from(list(PodState)))
    def change(self, wanted):
        try:
            check("p", self.state, wanted)
        except Conflict:
            assert wanted not in ALLOWED[self.state]
        else:
            self.state = wanted

    @invariant()
    def never_stuck(self):
        assert self.state == PodState.REMOVING or ALLOWED[self.state]


TestPods = Pods.TestCase


def test_a_refused_change_names_both_states():
    with pytest.raises(Conflict, match="p is paused and cannot become starting"):
        check("p", PodState.PAUSED, PodState.STARTING)
