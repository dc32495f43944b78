"""How many queries tell a difference, against simulated tests and plain sums."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from typer.testing import CliRunner

from eval.cli.vmem import app
from eval.metrics.intervals import mcnemar_p, mcnemar_power, needed_queries
from retrieval.errors import InvalidArgument


@pytest.mark.parametrize(
    ("queries", "difference", "discordant", "alpha"),
    [
        (500, 3.0, 10.0, 0.05),
        (200, 5.0, 20.0, 0.05),
        (300, 0.5, 8.0, 0.05),
        (400, 5.0, 12.0, 0.001),
        (60, 20.0, 40.0, 0.05),
    ],
)
def test_the_power_is_the_share_of_simulated_tests_that_tell(
    queries: int, difference: float, discordant: float, alpha: float
) -> None:
    shares = np.array([discordant + difference, discordant - difference]) / 200
    drawn = np.random.default_rng(0).multinomial(queries, [*shares, 1 - shares.sum()], 40_000)
    told = 100 * (mcnemar_p(drawn[:, 0], drawn[:, 1]) <= alpha).mean()
    assert mcnemar_power(queries, difference=difference, discordant=discordant, alpha=alpha) == pytest.approx(
        told, abs=3 * 100 * math.sqrt(0.25 / 40_000)
    )


def test_the_power_is_the_sum_over_every_outcome_of_a_small_test() -> None:
    plain = sum(
        binom.pmf(changed, 20, 0.6) * binom.pmf(fixed, changed, 5 / 6)
        for changed in range(21)
        for fixed in range(changed + 1)
        if changed and binomtest(fixed, changed).pvalue <= 0.05
    )
    assert mcnemar_power(20, difference=40.0, discordant=60.0) == pytest.approx(100 * plain)


@pytest.mark.parametrize(
    ("difference", "discordant", "power"),
    [
        (5.0, 10.0, 80.0),
        (30.0, 40.0, 90.0),
        (100.0, 100.0, 80.0),
        (50.0, 100.0, 80.0),
        (20.0, 100.0, 80.0),
        (10.0, 10.0, 80.0),
        (15.0, 30.0, 99.0),
        (3.0, 50.0, 60.0),
    ],
)
def test_the_number_is_the_smallest_from_which_on_the_power_holds(
    difference: float, discordant: float, power: float
) -> None:
    needed = needed_queries(difference=difference, discordant=discordant, power=power)
    powers = [
        mcnemar_power(queries, difference=difference, discordant=discordant)
        for queries in range(max(1, needed - 40), needed + 60)
    ]
    last_too_few = max((place for place, value in enumerate(powers) if value < power), default=-1)
    assert max(1, needed - 40) + last_too_few + 1 == needed


@pytest.mark.parametrize("power", [50.0, 99.9])
@pytest.mark.parametrize("alpha", [1e-6, 0.5])
@pytest.mark.parametrize(
    ("difference", "discordant"), [(0.01, 0.01), (0.01, 0.02), (0.3, 100.0), (1.0, 10.0), (100.0, 100.0)]
)
def test_a_number_is_found_up_to_every_bound(difference: float, discordant: float, power: float, alpha: float) -> None:
    needed = needed_queries(difference=difference, discordant=discordant, power=power, alpha=alpha)
    reached = mcnemar_power(needed, difference=difference, discordant=discordant, alpha=alpha)
    assert reached >= power - 0.01


def test_very_many_queries_come_from_the_approximation() -> None:
    many = needed_queries(difference=0.01, discordant=20.0)
    assert many == pytest.approx((1.959964 + 0.841621) ** 2 * 0.2 / 0.0001**2, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"difference": 11.0}, "a difference of 11 points where the answers differ on 10 % of the queries"),
        ({"difference": 0.0}, "a difference of 0 points: 0.01 to 100 points expected"),
        ({"difference": 1e-200}, "a difference of 1e-200 points: 0.01 to 100 points expected"),
        ({"difference": -1.0}, "a difference of -1 points: 0.01 to 100 points expected"),
        ({"discordant": 0.0}, "0 % discordant queries: 0.01 to 100 % expected"),
        ({"discordant": 101.0}, "101 % discordant queries"),
        ({"discordant": math.nan}, "nan % discordant queries"),
        ({"alpha": 1.0}, "an alpha of 1: 1e-06 to 0.5 expected"),
        ({"alpha": 0.0}, "an alpha of 0: 1e-06 to 0.5 expected"),
        ({"power": 100.0}, "a power of 100 %: 50 to 99.9 % expected"),
        ({"power": 99.99999999}, "a power of 99.99999999 %"),
        ({"power": 4.0}, "a power of 4 %"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        needed_queries(**{"difference": 1.0, "discordant": 10.0} | wrong)


def test_no_query_has_no_power() -> None:
    with pytest.raises(InvalidArgument, match="0 queries: 1 or more"):
        mcnemar_power(0, difference=1.0, discordant=10.0)


def test_the_command_prints_usual_differences_beside_the_asked_one() -> None:
    said = CliRunner().invoke(app, ["eval", "power", "--difference", "0.7", "--discordant", "4"])
    assert said.exit_code == 0, said.output
    numbers = [line.split() for line in said.output.splitlines() if line.lstrip()[:1].isdigit()]
    assert [row[0] for row in numbers] == ["0.5", "0.7", "1", "2"]
    needed = needed_queries(difference=0.7, discordant=4.0)
    assert numbers[1][1] == f"{needed:,}"
    assert f"A difference of 0.7 points takes {needed:,} queries" in said.output
    exact = mcnemar_power(needed, difference=0.7, discordant=4.0)
    assert numbers[1][2] == f"{exact:.1f}" and f"then {exact:.1f} % of tests tell it" in said.output


def test_one_point_is_no_points() -> None:
    said = CliRunner().invoke(app, ["eval", "power", "--difference", "1"])
    assert "A difference of 1 point takes" in said.output


def test_the_command_takes_one_source_of_the_discordant_share(tmp_path: Path) -> None:
    both = CliRunner().invoke(app, ["eval", "power", "--discordant", "4", "--runs", str(tmp_path), str(tmp_path)])
    assert isinstance(both.exception, InvalidArgument)
    assert "give one of them" in str(both.exception)
