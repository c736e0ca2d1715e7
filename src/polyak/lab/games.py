"""Tic-tac-toe solved: every position that can be reached, and its value, by search."""

from functools import cache

Board = tuple[int, ...]  # nine fields: 1 and -1 for the two players, 0 for nobody
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
START: Board = (0,) * 9


def mover(board: Board) -> int:
    """1 where the first player is to move, else -1."""
    return 1 if board.count(0) % 2 else -1


def winner(board: Board) -> int:
    """The player with three in a row, 0 for nobody."""
    for a, b, c in LINES:
        if board[a] and board[a] == board[b] == board[c]:
            return board[a]
    return 0


def over(board: Board) -> bool:
    """Whether nobody moves any more."""
    return winner(board) != 0 or 0 not in board


def moves(board: Board) -> list[int]:
    """Free fields, none once the game is over."""
    return [] if over(board) else [field for field, mark in enumerate(board) if mark == 0]


def after(board: Board, move: int) -> Board:
    """The board once who is to move has put a mark there."""
    return (*board[:move], mover(board), *board[move + 1 :])


@cache
def value(board: Board) -> int:
    """What the game is worth to who is to move, if both play best: 1, 0 or -1."""
    if over(board):
        return -abs(winner(board))  # the other has just made the line
    return max(-value(after(board, move)) for move in moves(board))


@cache
def positions() -> tuple[Board, ...]:
    """All 5,478 that can be reached, in order of the marks on them."""
    found, layer = [START], [START]
    while layer:
        layer = sorted({after(board, move) for board in layer for move in moves(board)})
        found += layer
    return tuple(found)


def losses(policy: dict[Board, int], player: int) -> int:
    """How many different lost ends the policy comes to as `player`, against every reply from the start."""
    layer, lost = {START}, 0
    while layer:
        ends = {board for board in layer if over(board)}
        lost += sum(winner(board) == -player for board in ends)
        layer = {
            after(board, move)
            for board in layer - ends
            for move in ([policy[board]] if mover(board) == player else moves(board))
        }
    return lost


def mistakes(policy: dict[Board, int]) -> list[Board]:
    """Positions where the policy's move gives away what was not lost: a position worth 0 or 1 for one worth -1."""
    return [board for board, move in policy.items() if value(board) >= 0 > -value(after(board, move))]
