"""What makes a store suspect, believed down, and up again? Pure: the test is the clock."""

from __future__ import annotations

from kopsfs.store.breaker import FAILURES, PATIENCE_S, PROBE_MAX_S, WINDOW_S, Breaker


def test_failures_in_a_row_over_a_window_make_a_store_suspect() -> None:
    breaker = Breaker(0.0)
    assert [breaker.failed(n, n, "x") for n in (1.0, 1.1, 1.2, 1.3)] == [False] * 4
    assert breaker.failed(1.4, 1.0 + WINDOW_S, "x")
    assert breaker.up, "suspicion is not belief"
    few = Breaker(0.0)
    assert not any(few.failed(n * 10, n * 10, "x") for n in range(FAILURES - 1))


def test_an_answer_wipes_failures_out() -> None:
    breaker = Breaker(0.0)
    for n in range(10):
        assert not breaker.failed(n, n, "x")
        assert not breaker.failed(n + 0.5, n + 0.5, "x")
        breaker.answered(n + 0.6)


def test_a_request_that_fails_after_others_got_through_was_unlucky() -> None:
    breaker = Breaker(0.0)
    breaker.answered(10.0)
    assert not any(breaker.failed(9.0, 10.0 + n, "x") for n in range(10))
    assert breaker.health.last_error == "x"


def test_a_silent_store_is_noticed_by_patient_callers_only() -> None:
    breaker = Breaker(0.0)
    assert not any(breaker.abandoned(n, n + PATIENCE_S - 0.1) for n in range(10))
    assert [breaker.abandoned(20.0 + n, 21.0 + n) for n in range(FAILURES)] == [False] * (FAILURES - 1) + [True]


def test_what_is_lost_is_down_since_then_and_an_answer_brings_it_back() -> None:
    breaker = Breaker(0.0)
    assert breaker.lost(5.0, "gone")
    assert not breaker.lost(6.0, "gone")
    assert (breaker.health.up, breaker.health.since, breaker.health.last_error) == (False, 5.0, "gone")
    assert breaker.answered(7.0)
    assert not breaker.answered(8.0)
    assert (breaker.health.up, breaker.health.since, breaker.health.last_error) == (True, 7.0, "")


def test_probes_come_ever_less_often_and_start_over_after_an_outage() -> None:
    breaker = Breaker(0.0)
    breaker.lost(1.0, "x")
    assert [breaker.probe_pause_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, PROBE_MAX_S, PROBE_MAX_S]
    breaker.answered(50.0)
    breaker.lost(60.0, "x")
    assert breaker.probe_pause_s() == 1.0
