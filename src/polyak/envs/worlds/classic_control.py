"""The five classic control tasks in JAX, with the constants, dynamics and rewards of Gymnasium 1.3.

A state is a float32 array without a clock. Physical constants are leaves, so `CartPole().replace(length=x)`
may be traced and vmapped. Constants that bound a space are static: every traced copy has the same spec.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.envs.unseen import hide_windows
from polyak.errors import UserError
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import pytree, static


@pytree
class CartPole(Environment):
    """Keep a pole upright on a cart: Barto, Sutton & Anderson 1983; dynamics of Florian 2007, no friction.

    state [4] = obs [4]: x (m), its velocity (m/s), angle from upright (rad), its velocity (rad/s)
    action: 0 pushes left, 1 right; reward: 1 for every step, the last one too
    """

    gravity: float = 9.8  # m/s^2
    mass_cart: float = 1.0  # kg
    mass_pole: float = 0.1  # kg
    length: float = 0.5  # m, half of the pole's
    force: float = 10.0  # N
    timestep: float = 0.02  # s
    max_position: float = static(default=2.4)  # m, beyond it the episode terminates
    max_angle: float = static(default=12 * math.pi / 180)  # rad, likewise
    sutton_barto_reward: bool = static(default=False)  # 0 for every step and -1 for the terminating one
    time_limit: int | None = static(default=500)

    @property
    def spec(self) -> Spec:
        """Observations to twice what terminates, so that the last one is inside."""
        high = (2 * self.max_position, math.inf, 2 * self.max_angle, math.inf)
        return Spec(Box((4,), _negative(high), high), Discrete(2), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """All four uniform in [-0.05, 0.05]."""
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One explicit Euler step."""
        _, x_dot, angle, angle_dot = state
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        force = jnp.where(action == 1, self.force, -self.force)
        mass = self.mass_cart + self.mass_pole
        moment = self.mass_pole * self.length

        push = (force + moment * angle_dot**2 * sin) / mass
        inertia = self.length * (4 / 3 - self.mass_pole * cos**2 / mass)
        angle_acc = (self.gravity * sin - cos * push) / inertia
        x_acc = push - moment * angle_acc * cos / mass

        state = state + self.timestep * jnp.stack([x_dot, x_acc, angle_dot, angle_acc])
        terminated = (jnp.abs(state[0]) > self.max_position) | (jnp.abs(state[2]) > self.max_angle)
        reward = -jnp.float32(terminated) if self.sutton_barto_reward else jnp.float32(1)
        return Step(state, state, reward, terminated, jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """Gymnasium's picture, [400, 600, 3]."""
        return _picture("CartPole-v1", state, length=float(self.length), x_threshold=self.max_position)


@pytree
class Pendulum(Environment):
    """Swing a rod up and hold it there with too weak a motor.

    state [2]: angle from upright (rad, never wrapped), its velocity (rad/s)
    obs [3]: cos and sin of the angle, velocity
    action [1]: torque (N m); reward: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), before the step
    """

    gravity: float = 10.0  # m/s^2
    mass: float = 1.0  # kg
    length: float = 1.0  # m
    timestep: float = 0.05  # s
    max_speed: float = static(default=8.0)  # rad/s
    max_torque: float = static(default=2.0)  # N m
    time_limit: int | None = static(default=200)

    @property
    def spec(self) -> Spec:
        """The torque's bounds are the action's."""
        high = (1.0, 1.0, self.max_speed)
        action = Box((1,), -self.max_torque, self.max_torque)
        return Spec(Box((3,), _negative(high), high), action, self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Any angle, velocity uniform in [-1, 1]."""
        high = jnp.array([math.pi, 1.0], jnp.float32)
        state = jax.random.uniform(key, (2,), minval=-high, maxval=high)
        return state, self._observe(state)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One semi-implicit Euler step of a rod that turns about its end."""
        angle, velocity = state
        torque = jnp.clip(action[0], -self.max_torque, self.max_torque)
        from_upright = (angle + math.pi) % (2 * math.pi) - math.pi
        reward = -(from_upright**2 + 0.1 * velocity**2 + 0.001 * torque**2)

        inertia = self.mass * self.length**2 / 3
        acceleration = 1.5 * self.gravity / self.length * jnp.sin(angle) + torque / inertia
        velocity = jnp.clip(velocity + acceleration * self.timestep, -self.max_speed, self.max_speed)
        state = jnp.stack([angle + velocity * self.timestep, velocity])
        return Step(state, self._observe(state), reward, jnp.array(False), jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """Gymnasium's picture, [500, 500, 3], without the arrow of the torque."""
        return _picture("Pendulum-v1", state, last_u=None)

    def _observe(self, state: Array) -> Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])


@pytree
class MountainCar(Environment):
    """Drive an underpowered car out of a valley: Moore 1990.

    state [2] = obs [2]: position, velocity
    action: 0 pushes left, 1 not at all, 2 right; reward: -1 for every step
    """

    force: float = 0.001  # per unit of action
    gravity: float = 0.0025
    goal_position: float = 0.5
    goal_velocity: float = 0.0  # at least this fast at the goal
    min_position: float = static(default=-1.2)  # an inelastic wall
    max_position: float = static(default=0.6)
    max_speed: float = static(default=0.07)
    time_limit: int | None = static(default=200)

    @property
    def spec(self) -> Spec:
        """Three pushes."""
        return Spec(self._observations(), Discrete(3), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """Position uniform in [-0.6, -0.4], at rest."""
        position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
        state = jnp.stack([position, jnp.zeros_like(position)])
        return state, state

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step; it terminates at the goal."""
        state, terminated = self._drive(state, action - 1)
        return Step(state, state, jnp.float32(-1), terminated, jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """Gymnasium's picture, [400, 600, 3]."""
        return _picture("MountainCar-v0", state, goal_position=float(self.goal_position))

    def _observations(self) -> Box:
        return Box((2,), (self.min_position, -self.max_speed), (self.max_position, self.max_speed))

    def _drive(self, state: Array, push: Array) -> tuple[Array, Array]:
        """The next state, and whether the car is at the goal."""
        position, velocity = state
        velocity = velocity + push * self.force - self.gravity * jnp.cos(3 * position)
        velocity = jnp.clip(velocity, -self.max_speed, self.max_speed)
        position = jnp.clip(position + velocity, self.min_position, self.max_position)
        velocity = jnp.where((position <= self.min_position) & (velocity < 0), 0.0, velocity)
        at_goal = (position >= self.goal_position) & (velocity >= self.goal_velocity)
        return jnp.stack([position, velocity]), at_goal


@pytree
class MountainCarContinuous(MountainCar):
    """The mountain car with a throttle.

    action [1]: throttle in [-1, 1]; reward: -0.1 throttle^2, and 100 at the goal
    """

    force: float = 0.0015  # at full throttle
    cost: float = 0.1  # of full throttle in each step; with 0 the reward is sparse
    goal_position: float = 0.45
    time_limit: int | None = static(default=999)

    @property
    def spec(self) -> Spec:
        """One throttle."""
        return Spec(self._observations(), Box((1,), -1.0, 1.0), self.time_limit)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One step; it terminates at the goal."""
        throttle = jnp.asarray(action[0], jnp.float32)
        state, terminated = self._drive(state, jnp.clip(throttle, -1, 1))
        reward = 100.0 * terminated - self.cost * throttle**2
        return Step(state, state, reward, terminated, jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """Gymnasium's picture, [400, 600, 3]."""
        return _picture("MountainCarContinuous-v0", state, goal_position=float(self.goal_position))


@pytree
class Acrobot(Environment):
    """Swing the tip of a double pendulum above a line: Sutton 1996, with the equations of Sutton & Barto.

    state [4]: angle of link 1 from hanging, of link 2 from link 1 (rad, in [-pi, pi]), their velocities
    obs [6]: cos and sin of the first angle, of the second, velocities (rad/s)
    action: 0, 1, 2 for a torque of -1, 0, 1 at the joint; reward: -1 for every step, 0 where it terminates
    """

    gravity: float = 9.8  # m/s^2
    mass_1: float = 1.0  # kg
    mass_2: float = 1.0  # kg
    length_1: float = 1.0  # m
    center_1: float = 0.5  # m, from the joint to the link's center of mass
    center_2: float = 0.5  # m
    inertia: float = 1.0  # kg m^2, of either link
    torque: float = 1.0  # N m
    timestep: float = 0.2  # s
    max_velocity_1: float = static(default=4 * math.pi)  # rad/s
    max_velocity_2: float = static(default=9 * math.pi)  # rad/s
    time_limit: int | None = static(default=500)

    @property
    def spec(self) -> Spec:
        """Three torques."""
        high = (1.0, 1.0, 1.0, 1.0, self.max_velocity_1, self.max_velocity_2)
        return Spec(Box((6,), _negative(high), high), Discrete(3), self.time_limit)

    def reset(self, key: jax.Array) -> tuple[Array, Array]:
        """All four uniform in [-0.1, 0.1]: hanging, nearly at rest."""
        state = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return state, self._observe(state)

    def step(self, state: Array, action: Array, key: jax.Array) -> Step:
        """One Runge-Kutta step of fourth order."""
        torque, h = (action - 1) * self.torque, self.timestep
        k1 = self._derivative(state, torque)
        k2 = self._derivative(state + h / 2 * k1, torque)
        k3 = self._derivative(state + h / 2 * k2, torque)
        k4 = self._derivative(state + h * k3, torque)
        angle_1, angle_2, velocity_1, velocity_2 = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        state = jnp.stack(
            [
                _wrap(angle_1),
                _wrap(angle_2),
                jnp.clip(velocity_1, -self.max_velocity_1, self.max_velocity_1),
                jnp.clip(velocity_2, -self.max_velocity_2, self.max_velocity_2),
            ]
        )
        terminated = -jnp.cos(state[0]) - jnp.cos(state[0] + state[1]) > 1
        reward = jnp.float32(terminated) - 1
        return Step(state, self._observe(state), reward, terminated, jnp.array(False))

    def draw(self, state: Array) -> np.ndarray:
        """Gymnasium's picture, [500, 500, 3]."""
        return _picture("Acrobot-v1", state, LINK_LENGTH_1=float(self.length_1))

    def _observe(self, state: Array) -> Array:
        angles, velocities = state[:2], state[2:]
        turned = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        return jnp.concatenate([turned.reshape(4), velocities])

    def _derivative(self, state: Array, torque: Array) -> Array:
        """d/dt of the state [4]: Sutton & Barto 1998, section 11.3."""
        angle_1, angle_2, velocity_1, velocity_2 = state
        sin_2, cos_2 = jnp.sin(angle_2), jnp.cos(angle_2)
        arm_1 = self.mass_1 * self.center_1 + self.mass_2 * self.length_1
        arm_2 = self.mass_2 * self.center_2
        coupling = arm_2 * self.length_1
        own_2 = arm_2 * self.center_2 + self.inertia

        d1 = (
            self.mass_1 * self.center_1**2
            + self.mass_2 * self.length_1**2
            + 2 * coupling * cos_2
            + self.inertia
            + own_2
        )
        d2 = own_2 + coupling * cos_2
        phi_2 = arm_2 * self.gravity * jnp.sin(angle_1 + angle_2)
        phi_1 = (
            arm_1 * self.gravity * jnp.sin(angle_1)
            + phi_2
            - coupling * sin_2 * velocity_2 * (velocity_2 + 2 * velocity_1)
        )
        centrifugal = coupling * velocity_1**2 * sin_2
        acceleration_2 = (torque + d2 / d1 * phi_1 - centrifugal - phi_2) / (own_2 - d2**2 / d1)
        acceleration_1 = -(d2 * acceleration_2 + phi_1) / d1
        return jnp.stack([velocity_1, velocity_2, acceleration_1, acceleration_2])


def _negative(bounds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-b for b in bounds)


def _wrap(angle: Array) -> Array:
    """The same angle in [-pi, pi]; one that is there already keeps its bits."""
    turns = jnp.ceil((angle - math.pi) / (2 * math.pi))
    return angle - 2 * math.pi * turns


def _picture(name: str, state: Array, **attributes: Any) -> np.ndarray:
    """Picture of a state by Gymnasium's own renderer, given the attributes that it reads."""
    env = _renderer(name)
    env.state = np.asarray(state, np.float64)
    for attribute, value in attributes.items():
        setattr(env, attribute, value)
    return np.ascontiguousarray(env.render())


@functools.cache
def _renderer(name: str) -> Any:
    """Gymnasium's environment, made once, for its renderer; needs no display."""
    hide_windows()
    import gymnasium

    try:
        import pygame  # noqa: F401
    except ImportError as error:
        raise UserError(
            "pictures need pygame, which is missing: pip install 'polyak[classic-control]'"
        ) from error
    env: Any = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True).unwrapped
    env.reset()
    return env


ENVIRONMENTS = {
    "CartPole-v1": CartPole,
    "Pendulum-v1": Pendulum,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Acrobot-v1": Acrobot,
}
