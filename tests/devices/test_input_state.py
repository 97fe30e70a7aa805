"""What events leave behind, and the events that lead from one state to another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vhost_user.devices.input_state import LIFTED, SLOT, TRACKING_ID, InputState
from vhost_user.spec.input import InputEvent
from vhost_user.spec.input_codes import Absolute, EventType, Relative

KEY, REL, ABS, SW = EventType.EV_KEY, EventType.EV_REL, EventType.EV_ABS, EventType.EV_SW
X = Absolute.ABS_MT_POSITION_X
SLOTS = 3

EVENTS = st.lists(
    st.one_of(
        st.builds(InputEvent, st.just(KEY), st.integers(1, 4), st.integers(0, 2)),
        st.builds(InputEvent, st.just(SW), st.integers(0, 2), st.integers(0, 1)),
        st.builds(InputEvent, st.just(ABS), st.integers(0, 1), st.integers(-3, 3)),
        st.builds(InputEvent, st.just(ABS), st.just(SLOT), st.integers(0, SLOTS - 1)),
        st.builds(InputEvent, st.just(ABS), st.just(TRACKING_ID), st.sampled_from([LIFTED, 0, 1, 2])),
        st.builds(InputEvent, st.just(ABS), st.just(X), st.integers(0, 3)),
    ),
    max_size=20,
)


def after(*parts: list[InputEvent]) -> InputState:
    state = InputState()
    for events in parts:
        state.apply(events)
    return state


def seen(state: InputState) -> object:
    """What a driver sees of it: the values of a slot without a contact are nothing to it."""
    contacts = {slot: values for slot, values in state.contacts.items() if state.touches(slot)}
    return state.keys, state.switches, state.axes, contacts, state.slot


@settings(deadline=None)
@given(EVENTS, EVENTS)
def test_the_events_between_two_states_lead_from_one_to_the_other(
    before: list[InputEvent], more: list[InputEvent]
) -> None:
    known, now = after(before), after(before, more)
    known.apply(now.since(known))
    assert seen(known) == seen(now)
    assert now.since(known) == []


@settings(deadline=None)
@given(EVENTS, EVENTS)
def test_all_of_a_state_is_right_whatever_was_known(theirs: list[InputEvent], ours: list[InputEvent]) -> None:
    known, now = after(theirs), after(ours)
    codes: dict[int, set[int]] = {KEY: {1, 2, 3, 4}, SW: {0, 1, 2}}
    known.apply(now.of_all(codes, SLOTS))
    assert (known.keys, known.switches) == (now.keys, now.switches)
    assert {**known.axes, **now.axes} == known.axes
    assert [known.touches(slot) for slot in range(SLOTS)] == [now.touches(slot) for slot in range(SLOTS)]
    assert known.slot == now.slot


@settings(deadline=None)
@given(EVENTS)
def test_nothing_is_pressed_and_touched_after_what_leads_to_a_new_state(events: list[InputEvent]) -> None:
    state = after(events)
    state.apply(InputState().since(state))
    assert not state.keys | state.switches
    assert not [slot for slot in range(SLOTS) if state.touches(slot)]


@settings(deadline=None)
@given(EVENTS)
def test_a_state_is_the_same_as_plain_data_and_as_a_copy(events: list[InputEvent]) -> None:
    state = after(events)
    for twin in (InputState.from_plain(state.plain()), state.copy()):
        assert vars(twin) == vars(state)
        assert twin.since(state) == []
    copy = state.copy()
    copy.apply([InputEvent(KEY, 9, 1), InputEvent(ABS, X, 99)])
    assert 9 not in state.keys
    assert 99 not in {value for values in state.contacts.values() for value in values.values()}


def test_movements_leave_nothing_and_slots_have_a_bound() -> None:
    state = after(
        [
            InputEvent(REL, Relative.REL_X, 5),
            InputEvent(ABS, SLOT, 1 << 20),
            InputEvent(ABS, X, 1),
            InputEvent(ABS, SLOT, -1),
            InputEvent(ABS, X, 1),
        ]
    )
    assert (state.axes, state.contacts, state.keys) == ({}, {}, set())
