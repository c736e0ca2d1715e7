"""Golden lambda-returns and advantages from rlax 0.1.9, which needs a nightly TensorFlow Probability.

Run in an environment of its own: pip install rlax tfp-nightly; python make_returns.py > returns.json
"""

import json

import jax
import numpy as np
import rlax

T, N, GAMMA = 12, 3, 0.97
rng = np.random.default_rng(0)
reward, values = rng.normal(size=(T, N)), rng.normal(size=(T + 1, N))
terminated = rng.random((T, N)) < 0.2
truncated = (rng.random((T, N)) < 0.2) & ~terminated
discount = np.where(terminated, 0.0, GAMMA)
cases = []
for lam in (0.0, 0.5, 0.95, 1.0):
    lam_t = np.where(terminated | truncated, 0.0, lam)
    returns = jax.vmap(rlax.lambda_returns, in_axes=1, out_axes=1)(reward, discount, values[1:], lam_t)
    advantage = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=1, out_axes=1)(
        reward, discount, lam_t, values
    )
    cases.append({"lam": lam, "lambda_return": returns.tolist(), "gae": advantage.tolist()})
print(
    json.dumps(
        {
            "reward": reward.tolist(),
            "discount": discount.tolist(),
            "last": (terminated | truncated).tolist(),
            "values": values.tolist(),
            "cases": cases,
        }
    )
)
