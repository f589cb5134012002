"""Success rates have the interval that Wilson gave them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjointdpm.evaluation import success_rate, wilson_interval

trials_and_successes = st.integers(1, 500).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)


@given(trials_and_successes, st.floats(0.5, 0.999))
def test_interval_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(*counts).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*counts, confidence) == pytest.approx((expected.low, expected.high))


@given(trials_and_successes)
def test_interval_holds_the_rate_and_mirrors(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_rate_counts_what_is_true() -> None:
    rate = success_rate(i % 4 == 0 for i in range(12))
    assert (rate.successes, rate.trials, rate.rate) == (3, 12, 0.25)
    assert (rate.low, rate.high) == wilson_interval(3, 12)


@pytest.mark.parametrize("arguments", [(0, 0), (3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0.0)])
def test_what_has_no_interval_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"no rate|between 0 and 1"):
        wilson_interval(*arguments)
