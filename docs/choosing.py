"""The picture on choosing.md, which algorithm to begin with: `python docs/choosing.py` writes pictures/choosing.svg.

Questions stand below one another; who answers yes goes to the right, who answers no goes down. Text is real text, and
colours follow the reader's: light or dark.
"""

from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent / "pictures" / "choosing.svg"

# question, two lines; then the answer for yes: algorithms, and a word on them
QUESTIONS = [
    ("Do two players", "move in turn?", "AlphaZero, MCTS", "MuZero without the rules"),
    ("Does the reward only say", "that a goal was reached?", "DQN, SAC or TD3", "with --her future"),
    ("Can states and actions", "be counted in a table?", "Dyna-Q, Q-learning", "a linear network is a table"),
    ("Can you afford only", "some dozen episodes?", "MPC", "PlaNet through a camera"),
    ("A handful of parameters,", "or no gradient at all?", "CMA-ES, CEM", "OpenAI-ES if there are many"),
    ("Are steps cheap, and can", "many run at once?", "PPO", "TRPO if no step may go wrong"),
    ("Are actions integers?", "", "DQN, then Rainbow", "each step is used often"),
]
OTHERWISE = ("SAC, then TD3", "actions are real numbers, and steps are dear")

WIDTH, LEFT, RIGHT, HEIGHT, GAP, TOP = 520, 16, 280, 58, 24, 16

STYLE = """
text { font: 15px system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #22262e; }
.small { font-size: 12.5px; fill: #5b6472; }
.name { font-weight: 650; fill: #1d4fa8; }
.page { fill: #ffffff; }
.ask { fill: #f3f5f9; stroke: #c6cdd9; }
.answer { fill: #eaf1ff; stroke: #a9c3f5; }
path { stroke: #8a919e; stroke-width: 1.5; fill: none; }
marker path { fill: #8a919e; stroke: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8ee; }
  .small { fill: #a4adba; }
  .name { fill: #9cc0ff; }
  .page { fill: #131416; }
  .ask { fill: #1f242d; stroke: #414a59; }
  .answer { fill: #16243f; stroke: #34558f; }
}
"""


def box(x: int, y: int, width: int, kind: str) -> str:
    """A box with round corners."""
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="9"/>'


def text(x: int, y: float, words: str, kind: str = "") -> str:
    """One line of text."""
    return f'<text class="{kind}" x="{x}" y="{y:g}">{escape(words)}</text>'


def lines(x: int, y: int, *words: tuple[str, str]) -> list[str]:
    """One or two lines of text in the middle of a box's height; each with its class."""
    words = tuple(line for line in words if line[0])
    first = y + HEIGHT / 2 + 5 - 10 * (len(words) - 1)
    return [text(x, first + 20 * number, *line) for number, line in enumerate(words)]


def arrow(x: int, y: int, along: int, down: int, word: str) -> list[str]:
    """An arrow from a place, with a word beside it."""
    at = (x + along / 2 - 9, y - 6) if along else (x + 9, y + down / 2 + 4)
    line = (
        f'<path d="M{x} {y} l{along - 5 if along else 0} {down - 5 if down else 0}" marker-end="url(#tip)"/>'
    )
    return [line, f'<text class="small" x="{at[0]:g}" y="{at[1]:g}">{word}</text>']


def draw() -> str:
    """The picture as SVG."""
    ask, parts = RIGHT - LEFT - 40, []
    for number, (first, second, names, more) in enumerate(QUESTIONS):
        y = TOP + number * (HEIGHT + GAP)
        parts += [box(LEFT, y, ask, "ask"), *lines(LEFT + 14, y, (first, ""), (second, ""))]
        parts += [box(RIGHT, y, WIDTH - RIGHT - LEFT, "answer")]
        parts += lines(RIGHT + 12, y, (names, "name"), (more, "small"))
        parts += arrow(LEFT + ask, y + HEIGHT // 2, 40, 0, "yes")
        parts += arrow(LEFT + 40, y + HEIGHT, 0, GAP, "no")
    y = TOP + len(QUESTIONS) * (HEIGHT + GAP)
    parts += [box(LEFT, y, WIDTH - 2 * LEFT, "answer")]
    parts += lines(LEFT + 14, y, (OTHERWISE[0], "name"), (OTHERWISE[1], "small"))
    height = y + HEIGHT + TOP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="Questions that lead to an algorithm, which the page has in words too">\n'
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>\n'
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="12"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
