"""A planar runner over random obstacles, who has to look ahead to know when to jump.

After the parkour of Heess et al. 2017, "Emergence of Locomotion Behaviours in Rich Environments" (arXiv:1707.02286),
with a point that runs and jumps in the place of a body: what is kept is that the body's own senses say nothing of what
comes, and the terrain ahead nothing of the body.
"""

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Spec, Tree
from polyak.pytree import pytree, static

COUNT = 24  # obstacles of an episode
AHEAD, SPACING = 16, 0.25  # stretches of ground ahead that are seen, and the length of each, m
BAR = 0.2  # m, length of a hurdle
TAKE_OFF = (
    0.5  # action above which the runner jumps; around 0, which costs nothing, noise makes it try now and then
)
PIT = -1.0  # m, the ground inside a gap, as far as is seen
VIEW, SCALE = (
    (-1.5, 6.5, -0.8, 2.2),
    80,
)  # m left, right, below and above of what `draw` shows; pixels of a metre
SKY, GROUND, HURDLE, RUNNER, SIGHT = np.array(
    [[224, 234, 244], [116, 98, 80], [176, 72, 54], [34, 62, 110], [240, 190, 70]], np.uint8
)


@pytree
class Parkour(Environment):
    """Run to the right over hurdles and gaps at random places.

    state: runner [4], position (m), height of the feet (m), their velocities (m/s); where obstacles begin [COUNT], how
    long they are, and how high, below 0 for a gap
    obs: terrain [16], the mean height of the ground (m) in each of the 16 stretches of 0.25 m ahead; proprioception
    [4], height of the feet (m), both velocities in units of `max_speed` and `jump`, whether the feet are on the ground
    action [2]: force forwards, which only the ground gives; a jump where it is above 0.5 and the feet are on the ground
    reward: metres forwards in this step, less `effort` times the action squared. The episode terminates at a hurdle
    that was not cleared and in a gap.
    """

    timestep: float = 0.05  # s
    gravity: float = 9.8  # m/s^2
    drive: float = 8.0  # m/s^2 of a full action, on the ground
    max_speed: float = 4.0  # m/s
    jump: float = 4.0  # m/s, upwards at a take-off
    effort: float = 0.05  # m, cost of a step: so much times the action squared
    hurdle: tuple[float, float] = (0.3, 0.6)  # m, lowest and highest
    gap: tuple[float, float] = (0.6, 1.4)  # m, shortest and longest
    clearance: tuple[float, float] = (3.0, 6.0)  # m from the end of an obstacle to the next
    blind: bool = static(default=False)  # the terrain is not shown: zeros in its place
    time_limit: int | None = static(default=200)

    @property
    def spec(self) -> Spec:
        """Terrain and proprioception are two parts of an observation."""
        obs = {"terrain": Box((AHEAD,)), "proprioception": Box((4,))}
        return Spec(obs, Box((2,), -1.0, 1.0), self.time_limit, measures={"cleared": "last"})

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """At rest before a new course, half of whose obstacles are hurdles."""
        key_kind, key_size, key_clear = jax.random.split(key, 3)
        hurdle = jax.random.bernoulli(key_kind, 0.5, (COUNT,))
        size = jax.random.uniform(key_size, (COUNT,))
        length = jnp.where(hurdle, BAR, self.gap[0] + size * (self.gap[1] - self.gap[0]))
        height = jnp.where(hurdle, self.hurdle[0] + size * (self.hurdle[1] - self.hurdle[0]), PIT)
        clear = jax.random.uniform(key_clear, (COUNT,), minval=self.clearance[0], maxval=self.clearance[1])
        ends = jnp.cumsum(clear + length)
        state = jnp.zeros(4), (ends - length, length, height)
        return state, self._seen(*state)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One semi-implicit Euler step; the ground stops a fall."""
        (x, y, speed, rise), course = state
        stands = y <= ground(x, course)
        speed = jnp.clip(
            speed + jnp.where(stands, self.drive * action[0] * self.timestep, 0.0), 0.0, self.max_speed
        )
        rise = jnp.where(
            stands, jnp.where(action[1] > TAKE_OFF, self.jump, 0.0), rise - self.gravity * self.timestep
        )
        after, level = x + speed * self.timestep, y + rise * self.timestep
        below = ground(after, course)
        crashed = (below > 0) & (level < below) & (y < below)  # from above it is a landing
        fell = (below < 0) & (level <= 0)
        level = jnp.where(level <= below, below, level)
        rise = jnp.where(level <= below, 0.0, rise)
        runner = jnp.stack([after, level, speed, rise])
        begins, length, _ = course
        measures = {"cleared": (after > begins + length).sum().astype(jnp.float32)}
        return Step(
            (runner, course),
            self._seen(runner, course),
            after - x - self.effort * (action**2).sum(),
            crashed | fell,
            jnp.array(False),
            measures,
        )

    def draw(self, state: Tree) -> np.ndarray:
        """The runner, whom the picture follows, and what it sees of the course, [240, 640, 3]."""
        (x, y, *_), (begins, length, height) = jax.tree.map(np.asarray, state)
        left, right, low, high = VIEW
        across = left + (np.arange((right - left) * SCALE) + 0.5) / SCALE  # m from the runner, of each column
        up = (high - (np.arange((high - low) * SCALE) + 0.5) / SCALE)[:, None]  # m, of each row
        inside = (x + across[:, None] >= begins) & (x + across[:, None] <= begins + length)
        level = (inside * height).sum(axis=1)
        picture = np.empty((len(up), len(across), 3), np.uint8)
        picture[:] = SKY
        picture[up <= np.minimum(level, 0)] = GROUND
        picture[(up > 0) & (up <= level)] = HURDLE
        if not self.blind:
            seen = (across >= 0) & (across <= AHEAD * SPACING)
            picture[(np.abs(up - np.maximum(level, PIT)) < 0.02) & seen] = SIGHT
        picture[np.hypot(across, np.maximum(np.abs(up - y - 0.35) - 0.2, 0.0)) < 0.14] = RUNNER
        picture[np.hypot(across, up - y - 0.85) < 0.13] = RUNNER
        return picture

    def _seen(self, runner: Array, course: Tree) -> Tree:
        x, y, speed, rise = runner
        stands = jnp.float32(y <= ground(x, course))
        terrain = jnp.zeros(AHEAD) if self.blind else ahead(x, course)
        body = jnp.stack([jnp.maximum(y, 0.0), speed / self.max_speed, rise / self.jump, stands])
        return {"terrain": terrain, "proprioception": body}


def ground(x: Array, course: Tree) -> Array:
    """Height of the ground at a place, m: 0 between obstacles."""
    begins, length, height = course
    inside = (x >= begins) & (x <= begins + length)
    return jnp.where(inside, height, 0.0).sum()


def ahead(x: Array, course: Tree) -> Array:
    """Mean height of the ground in each stretch from a place on, m, [16]: points could miss a hurdle, means do not."""
    begins, length, height = course
    near = x + SPACING * jnp.arange(AHEAD)[:, None]
    inside = jnp.minimum(near + SPACING, begins + length) - jnp.maximum(near, begins)
    return (height * jnp.maximum(inside, 0.0)).sum(axis=1) / SPACING


ENVIRONMENTS = {"Parkour": Parkour}
