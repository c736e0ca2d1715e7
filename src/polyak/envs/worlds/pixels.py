"""Worlds that are seen through a camera: what moves, and nothing of how fast.

Pictures are drawn in JAX, from the distance of every place to the shapes in it, with smooth edges.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.envs.worlds.classic_control import Pendulum
from polyak.interface import Array, Box, Spec
from polyak.pytree import pytree, static

PAPER, GROUND, WOOD, IRON = (0.96, 0.96, 0.94), (0.35, 0.37, 0.42), (0.80, 0.35, 0.20), (0.20, 0.35, 0.60)


# ---- drawing


def places(size: int, width: float) -> tuple[Array, Array]:
    """Middles x and y [size, size] of the places of a picture that is `width` wide, with (0, 0) in its middle."""
    line = (jnp.arange(size) + 0.5) / size * width - width / 2
    return jnp.broadcast_to(line, (size, size)), jnp.broadcast_to(-line[:, None], (size, size))


def to_rod(place: tuple[Array, Array], start: tuple[Array, Array], end: tuple[Array, Array]) -> Array:
    """Distance to the line between two points."""
    (x, y), (x0, y0), (x1, y1) = place, start, end
    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = jnp.clip(along, 0.0, 1.0)
    return jnp.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))


def to_box(place: tuple[Array, Array], middle: tuple[Array, Array], half: tuple[float, float]) -> Array:
    """Distance to an upright rectangle, below 0 inside."""
    (x, y), (x0, y0) = place, middle
    return jnp.maximum(jnp.abs(x - x0) - half[0], jnp.abs(y - y0) - half[1])


def paint(picture: Array, distance: Array, colour: tuple[float, ...], pixel: float) -> Array:
    """The picture [S, S, 3] with a shape over it, whose edges are one pixel wide."""
    cover = jnp.clip(0.5 - distance / pixel, 0.0, 1.0)[..., None]
    return picture * (1 - cover) + jnp.asarray(colour) * cover


def as_bytes(picture: Array) -> Array:
    """From colours in [0, 1] to 0 .. 255."""
    return jnp.round(picture * 255).astype(jnp.uint8)


def enlarged(picture: Array, side: int) -> np.ndarray:
    """A picture for people: every place a square, until it is `side` wide."""
    image = np.asarray(picture)
    return image.repeat(side // len(image), axis=0).repeat(side // len(image), axis=1)


# ---- worlds


@pytree
class PixelPendulum(Pendulum):
    """The pendulum, of which one sees the rod and not its velocity; an action is kept for `repeat` steps.

    obs [size, size, 3] bytes; state, action and reward are the pendulum's, rewards summed over the steps
    """

    size: int = static(default=64)  # side of the picture
    repeat: int = static(default=2)
    time_limit: int | None = static(default=100)

    @property
    def spec(self) -> Spec:
        """One camera."""
        return Spec(_camera(self.size), super().spec.action, self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Any angle, velocity uniform in [-1, 1]."""
        state, _ = super().reset(key)
        return state, self.picture(state)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """Steps of the pendulum, and a picture of the last."""
        state, reward = _repeated(super().step, self.repeat, state, action, key)
        return Step(state, self.picture(state), reward, jnp.array(False), jnp.array(False))

    def picture(self, state: Array) -> Array:
        """What the camera sees, [size, size, 3] bytes."""
        width = 2.6
        place, pixel = places(self.size, width), width / self.size
        tip = jnp.sin(state[0]), jnp.cos(state[0])
        middle = jnp.zeros(()), jnp.zeros(())
        image = jnp.broadcast_to(jnp.asarray(PAPER), (self.size, self.size, 3))
        image = paint(image, to_rod(place, middle, tip) - 0.12, WOOD, pixel)
        return as_bytes(paint(image, jnp.hypot(*place) - 0.06, GROUND, pixel))

    def draw(self, state: Array) -> np.ndarray:
        """What the camera sees, [512, 512, 3] or about that."""
        return enlarged(self.picture(state), 512)


@pytree
class CartPoleSwingUp(Environment):
    """Swing a pole up on a cart, and hold it there near the middle of the rail.

    Constants and reward of `cartpole swingup` in dm_control (Tassa et al. 2018, arXiv:1801.00690), without damping.
    state [4]: x (m), its velocity (m/s), angle from upright (rad), its velocity (rad/s)
    obs [5]: x, cos and sin of the angle, both velocities
    action [1]: force, 1 for all of it; reward: a number in [0, 1]
    """

    gravity: float = 9.81  # m/s^2
    mass_cart: float = 1.0  # kg
    mass_pole: float = 0.1  # kg
    length: float = 0.5  # m, half of the pole's
    force: float = 10.0  # N
    timestep: float = 0.01  # s
    max_position: float = static(default=1.8)  # m, where the rail ends in a wall
    time_limit: int | None = static(default=1000)

    @property
    def spec(self) -> Spec:
        """One force."""
        high = (self.max_position, 1.0, 1.0, math.inf, math.inf)
        return Spec(Box((5,), tuple(-x for x in high), high), Box((1,), -1.0, 1.0), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Hanging in the middle, nearly at rest."""
        state = 0.01 * jax.random.normal(key, (4,)) + jnp.array([0.0, 0.0, math.pi, 0.0])
        return state, self._observe(state)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One semi-implicit Euler step."""
        state, reward = self.move(state, action)
        return Step(state, self._observe(state), reward, jnp.array(False), jnp.array(False))

    def move(self, state: Array, action: Array) -> tuple[Array, Array]:
        """The state after one step, and its reward."""
        x, x_dot, angle, angle_dot = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        control = jnp.clip(action[0], -1.0, 1.0)
        mass = self.mass_cart + self.mass_pole
        moment = self.mass_pole * self.length
        push = (self.force * control + moment * angle_dot**2 * sin) / mass
        inertia = self.length * (4 / 3 - self.mass_pole * cos**2 / mass)
        angle_acc = (self.gravity * sin - cos * push) / inertia
        x_acc = push - moment * angle_acc * cos / mass

        x_dot, angle_dot = x_dot + self.timestep * x_acc, angle_dot + self.timestep * angle_acc
        moved = x + self.timestep * x_dot
        x = jnp.clip(moved, -self.max_position, self.max_position)
        x_dot = jnp.where(x == moved, x_dot, 0.0)
        angle = angle + self.timestep * angle_dot

        upright = (jnp.cos(angle) + 1) / 2
        centred = (1 + _tolerance(x, 2.0)) / 2
        gentle = (4 + jnp.maximum(1 - control**2, 0.0)) / 5
        slow = (1 + _tolerance(angle_dot, 5.0)) / 2
        return jnp.stack([x, x_dot, angle, angle_dot]), upright * centred * gentle * slow

    def picture(self, state: Array, size: int = 64) -> Array:
        """What a camera sees, [size, size, 3] bytes."""
        width = 4.4
        (x, y), pixel = places(size, width), width / size
        cart, angle, floor = state[0], state[2], -0.2
        tip = cart + 2 * self.length * jnp.sin(angle), floor + 2 * self.length * jnp.cos(angle)
        image = jnp.broadcast_to(jnp.asarray(PAPER), (size, size, 3))
        image = paint(image, jnp.abs(y - floor) - 0.04, GROUND, pixel)
        image = paint(image, to_box((x, y), (cart, jnp.asarray(floor)), (0.25, 0.16)), IRON, pixel)
        return as_bytes(paint(image, to_rod((x, y), (cart, jnp.asarray(floor)), tip) - 0.11, WOOD, pixel))

    def draw(self, state: Array) -> np.ndarray:
        """The camera's picture, enlarged."""
        return enlarged(self.picture(state, 256), 512)

    def _observe(self, state: Array) -> Array:
        return jnp.stack([state[0], jnp.cos(state[2]), jnp.sin(state[2]), state[1], state[3]])


@pytree
class PixelCartPoleSwingUp(CartPoleSwingUp):
    """The same through a camera; an action is kept for `repeat` steps.

    obs [size, size, 3] bytes; rewards are summed over the steps
    """

    size: int = static(default=64)  # side of the picture
    repeat: int = static(default=8)  # that of Hafner et al. 2019
    time_limit: int | None = static(default=125)

    @property
    def spec(self) -> Spec:
        """One camera."""
        return Spec(_camera(self.size), super().spec.action, self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Hanging in the middle, nearly at rest."""
        state, _ = super().reset(key)
        return state, self.picture(state, self.size)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """Steps of the cart, and a picture of the last."""
        state, reward = _repeated(super().step, self.repeat, state, action, key)
        return Step(state, self.picture(state, self.size), reward, jnp.array(False), jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """What the camera sees, enlarged."""
        return enlarged(self.picture(state, self.size), 512)


def _camera(size: int) -> Box:
    return Box((size, size, 3), 0.0, 255.0, "uint8")


def _repeated(step, times: int, state: Array, action: Array, key: jax.Array) -> tuple[Array, Array]:
    """The state after some steps with one action, and the sum of their rewards."""
    total = jnp.zeros(())
    for _ in range(times):
        after = step(state, action, key)
        state, total = after.state, total + after.reward
    return state, total


def _tolerance(x: Array, margin: float) -> Array:
    """1 at 0, 0.1 at the margin, a Gaussian between and beyond."""
    return jnp.exp(math.log(0.1) * (x / margin) ** 2)


ENVIRONMENTS = {
    "PixelPendulum": PixelPendulum,
    "CartPoleSwingUp": CartPoleSwingUp,
    "PixelCartPoleSwingUp": PixelCartPoleSwingUp,
}
