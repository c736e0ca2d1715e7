"""Finished episodes and other goals: the ring against a plain list of episodes, in float64, over random patterns."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import QUICK
from scipy.stats import chisquare
from test_priority import ALPHA, Listed

from polyak.drivers.check import check_data
from polyak.envs.adapters.goals import goal_of
from polyak.envs.worlds.goals import ENVIRONMENTS
from polyak.errors import UserError
from polyak.interface import Box, Goal, Hindsight, Replay, Spec, Transition
from polyak.parts.replay import Windows, episodes, index
from polyak.parts.replay.ring import MOST_SLOTS
from polyak.pytree import Counter
from polyak.runs.run import train

GAMMA = 0.9
STRATEGIES = ("final", "future", "episode", "random")


def asked_again(obs, next_obs, terminated):
    """The next observation's number is the achieved goal; every third number beyond the goal ends the episode."""
    off = next_obs["number"] - next_obs["goal"]
    assert obs["goal"].shape == off.shape
    return jnp.sin(off.astype(jnp.float32)), off % 3 == 0


GOAL = Goal(lambda obs: obs["number"], lambda obs, goal: {**obs, "goal": goal}, asked_again)
add = jax.jit(index.add, static_argnames="data", compiler_options=QUICK)
cut = jax.jit(index.cut, compiler_options=QUICK)


def sampled(ring, key, data):
    return _sampled(data)(ring, key)


_programs = {}


def _sampled(data):
    if data not in _programs:
        _programs[data] = jax.jit(
            lambda ring, key: index.sample(ring, ring.index, key, data, GAMMA, goal=GOAL)[0],
            compiler_options=QUICK,
        )
    return _programs[data]


prioritised = jax.jit(
    lambda ring, key, data: index.sample(ring, ring.index, key, data, GAMMA, goal=GOAL),
    static_argnames="data",
    compiler_options=QUICK,
)


class Story:
    """Every row that was ever collected, by environment, as lists of episodes."""

    def __init__(self, num_envs, seed, goes_on=0.7):
        self.rng, self.goes_on = np.random.default_rng(seed), goes_on
        self.episodes = [[[]] for _ in range(num_envs)]
        self.rows = {}  # number of the row -> it; numbers are time * N + environment
        self.time = 0

    def rollout(self, steps):
        num_envs, lines = len(self.episodes), []
        for _ in range(steps):
            line = []
            for env, story in enumerate(self.episodes):
                kind = self.rng.choice(3, p=[self.goes_on, (1 - self.goes_on) / 2, (1 - self.goes_on) / 2])
                row = {
                    "number": self.time * num_envs + env,
                    "time": self.time,
                    "env": env,
                    "goal": int(self.rng.integers(-50, 0)),
                    "reward": np.float32(self.rng.normal()),
                    "terminated": bool(kind == 1),
                    "truncated": bool(kind == 2),
                    "episode": story[-1],
                }
                row["place"] = len(story[-1])
                story[-1].append(row)
                self.rows[row["number"]] = row
                line.append(row)
                if kind:
                    story.append([])
            lines.append(line)
            self.time += 1

        def column(name, dtype=np.int32):
            return np.array([[row[name] for row in line] for line in lines], dtype)

        goal = column("goal")
        return Transition(
            obs={"number": column("number"), "goal": goal},
            action=column("number"),
            reward=column("reward", np.float32),
            next_obs={"number": column("number"), "goal": goal},
            terminated=column("terminated", bool),
            truncated=column("truncated", bool),
        )

    def cut(self, mask):
        for env in np.flatnonzero(mask):
            if self.episodes[env][-1]:
                self.episodes[env][-1][-1]["truncated"] = True
                self.episodes[env].append([])

    def held(self, slots):
        return [row for row in self.rows.values() if row["time"] >= self.time - slots]

    def ended(self, slots):
        return [
            row for row in self.held(slots) if self.last(row)["terminated"] or self.last(row)["truncated"]
        ]

    def last(self, row):
        return row["episode"][-1]

    def achievable(self, row, strategy, slots):
        """Numbers of the rows whose achieved goals may stand in for this row's."""
        held = [r for r in row["episode"] if r["time"] >= self.time - slots]
        rows = {
            "final": [self.last(row)],
            "future": row["episode"][row["place"] :],
            "episode": held,
            "random": self.held(slots),
        }[strategy]
        return {r["number"] for r in rows}

    def window(self, row, n_step, goal=None):
        """The n-step transition from the definition: it stays in one episode's list."""
        total, power = 0.0, 1.0
        for end in row["episode"][row["place"] : row["place"] + n_step]:
            reward, terminated = float(end["reward"]), end["terminated"]
            if goal is not None:
                off = end["number"] - goal
                reward, terminated = float(np.sin(np.float32(off))), off % 3 == 0
            total += power * reward
            power *= GAMMA
            if terminated:
                break
        return total, 0.0 if terminated else power, end["number"], terminated


def empty_for(story, slots, data):
    row = jax.tree.map(lambda x: x[0], Story(len(story.episodes), 0).rollout(1))
    return index.empty(row, slots, data)


def check_batch(story, batch, data, slots):
    """Every row of a batch [...]; how many had their goal replaced."""
    numbers = np.asarray(batch.obs["number"])
    first = numbers.reshape(numbers.shape[0], -1)[:, 0]
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(numbers.size, *x.shape[numbers.ndim :]), batch)
    replaced = 0
    for i, number in enumerate(numbers.ravel()):
        row, start = story.rows[number], story.rows[first[i // (numbers.size // len(first))]]
        goal = int(flat.obs["goal"][i])
        new = goal >= 0
        if new:  # own goals are negative
            replaced += 1
            assert goal in story.achievable(start, data.hindsight.strategy, slots)
        else:
            assert goal == row["goal"]
        total, discount, end, terminated = story.window(row, data.n_step, goal if new else None)
        np.testing.assert_allclose(flat.reward[i], total, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(flat.discount[i], discount, rtol=1e-5)
        assert flat.next_obs["number"][i] == end
        assert flat.next_obs["goal"][i] == (goal if new else story.rows[end]["goal"])
        assert flat.terminated[i] == terminated
        was = story.rows[end]["terminated"] or story.rows[end]["truncated"]
        was |= (
            data.priority > 0 and story.rows[end]["time"] == story.time - 1
        )  # its episode may run: it is cut there
        assert flat.truncated[i] == (was and not terminated)
    return replaced


# steps T, environments N, rollouts that the ring holds, n, L
SHAPES = [
    (1, 1, 40, 1, 1),
    (2, 3, 12, 3, 1),
    (5, 2, 6, 5, 1),
    (30, 2, 1, 2, 1),
    (3, 2, 9, 1, 4),
    (2, 2, 11, 3, 3),
]


@pytest.mark.parametrize(("steps", "num_envs", "rollouts", "n_step", "length"), SHAPES)
@pytest.mark.parametrize("strategy", [*STRATEGIES, None])
def test_every_drawn_window_is_what_happened_or_what_another_goal_makes_of_it(
    steps, num_envs, rollouts, n_step, length, strategy
):
    slots = steps * rollouts
    hindsight = None if strategy is None else Hindsight(strategy, 0.7)
    data = Replay(batch_size=32, n_step=n_step, length=length, ended=strategy is None, hindsight=hindsight)
    story = Story(num_envs, slots + n_step)
    ring, rng, replaced, drawn = empty_for(story, slots, data), np.random.default_rng(slots), 0, 0
    for turn in range(max(3 * rollouts, 12) + 4):
        ring = add(ring, story.rollout(steps), data)
        if rng.random() < 0.2:
            mask = rng.random(num_envs) < 0.7
            ring = cut(ring, mask)
            story.cut(mask)
        ended = {row["number"] for row in story.ended(slots)}
        fits = [n for n in ended if all(n + i * num_envs in ended for i in range(length))]
        if not fits or turn % 2:
            continue
        batch = sampled(ring, jax.random.key(turn), data)
        numbers = np.asarray(batch.obs["number"])
        assert set(numbers.ravel().tolist()) <= ended
        if length > 1:
            assert (np.diff(numbers, axis=1) == num_envs).all()
        replaced += check_batch(story, batch, data, slots)
        drawn += numbers.size
    assert drawn > 200
    share = replaced / drawn
    assert abs(share - 0.7) < 0.15 if strategy else share == 0


@pytest.mark.parametrize(("shape", "strategy"), [(1, "future"), (2, "final"), (4, "random"), (5, "episode")])
def test_priorities_belong_to_the_stored_row_whatever_goal_it_was_replayed_with(shape, strategy):
    """Every window is as above; its weight, and its priority after it, are what a list in float64 says."""
    steps, num_envs, rollouts, n_step, length = SHAPES[shape]
    slots, alpha, beta = steps * rollouts, ALPHA, 0.6
    rest = {"priority": alpha, "correction": beta, "hindsight": Hindsight(strategy, 0.7)}
    data = Replay(batch_size=32, n_step=n_step, length=length, **rest)
    story, rng = Story(num_envs, slots + n_step), np.random.default_rng(slots)
    ring, listed = empty_for(story, slots, data), Listed(num_envs, slots, length)
    replaced = drawn = running = 0
    for turn in range(max(3 * rollouts, 12) + 4):
        ring = add(ring, story.rollout(steps), data)
        listed.add(steps)
        if rng.random() < 0.2:
            mask = rng.random(num_envs) < 0.7
            ring = cut(ring, mask)
            story.cut(mask)
        if not listed.priority or turn % 2:
            continue
        batch, leaf = prioritised(ring, jax.random.key(turn), data)
        numbers = np.asarray(batch.obs["number"]).reshape(32, length)
        if length > 1:
            assert (np.diff(numbers, axis=1) == num_envs).all()
        rows = [divmod(int(number), num_envs) for number in numbers[:, 0]]
        np.testing.assert_array_equal(leaf, [time % slots * num_envs + env for time, env in rows])
        replaced += check_batch(story, batch, data, slots)
        drawn += numbers.size
        ended = {row["number"] for row in story.ended(slots)}
        running += sum(int(number) not in ended for number in numbers[:, 0])
        # w = (N P)^-beta, and the largest is 1
        masses = {row: p**alpha for row, p in listed.priority.items()}
        weight = [(len(masses) * masses[row] / sum(masses.values())) ** -beta for row in rows]
        wanted = np.repeat(np.array(weight)[:, None] / max(weight), length, axis=1)
        np.testing.assert_allclose(np.asarray(batch.weight).reshape(32, length), wanted, rtol=5e-5)
        errors = rng.normal(size=32).astype(np.float32) * (1 + turn)
        ring = ring.replace(index=index.write_back(ring.index, leaf, errors, data))
        listed.write_back(rows, errors)
        found = np.asarray(ring.index.priorities.levels[0])[: slots * num_envs]
        wanted = np.zeros(slots * num_envs)
        for (time, env), p in listed.priority.items():
            wanted[time % slots * num_envs + env] = p**alpha
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert drawn > 200
    assert abs(replaced / drawn - 0.7) < 0.15
    assert running > 0  # rows of running episodes too, with what has been achieved so far


def filled(data, seed=0, goes_on=0.8, slots=30, num_envs=3):
    story = Story(num_envs, seed, goes_on)
    ring = empty_for(story, slots, data)
    for _ in range(9):
        ring = add(ring, story.rollout(5), data)
    return story, ring


def test_rows_of_finished_episodes_are_drawn_alike():
    data = Replay(batch_size=40_000, ended=True)
    story, ring = filled(data)
    wanted = sorted(row["number"] for row in story.ended(30))
    assert 20 < len(wanted) < 90
    numbers = np.asarray(sampled(ring, jax.random.key(0), data).obs["number"])
    counts = [np.sum(numbers == number) for number in wanted]
    assert sum(counts) == 40_000
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_goal_that_may_stand_in_is_drawn_alike(strategy):
    data = Replay(batch_size=150_000, hindsight=Hindsight(strategy, 1.0))
    story, ring = filled(data)
    batch = sampled(ring, jax.random.key(1), data)
    numbers, goals = np.asarray(batch.obs["number"]), np.asarray(batch.obs["goal"])
    seen = 0
    for number in np.unique(numbers)[:25]:
        allowed = sorted(story.achievable(story.rows[number], strategy, 30))
        counts = [np.sum(goals[numbers == number] == goal) for goal in allowed]
        assert sum(counts) == np.sum(numbers == number)
        if len(allowed) > 1 and min(counts) >= 5:
            assert chisquare(counts).pvalue > 1e-4
            seen += 1
    assert seen > 5 or strategy == "final"


def test_before_an_episode_has_ended_all_rows_are_drawn_and_its_newest_is_its_last():
    data = Replay(batch_size=500, n_step=3, hindsight=Hindsight("final", 1.0))
    story = Story(2, 0, goes_on=1.0)
    ring = add(empty_for(story, 10, data), story.rollout(6), data)
    batch = sampled(ring, jax.random.key(0), data)
    numbers = np.asarray(batch.obs["number"])
    assert set(numbers.tolist()) == set(range(12))
    np.testing.assert_array_equal(batch.obs["goal"], 10 + numbers % 2)
    assert (np.asarray(batch.next_obs["number"]) <= 11).all()


def test_a_window_never_runs_into_the_episode_behind_an_end_that_the_new_goal_takes_away():
    """Found by an oracle once: the row that terminated goes on under the new goal, and the sum with it."""
    number = np.arange(6, dtype=np.int32)[:, None]
    ends = number == 2
    obs = {"number": number, "goal": number * 0 - 7}
    rollout = Transition(obs, number, (number * 0).astype(np.float32), obs, ends, (number == 5), ())
    data = Replay(batch_size=400, n_step=4, hindsight=Hindsight("random", 1.0))
    ring = add(index.empty(jax.tree.map(lambda x: x[0], rollout), 6, data), rollout, data)
    batch = jax.tree.map(np.asarray, sampled(ring, jax.random.key(0), data))
    goes_on = (batch.obs["number"] == 1) & ~np.isin(batch.obs["goal"], (1, 4, 2, 5))
    assert goes_on.any()
    np.testing.assert_array_equal(batch.next_obs["number"][goes_on], 2)
    assert batch.truncated[goes_on].all()
    assert not batch.terminated[goes_on].any()
    np.testing.assert_allclose(batch.discount[goes_on], GAMMA**2, rtol=1e-6)


def test_episodes_are_the_same_after_the_clock_has_lost_whole_turns():
    data = Replay(batch_size=64, hindsight=Hindsight("episode", 0.5))
    story, ring = filled(data)
    late = ring.replace(clock=Counter(ring.clock.value + (2 * MOST_SLOTS // 30 - 3) * 30))
    rollout = story.rollout(5)
    for _ in range(20):
        ring, late = add(ring, rollout, data), add(late, rollout, data)
    assert int(late.clock.value) < 2**20
    for number in range(5):
        a, b = (sampled(each, jax.random.key(number), data) for each in (ring, late))
        jax.tree.map(np.testing.assert_array_equal, a, b)


SPEC = Spec(Box((2,)), Box((1,), -1.0, 1.0), time_limit=50, num_envs=2, goal=GOAL)


@pytest.mark.parametrize(
    ("data", "spec", "says"),
    [
        (Replay(warmup=200, hindsight=Hindsight()), Spec(Box((2,)), Box((1,), -1.0, 1.0)), "has none"),
        (Replay(warmup=200, hindsight=Hindsight(share=1.5)), SPEC, "data.hindsight.share is 1.5"),
        (Replay(warmup=200, ended=True, priority=0.5), SPEC, "leave data.priority at 0"),
        (
            Replay(warmup=200, ended=True, hindsight=Hindsight(), priority=0.5),
            SPEC,
            "leave data.priority at 0",
        ),
        (Replay(warmup=90, ended=True), SPEC, "raise data.warmup to 100"),
        (Replay(capacity=90, warmup=50, ended=True), SPEC, "data.capacity to 102"),
    ],
)
def test_what_cannot_work_is_one_line(data, spec, says):
    from polyak.algorithms import find

    td3 = find("td3")
    with pytest.raises(UserError) as error:
        check_data("td3", td3, td3.Config(data=data), spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_of_the_index_are_planned():
    data = Replay(hindsight=Hindsight())
    row = jax.tree.map(lambda x: x[0], Story(3, 0).rollout(1))
    table = index.empty(row, 50, data).index.episodes
    assert index.planned_bytes(row, 50, data) == table.number.nbytes + table.end.nbytes + table.length.nbytes


def test_first_and_last_rows_of_an_episode_are_found():
    data = Replay(ended=True)
    story, ring = filled(data)
    held = story.held(30)
    time, env = (np.array([row[name] for row in held]) for name in ("time", "env"))
    begin, last = episodes.span(ring, ring.index.episodes, Windows(time, env))
    np.testing.assert_array_equal(last, [story.last(row)["time"] for row in held])
    np.testing.assert_array_equal(begin, [max(row["episode"][0]["time"], story.time - 30) for row in held])


# ---- environments with goals


class Line(gymnasium.Env):
    """A place on a line; its reward is NumPy's and takes many rows at once."""

    def __init__(self, size: float = 1.0):
        part = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = gymnasium.spaces.Dict(dict.fromkeys(names, part))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def seen(self):
        return {"observation": self.place, "achieved_goal": self.place, "desired_goal": self.goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = (self.np_random.uniform(-1, 1, 2).astype(np.float32) for _ in "ab")
        self.count = 0
        return self.seen(), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.2 * action, -1, 1).astype(np.float32)
        self.count += 1
        reward = float(self.compute_reward(self.place, self.goal, {}))
        return self.seen(), reward, False, self.count == 7, {}

    def compute_reward(self, achieved_goal, desired_goal, info):
        near = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1) < 0.3
        return np.where(near, 0.0, -1.0)


class OneAtATime(Line):
    """The same, with a reward of one row."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        assert np.shape(achieved_goal) == (2,)
        return float(super().compute_reward(achieved_goal, desired_goal, info))


class Traceable(Line):
    """The same, with a reward that JAX can trace."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -1.0 * (((achieved_goal - desired_goal) ** 2).sum(-1) >= 0.09)


class Thresholded(Line):
    """The same, with the name that gymnasium-robotics has for the distance."""

    distance_threshold = 0.3


class Dense(Line):
    """One with that name whose reward is another."""

    distance_threshold = 0.3

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)


def test_a_distance_in_the_environment_is_believed_only_where_its_reward_agrees():
    goal = goal_of(Dense())
    assert goal.note
    obs = {name: np.ones((3, 2), np.float32) for name in ("observation", "achieved_goal", "desired_goal")}
    reward, _ = goal.reward(obs, goal.relabel(obs, np.zeros((3, 2), np.float32)), np.zeros(3, bool))
    np.testing.assert_allclose(reward, -np.sqrt(2), rtol=1e-6)


REWARDS = [(Line, True), (OneAtATime, True), (Traceable, False), (Thresholded, False)]


@pytest.mark.parametrize(("kind", "called_back"), REWARDS)
def test_a_reward_of_gymnasium_is_traced_or_called_back_and_the_latter_says_what_it_costs(kind, called_back):
    goal = goal_of(kind())
    assert bool(goal.note) == called_back
    assert ("ms" in goal.note) == called_back
    rng = np.random.default_rng(0)
    places, goals = rng.uniform(-1, 1, (2, 400, 2)).astype(np.float32)
    flag = rng.random(400) < 0.5
    obs = {"observation": places, "achieved_goal": places, "desired_goal": goals * 0}
    asked = jax.jit(lambda obs, goals: goal.reward(obs, goal.relabel(obs, goals), flag))
    reward, terminated = asked(obs, goals)
    near = np.linalg.norm(places - goals, axis=-1) < 0.3
    assert 0 < near.sum() < 400
    np.testing.assert_array_equal(reward, np.where(near, 0.0, -1.0))
    np.testing.assert_array_equal(terminated, flag)
    together = jax.vmap(lambda goals: goal.reward(obs, goal.relabel(obs, goals), flag)[0])
    np.testing.assert_array_equal(together(np.stack([goals, goals])), [reward, reward])


@pytest.mark.parametrize("env", [Line, "jax:Reach"])
def test_hindsight_trains_under_both_drivers_and_only_where_it_can(env, tmp_path):
    config = {"hidden": (8,), "data.batch_size": 8, "data.warmup": 110, "data.steps": 2, "data.n_step": 2}
    run = train(
        "td3", env, steps=140, num_envs=2, her="future", config=config, preset=False, out=str(tmp_path)
    )
    assert run.finished
    with pytest.raises(UserError, match="has none"):
        train("td3", "Pendulum-v1", steps=1000, her="future", preset=False, out=str(tmp_path))
    with pytest.raises(UserError, match="ppo has none"):
        train("ppo", env, steps=1000, her="future", preset=False, out=str(tmp_path))


@pytest.mark.parametrize("name", ["BitFlip", "Reach"])
def test_our_goal_environments_give_the_reward_that_they_would_give_when_asked_again(name):
    env = ENVIRONMENTS[name]()
    asked = env.spec.goal
    state, obs = env.reset(jax.random.key(0))
    for t in range(12):
        action = jnp.int32(t % 10) if name == "BitFlip" else jnp.array([0.3, -1.0])
        step = env.step(state, action, jax.random.key(t))
        rows = jax.tree.map(lambda x: jnp.asarray(x)[None], (obs, step.obs, step.terminated))
        reward, terminated = asked.reward(*rows)
        assert (reward[0], terminated[0]) == (step.reward, step.terminated)
        reached = asked.relabel(rows[1], asked.achieved(rows[1]))
        assert asked.reward(rows[0], reached, rows[2])[0] == 0
        state, obs = step.state, step.obs


@pytest.mark.parametrize("name", ["BitFlip", "Reach"])
def test_held_out_goals_are_not_those_of_training(name):
    found = {}
    for part in ("training", "held_out"):
        env = ENVIRONMENTS[name](goals=part)
        _, obs = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 500))
        held = np.asarray(env._held_out(obs["desired_goal"]))
        assert (held == (part == "held_out")).all()
        found[part] = {goal.tobytes() for goal in np.asarray(obs["desired_goal"])}
    assert not found["training"] & found["held_out"]
