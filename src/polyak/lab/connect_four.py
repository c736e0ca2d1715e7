"""Connect four solved from any position, by alpha-beta search on bitboards with a table of what is known.

A position is two integers of 49 bits, seven for each column with the lowest row first; the seventh bit of a column is
never set (Tromp's encoding). The search says who wins, not how soon. With eighteen marks on the board it takes about a
tenth of a second, with twelve a second or two, and with none hours: the first player wins (Allis 1988, "A
Knowledge-based Approach of Connect-Four").
"""

from typing import NamedTuple

WIDTH, HEIGHT, CELLS = 7, 6, 42
STRIDE = HEIGHT + 1  # bits of a column
BOTTOM = sum(1 << STRIDE * column for column in range(WIDTH))
BOARD = BOTTOM * ((1 << HEIGHT) - 1)
COLUMN = [((1 << HEIGHT) - 1) << STRIDE * column for column in range(WIDTH)]
CENTRE_FIRST = [COLUMN[column] for column in (3, 2, 4, 1, 5, 0, 6)]


class Position(NamedTuple):
    """A board as who is to move sees it."""

    mine: int  # marks of who is to move
    mask: int  # marks of both

    @property
    def ply(self) -> int:
        """Marks on the board."""
        return self.mask.bit_count()


START = Position(0, 0)


def moves(position: Position) -> list[int]:
    """Columns that have room."""
    return [column for column in range(WIDTH) if COLUMN[column] & ~position.mask]


def after(position: Position, column: int) -> Position:
    """The position once who is to move has put a mark into a column; the other is to move then."""
    mask = position.mask | (position.mask + (1 << STRIDE * column)) & COLUMN[column]
    return Position(position.mine ^ position.mask, mask)


def won(position: Position) -> bool:
    """Whether the player who has just moved has four in a row."""
    theirs = position.mine ^ position.mask
    for step in (1, STRIDE - 1, STRIDE, STRIDE + 1):
        pairs = theirs & theirs >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def over(position: Position) -> bool:
    """Whether nobody moves any more."""
    return won(position) or position.mask == BOARD


def completing(marks: int, mask: int) -> int:
    """Empty cells, of whatever height, with which these marks become four in a row."""
    found = marks << 1 & marks << 2 & marks << 3
    for step in (STRIDE - 1, STRIDE, STRIDE + 1):
        pair = marks << step & marks << 2 * step
        found |= pair & (marks << 3 * step | marks >> step)
        pair = marks >> step & marks >> 2 * step
        found |= pair & (marks >> 3 * step | marks << step)
    return found & (BOARD ^ mask)


class Solver:
    """Values of positions, and what was found out on the way; it forgets all once it knows `most` positions."""

    def __init__(self, most: int = 2_000_000):
        self.most = most
        self.bounds: dict[
            int, tuple[int, int]
        ] = {}  # of the value, by mine + mask, which no two positions share
        self.visited = 0  # positions that were searched, ever

    def value(self, position: Position) -> int:
        """What the game is worth to who is to move, if both play best: 1, 0 or -1."""
        if won(position):
            return -1
        mine, mask = position
        if mask == BOARD:
            return 0
        if completing(mine, mask) & (mask + BOTTOM):
            return 1
        if len(self.bounds) > self.most:
            self.bounds.clear()
        return self._search(mine, mask, -1, 1)

    def values(self, position: Position) -> dict[int, int]:
        """The value of each move to who makes it."""
        return {column: -self.value(after(position, column)) for column in moves(position)}

    def best(self, position: Position) -> set[int]:
        """The moves that keep what the position is worth."""
        found = self.values(position)
        return {column for column, value in found.items() if value == max(found.values())}

    def _search(self, mine: int, mask: int, alpha: int, beta: int) -> int:
        """The value, or a bound on it outside (alpha, beta), where who is to move cannot win at once."""
        self.visited += 1
        theirs, free = mine ^ mask, mask + BOTTOM & BOARD
        threats = completing(theirs, mask)
        if forced := free & threats:
            if forced & forced - 1:
                return -1  # two at once
            free = forced
        free &= ~(threats >> 1)  # a mark there would give the cell above it
        if not free:
            return -1
        if mask.bit_count() >= CELLS - 2:
            return 0
        low, high = self.bounds.get(mine + mask, (-1, 1))
        alpha, beta = max(alpha, low), min(beta, high)
        if alpha >= beta:
            return low if low >= beta else high
        best, floor = -1, alpha
        for move in self._ordered(mine, mask, free):
            value = -self._search(theirs, mask | move, -beta, -floor)
            best, floor = max(best, value), max(floor, value)
            if floor >= beta:
                break
        if best <= alpha:
            self.bounds[mine + mask] = low, best
        elif best >= beta:
            self.bounds[mine + mask] = best, high
        else:
            self.bounds[mine + mask] = best, best
        return best

    def _ordered(self, mine: int, mask: int, free: int) -> list[int]:
        """Moves with the most cells that would complete four first, then those nearest the centre."""
        found = [free & column for column in CENTRE_FIRST if free & column]
        if len(found) == 1:
            return found
        return sorted(found, key=lambda move: -completing(mine | move, mask | move).bit_count())
