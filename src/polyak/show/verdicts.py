"""A comparison in words: which algorithm is ahead, by how much, and how sure that is."""

from collections.abc import Sequence

import numpy as np

from polyak.show import statistics
from polyak.show.comparison import BY_CHANCE, Pair, World
from polyak.show.curve import interquartile_mean
from polyak.show.groups import EVALUATION, Group
from polyak.show.words import figure, listed

MOST_SAID = 4  # groups in a sentence
FURTHER = 1.2  # times as many steps are worth a word


def verdicts(world: World) -> list[str]:
    """What an environment showed, in sentences."""
    compared = world.compared
    if len(compared) == 1:
        return [reached(compared[0], world)]
    if not compared:
        return []
    return [*beside(compared[0].label, world.pairs), standings(compared), *further(world)]


def reached(group: Group, world: World) -> str:
    """What the only group of an environment reached."""
    middle, low, high = (float(x[0]) for x in statistics.iqm_interval([group.scores[:, None]]))
    count, what = len(group.scores), "returns" if world.metric == EVALUATION else "returns in training"
    if count < statistics.FEWEST:
        return (
            f"{group.label} {what} {figure(middle)} after {world.step:,} steps, with {seeds(count)}: too few to say "
            "how much another would differ. Train with --seeds 10."
        )
    return (
        f"{group.label} {what} {figure(middle)} [{figure(low)}, {figure(high)}] after {world.step:,} steps: "
        f"interquartile mean of {count} seeds with its 95 % interval."
    )


def standings(compared: Sequence[Group]) -> str:
    """What each group returns, the best first."""
    ends = [f"{group.label} {figure(float(interquartile_mean(group.scores)))}" for group in compared]
    return f"Interquartile means: {listed(ends, MOST_SAID)}."


def beside(best: str, pairs: Sequence[Pair]) -> list[str]:
    """The best group beside each other one: what is certain, what is open, what cannot be said."""
    own = [each for each in pairs if best in (each.better, each.worse)]
    few = [each for each in own if each.chance > BY_CHANCE]
    clear = [each for each in own if each.told_apart]
    open_ = [each for each in own if each not in few and each not in clear]
    said = []
    if clear:
        first, *rest = [
            f"than {each.worse} with probability {probability(each)}" for each in clear[:MOST_SAID]
        ]
        more = f" and {len(clear) - MOST_SAID} more" if len(clear) > MOST_SAID else ""
        said.append(f"{best} is better {', '.join([first, *rest])}{more}.")
    for each in open_[:MOST_SAID]:
        said.append(
            f"{each.better} and {each.worse} cannot be told apart: {each.better} is better with probability "
            f"{probability(each)}."
        )
    if open_:
        more = f"Neither can {len(open_) - MOST_SAID} others. " if len(open_) > MOST_SAID else ""
        said.append(f"{more}More seeds would narrow this.")
    if few:
        least = min(few, key=lambda each: min(each.seeds))
        names = listed((each.worse if each.better == best else each.better for each in few), MOST_SAID)
        said.append(
            f"Too few seeds to say whether {best} is better than {names}: with {least.seeds[0]} and {least.seeds[1]}, "
            f"one of two equals wins every comparison in {100 * least.chance:.0f} % of cases. Train four of each at "
            "least, better ten."
        )
    return said


def further(world: World) -> list[str]:
    """Which groups went on from where all are compared, and where they ended."""
    ends = []
    for group in world.compared:
        curves = group.counted(world.metric)
        reached = int(max(curve.steps[-1] for curve in curves))
        if reached > FURTHER * world.step:
            end = interquartile_mean(np.array([curve.values[-1] for curve in curves]))
            ends.append(f"{group.label} went on to {reached:,}, where it ended at {figure(float(end))}")
    if not ends:
        return []
    return [f"All this is after {world.step:,} steps, as far as all of them went; {listed(ends, MOST_SAID)}."]


def probability(each: Pair) -> str:
    """The probability of improvement with its interval."""
    return f"{each.probability:.2f} [{each.low:.2f}, {each.high:.2f}]"


def seeds(count: int) -> str:
    """A number of seeds."""
    return "one seed" if count == 1 else f"{count} seeds"
