"""How p of ADA adapts."""

import io
import itertools

import pytest
import torch

from stylenat.augment.adaptation import Adaptation, AdaptiveState, update

BATCH = 32


def after(signs, state=None, settings=None, first_step=1):
    """The state after steps whose real images have these sums of signs."""
    state = AdaptiveState() if state is None else state
    for step, sign_sum in enumerate(signs, first_step):
        state = update(state, settings or Adaptation(), sign_sum=sign_sum, count=BATCH, step=step)
    return state


def test_p_rises_from_0_to_its_ceiling_in_its_share_of_500_kimg():
    settings = Adaptation(p_max=0.8)
    steps = 0.8 * 500_000 / BATCH
    states = list(
        itertools.accumulate(range(1, int(steps) + 1), _all_real, initial=AdaptiveState())
    )
    assert states[4].p == 4 * BATCH / 500_000
    assert states[len(states) // 2].p == pytest.approx(0.4, abs=1e-3)
    assert not states[-9].p_max_reached
    assert states[-1].p == pytest.approx(settings.p_max)


def _all_real(state, step):
    return update(state, Adaptation(), sign_sum=BATCH, count=BATCH, step=step)


def test_p_moves_after_every_fourth_step_alone():
    moves = [after([BATCH] * steps).p for steps in range(9)]
    assert [b > a for a, b in itertools.pairwise(moves)] == [step % 4 == 0 for step in range(1, 9)]


@pytest.mark.parametrize(("sign_sum", "direction"), [(20, 1), (16, 0), (15, -1), (-20, -1)])
def test_p_follows_the_mean_of_all_signs_since_the_last_adjustment(sign_sum, direction):
    settings = Adaptation(target=0.5)
    start = AdaptiveState(p=0.25)
    state = after([BATCH, 0, 0, 4 * sign_sum - BATCH], start, settings)
    assert state.r == sign_sum / BATCH
    assert state.p - start.p == pytest.approx(direction * 4 * BATCH / 500_000)
    assert (state.sign_sum, state.count) == (0, 0)


def test_p_does_not_fall_below_0():
    assert after([-BATCH] * 8).p == 0


def test_the_ceiling_holds_and_is_remembered():
    settings = Adaptation(speed_kimg=0.5, p_max=0.3)
    there = after([BATCH] * 8, settings=settings)
    assert (there.p, there.p_max_reached) == (0.3, True)
    back = after([-BATCH] * 4, there, settings, first_step=9)
    assert back.p < 0.3
    assert back.p_max_reached


def test_p_is_the_same_after_a_checkpoint_at_any_step():
    signs = [20, 31, 25, 7, 32, 32, 30, 29, -3]
    whole = after(signs)
    for steps in range(len(signs)):
        file = io.BytesIO()
        torch.save(after(signs[:steps]).state_dict(), file)
        file.seek(0)
        state = AdaptiveState.from_state_dict(torch.load(file, weights_only=True))
        assert after(signs[steps:], state, first_step=steps + 1) == whole


def test_a_speed_of_100_kimg_is_five_times_as_fast():
    fast = after([BATCH] * 4, settings=Adaptation(speed_kimg=100)).p
    assert fast == pytest.approx(5 * after([BATCH] * 4).p)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"target": 1.5}, "from -1 to 1: 1.5"),
        ({"speed_kimg": 0}, "must be positive, in kimg: 0"),
        ({"speed_kimg": float("nan")}, "must be positive, in kimg: nan"),
        ({"every": 0}, "every 1 or more steps: 0"),
        ({"p_max": 0}, "above 0 and at most 1: 0"),
        ({"p_max": 1.1}, "above 0 and at most 1: 1.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Adaptation(**settings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"extra": 1}, "must have p, sign_sum, count, r, p_max_reached"),
        ({"p": 1}, "values of other types: p"),
        ({"count": True}, "values of other types: count"),
        ({"r": "0.5"}, "values of other types: r"),
        ({"p": 1.5}, "impossible: p 1.5"),
        ({"p": float("nan")}, "impossible: p nan"),
        ({"sign_sum": 5}, "signs 5 of 0 images"),
    ],
)
def test_a_state_of_something_else_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        AdaptiveState.from_state_dict({**AdaptiveState().state_dict(), **changes})
