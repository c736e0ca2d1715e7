"""The commonest mistakes, as people describe them to the libraries they come from: each is made here, and what it says
is at most six lines, names the cause and the fix, and ends with exit code 2."""

import jax.numpy as jnp
import mistaken
import numpy as np
import pytest
from small_runs import small_ppo

import polyak
from polyak.cli import main
from polyak.envs.environment import Environment, Step
from polyak.errors import UserError
from polyak.interface import Box, Discrete, Spec
from polyak.pytree import pytree
from polyak.runs import loop

TINY = (
    " --no-preset --steps 64 --eval-every 0 --config.data.steps 16 --config.network linear --config.epochs 1"
    " --config.minibatch 16"
)

# ---- the words of a command

WORDS = {
    "train ppo": "train needs ALGO ENV, as in: polyak train td3 Pendulum-v1",
    "train CartPole-v1 ppo": "the algorithm comes first: polyak train ppo CartPole-v1",
    "train PPO CartPole-v1": "did you mean 'ppo'?",
    "train ppo CartPole-v1 --total-timesteps 1e5": "did you mean --steps?",
    "train ppo CartPole-v1 --learning-rate 1e-3": "did you mean --config.lr?",
    "train td3 Pendulum-v1 --learning-rate 1e-3": "did you mean --config.actor-lr or --config.critic-lr?",
    "train ppo CartPole-v1 --batch-size 64": "did you mean --config.minibatch?",
    "train dqn CartPole-v1 --batch-size 64": "did you mean --config.data.batch-size?",
    "train dqn CartPole-v1 --buffer-size 1000": "did you mean --config.data.capacity?",
    "train dqn CartPole-v1 --learning-starts 1000": "did you mean --config.data.warmup?",
    "train ppo CartPole-v1 --n-steps 64": "did you mean --config.data.steps?",
    "train ppo CartPole-v1 --n-envs 4": "did you mean --num-envs?",
    "train ppo CartPole-v1 --gamma 0.9": "did you mean --config.gamma?",
    "train ppo CartPole-v1 --ent-coef 0.1": "did you mean --config.entropy?",
    "train ppo CartPole-v1 --policy MlpPolicy": "did you mean --config.network?",
    "train ppo CartPole-v1 --device cuda": "JAX uses an accelerator that it sees",
    "train ppo CartPole-v1 --render": "polyak watch RUN makes a video",
    "train ppo CartPole-v1 --tensorboard-log logs": "every run's folder has TensorBoard's files",
    "train ppo CartPole-v1 --save-path best": "--name and --out say where",
    "train ppo CartPole-v1 --load best": "polyak resume RUN goes on with a run",
    "train ppo CartPole-v1 --wandb": "--track wandb",
    "train ppo CartPole-v1 --eval-freq 100": "did you mean --eval-every?",
    "train ppo CartPole-v1 --vec-normalize": "--wrap normalize_obs,normalize_reward",
    "train ppo CartPole-v1 steps=100": "flags begin with --",
    "train ppo CartPole-v1 --steps 1M": "must be a whole number, like 100000 or 1e5",
    "train ppo CartPole-v1 --seed -1": "--seed is -1, but must be between 0 and 2,147,483,647",
    "train ppo CartPole-v1 --num-envs 0": "--num-envs is 0, but must be at least 1",
    "evaluate model.zip": "a run is a folder of polyak's",
    "evaluate runs/x --n-eval-episodes 5": "did you mean --episodes?",
    "evaluate runs/x --deterministic": "does not explore, unless --sample is given",
    "evaluate ppo CartPole-v1": "there is no run of ppo on CartPole-v1 in 'runs': name one, train first, or say --out",
    "enjoy runs/x": "did you mean 'watch'?",
}

# ---- what they mean

MEANINGS = {
    "train ppo CartPole": "did you mean 'CartPole-v1'?",
    "train ppo LunarLander-v2": "did you mean 'LunarLander-v3'?",
    "train ppo Hopper-v2": "did you mean 'Hopper-v5'?",
    "train ppo MyEnv-v0": "one that a module of yours registers is named with it, as in my_module:MyEnv-v0",
    "train ppo gym:CartPole-v1": "Gymnasium's need no prefix",
    "train ppo my_env.py": "name its module, not its file: my_env:CLASS",
    "train ppo envs/my_env.py:MyEnv": "name its module, not its file: envs.my_env:MyEnv",
    "train ppo no_such_module:MyEnv": "no module 'no_such_module' here or installed",
    "train ppo mistaken:Wrong": "mistaken has no 'Wrong'",
    "train ppo needs_library:MyEnv": "needs_library.py:2",
    "train ppo bad_syntax:MyEnv": "SyntaxError",
    "train dqn Pendulum-v1": "dqn takes discrete actions, but this task's are continuous",
    "train td3 CartPole-v1": "td3 takes continuous actions, but this task's are discrete",
    "train ppo CartPole-v1 --config.learning_rate 1e-3": "did you mean 'lr'?",
    "train dqn CartPole-v1 --config.batch_size 32": "did you mean 'data.batch_size'?",
    "train ppo CartPole-v1 --config.net_arch 64,64": "did you mean 'hidden'?",
    "train ppo CartPole-v1 --config.activation ReLU": "did you mean 'relu'?",
    "train ppo CartPole-v1 --config.gamma 1.5": "gamma is 1.5, but must be between 0 and 1",
    "train ppo CartPole-v1 --config.network cnn": "is for images",
    "train ppo CartPole-v1 --env.render_mode human": "polyak watch RUN makes a video",
    "train ppo CartPole-v1 --env.gravity 5": "has no field 'gravity'",
    "train ppo CartPole-v1 --driver graph": "use --driver host",
    "train ppo CartPole-v1 --wrap VecNormalize": "Valid: normalize_goals, normalize_obs, normalize_reward",
    "train dqn CartPole-v1 --no-preset --steps 500": "lower --config.data.warmup or raise --steps",
    "train ppo CartPole-v1 --her future": "choose an algorithm with a replay",
    "train ppo CartPole-v1 --stop-at 475 --eval-every 0": "give --eval-every",
    "train ppo CartPole-v1 --name my/run": "must be a folder name without slashes; --out says where",
}

# ---- environments of one's own

ENVIRONMENTS = {
    "OldReset": "reset must return (obs, info)",
    "OldStep": "step must return (obs, reward, terminated, truncated, info)",
    "NothingBack": "step must return (obs, reward, terminated, truncated, info)",
    "SeedlessReset": "it is defined as reset(self, *, seed=None, options=None)",
    "NoSpaces": "NoSpaces has no observation_space: set it in __init__",
    "NoActions": "NoActions has no action_space: set it in __init__",
    "NotAnEnv": "NotAnEnv is neither a gymnasium.Env nor",
    "nothing": "its function gave None: return the environment that it makes",
    "several": "SyncVectorEnv is many environments: give one, and --num-envs makes more",
    "OtherShape": "observation is of shape (3,), its space says (2,)",
    "ListObs": "observation is of dtype object, its space says float32",
    "NoObs": "observation is of shape (), its space says (2,)",
    "NanObs": "step 2, environment 0, seed 0: observation is not finite",
    "NoReward": "reward is None, it must be one number",
    "RewardArray": "reward is an array of shape (2,), it must be one number",
    "NanReward": "step 2, environment 0, seed 0: reward is not finite",
    "NoEnd": "terminated is None, it must be true or false",
    "Raises": "AttributeError: 'Raises' object has no attribute 'table' at",
    "RaisesAtOnce": "No such file or directory: 'robot.xml' at",
    "TextSpace": "Text",
    "GraphSpace": "Graph",
    "UpsideDown": "are upside down",
    "ClassSpace": "Discrete",
    "OtherGymSpace": "is not supported; supported: Box, Discrete",
}


@pytest.fixture(scope="module", autouse=True)
def _compile_what_runs():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile", "compile_next"):  # what is wrong is found before
            patch.setattr(loop.Training, name, lambda self: None)
        yield


@pytest.fixture
def said(capsys, tmp_path, monkeypatch):
    """What a command line says that is wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needs_library.py").write_text("import gymnasium\nimport no_such_library\n")
    (tmp_path / "bad_syntax.py").write_text("class MyEnv:\n    def reset(self\n")

    def run(line):
        assert main(line.split()) == 2
        lines = capsys.readouterr().err.splitlines()
        assert 1 <= len(lines) <= 6
        assert not any("Traceback" in line or "bug in polyak" in line for line in lines)
        assert max(map(len, lines)) <= 1_100
        return "\n".join(lines)

    return run


@pytest.mark.parametrize("line", WORDS)
def test_in_the_words_of_a_command(said, line):
    assert WORDS[line] in said(line)


@pytest.mark.parametrize("line", MEANINGS)
def test_in_what_they_mean(said, line):
    assert MEANINGS[line] in said(line)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_in_an_environment_of_ones_own(said, name):
    assert ENVIRONMENTS[name] in said(f"train ppo mistaken:{name}{TINY}")


# ---- from Python


@pytest.fixture(scope="module")
def agent():
    agent = polyak.Agent("ppo", mistaken.Right, preset=False, config=small_ppo(16), eval_every=0)
    yield agent
    agent.close()


@pytree
class Conditional(Environment):
    """A Python `if` on a value that is traced."""

    @property
    def spec(self):
        return Spec(Box((1,), -1.0, 1.0), Discrete(2))

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state, action, key):
        reward = 1.0 if action == 1 else 0.0
        return Step(state, jnp.zeros(1), reward, jnp.array(False), jnp.array(False))


class Plain(Environment):
    """A JAX environment without @pytree."""

    spec = Conditional.spec
    reset, step = Conditional.reset, Conditional.step


PYTHON = {
    "another library's first argument": (
        lambda: polyak.Agent("MlpPolicy", "CartPole-v1"),
        "unknown algorithm 'MlpPolicy'",
    ),
    "a setting of the algorithm beside it": (
        lambda: polyak.Agent("ppo", "CartPole-v1", learning_rate=1e-3),
        "learning_rate is a setting of ppo: give it as config={'lr': ...}",
    ),
    "one of its data": (
        lambda: polyak.train("dqn", "CartPole-v1", batch_size=32),
        "batch_size is a setting of dqn: give it as config={'data.batch_size': ...}",
    ),
    "an environment's arguments by another name": (
        lambda: polyak.train("ppo", "CartPole-v1", env_kwargs={"sutton_barto_reward": True}),
        "unknown setting 'env_kwargs'",
    ),
    "an environment that was never made": (
        lambda: polyak.Agent("ppo", None),
        "the environment is None: give its name, an environment, its class, or a function that makes one",
    ),
    "one instance and many wanted": (
        lambda: polyak.Agent("ppo", mistaken.Right(), num_envs=4),
        "give its class, or a function that makes one",
    ),
    "a list of environments": (
        lambda: polyak.Agent("ppo", [mistaken.Right(), mistaken.Right()]),
        "an environment, its class, or a function that makes one is needed",
    ),
    "a file of another library": (lambda: polyak.Agent.load("ppo_cartpole.zip"), "is not a run folder"),
    "a JAX environment without @pytree": (lambda: polyak.Agent("ppo", Plain()), "put @pytree"),
    "`if` on a traced value": (
        lambda: polyak.train("ppo", Conditional(), steps=64, preset=False, verbose=False),
        "test_mistakes.py",
    ),
}
PREDICT = {
    "(obs, info)": ((np.zeros(2, np.float32), {}), "(obs, info)"),
    "a wrong width": (np.zeros(3, np.float32), "(2,)"),
    "words": ("left", "obs is a str, but must be an array of shape (2,)"),
    "nothing": (None, "None"),
    "NaN": (np.full(2, np.nan, np.float32), "finite"),
}


def one_line(call):
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    return text


@pytest.mark.parametrize("what", PYTHON)
def test_from_python(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    call, says = PYTHON[what]
    assert says in one_line(call)


@pytest.mark.parametrize("what", PREDICT)
def test_in_what_a_policy_is_shown(agent, what):
    obs, says = PREDICT[what]
    assert says in one_line(lambda: agent.predict(obs))


def test_in_how_long_it_learns(agent):
    for steps, says in (
        (0, "between 1"),
        ("long", "must be a whole number"),
        (1.5, "must be a whole number"),
    ):
        assert says in one_line(lambda steps=steps: agent.learn(steps))


def test_a_class_of_another_library_is_said_how_to_make():
    with pytest.raises(AttributeError, match=r"has no attribute 'PPO': polyak.Agent\('ppo', env\)"):
        _ = polyak.PPO


def test_there_are_more_than_fifty():
    assert len(WORDS) + len(MEANINGS) + len(ENVIRONMENTS) + len(PYTHON) + len(PREDICT) >= 50
