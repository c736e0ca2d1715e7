"""Games of two players who move in turn, and a game against an opponent, which is a world for one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec, Tree
from polyak.pytree import pytree, static

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@pytree
class TicTacToe(Environment):
    """Three in a row on a board of nine.

    state [9] int32: 1 and -1 where a player has a mark, 0 where nobody has; who moves follows from their number
    obs: `board` [9], 1 for the marks of who is to move and -1 for the other's; `legal` [9], 1 where one may move
    action: the field; reward: of who moved: 1 for three in a row, -1 for an illegal move, which ends the game
    """

    time_limit: int | None = static(default=None)

    @property
    def spec(self) -> Spec:
        """Nine fields, two players."""
        obs = {"board": Box((9,), -1.0, 1.0), "legal": Box((9,), 0.0, 1.0)}
        return Spec(obs, Discrete(9), self.time_limit, players=2)

    def reset(self, key: jax.Array) -> tuple[Array, Tree]:
        """The empty board."""
        board = jnp.zeros(9, jnp.int32)
        return board, self._observe(board)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One mark."""
        mover = _mover(state)
        legal = state[action] == 0
        board = jnp.where(legal, state.at[action].set(mover), state)
        won = (board[jnp.asarray(LINES)] == mover).all(axis=1).any()
        reward = jnp.where(legal, won.astype(jnp.float32), -1.0)
        over = won | ~legal | (board != 0).all()
        return Step(board, self._observe(board), reward, over, jnp.array(False))

    def _observe(self, board: Array) -> Tree:
        mine = (board * _mover(board)).astype(jnp.float32)
        return {"board": mine, "legal": (board == 0).astype(jnp.float32)}


@pytree
class ConnectFour(Environment):
    """Four in a row on a board of seven columns and six rows, into which marks fall from above.

    state [6, 7] int8, the lowest row first: 1 and -1 where a player has a mark, 0 where nobody has
    obs: `board` [6, 7, 2], the marks of who is to move and of the other; `legal` [7], 1 where a column has room
    action: the column; reward: of who moved: 1 for four in a row, -1 for an illegal move, which ends the game
    """

    time_limit: int | None = static(default=None)

    @property
    def spec(self) -> Spec:
        """Seven columns, two players."""
        obs = {"board": Box((6, 7, 2), 0.0, 1.0), "legal": Box((7,), 0.0, 1.0)}
        return Spec(obs, Discrete(7), self.time_limit, players=2)

    def reset(self, key: jax.Array) -> tuple[Array, Tree]:
        """The empty board."""
        board = jnp.zeros((6, 7), jnp.int8)
        return board, self._observe(board)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One mark, on top of those in its column."""
        mover = _mover(state)
        column = jnp.arange(7) == action
        height = ((state != 0) & column).sum()
        legal = height < 6
        falls = (jnp.arange(6)[:, None] == height) & column  # nowhere, where the column is full
        board = jnp.where(falls, mover, state)
        won = _four_in_a_row(board == mover) & legal
        reward = jnp.where(legal, won.astype(jnp.float32), -1.0)
        over = won | ~legal | (board != 0).all()
        return Step(board, self._observe(board), reward, over, jnp.array(False))

    def _observe(self, board: Array) -> Tree:
        mover = _mover(board)
        planes = jnp.stack([board == mover, board == -mover], axis=-1).astype(jnp.float32)
        return {"board": planes, "legal": (board[5] == 0).astype(jnp.float32)}


def _mover(board: Array) -> Array:
    """1 where the first player is to move, else -1, in the board's dtype."""
    return jnp.where((board != 0).sum() % 2 == 0, 1, -1).astype(board.dtype)


def _four_in_a_row(marks: Array) -> Array:
    """Whether marks [H, W] bool hold four in a row: level, upright or on a diagonal."""
    high, wide = marks.shape
    found = jnp.array(False)
    for up, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        line = jnp.array(True)
        for i in range(4):
            first = i * right if right >= 0 else 3 + i * right
            line = line & marks[i * up : high - 3 * up + i * up, first : wide - 3 * abs(right) + first]
        found = found | line.any()
    return found


Opponent = Callable[[Any, Tree, jax.Array], Array]  # (state, obs, key) -> action


def uniform(state: Any, obs: Tree, key: jax.Array) -> Array:
    """Uniform legal action."""
    return jax.random.categorical(key, jnp.where(obs["legal"] > 0, 0.0, -jnp.inf)).astype(jnp.int32)


@pytree
class Versus(Environment):
    """A game against an opponent, who moves first in half of the episodes; rewards are the learner's.

    state, obs and action are the game's. What the opponent wins, the learner loses.
    """

    game: Environment = TicTacToe()
    opponent: Opponent = static(default=uniform)

    @property
    def spec(self) -> Spec:
        """The game's, for one player."""
        game = self.game.spec
        return Spec(game.obs, game.action, game.time_limit, measures={"won": "last"})

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """The start, or what the opponent made of it."""
        key_start, key_first, key_move, key_step = jax.random.split(key, 4)
        state, obs = self.game.reset(key_start)
        moved = self.game.step(state, self.opponent(state, obs, key_move), key_step)
        first = jax.random.bernoulli(key_first)
        choose = lambda mine, theirs: jnp.where(first, mine, theirs)  # noqa: E731
        return jax.tree.map(choose, (state, obs), (moved.state, moved.obs))

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One move, and where the game goes on the opponent's."""
        key_own, key_move, key_step = jax.random.split(key, 3)
        own = self.game.step(state, action, key_own)
        reply = self.game.step(own.state, self.opponent(own.state, own.obs, key_move), key_step)
        over = jnp.logical_or(own.terminated, own.truncated)
        choose = lambda mine, theirs: jnp.where(over, mine, theirs)  # noqa: E731
        after, obs, terminated, truncated = jax.tree.map(
            choose,
            (own.state, own.obs, own.terminated, own.truncated),
            (reply.state, reply.obs, reply.terminated, reply.truncated),
        )
        reward = own.reward - jnp.where(over, 0.0, reply.reward)
        return Step(after, obs, reward, terminated, truncated, {"won": (reward > 0).astype(jnp.float32)})


def versus(game: Environment, opponent: Opponent = uniform) -> Versus:
    """The game as a world for one, whose opponent chooses among the game's own actions."""
    return Versus(game, opponent)


@pytree
class ConnectFourVersus(Versus):
    """Connect four against uniform moves."""

    game: Environment = ConnectFour()


ENVIRONMENTS = {
    "TicTacToe": TicTacToe,
    "TicTacToe-vs-random": Versus,
    "ConnectFour": ConnectFour,
    "ConnectFour-vs-random": ConnectFourVersus,
}
