"""A small quadruped that trots: twelve numbers say how its feet move, and the floor says how far that takes it."""

import jax
import jax.numpy as jnp

from polyak.envs.environment import Environment, Step
from polyak.interface import Array, Box, Discrete, Spec
from polyak.pytree import Record, pytree, static

# The twelve parameters of Kohl & Stone 2004, section 2, as (lowest, highest); the middle is the gait tuned by hand.
# Lengths are in metres; x is forward, and y outward. Their names: front locus height, x and y; rear locus height, x and
# y; locus length; locus skew; front and rear height of the body; time to move through the locus (s); share of it that a
# foot is on the ground.
LOCUS = (
    *((0.005, 0.055), (-0.05, 0.05), (0.0, 0.06)),
    *((0.005, 0.035), (-0.08, 0.02), (-0.01, 0.05)),
    *((0.03, 0.11), (-0.4, 0.4), (0.07, 0.13), (0.07, 0.13), (0.25, 0.75), (0.3, 0.7)),
)


@pytree
class Walker(Record):
    """A rigid body, and the feet that hang on it."""

    place: Array  # [3] of the centre (m), in the world
    turn: Array  # [4] unit quaternion (w, x, y, z), from the body's axes to the world's
    velocity: Array  # [3] m/s, in the world
    spin: Array  # [3] rad/s, in the body's axes
    feet: (
        Array  # [4, 3] m, in the body's axes, from the centre: front left, front right, rear left, rear right
    )
    phase: Array  # share of the locus that is over, in [0, 1)


@pytree
class Gait(Environment):
    """Walk straight on, as fast as twelve parameters of the gait allow (Kohl & Stone 2004), in three dimensions.

    obs: 0, always; action [12]: `LOCUS`, read in every step; reward: metres forward
    A foot goes along half an ellipse in the air and back along its base on the ground, diagonal feet together. Servos
    bring it there, no faster than `foot_speed` and not beyond the length of the leg; the floor pushes back like a
    spring with a damper, and holds on by Coulomb's friction. The legs have no mass. It ends where the body tips over.
    """

    mass: float = 1.4  # kg
    gravity: float = 9.81  # m/s^2
    length: float = 0.13  # m, from the front legs to the rear ones
    width: float = 0.12  # m, from the left legs to the right ones
    leg: float = 0.145  # m, of a stretched leg
    stiffness: float = 3000.0  # N/m, of the floor under a foot
    damping: float = 40.0  # N s/m
    friction: float = 0.6  # Coulomb's, of a foot on the floor
    lag: float = 0.03  # s, of the servos
    foot_speed: float = 0.6  # m/s, the most that servos move a foot
    disturbance: float = 0.05  # rad/s and m/s, deviation of the first spin and velocity
    timestep: float = 0.04  # s
    substeps: int = static(default=20)
    time_limit: int | None = static(default=100)

    @property
    def spec(self) -> Spec:
        """Nothing to see, twelve numbers to choose."""
        low, high = zip(*LOCUS, strict=True)
        return Spec(
            Discrete(1), Box((12,), low, high), self.time_limit, measures={"speed": "mean", "upright": "last"}
        )

    def reset(self, key: jax.Array) -> tuple[Walker, Array]:
        """Standing on the gait tuned by hand, at a random phase, slightly pushed."""
        key_phase, key_push, key_spin = jax.random.split(key, 3)
        phase = jax.random.uniform(key_phase)
        middle = jnp.asarray([(low + high) / 2 for low, high in LOCUS], jnp.float32)
        feet = self.commanded(middle, phase)
        push = self.disturbance * jax.random.normal(key_push, (3,))
        walker = Walker(
            place=jnp.zeros(3).at[2].set(-feet[:, 2].min()),
            turn=jnp.zeros(4).at[0].set(1.0),
            velocity=push.at[2].set(0.0),
            spin=self.disturbance * jax.random.normal(key_spin, (3,)),
            feet=feet,
            phase=phase,
        )
        return walker, jnp.int32(0)

    def step(self, state: Walker, action: Array, key: jax.Array) -> Step:
        """One step, in small ones."""
        h = self.timestep / self.substeps

        def euler(_: Array, walker: Walker) -> Walker:
            return self.moved(walker, action, h)

        after = jax.lax.fori_loop(0, self.substeps, euler, state)
        forward = after.place[0] - state.place[0]
        upright = rotation(after.turn)[2, 2]
        measures = {"speed": forward / self.timestep, "upright": upright}
        return Step(after, jnp.int32(0), forward, upright < 0.5, jnp.array(False), measures)

    def commanded(self, gait: Array, phase: Array) -> Array:
        """Where the feet [4, 3] should be at a phase of the front left one."""
        front, rear = gait[0:3], gait[3:6]
        length, skew, ground = gait[6], gait[7], gait[11]
        up, x, y = jnp.stack([front, front, rear, rear], axis=1)
        height = gait[jnp.array([8, 8, 9, 9])]
        side = jnp.array([1.0, -1.0, 1.0, -1.0])
        end = jnp.array([1.0, 1.0, -1.0, -1.0])
        phase = (phase + jnp.array([0.0, 0.5, 0.5, 0.0])) % 1.0  # a trot
        down = phase < ground
        # on the ground from the front of the locus to its back, in the air along half an ellipse to the front again
        back = phase / ground
        fore = (phase - ground) / (1 - ground)
        along = jnp.where(down, 0.5 - back, -0.5 * jnp.cos(jnp.pi * fore)) * length
        lift = jnp.where(down, 0.0, up * jnp.sin(jnp.pi * fore))
        return jnp.stack(
            [
                end * self.length / 2 + x + along,
                side * (self.width / 2 + y) + skew * along,
                lift - height,
            ],
            axis=1,
        )

    def moved(self, walker: Walker, gait: Array, h: float) -> Walker:
        """The walker h seconds on, by semi-implicit Euler."""
        period = gait[10]
        phase = (walker.phase + h / period) % 1.0
        # servos: towards the locus with a lag, no faster than they can
        speed = (self.commanded(gait, phase) - walker.feet) / self.lag
        size = jnp.linalg.norm(speed, axis=1, keepdims=True)
        speed = speed * jnp.minimum(1.0, self.foot_speed / jnp.maximum(size, 1e-6))
        hips = jnp.stack(
            [jnp.sign(walker.feet[:, 0]) * self.length, jnp.sign(walker.feet[:, 1]) * self.width]
        )
        hips = jnp.concatenate([hips.T / 2, jnp.zeros((4, 1))], axis=1)
        reach = walker.feet + h * speed - hips
        far = jnp.linalg.norm(reach, axis=1, keepdims=True)
        feet = hips + reach * jnp.minimum(1.0, self.leg / jnp.maximum(far, 1e-6))
        speed = (feet - walker.feet) / h

        frame = rotation(walker.turn)
        foot = walker.place + feet @ frame.T
        velocity = walker.velocity + (speed + jnp.cross(walker.spin, feet)) @ frame.T
        deep = jnp.maximum(-foot[:, 2], 0.0)
        normal = jnp.where(
            deep > 0, jnp.maximum(self.stiffness * deep - self.damping * velocity[:, 2], 0.0), 0.0
        )
        slip = velocity[:, :2]
        # Coulomb's friction, smooth below 1 cm/s
        hold = -self.friction * normal[:, None] * slip / jnp.sqrt((slip**2).sum(1, keepdims=True) + 1e-4)
        force = jnp.concatenate([hold, normal[:, None]], axis=1)

        inertia = self.mass / 12 * jnp.stack([0.12**2 + 0.1**2, 0.22**2 + 0.1**2, 0.22**2 + 0.12**2])
        torque = jnp.cross(feet, force @ frame).sum(0)
        spin = walker.spin + h * (torque - jnp.cross(walker.spin, inertia * walker.spin)) / inertia
        velocity = walker.velocity + h * (force.sum(0) / self.mass - jnp.array([0.0, 0.0, self.gravity]))
        w, v = walker.turn[0], walker.turn[1:]
        change = jnp.concatenate([-(v @ spin)[None], w * spin + jnp.cross(v, spin)])
        turn = walker.turn + 0.5 * h * change
        turn = turn / jnp.linalg.norm(turn)
        return Walker(walker.place + h * velocity, turn, velocity, spin, feet, phase)


def rotation(turn: Array) -> Array:
    """The matrix [3, 3] of a unit quaternion [4]."""
    w, x, y, z = turn
    return jnp.stack(
        [
            jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )


ENVIRONMENTS = {"Gait": Gait}
