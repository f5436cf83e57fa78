"""The `server` scenario on a clock that moves only when told to, against queueing theory and by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from bbx.benchmarks.measure import PROFILES
from bbx.benchmarks.scenarios.arrivals import (
    at_rate,
    fifo_latencies,
    late_allowed,
    poisson_schedule,
    predicted_rate,
)
from bbx.benchmarks.scenarios.server import QUERIES, WITHIN, Search, Trial, find_rate, highest_rate, offer
from bbx.benchmarks.scenarios.take import take
from bbx.benchmarks.scenarios.task import Taken, Task
from bbx.benchmarks.stats import percentile
from bbx.errors import BbxError
from bbx.runners.fake import FakeRunner, Latency, VirtualClock, jitter
from bbx.types import TensorSpec

MS = 1_000_000
INPUTS = (TensorSpec("images", "float32", (None, 4)),)
FEEDS = {"images": np.ones((1, 4), dtype=np.float32)}


@dataclass
class Server:
    """Serves on a clock of its own; the time that a request takes may depend on how many came before."""

    takes: Callable[[int], int] = lambda _: MS
    clock: VirtualClock = field(default_factory=VirtualClock)
    served: int = 0

    def now(self) -> int:
        return self.clock.ns

    def wait_until(self, ns: int) -> None:
        self.clock.advance(max(0, ns - self.clock.ns))

    def serve(self) -> None:
        self.clock.advance(self.takes(self.served))
        self.served += 1

    def search(self, slo_ms: float, *, cap_s: float = 1e6) -> Search:
        services = np.array([self.takes(index) for index in range(100)], dtype=np.int64)
        return highest_rate(self.serve, services, round(slo_ms * MS), self, cap_s=cap_s)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_is_what_queueing_theory_says_of_equal_service_times(load: float) -> None:
    """Pollaczek and Khinchine: in M/D/1 the mean wait is load / (2 (1 - load)) service times."""
    count = 400_000
    arrivals = at_rate(poisson_schedule(count, seed=3), load * 1e9 / MS)
    latencies = fifo_latencies(arrivals, np.full(count, MS))
    assert latencies.mean() / MS - 1 == pytest.approx(load / (2 * (1 - load)), rel=0.06)


def test_the_served_queue_is_the_calculated_one() -> None:
    takes = jitter(MS, 0.5)
    server = Server(takes)
    schedule = poisson_schedule(2000, seed=1)
    trial = offer(server.serve, schedule, 700.0, 10**12, server)
    services = np.array([takes(index) for index in range(2000)], dtype=np.int64)
    assert trial.latencies.tolist() == fifo_latencies(at_rate(schedule, 700.0), services).tolist()
    assert trial.met
    assert trial.wall_ns == server.now()


def test_latency_counts_from_when_a_request_was_due() -> None:
    """One stall of 100 ms delays all that were due meanwhile, and a closed loop would show it once."""
    server = Server(lambda index: 100 * MS if index == 50 else MS // 10)
    trial = offer(server.serve, poisson_schedule(1000, seed=0), 1000.0, 10**12, server)
    assert (trial.latencies > 10 * MS).sum() > 80
    assert trial.latencies.max() == pytest.approx(100 * MS, rel=0.05)


def test_arrivals_are_the_same_in_every_run_and_begin_alike() -> None:
    long, short = poisson_schedule(1000, seed=7), poisson_schedule(100, seed=7)
    assert long[:100].tolist() == short.tolist()
    assert long[0] != poisson_schedule(1, seed=8)[0]
    gaps = np.diff(poisson_schedule(100_000, seed=7))
    assert (gaps.mean(), gaps.std()) == pytest.approx((1.0, 1.0), rel=0.02)
    assert at_rate(np.array([0.5, 2.0]), 4.0).tolist() == [125 * MS, 500 * MS]


def test_a_percentile_allows_so_many_to_be_late() -> None:
    assert (QUERIES, late_allowed(QUERIES), late_allowed(100), late_allowed(1)) == (662, 6, 1, 0)
    for late in (late_allowed(QUERIES), late_allowed(QUERIES) + 1):
        latencies = np.where(np.arange(QUERIES) < late, 5 * MS, MS)
        assert (percentile(latencies, 99) > MS) == (late == 7)


@pytest.mark.parametrize("late", [6, 7])
def test_a_trial_ends_when_it_can_only_fail(late: int) -> None:
    server = Server(lambda index: 50 * MS if index % 10 == 0 and index < 10 * late else MS // 100)
    trial = offer(server.serve, poisson_schedule(QUERIES, seed=0), 0.01, 10 * MS, server)
    assert trial.met == (late == 6)
    assert trial.latencies.size == (QUERIES if late == 6 else 61)


@pytest.mark.parametrize("slo_ms", [3.0, 5.0, 20.0])
def test_the_highest_rate_is_found_and_known_from_both_sides(slo_ms: float) -> None:
    found = Server().search(slo_ms)
    assert (found.stopped, found.found is found.trials[-1]) == ("converged", True)
    assert found.found is not None
    assert found.found.latencies.size >= QUERIES
    assert found.found.p99 is not None
    assert found.found.p99 <= slo_ms * MS
    rate = found.found.rate_per_s
    missed = min(trial.rate_per_s for trial in found.trials if not trial.met)
    assert rate < missed <= rate * (1 + WITHIN) * 1.0001
    assert rate < 1000


def test_a_longer_limit_bears_a_higher_rate() -> None:
    rates = [found.rate_per_s for slo in (2, 3, 5, 20, 200) if (found := Server().search(slo).found)]
    assert len(rates) == 5
    assert all(lower < higher for lower, higher in pairwise(rates))


def test_what_was_chosen_has_to_pass_on_another_schedule() -> None:
    """A server that cheats on the first schedule: the rate that it found there is not the result."""
    seen: list[tuple[float, int]] = []

    def attempt(rate: float, schedule: int) -> Trial:
        seen.append((rate, schedule))
        met = rate <= (100.0 if schedule == 0 else 80.0)
        return Trial(rate, np.array([MS]), MS, met)

    search = find_rate(attempt, 50.0, 1.0)
    assert search.stopped == "converged"
    assert search.found is not None
    assert 80 / (1 + WITHIN) < search.found.rate_per_s <= 80
    confirming = [schedule for _, schedule in seen if schedule]
    assert confirming == list(range(1, len(confirming) + 1))


def test_a_search_that_begins_too_high_goes_down() -> None:
    search = find_rate(lambda rate, _: Trial(rate, np.array([MS]), MS, rate <= 30.0), 1000.0, 1.0)
    assert search.found is not None
    assert 30 / (1 + WITHIN) < search.found.rate_per_s <= 30


def test_a_limit_below_one_request_alone_is_not_searched_for() -> None:
    found = Server().search(0.9)
    assert (found.stopped, found.found, found.trials) == ("unmet", None, ())


def test_a_limit_that_rare_requests_alone_miss_is_missed_at_any_rate() -> None:
    found = Server(lambda index: 30 * MS if index % 40 == 39 else MS).search(10)
    assert (found.stopped, found.found) == ("unmet", None)
    assert min(trial.rate_per_s for trial in found.trials) < 10


def test_a_search_that_runs_out_of_time_says_what_it_knows() -> None:
    found = Server().search(5, cap_s=2.0)
    assert found.stopped == "capped"
    assert found.found is not None
    assert found.trials[-1].met is None
    assert Server().search(5, cap_s=0.5).found is None


def test_the_search_begins_near_its_end() -> None:
    schedule = poisson_schedule(QUERIES, seed=20_000)
    guess = predicted_rate(np.full(50, MS), schedule, 5 * MS)
    found = Server().search(5).found
    assert found is not None
    assert guess == pytest.approx(found.rate_per_s, rel=0.1)


def row(latency: Latency, slo_ns: int) -> Taken:
    with FakeRunner(INPUTS, INPUTS, latency=latency) as runner:
        return take(Task(runner, lambda: runner.bind(FEEDS), PROFILES["quick"]), "server", slo_ns=slo_ns)


def test_a_row_has_the_rate_and_how_it_was_found() -> None:
    found = row(MS, 5 * MS)
    assert found.requests_per_s is not None
    assert 400 < found.requests_per_s < 700
    assert found.reasons == ()
    assert found.measured.summary.p99 is not None
    assert found.measured.summary.p99 <= 5 * MS
    search = found.facts["search"]
    assert search["alone_ns"] == MS
    assert [trial["met"] for trial in search["trials"]][-1] is True
    assert search["trials"][-1]["rate_per_s"] == found.requests_per_s


def test_a_limit_that_cannot_be_met_is_an_error_that_says_what_can() -> None:
    with pytest.raises(BbxError, match=r"No rate meets the limit of 0\.5000 ms: one request .* 1\.000 ms"):
        row(MS, MS // 2)


def test_a_row_whose_search_was_too_long_has_not_converged() -> None:
    found = row(100 * MS, 300 * MS)
    assert [reason.verdict for reason in found.reasons] == ["not_converged"]
    assert "ended after 60 s" in found.reasons[0].text
    assert found.requests_per_s is None
