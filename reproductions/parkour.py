"""Parkour (D15): what a runner clears who sees the terrain, and what one clears who does not.

D4PG with the network whose senses enter at two depths; the blind runner has the same network, which is shown zeros.
"""

from functools import partial

from polyak.show.curve import interquartile_mean, iqm_interval
from reproductions.finding import Finding, main, train

EPISODES = 50


def ablation(seeds: int, steps: int) -> Finding:
    """Obstacles cleared in an episode by policies that were trained with and without sight."""
    cleared = {}
    for name, blind in (("with sight", False), ("blind", True)):
        run = train("d4pg", "jax:Parkour", seeds=seeds, steps=steps, env_fields={"blind": blind})
        cleared[name] = run.evaluate(EPISODES).measures["cleared"].mean(axis=1)  # [S]
    seeing, blind = (iqm_interval(each) for each in cleared.values())
    said = [
        f"{interquartile_mean(each):.2f} [{low:.2f}, {high:.2f}] {name}"
        for (name, each), (low, high) in zip(cleared.items(), (seeing, blind), strict=True)
    ]
    return Finding(
        {
            "a runner who sees clears more obstacles than a blind one, intervals apart": bool(
                seeing[0] > blind[1]
            )
        },
        f"obstacles cleared in an episode: {', '.join(said)}; IQM and 95 % interval, {seeds} seeds, {steps:,} steps",
    )


if __name__ == "__main__":
    main({"D15": partial(ablation, 5, 60_000)}, long={"D15": partial(ablation, 10, 400_000)})
