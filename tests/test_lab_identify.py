"""System identification: constants are found again, their errors are what they are said to be."""

import jax
import numpy as np
import pytest

from polyak.envs.find import find
from polyak.errors import UserError
from polyak.lab.identify import identify, record

TRUE = {
    "jax:Pendulum-v1": {"mass": 1.3, "length": 0.8},
    "jax:CartPole-v1": {"mass_pole": 0.15, "length": 0.7},
}


@pytest.mark.parametrize("name", TRUE)
def test_constants_are_found_again_without_noise(name):
    true = TRUE[name]
    found = identify(find(name), list(true), record(find(name, true), 400, jax.random.key(0)))
    for constant, value in true.items():
        assert found.values[constant] == pytest.approx(value, rel=1e-3)


def test_standard_errors_are_the_spread_over_many_experiments():
    name = "jax:Pendulum-v1"
    true, env = TRUE[name], find(name, TRUE[name])
    found = [
        identify(find(name), list(true), record(env, 300, jax.random.key(i), noise=0.02)) for i in range(20)
    ]
    for constant, value in true.items():
        estimates = np.array([one.values[constant] for one in found])
        said = np.mean([one.errors[constant] for one in found])
        assert 0.55 < estimates.std(ddof=1) / said < 1.5  # a deviation from 20 samples is known to about 16 %
        assert abs(estimates.mean() - value) < 4 * said / np.sqrt(20)


def test_what_cannot_be_identified_is_one_line():
    records = record(find("jax:Pendulum-v1"), 100, jax.random.key(0))
    for names, line in (
        (["mas"], "has no number 'mas'; did you mean 'mass'"),
        (["time_limit"], "no step in the records depends on time_limit"),
        (["mass", "gravity", "length"], ""),
    ):
        if line:
            with pytest.raises(UserError, match=line.replace("(", r"\(")):
                identify(find("jax:Pendulum-v1"), names, records)
    # torque / (m l^2) and g / l: three constants in two numbers
    with pytest.raises(UserError, match="do not tell mass and gravity and length apart"):
        identify(find("jax:Pendulum-v1"), ["mass", "gravity", "length"], records)
