"""Boards in characters, as a person sees a game in a terminal, and the names of its moves."""

import itertools
import string
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from polyak.envs.environment import Environment
from polyak.errors import UserError

EMPTY = "."


class Drawing(Protocol):
    """How a game is shown. Observations are of one environment, as who is to move sees it.

    first  whether who moved first is to move
    """

    players: tuple[str, str]  # what who moves first is called, and the other
    how: str  # how a move is written

    def text(self, obs: Any, first: bool) -> str:
        """The board, several lines."""
        ...

    def names(self, state: Any, obs: Any, first: bool) -> dict[str, int]:
        """The legal moves by their names."""
        ...


def grid(cells: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], slope: int = 0) -> str:
    """Cells [H, W] of one character each, the upper row first, with names beside and below them.

    slope  characters by which each row stands further to the right than the one above it
    """
    wide = max(map(len, rows), default=0)
    lines = [
        " " * (slope * number) + f"{row:>{wide}} " + " ".join(line).rstrip()
        for number, (row, line) in enumerate(zip(rows, cells, strict=True))
    ]
    below = " " * (slope * len(rows)) + " " * wide + " " + " ".join(columns)
    return "\n".join([*lines, below])


class Stones(NamedTuple):
    """A game in which marks are put on a board, and moves are numbered row by row from above."""

    shape: tuple[int, int]
    players: tuple[str, str] = ("X", "O")
    other: str = ""  # name of the move after all fields, where there is one
    letters: str = string.ascii_lowercase
    downwards: bool = False  # the uppermost row is 1
    slope: int = 0
    aim: str = ""  # what a board does not show

    @property
    def how(self) -> str:
        """How a move is written."""
        field = f"a column and a row, as {self._field(self.shape[1] // 2)}"
        return "; ".join(filter(None, (field + f", or {self.other}" * bool(self.other), self.aim)))

    def text(self, obs: Any, first: bool) -> str:
        """The board, several lines."""
        marks = {1: self.players[0][0], -1: self.players[1][0], 0: EMPTY}
        cells = [[marks[int(x)] for x in row] for row in _stones(obs["board"], self.shape, first)]
        return grid(cells, self._rows(), self.letters[: self.shape[1]], self.slope)

    def names(self, state: Any, obs: Any, first: bool) -> dict[str, int]:
        """The legal moves by their names."""
        fields = self.shape[0] * self.shape[1]
        legal = np.flatnonzero(np.asarray(obs["legal"]) > 0).tolist()
        return {self._field(move) if move < fields else self.other: move for move in legal}

    def _field(self, number: int) -> str:
        row, column = divmod(number, self.shape[1])
        return self.letters[column] + self._rows()[row]

    def _rows(self) -> list[str]:
        numbers = [str(number + 1) for number in range(self.shape[0])]
        return numbers if self.downwards else numbers[::-1]


class Columns(NamedTuple):
    """Connect four: marks fall into columns, which are the moves."""

    upwards: bool  # the lowest row is the observation's first
    shape: tuple[int, int] = (6, 7)
    players: tuple[str, str] = ("X", "O")

    @property
    def how(self) -> str:
        """How a move is written."""
        return f"a column, 1 to {self.shape[1]}"

    def text(self, obs: Any, first: bool) -> str:
        """The board, several lines."""
        marks = {1: self.players[0], -1: self.players[1], 0: EMPTY}
        board = _stones(obs["board"], self.shape, first)
        cells = [[marks[int(x)] for x in row] for row in (board[::-1] if self.upwards else board)]
        return grid(cells, [""] * len(cells), [str(column + 1) for column in range(self.shape[1])])

    def names(self, state: Any, obs: Any, first: bool) -> dict[str, int]:
        """The legal moves by their names."""
        legal = np.flatnonzero(np.asarray(obs["legal"]) > 0).tolist()
        return {str(column + 1): column for column in legal}


def _stones(board: Any, shape: tuple[int, int], first: bool) -> np.ndarray:
    """1 and -1 [H, W] for the marks of who moves first and of the other, from planes or signs of who is to move."""
    board = np.asarray(board)
    mine = board[..., 0].astype(int) - board[..., 1].astype(int) if board.ndim == 3 else board.astype(int)
    return mine.reshape(shape) * (1 if first else -1)


class Pieces:
    """A game in which pieces are moved; a move is named after what it does to the board, as pgx's planes show it.

    kinds   a letter for each plane of pieces, the mover's and then as many of the other's
    turned  who moves second sees the board turned round, and not only upside down
    hands   letters of the pieces that may be in hand; two planes for each, one piece and two, after those of the board
    """

    def __init__(
        self,
        env: Environment,
        kinds: str,
        turned: bool = False,
        hands: str = "",
        players: tuple[str, str] = ("white", "black"),
        aim: str = "",
    ):
        self.kinds, self.turned, self.hands, self.players = kinds, turned, hands, players
        drops = f"; {hands[0]}*b2 puts a piece from the hand" if hands else ""
        self.how = f"from where to where, as b1b2{drops}{aim}"
        planes = 2 * len(kinds) + 4 * len(hands)

        def after(state: Any, moves: Any) -> Any:
            """The first planes [M, H, W, C] once each of the moves is made, as the other sees them."""
            steps = jax.vmap(lambda move: env.step(state, move, jax.random.key(0)))(moves)
            return steps.obs["board"][..., :planes]

        self._after = jax.jit(after)

    def text(self, obs: Any, first: bool) -> str:
        """The board, several lines."""
        board = np.asarray(obs["board"])
        pieces = self._board(board, first)
        letters = {0: EMPTY, **{number + 1: kind for number, kind in enumerate(self.kinds)}}
        letters |= {-number: kind.lower() for number, kind in letters.items() if number}
        high, wide = pieces.shape
        drawn = grid(
            [[letters[int(x)] for x in row] for row in pieces],
            [str(high - row) for row in range(high)],
            string.ascii_lowercase[:wide],
        )
        if not self.hands:
            return drawn
        hands = self._hands(board) if first else self._hands(board)[::-1]
        return "\n".join(
            [
                f"{self.players[1]}'s hand: {' '.join(hands[1]).lower() or '-'}",
                drawn,
                f"{self.players[0]}'s hand: {' '.join(hands[0]) or '-'}",
            ]
        )

    def names(self, state: Any, obs: Any, first: bool) -> dict[str, int]:
        """The legal moves by their names."""
        legal = np.flatnonzero(np.asarray(obs["legal"]) > 0)
        if not len(legal):
            return {}
        padded = np.full(-(-len(legal) // CHUNK) * CHUNK, legal[0], np.int32)
        padded[: len(legal)] = legal
        found = [np.asarray(self._after(state, chunk)) for chunk in padded.reshape(-1, CHUNK)]
        sign, before = (1 if first else -1), self._board(np.asarray(obs["board"]), first)
        after = itertools.chain.from_iterable(found)
        return {
            self._name(sign * before, sign * self._board(planes, not first)): int(move)
            for move, planes in zip(legal, after, strict=False)
        }

    def _board(self, planes: np.ndarray, first: bool) -> np.ndarray:
        """Numbers [H, W] of the kinds, from 1, negative for who moves second; the first player's side is below."""
        count = len(self.kinds)
        number = np.arange(1, count + 1)
        mine, theirs = planes[..., :count] > 0, planes[..., count : 2 * count] > 0
        board = (mine * number).sum(axis=-1) - (theirs * number).sum(axis=-1)
        return board if first else -(board[::-1, ::-1] if self.turned else board[::-1])

    def _hands(self, planes: np.ndarray) -> tuple[str, str]:
        """What is in the hands of who is to move, and of the other: a letter for each piece."""
        count = len(self.hands)
        held = planes[0, 0, 2 * len(self.kinds) :][: 4 * count].astype(int).reshape(2, count, 2).sum(axis=-1)
        mine, theirs = (
            "".join(letter * int(n) for letter, n in zip(self.hands, row, strict=True)) for row in held
        )
        return mine, theirs

    def _name(self, before: np.ndarray, after: np.ndarray) -> str:
        """A move, from the boards on both sides of it, on which the mover's numbers are positive."""
        left = [tuple(at) for at in np.argwhere((before > 0) & (after <= 0))]
        come = [tuple(at) for at in np.argwhere((after > 0) & (after != before))]
        if len(left) > 1:  # castling is the king's move
            king = self.kinds.index("K") + 1
            left = [at for at in left if before[at] == king]
            come = [at for at in come if after[at] == king]

        def field(at: tuple) -> str:
            return string.ascii_lowercase[at[1]] + str(len(before) - at[0])

        piece = self.kinds[after[come[0]] - 1]
        if not left:
            return f"{piece}*{field(come[0])}"
        became = "" if before[left[0]] == after[come[0]] else piece
        return field(left[0]) + field(come[0]) + became


CHUNK = 64  # moves that are tried at once

GO = "ABCDEFGHJKLMNOPQRST"  # without I, as everywhere
TABLE = {  # the games that are drawn, by the names of ours and pgx's
    "TicTacToe": lambda env: Stones((3, 3)),
    "ConnectFour": lambda env: Columns(upwards=True),
    "tic_tac_toe": lambda env: Stones((3, 3)),
    "connect_four": lambda env: Columns(upwards=False),
    "othello": lambda env: Stones((8, 8), other="pass", downwards=True),
    "hex": lambda env: Stones(
        **{"shape": (11, 11), "other": "swap", "downwards": True, "slope": 1},
        aim="X joins top and bottom, O left and right",
    ),
    "go_9x9": lambda env: Stones((9, 9), other="pass", letters=GO),
    "go_19x19": lambda env: Stones((19, 19), other="pass", letters=GO),
    "gardner_chess": lambda env: Pieces(env, "PNBRQK"),
    "chess": lambda env: Pieces(env, "PNBRQK", aim="; b7b8Q promotes"),
    "animal_shogi": lambda env: Pieces(
        env, "CEGLH", turned=True, hands="CEG", players=("below", "above"), aim="; L is the lion"
    ),
}


def drawing(env: Environment, name: str) -> Drawing:
    """How a game is drawn; UserError, one line, for one that is not. `name` is what a person calls it."""
    kind = getattr(env, "name", type(env).__name__)
    if kind not in TABLE or not type(env).__module__.startswith("polyak.envs."):
        raise UserError(f"there is no drawing of {name} in characters; drawn are: {', '.join(sorted(TABLE))}")
    return TABLE[kind](env)
