"""From pixels: Atari behind its preprocessing (H1), and CarRacing (H5).

H1: the frames are those of a pipeline in float64 from ALE's bare interface (Mnih et al. 2015, methods), and EnvPool's
are Gymnasium's; a million rows fit into 7.6 GB; DQN and A2C train. The longer form is DQN and A2C by the protocol of
RL Baselines3 Zoo, 10M steps, which wants a GPU; `--brief` trains DQN on Breakout for 200,000 frames. H5: PPO and DDPG
from the pixels of CarRacing; the longer form is PPO by its preset, which is to drive.
"""

import json
import sys
from functools import partial
from typing import Any

import numpy as np

from polyak.envs.find import find
from polyak.runs.decide import make_plan
from polyak.runs.plan import Settings
from polyak.runs.session import Session
from reproductions.finding import Finding, interval, main, report, train

GAMES = {"Pong-v5": "pong", "Breakout-v5": "breakout"}
PLAIN = {"noop_max": 1, "use_fire_reset": False}  # one frame of nothing, then the game
PROMISE = 7.6e9  # bytes of a million rows
DRIVES = 700.0  # return of a car that keeps to the road most of the time; 900 is called solved
REFERENCES = {"Pong-v5": 20.0, "Breakout-v5": {"dqn": 358.0, "a2c": 279.8}}


# ---- the preprocessing, once more


def averages(many: int, few: int) -> np.ndarray:
    """The matrix [few, many] that averages a line of pixels over the area that each of fewer pixels covers."""
    step, weight = many / few, np.zeros((few, many))
    for i in range(few):
        for j in range(int(i * step), min(many, int(np.ceil((i + 1) * step)))):
            weight[i, j] = max(0.0, min((i + 1) * step, j + 1) - max(i * step, j)) / step
    return weight


HIGH, WIDE = averages(210, 84), averages(160, 84)


class OwnPipeline:
    """From ALE's bare interface, in float64: skip four, the larger of the last two, grey, 84 x 84, stack four."""

    def __init__(self, rom: str):
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path(rom))
        self.actions = self.ale.getMinimalActionSet()

    def seen(self) -> np.ndarray:
        """The grey screen [210, 160]."""
        return self.ale.getScreenGrayscale().astype(float)

    def reset(self) -> np.ndarray:
        """The stack [4, 84, 84] after one frame of nothing."""
        self.ale.reset_game()
        self.ale.act(self.actions[0])
        self.stack = [HIGH @ self.seen() @ WIDE.T] * 4
        return np.stack(self.stack)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """The stack, the reward of four frames, and whether the game is over."""
        reward, screens = 0.0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            screens.append(self.seen())
        self.stack = [*self.stack[1:], HIGH @ np.maximum(screens[-2], screens[-1]) @ WIDE.T]
        return np.stack(self.stack), reward, self.ale.game_over()


def compared(game: str, steps: int = 250, seed: int = 3) -> tuple[float, bool, int]:
    """Largest difference from the pipeline in float64; whether EnvPool's bytes are Gymnasium's; rewards met."""
    own = OwnPipeline(GAMES[game])
    envs, pool = (find(f"{prefix}:{game}", PLAIN).make(1) for prefix in ("atari", "envpool"))
    seen, pooled, wanted = envs.reset([0], [5]), pool.reset([0], [6]), own.reset()
    rng, largest, equal, rewarded = np.random.default_rng(seed), 0.0, True, 0
    for _ in range(steps):
        largest, equal = max(largest, float(np.abs(seen[0] - wanted).max())), equal and (pooled == seen).all()
        action = np.array([rng.integers(len(own.actions))], np.int32)
        given, other, (wanted, reward, over) = envs.step(action), pool.step(action), own.step(int(action[0]))
        if over:
            break
        equal = equal and given.reward[0] == other.reward[0] == reward and not given.terminated[0]
        seen, pooled, rewarded = given.obs, other.obs, rewarded + (reward != 0)
    envs.close()
    pool.close()
    return largest, bool(equal), rewarded


# ---- H1


def planned(rows: int) -> int:
    """Bytes that DQN's replay takes for so many rows of Pong."""
    plan = make_plan("dqn", "envpool:Pong-v5", Settings(), {"data.capacity": rows, "data.warmup": 1_000})
    return Session(plan).planned_bytes


def metric(run: Any, name: str) -> list[float]:
    """A metric's values, line by line."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def speed(run: Any) -> float:
    """Environment steps per second between the line in the middle and the last one."""
    steps, when = metric(run, "env_steps"), metric(run, "time/unix_s")
    middle = len(steps) // 2
    return (steps[-1] - steps[middle - 1]) / max(when[-1] - when[middle - 1], 1e-9)


def atari() -> Finding:
    """Frames, memory, and short runs of DQN and A2C."""
    claims, figures = {}, []
    for game in GAMES:
        largest, equal, rewarded = compared(game)
        claims[f"{game}: frames are those of float64 to rounding, and EnvPool's, with rewards"] = (
            largest <= 0.5 + 1e-6 and equal and rewarded > 0
        )
    held = planned(1_000_000)
    claims[f"a million rows take at most {PROMISE / 1e9} GB"] = held <= PROMISE
    small = {"data.capacity": 4_000, "data.warmup": 400}
    dqn = train("dqn", "envpool:Pong-v5", steps=1_600, config=small, eval_every=0)
    a2c = train("a2c", "envpool:Pong-v5", steps=4_000, eval_every=0)
    for name, run in (("DQN", dqn), ("A2C", a2c)):
        figures.append(f"{name} {speed(run):.0f} steps/s")
    losses = metric(dqn, "update/loss"), metric(a2c, "update/value_loss")
    claims["losses are finite"] = all(np.isfinite(each).all() for each in losses)
    return Finding(
        claims,
        f"frames equal in {len(GAMES)} games; 1M rows {held / 1e9:.2f} GB; {', '.join(figures)}",
    )


BRIEF = {  # DQN for 50,000 steps: a learning rate, a target and an exploration that suit so few
    "lr": 2.5e-4,
    "period": 500,
    "epsilon_fraction": 0.2,
    "epsilon_end": 0.02,
    "data.capacity": 50_000,
    "data.warmup": 2_000,
    "data.n_step": 3,
}


def brief(game: str = "Breakout-v5", steps: int = 50_000, episodes: int = 20) -> Finding:
    """200,000 frames of DQN, beside uniform actions; both play with what is left of exploration."""
    uniform = {"epsilon": 1.0, "epsilon_end": 1.0, "data.capacity": 64, "data.warmup": 32}
    chance = train("dqn", f"envpool:{game}", steps=64, config=uniform, eval_every=0)
    run = train("dqn", f"envpool:{game}", steps=steps, config=BRIEF, eval_every=0)
    random, learned = (
        each.evaluate(episodes, sample=True, limit=3_000).returns.ravel().astype(float)
        for each in (chance, run)
    )
    error = np.sqrt(learned.var(ddof=1) / learned.size + random.var(ddof=1) / random.size)
    gain = learned.mean() - random.mean()
    return Finding(
        {"DQN earns more than uniform actions by two standard errors": bool(gain > 2 * error)},
        f"DQN {learned.mean():.2f}, uniform actions {random.mean():.2f}, {episodes} episodes of envpool:{game} after "
        f"{4 * steps:,} frames; {speed(run):.0f} steps/s",
    )


def references(seeds: int = 3) -> Finding:
    """DQN and A2C for 10M steps by their presets, beside RL Baselines3 Zoo."""
    claims, figures = {}, []
    for name in ("dqn", "a2c"):
        for game in GAMES:
            wanted = REFERENCES[game]
            wanted = wanted[name] if isinstance(wanted, dict) else wanted
            run = train(name, f"envpool:{game}", seeds=seeds, steps=10_000_000)
            mean = float(run.evaluate(10).returns.mean())
            claims[f"{name} on {game}: {wanted:g}"] = mean >= wanted
            figures.append(f"{name} {game} {mean:.1f}")
    return Finding(claims, f"{', '.join(figures)}; {seeds} seeds after 10M steps")


# ---- H5


def driving(ppo_steps: int = 2_048, ddpg_steps: int = 600) -> Finding:
    """PPO and DDPG from the pixels of CarRacing, briefly."""
    ppo = train(
        "ppo",
        "envpool:CarRacing-v3",
        steps=ppo_steps,
        num_envs=2,
        eval_every=0,
        config={"data.steps": 256, "epochs": 2},
    )
    ddpg = train("ddpg", "CarRacing-v3", steps=ddpg_steps, eval_every=0, config={"data.warmup": 200})
    finite = [*metric(ppo, "update/value_loss"), *metric(ddpg, "update/critic_loss")]
    said = metric(ppo, "update/explained_variance")
    return Finding(
        {
            "losses are finite": bool(finite) and bool(np.isfinite(finite).all()),
            "PPO's value function explains more of the returns than when it began": said[-1] > said[0],
        },
        f"PPO from four grey pictures of envpool:CarRacing-v3 {speed(ppo):.0f} decisions of 8 frames/s, DDPG from "
        f"96 x 96 pixels in colour of CarRacing-v3 {speed(ddpg):.0f} steps/s",
    )


def driven(run: Any, episodes: int = 20) -> Finding:
    """Whole episodes of Gymnasium's CarRacing-v3, without exploration, by a run that was trained on EnvPool's."""
    there = run.evaluate(episodes).returns.ravel().astype(float)
    played = run.on("CarRacing-v3").evaluate(episodes)
    returns = played.returns.ravel().astype(float)
    low, high = interval(returns)
    steps = int(max(metric(run, "env_steps")))
    return Finding(
        {
            f"PPO drives: a mean return of at least {DRIVES} on Gymnasium's CarRacing-v3": returns.mean()
            >= DRIVES
        },
        f"CarRacing-v3 from pixels, after {steps:,} decisions of 8 frames on EnvPool's: mean return of {episodes} "
        f"whole episodes {returns.mean():.0f} [{low:.0f}, {high:.0f}], median {np.median(returns):.0f}, worst "
        f"{returns.min():.0f}; on EnvPool's {there.mean():.0f}",
    )


def learned_to_drive() -> Finding:
    """PPO on EnvPool's CarRacing by its preset, played on Gymnasium's."""
    return driven(train("ppo", "envpool:CarRacing-v3", eval_every=0))


if __name__ == "__main__":
    if "--brief" in sys.argv:
        sys.exit(report(brief()))
    main({"H1": atari, "H5": driving}, long={"H1": partial(references), "H5": learned_to_drive})
