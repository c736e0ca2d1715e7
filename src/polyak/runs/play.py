"""A game of a person against a policy, in a terminal."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, rules
from polyak.envs.worlds.games import Versus
from polyak.errors import UserError, brief
from polyak.interface import Shown
from polyak.runs.policy import Policy
from polyak.show.boards import Drawing, drawing

HELP = """\
{how}
moves    all that are legal
hint     what the policy would play in your place
undo     take your last move back, and the answer to it
board    show the board again
resign   give the game up
quit     leave; so do Ctrl-D and Ctrl-C"""
WORDS = ("moves", "hint", "undo", "board", "resign", "quit", "help")
LISTED = 24  # legal moves that are named where a move is wrong


class Position(NamedTuple):
    """A game between two moves."""

    state: Any
    obs: Any
    memory: Any  # the policy's, as after its last move
    ply: int = 0

    @property
    def first(self) -> bool:
        """Whether who moved first is to move."""
        return self.ply % 2 == 0


class Thought(NamedTuple):
    """A move, and what the policy came to before it."""

    move: int
    memory: Any
    shares: np.ndarray | None = None  # [A], of the visits or of the policy that the search improved
    value: float | None = None  # return that it expects, as who is to move counts it

    def says(self, names: dict[str, int], most: int) -> str:
        """The value, and the moves that it thought of most."""
        parts = [] if self.value is None else [f"value {self.value:+.2f}"]
        if self.shares is not None and most:
            share = {name: float(self.shares[move]) for name, move in names.items()}
            ordered = sorted(share, key=share.__getitem__, reverse=True)
            parts.append("  ".join(f"{name} {share[name]:.0%}" for name in ordered[:most]))
        return "   ".join(parts)


class Mind:
    """A policy that is asked for one move at a time, without exploring."""

    def __init__(self, policy: Policy, world: Environment, simulations: int | None = None):
        self.algorithm, self.actor, self.cfg = policy.algorithm, policy.actor, policy.cfg
        self.spec = dataclasses.replace(policy.flat, model=rules(world))
        if simulations is not None:
            if "simulations" not in {field.name for field in dataclasses.fields(self.cfg)}:
                raise UserError("--simulations: this policy searches no tree, leave it out")
            self.cfg = dataclasses.replace(self.cfg, simulations=simulations)
        self._asked = jax.jit(self._ask)

    def memory(self) -> Any:
        """What it remembers where a game begins."""
        zero = jnp.zeros(1, jnp.int32)
        return self.algorithm.memory(self.cfg, self.spec, zero, zero, jax.random.key(0))

    def __call__(self, position: Position) -> Thought:
        """What it would play."""
        (move, shares, value), memory = self._asked(self.actor, position)
        if shares is None:
            return Thought(int(move), memory)
        return Thought(int(move), memory, np.asarray(shares), float(value))

    def _ask(self, actor: Any, position: Position) -> tuple:
        obs, state = jax.tree.map(lambda x: jnp.asarray(x)[None], (position.obs, position.state))
        seen = Shown(obs, state) if self.cfg.data.simulator else obs
        asked = actor, position.memory, seen, jax.random.key(0), False
        action, memory, extras = self.algorithm.act(self.cfg, self.spec, *asked)
        if self.algorithm.thought is None:
            return (action[0], None, None), memory
        shares, value = self.algorithm.thought(memory, extras)
        return (action[0], shares[0], value[0]), memory


class Game:
    """A game that goes on until it is over, given up or left.

    first  who moves first
    most   moves that the policy thought of most, and that are shown
    read   asks a person for a line; EOFError where there is no more
    say    shows one
    """

    def __init__(
        self,
        env: Environment,
        mind: Mind,
        drawn: Drawing,
        first: Literal["you", "agent"] = "you",
        most: int = 3,
        seed: int = 0,
        read: Callable[[str], str] = input,
        say: Callable[[str], Any] = print,
    ):
        self.env, self.mind, self.drawn, self.most, self.read, self.say = env, mind, drawn, most, read, say
        self.yours = 0 if first == "you" else 1
        self.key, self.step = jax.random.key(seed), jax.jit(env.step)
        state, obs = env.reset(self.key)
        self.position = Position(state, obs, mind.memory())
        self.before: list[Position] = []  # of which it was your move
        self.result = ""  # how it ended

    def play(self) -> str:
        """Play to the end; how it ended, in one line."""
        you, agent = self.drawn.players[self.yours], self.drawn.players[1 - self.yours]
        self.say(f"you are {you}, the agent is {agent}; {self.drawn.players[0]} moves first")
        self.say(f"type {self.drawn.how}; or {', '.join(WORDS)}")
        self.board()
        while not self.result:
            if self.position.ply % 2 == self.yours:
                self.you()
            else:
                self.agent()
        self.say(self.result)
        return self.result

    def board(self) -> None:
        """Show the board."""
        self.say("\n" + self.drawn.text(self.position.obs, self.position.first) + "\n")

    def names(self) -> dict[str, int]:
        """The legal moves by their names."""
        return self.drawn.names(self.position.state, self.position.obs, self.position.first)

    def agent(self) -> None:
        """The policy's move."""
        names, thought = self.names(), self.mind(self.position)
        named = {move: name for name, move in names.items()}.get(thought.move, "an illegal move")
        self.say(f"agent: {named}   {thought.says(names, self.most)}".rstrip())
        self.move(thought.move, thought.memory)

    def you(self) -> None:
        """A person's move, or another word of theirs."""
        names = self.names()
        try:
            said = self.read("your move: ").strip()
        except EOFError:
            self.say("")
            said = "quit"
        except KeyboardInterrupt:
            self.say("")  # what is said next begins a line
            raise
        word = said.lower()
        found = {name.lower(): move for name, move in names.items()}
        if said in names or word in found:
            self.before.append(self.position)
            self.move(names.get(said, found.get(word, -1)), self.position.memory)
        elif word == "help":
            self.say(HELP.format(how=f"a move is {self.drawn.how}"))
        elif word == "moves":
            self.say(" ".join(names))
        elif word == "board":
            self.board()
        elif word == "hint":
            thought = self.mind(self.position)
            named = {move: name for name, move in names.items()}.get(thought.move, "none that is legal")
            self.say(f"hint: {named}   {thought.says(names, self.most)}".rstrip())
        elif word == "undo" and self.before:
            self.position = self.before.pop()
            self.board()
        elif word == "undo":
            self.say("there is no move of yours to take back")
        elif word == "resign":
            self.result = "you resign: the agent wins"
        elif word == "quit":
            self.result = "you left the game"
        elif word:
            self.say(f"{brief(said)} is no legal move: {_listed(list(names))}")

    def move(self, move: int, memory: Any) -> None:
        """One move of either; the board after it, and the result where it ends the game."""
        before = self.position
        made = self.step(before.state, jnp.int32(move), jax.random.fold_in(self.key, before.ply + 1))
        self.position = Position(made.state, made.obs, memory, before.ply + 1)
        self.board()
        limit = self.env.spec.time_limit
        if made.terminated or made.truncated or (limit is not None and self.position.ply >= limit):
            reward = float(made.reward) * (1 if before.ply % 2 == self.yours else -1)
            self.result = "a draw" if reward == 0 else "you win" if reward > 0 else "the agent wins"


def _listed(names: list[str]) -> str:
    """Legal moves in one line of bounded length."""
    more = f" and {len(names) - LISTED} more, see moves" if len(names) > LISTED else ""
    return " ".join(names[:LISTED]) + more


def game_of(world: Any, name: str, command: str = "play") -> Environment:
    """The game of two that is played in this world, also where a run knows it against an opponent of its own."""
    game = world.game if isinstance(world, Versus) else world
    if not isinstance(game, Environment) or game.spec.players != 2:
        raise UserError(
            f"{name} is no game of two players, which {command} needs: to see a policy there, use watch"
        )
    return game


def play(
    policy: Policy,
    world: Any,
    name: str,
    first: Literal["you", "agent"] = "you",
    simulations: int | None = None,
    most: int = 3,
    read: Callable[[str], str] = input,
    say: Callable[[str], Any] = print,
) -> str:
    """Play one game against a policy; how it ended, in one line.

    world        what the policy was trained on, or a game against an opponent that it was trained on
    name         what a person calls it
    simulations  of its search before every move; None: as it was trained
    UserError where that is no game of two, or one that is not drawn.
    """
    game = game_of(world, name)
    drawn = drawing(game, name)
    return Game(game, Mind(policy, world, simulations), drawn, first, most, read=read, say=say).play()
