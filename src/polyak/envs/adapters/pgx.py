"""Board games of pgx (Koyamada et al. 2023, arXiv:2303.17503; pgx 2.x) as our own: games of two who move in turn."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pgx

from polyak.envs.environment import Environment, Step
from polyak.errors import UserError, nearest
from polyak.interface import Array, Box, Discrete, Spec, Tree
from polyak.pytree import pytree, static, strip_weak_types

# pgx's other games have chance, hidden cards, one player, or players who do not alternate
BOARDS = (
    "animal_shogi",
    "chess",
    "connect_four",
    "gardner_chess",
    "go_19x19",
    "go_9x9",
    "hex",
    "othello",
    "shogi",
    "tic_tac_toe",
)


@pytree
class Pgx(Environment):
    """One of pgx's board games, made by `make`.

    state pgx's own; obs: `board`, pgx's planes [H, W, C] as who is to move sees them, and `legal` [A]
    action pgx's number of a move; reward: of who moved, where an illegal move loses
    """

    name: str = static()
    time_limit: int | None = static(default=None)

    @property
    def spec(self) -> Spec:
        """Its planes and moves, two players."""
        game = _built(self.name)
        planes = jax.eval_shape(game.init, jax.random.key(0)).observation
        kind = "int8" if planes.dtype == bool else "float32"
        obs = {"board": Box(planes.shape, dtype=kind), "legal": Box((game.num_actions,), 0, 1, "int8")}
        return Spec(obs, Discrete(game.num_actions), self.time_limit, players=2)

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """The start of the game; who of pgx's two players begins is drawn, and nothing depends on it."""
        state = strip_weak_types(_built(self.name).init(key))
        return state, self._observe(state)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One move. What pgx cuts for its length it calls terminated and draws."""
        after = _built(self.name).step(state, action, key)
        after = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.asarray(old).dtype), after, state)
        reward = after.rewards[state.current_player].astype(jnp.float32)
        return Step(
            after, self._observe(after), reward, after.terminated, after.truncated & ~after.terminated
        )

    def _observe(self, state: Tree) -> Tree:
        planes = state.observation
        planes = planes.astype(jnp.int8 if planes.dtype == bool else jnp.float32)
        return {"board": planes, "legal": state.legal_action_mask.astype(jnp.int8)}


def make(name: str) -> Pgx:
    """A board game by pgx's name."""
    if name not in BOARDS:
        if name in pgx.available_envs():
            raise UserError(
                f"pgx:{name} is no board game of two who move in turn; served: {', '.join(BOARDS)}"
            )
        raise UserError(f"there is no environment 'pgx:{name}'; {nearest(name, BOARDS)}")
    return Pgx(name)


def names() -> list[str]:
    """The board games."""
    return list(BOARDS)


@functools.cache
def _built(name: str) -> Any:
    """Pgx's object: functions and what its constructor computed, never tracers."""
    with jax.ensure_compile_time_eval():
        return pgx.make(name)  # pyright: ignore[reportArgumentType]
