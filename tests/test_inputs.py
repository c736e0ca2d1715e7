"""Runs that begin with another run's weights, and parts of networks that stay as they begin."""

import json
import shutil
import sys

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from oracles import Adam
from small_runs import small_ppo

from polyak import flags
from polyak.drivers.keys import Keys
from polyak.drivers.learn import initial_states
from polyak.errors import CheckpointError, UserError
from polyak.interface import Box
from polyak.parts import replay
from polyak.parts.networks import mlp
from polyak.parts.optimize import Frozen, adam, gradient_step
from polyak.parts.targets import polyak_average
from polyak.runs import inputs
from polyak.runs.agent import Agent
from polyak.runs.decide import make_plan
from polyak.runs.plan import Settings
from polyak.runs.run import Run, load, train
from polyak.runs.session import Session
from polyak.store import checkpoint, storage
from polyak.wrappers.freeze import changed

TD3 = {"hidden": [8, 8], "data.warmup": 20, "data.capacity": 500, "data.batch_size": 8, "delay": 1}
PPO = small_ppo(hidden=[8, 8])
SMALL = {"preset": False, "verbose": False, "eval_every": 0}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of TD3 on the pendulum that learned a little."""
    out = str(tmp_path_factory.mktemp("runs"))
    return train("td3", "jax:Pendulum-v1", steps=40, seed=5, config=TD3, out=out, name="first", **SMALL).path


def session(algorithm="td3", env="jax:Pendulum-v1", config=TD3, **settings):
    plan = make_plan(
        algorithm, env, Settings(preset=False, **settings), config, in_graph=env.startswith("jax:")
    )
    made = Session(inputs.recorded(plan))
    inputs.check(made)
    return made


def own(made):
    return initial_states(made.algorithm, made.cfg, made.spec, list(made.plan.all_seeds))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- --init


def test_a_run_begins_with_all_that_another_learned_but_its_own_clock_and_optimiser(first):
    made = session(init=(str(first),))
    state, theirs, fresh = inputs.states(made), Run(first).state(), own(made)
    assert state is not None
    for name, optimizer in (("actor", "actor_opt_state"), ("critics", "critic_opt_state")):
        assert_equal(getattr(state, name), getattr(theirs, name))
        assert_equal(getattr(state, f"{name}_target"), getattr(theirs, name))  # targets start as copies
        assert_equal(getattr(state, optimizer), getattr(fresh, optimizer))
    assert_equal(state.clock, fresh.clock)
    assert int(theirs.clock.updates) > 0


def test_a_part_is_copied_to_where_it_is_said_and_its_target_follows(first):
    made = session(init=(f"{first}:actor_target/layers/1=actor/layers/1",))
    state, theirs, fresh = inputs.states(made), Run(first).state(), own(made)
    assert state is not None
    for actor in (state.actor, state.actor_target):
        assert_equal(actor.layers[1], theirs.actor_target.layers[1])
        assert_equal((actor.layers[0], actor.layers[2]), (fresh.actor.layers[0], fresh.actor.layers[2]))
    assert_equal((state.critics, state.clock), (fresh.critics, fresh.clock))
    sources = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.actor, state.actor_target))]
    assert len(set(sources)) == len(sources)  # each can be donated


def test_it_may_be_said_several_times():
    said = flags.read(["--init", "runs/a:x=y", "--init", "runs/b", "--freeze", "x,y/0"], Settings(), 0)
    typed = flags.typed(Settings(), said)
    assert (typed.init, typed.freeze) == (("runs/a:x=y", "runs/b"), ("x", "y/0"))


def test_a_part_goes_to_another_algorithm(first):
    made = session("ppo", config=PPO, init=(f"{first}:actor/layers/1=policy/net/layers/1",))
    state, theirs, fresh = inputs.states(made), Run(first).state(), own(made)
    assert state is not None
    assert_equal(state.policy.net.layers[1], theirs.actor.layers[1])
    assert_equal((state.policy.net.layers[0], state.critic), (fresh.policy.net.layers[0], fresh.critic))


def test_a_part_is_found_inside_wrappers(first):
    state = inputs.states(session(wrap=("normalize_obs",), init=(f"{first}:actor",)))
    assert state is not None
    assert_equal(state.inner.actor, Run(first).state().actor)
    assert_equal(state.inner.actor_target, Run(first).state().actor)


@pytest.mark.slow
def test_each_seed_begins_from_the_only_one_or_from_its_own(first, tmp_path):
    theirs = Run(first).state()
    state = inputs.states(session(seeds=2, init=(str(first),)))
    assert state is not None
    for seed in range(2):
        np.testing.assert_array_equal(state.actor.layers[0].weight[seed], theirs.actor.layers[0].weight[0])
    three = train(
        "td3", "jax:Pendulum-v1", steps=21, seeds=3, config=TD3, out=str(tmp_path), name="three", **SMALL
    )
    state = inputs.states(session(seed=1, seeds=2, init=(str(three.path),)))
    assert state is not None
    assert_equal(state.actor, jax.tree.map(lambda x: x[1:], three.state().actor))
    with pytest.raises(UserError, match="has the seeds 0 to 2, this one 2 to 3"):
        session(seed=2, seeds=2, init=(str(three.path),))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "{run}:actor/layers/1=critic/layers/0",
            r"weight is float32\[8, 8\] in that run and float32\[3, 8\] in this one",
        ),
        ("{run}:actr=policy", "there is no part 'actr' of a state: did you mean 'actor'"),
        (
            "{run}:actor=critic/layrs",
            "there is no part 'critic/layrs' of a state: did you mean 'critic/layers'",
        ),
        ("{run}:actor=clock", "there is no part 'clock' of a state"),
        ("{run}:actor/layers/1=critic", "layers/0/weight is not there in that run and"),
        ("{run}", "a run of td3, while this is one of ppo: say what goes where, as in --init"),
        ("{run}/none:actor", "is not a run folder: it has no config.json"),
        (":actor", "must be RUN, RUN:FIELD or RUN:FIELD=FIELD"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(first, said, message):
    with pytest.raises(UserError, match=message) as error:
        session("ppo", config=PPO, init=(said.format(run=first),))
    assert "\n" not in str(error.value)


def test_a_damaged_run_is_refused(first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    arrays = next(copy.glob("checkpoints/0*/arrays.safetensors"))
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"--init .*: its SHA-256 is not the recorded one"):
        session(init=(str(copy),))


def test_no_code_that_the_other_run_names_is_imported(first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["plan"] |= {"algorithm": "malicious:algorithm", "env": "malicious:Env"}
    (copy / "config.json").write_text(json.dumps(config))
    state = inputs.states(session(init=(f"{copy}:actor",)))
    assert state is not None
    assert_equal(state.actor, Run(first).state().actor)
    assert "malicious" not in sys.modules


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_the_same_again(first, tmp_path):
    given = {
        "steps": 40,
        "config": TD3,
        "out": str(tmp_path),
        "init": (str(first),),
        "name": "second",
        **SMALL,
    }
    run = train("td3", "jax:Pendulum-v1", **given)
    digest = run.digest()
    assert run.config["plan"]["init"] == {str(first): Run(first).digest()}
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet and begins with what other runs learned"):
        load(run.path).resume()  # no path that only a file names is followed
    assert load(run.path, trust=[str(first)]).resume().digest() == digest
    assert train("td3", "jax:Pendulum-v1", **given).digest() == digest  # finished: nothing happens
    plain = train("td3", "jax:Pendulum-v1", **{**given, "init": (), "name": "plain"})
    assert plain.digest() != digest


def test_a_run_is_not_begun_from_what_became_of_another_meanwhile(first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    made = session(init=(str(copy),))
    load(copy).resume(steps=60)
    with pytest.raises(UserError, match="has gone on since this run was planned"):
        inputs.states(made)


@pytest.mark.parametrize("env", ["jax:Pendulum-v1", "Pendulum-v1"])
def test_both_drivers_and_agents_begin_with_the_weights(first, env):
    agent = Agent("td3", env, config=TD3, preset=False, init=(str(first),))
    obs = np.array([0.6, 0.8, 1.0], np.float32)
    np.testing.assert_array_equal(agent.predict(obs)[0], load(first).policy()(obs)[0])


@pytest.mark.slow
def test_a_run_with_hindsight_is_loaded_and_begun_from(tmp_path):
    given = {"config": TD3 | {"data.warmup": 50}, "out": str(tmp_path), "her": "future", **SMALL}
    run = train("td3", "jax:Reach", steps=60, name="first", **given)
    again = train("td3", "jax:Reach", steps=60, name="again", init=(str(run.path),), **given)
    assert again.resume(steps=90).finished
    assert len(load(run.path).evaluate(2).returns[0]) == 2


# ---- --freeze


def frozen_net(freeze):
    net = mlp(jax.random.key(0), Box((3,)), 2, (4,))
    for place in freeze:
        net = changed(net, ["layers", str(place)], Frozen)
    return net


def test_a_frozen_layer_stays_and_the_rest_moves_as_if_it_were_data():
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(6, 5, 3)).astype(np.float32), rng.normal(size=(6, 5, 2)).astype(np.float32)
    net = frozen_net([0])
    optimizer = adam(max_norm=0.5)
    opt_state = optimizer.init(frozen_net([]))
    loss = lambda net, x, y: ((net(x) - y) ** 2).mean() + 0.1 * optax.tree.norm(net, squared=True)  # noqa: E731
    step = jax.jit(
        lambda net, opt_state, x, y: gradient_step(optimizer, jax.grad(loss)(net, x, y), opt_state, net, 0.1)
    )
    params = oracles.float64({"w": net.layers[1].weight, "b": net.layers[1].bias})
    oracle = Adam(0.1, max_norm=0.5)
    below = oracles.float64((net.layers[0].frozen.weight, net.layers[0].frozen.bias))
    start = net
    for x, y in zip(*batches, strict=True):
        net, opt_state = step(net, opt_state, x, y)
        hidden = np.maximum(x @ below[0] + below[1], 0)
        error = 2 * (hidden @ params["w"] + params["b"] - y) / y.size
        grads = {"w": hidden.T @ error + 0.2 * params["w"], "b": error.sum(axis=0) + 0.2 * params["b"]}
        params = oracle.step(params, grads)
    assert_equal(net.layers[0], start.layers[0])
    np.testing.assert_allclose(net.layers[1].weight, params["w"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.layers[1].bias, params["b"], rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_a_frozen_layer_to_what_is_below_it():
    net, x = frozen_net([1]), jnp.array([0.1, -0.2, 0.3])
    grads = jax.grad(lambda net: net(x).sum())(net)
    plain = jax.grad(lambda net: net(x).sum())(frozen_net([]))
    assert_equal(grads.layers[0], plain.layers[0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads.layers[1]))
    assert_equal(jax.grad(lambda x: net(x).sum())(x), jax.grad(lambda x: frozen_net([])(x).sum())(x))


def test_the_target_of_a_frozen_layer_keeps_every_bit():
    net = frozen_net([0])
    target = jax.tree.map(lambda x: x / 3, net)
    moved = jax.jit(lambda online, target: polyak_average(online, target, 0.3))(net, target)
    assert_equal(moved.layers[0], target.layers[0])
    np.testing.assert_allclose(
        moved.layers[1].weight, 0.3 * net.layers[1].weight + 0.7 * target.layers[1].weight, rtol=1e-6
    )


@pytest.mark.slow
def test_a_run_with_a_frozen_part_is_resumed_and_begun_from(first, tmp_path):
    given = {
        "steps": 60,
        "config": TD3,
        "out": str(tmp_path),
        "freeze": ("actor/layers/0", "critics"),
        **SMALL,
    }
    run = train("td3", "jax:Pendulum-v1", init=(str(first),), name="frozen", **given)
    state, theirs = run.state(), Run(first).state()
    assert_equal(state.actor.layers[0].frozen, theirs.actor.layers[0])
    assert_equal(state.actor_target.layers[0].frozen, theirs.actor.layers[0])
    assert_equal((state.critics.frozen, state.critics_target.frozen), (theirs.critics, theirs.critics))
    assert (np.asarray(state.actor.layers[1].weight) != np.asarray(theirs.actor.layers[1].weight)).any()
    digest = run.digest()
    half = train("td3", "jax:Pendulum-v1", init=(str(first),), name="half", **{**given, "steps": 30})
    assert half.resume(steps=60).digest() == digest
    begun = inputs.states(session(init=(str(run.path),)))  # marks are not copied
    assert begun is not None
    assert_equal(begun.actor.layers[0], theirs.actor.layers[0])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("actr", "there is no part 'actr': did you mean 'actor'"),
        ("actor/layers/9", "there is no part '9'"),
        ("actor/layers/0/weight", "is no network and no layer of one"),
        ("actor_opt_state", "is no network and no layer of one"),
        ("actor/layout", "there is no part 'layout'"),
    ],
)
def test_what_cannot_be_frozen_is_refused_in_one_line(path, message):
    with pytest.raises(UserError, match=message) as error:
        session(freeze=(path,))
    assert "\n" not in str(error.value)


# ---- --data


def rows_of_ring(run):
    """The rows [T, N] that a run's newest checkpoint holds, in the order of time."""
    found = checkpoint.newest_rows(checkpoint.latest(run.path / "checkpoints"), 10_000)
    return {name: x[0] for name, x in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("env", ["jax:Pendulum-v1", "Pendulum-v1"])
def test_a_replay_begins_with_the_rows_of_another(first, tmp_path, env):
    """None is collected again, the warm-up is theirs, and no window runs from their rows into the new ones."""
    given = {"config": TD3, "out": str(tmp_path), "wrap": ("normalize_obs",), **SMALL}
    run = train("td3", env, steps=8, data=str(first), name="more", **given)
    theirs, rows = rows_of_ring(Run(first)), rows_of_ring(run)
    assert len(theirs["reward"]) == 40
    assert len(rows["reward"]) == 48
    for name, array in theirs.items():
        want = array.copy()
        if name == "truncated":
            assert not want[-1]
            want[-1] = True
        np.testing.assert_array_equal(rows[name][:40], want)
    state = run.state()
    assert int(state.inner.clock.updates) == 8  # 20 steps of warm-up were in the data
    assert int(state.inner.clock.low) == 8
    seen = np.concatenate([theirs["obs"], rows["obs"][40:]])[:, 0]
    np.testing.assert_allclose(state.moments.mean[0][0], seen.mean(axis=0), rtol=1e-4, atol=1e-5)
    assert run.config["plan"]["data"] == {"run": str(first), "digest": Run(first).digest(), "rows": 40}
    assert [line["updates"] for line in run.metrics][-1] == 8
    digest = run.digest()
    half = train("td3", env, steps=4, data=str(first), name="half", **given)
    assert half.resume(steps=8).digest() == digest


@pytest.mark.parametrize(
    ("config", "env", "settings", "message"),
    [
        (TD3, "jax:Pendulum-v1", {"num_envs": 2}, "--num-envs is 2, and that run has 1"),
        (
            TD3,
            "jax:MountainCarContinuous-v0",
            {},
            r"its observations are Box\[3\], and here they are Box\[2\]",
        ),
        (PPO, "jax:Pendulum-v1", {}, "ppo keeps no rows, since it has no replay"),
    ],
)
def test_rows_that_do_not_fit_are_refused_in_one_line(first, config, env, settings, message):
    with pytest.raises(UserError, match=message) as error:
        session("ppo" if config is PPO else "td3", env, config, data=str(first), **settings)
    assert "\n" not in str(error.value)


def test_a_run_without_a_replay_has_no_rows_to_give(tmp_path):
    folder = Agent("ppo", "jax:Pendulum-v1", config=PPO, preset=False).save(tmp_path / "ppo")
    with pytest.raises(UserError, match="a run of ppo, which has no replay"):
        session(data=str(folder))


# ---- --data and --updates: learning without an environment step


class Untouched(gym.Env):
    """An environment of the pendulum's spaces that must not be played."""

    observation_space = gym.spaces.Box(np.float32([-1, -1, -8]), np.float32([1, 1, 8]))
    action_space = gym.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        raise AssertionError("it was begun")

    def step(self, action):
        raise AssertionError("it was stepped")


@pytest.mark.parametrize("env", ["jax:Pendulum-v1", Untouched])
def test_updates_from_another_runs_rows_are_those_of_the_algorithm_and_nothing_is_collected(
    first, tmp_path, env
):
    config = TD3 | {"data.updates": 3, "delay": 2}
    given = {"config": config, "out": str(tmp_path), "wrap": ("normalize_obs",), "data": str(first)}
    run = train("td3", env, updates=5, seed=2, name="offline", **given, **SMALL)
    rows = rows_of_ring(run)
    assert run.finished
    for name, array in rows_of_ring(Run(first)).items():
        want = array.copy()
        if name == "truncated":
            want[-1] = True
        np.testing.assert_array_equal(rows[name], want)
    made = Session(run.plan, None if isinstance(env, str) else env)
    algorithm, cfg, spec = made.algorithm, made.cfg, made.spec
    keys = Keys.of(2)
    # The same by hand: the ring of their rows, two iterations of three updates, each with its own key.
    state = algorithm.init(cfg, spec, keys.init)
    ring = jax.tree.map(lambda x: x[0], made.driver.start().buffer.rows)
    names = list(storage.fields(ring))
    held = jax.tree.unflatten(jax.tree.structure(ring), [jnp.asarray(rows[name]) for name in names])
    state = algorithm.observe(cfg, spec, state, held)
    state = state.replace(inner=state.inner.replace(clock=state.inner.clock.at(0)))
    ring = replay.add(replay.empty(jax.tree.map(lambda x: x[0], held), 500), held)
    for number in range(6):
        key = jax.random.fold_in(jax.random.fold_in(keys.learn, number // 3), number % 3)
        key_draw, key_update = jax.random.split(key)
        batch = replay.sample(ring, key_draw, cfg.data, cfg.gamma)
        state = algorithm.update(cfg, spec, state, batch, key_update).state
    theirs = run.state()
    clock = theirs.inner.clock
    assert (int(clock.updates), int(clock.low), int(clock.high)) == (6, 0, 0)
    for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(np.asarray(a).reshape(np.shape(b)), b, rtol=2e-3, atol=2e-5)
    assert {line["env_steps"] for line in run.metrics} == {0}
    assert run.metrics[-1]["updates"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("env", ["jax:Pendulum-v1", "Pendulum-v1"])
def test_a_run_without_steps_is_stopped_lengthened_evaluated_and_begun_from(first, tmp_path, env):
    given = {"config": TD3, "out": str(tmp_path), "data": str(first), "seeds": 2}
    given |= {"preset": False, "verbose": False, "eval_every": 4, "eval_episodes": 1}
    run = train("td3", env, updates=8, name="whole", **given)
    assert [line["updates"] for line in run.metrics if "eval/return" in line] == [4, 4, 8, 8]
    half = train("td3", env, updates=4, name="half", **given)
    assert half.resume(updates=8).digest() == run.digest()
    shutil.rmtree(sorted((run.path / "checkpoints").glob("0*"))[-1])  # as if killed after the first
    digest = half.digest()
    assert load(run.path).resume().digest() == digest
    assert int(run.best().step or 0) in (4, 8)
    with pytest.raises(UserError, match="is counted in updates: say --updates"):
        half.resume(steps=10)
    with pytest.raises(UserError, match=r"--updates is 3, but .* has made 8: give more"):
        half.resume(updates=3)
    with pytest.raises(
        UserError, match=r"other settings .*: choose another --name, or polyak resume .* --updates 9"
    ):
        train("td3", env, updates=9, name="half", **given)
    more = train("td3", env, steps=4, name="more", **{**given, "data": str(run.path)})  # its rows are theirs
    assert len(rows_of_ring(more)["reward"]) == 44
    one = train("td3", env, updates=2, name="one", **{**given, "seeds": 1})
    with pytest.raises(UserError, match="takes no environment step"):
        Agent.load(one.path).learn(10, verbose=False)


@pytest.mark.slow
def test_updates_without_steps_write_priorities_back(tmp_path):
    config = {
        "hidden": [8],
        "data.warmup": 20,
        "data.capacity": 100,
        "data.batch_size": 8,
        "data.priority": 0.6,
    }
    given = {"config": config, "out": str(tmp_path), **SMALL}
    first = train("dqn", "jax:CartPole-v1", steps=40, name="first", **given)
    runs = [
        train("dqn", "jax:CartPole-v1", updates=n, name=f"{n}", data=str(first.path), **given) for n in (1, 5)
    ]
    index = [
        {n: x for n, x in checkpoint.read(run.path / "checkpoints")[0].items() if n.startswith("index/")}
        for run in runs
    ]
    assert index[0]
    assert any((index[0][name] != index[1][name]).any() for name in index[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 10}, "is learning from rows that are there: say whose by --data RUN"),
        ({"updates": 10, "steps": 5, "data": "{run}"}, "and --steps is 5: say one"),
        ({"steps": 0, "data": "{run}"}, "say by --updates how often to learn from --data RUN"),
        ({"updates": 10, "data": "{run}", "driver": "ray"}, "--updates learns in one process"),
        ({"updates": 10, "data": "{run}", "sync": "async"}, "--updates learns in one process"),
    ],
)
def test_a_budget_of_updates_that_makes_no_sense_is_refused_in_one_line(first, settings, message):
    said = {name: x.format(run=first) if isinstance(x, str) else x for name, x in settings.items()}
    with pytest.raises(UserError, match=message) as error:
        session(**said)
    assert "\n" not in str(error.value)


def test_more_rows_than_the_warm_up_are_needed_and_an_agent_counts_steps(first, tmp_path):
    given = {"config": TD3 | {"data.warmup": 40}, "out": str(tmp_path), **SMALL}
    with pytest.raises(UserError, match="the warm-up takes 40 rows, of which --data has 40"):
        train("td3", "jax:Pendulum-v1", updates=5, data=str(first), **given)
    with pytest.raises(UserError, match="an agent learns by steps"):
        Agent("td3", "jax:Pendulum-v1", config=TD3, preset=False, data=str(first), updates=5)


@pytest.mark.parametrize(("steps", "updates"), [(0, 0), (5, 5), (0, 5)])
def test_a_plan_without_a_budget_or_with_two_is_damaged(first, tmp_path, steps, updates):
    copy = shutil.copytree(first, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["plan"] |= {"steps": steps, "updates": updates}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="updates"):
        Run(copy)
