"""Golden projections and losses from rlax 0.1.9, which needs a nightly TensorFlow Probability.

Run in an environment of its own: pip install rlax tfp-nightly; python make_categorical.py > categorical.json
"""

import json

import jax
import numpy as np
import rlax

ROWS, ATOMS = 12, 7
rng = np.random.default_rng(0)
uneven = np.sort(rng.normal(scale=2.0, size=ATOMS))
cases = []
for atoms in (np.linspace(-2.0, 3.0, ATOMS), uneven):
    logits, next_logits = (rng.normal(scale=2.0, size=(ROWS, ATOMS)) for _ in range(2))
    reward, discount = rng.normal(size=ROWS), rng.choice([0.0, 0.9, 0.99], size=ROWS)
    atoms, logits, next_logits, reward, discount = (
        np.asarray(x, np.float32) for x in (atoms, logits, next_logits, reward, discount)
    )
    place = reward[:, None] + discount[:, None] * atoms
    probs = jax.nn.softmax(next_logits)
    target = jax.vmap(rlax.categorical_l2_project, in_axes=(0, 0, None))(place, probs, atoms)
    loss = jax.vmap(rlax.categorical_td_learning, in_axes=(None, 0, 0, 0, None, 0))(
        atoms, logits, reward, discount, atoms, next_logits
    )
    names = ("atoms", "logits", "next_logits", "reward", "discount", "target", "loss")
    values = (atoms, logits, next_logits, reward, discount, target, loss)
    cases.append({name: np.asarray(x).tolist() for name, x in zip(names, values, strict=True)})
print(json.dumps(cases))
