"""Following a lane: a random road for each episode, a car, and what its camera sees.

The task of Kendall, Hawke, Janz, Mazur, Reda, Allen, Lam, Bewley & Shah 2018, "Learning to Drive in a Day"
(arXiv:1807.00412), section 4, in a simulator of our own: protocols can be compared with theirs, numbers cannot.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from polyak.envs.environment import Environment, Step
from polyak.envs.worlds import road_view
from polyak.envs.worlds.road_view import SPACING, VIEW, Camera, Road, Table, draw_look, table_at
from polyak.interface import Array, Box, Spec, Tree
from polyak.pytree import Record, pytree, static

AHEAD = (0.0, 4.0, 8.0, 12.0)  # m, where the features tell the curvature
WAVES = 6  # sines that the curvature of a road is made of


@pytree
class Car(Record):
    """Where a car is on its road, how fast, and where its wheels point."""

    progress: Array  # m along the centre of the lane
    offset: Array  # m to the left of it
    angle: Array  # rad to the left of its direction
    speed: Array  # m/s
    steering: Array  # rad to the left


@pytree
class Lane(Environment):
    """Drive along a lane without leaving it: every episode has another road, other markings and another light.

    state: the road and the car
    obs: camera [height, width, 3] uint8 and car [2], speed and steering as shares of their largest; or, with
        observation = features, offset and angle, curvature at AHEAD, half the lane's width, speed, steering
    action [2]: steering angle to the left (rad) and speed (m/s) that the car is to take on
    reward: metres of the lane that are passed. A disengagement, the car leaving its lane, terminates the episode; with
        safety_driver it is put back into the lane at rest and goes on. At the end of the route it is truncated.
    measures: distance (m), disengagements, time (s), and metres per disengagement, a ratio of sums
    """

    timestep: float = 0.2  # s
    wheelbase: float = 1.7  # m
    car_width: float = 1.2  # m
    steering_time: float = 0.2  # s, until a steering angle is taken on but for 1/e
    speed_time: float = 0.6  # s, likewise a speed
    lane_width: tuple[float, float] = (2.8, 3.8)  # m, the narrowest and the widest
    curvature: float = 0.02  # 1/m, root mean square along a road
    first_road: int = 0  # number of the first of `roads`
    roads: int = 0  # how many roads there are; 0: another one in each episode
    looks: int = 0  # how many looks the roads take in turn; 0: each its own
    camera_height: float = 1.4  # m
    height: int = static(default=60)  # pixels of the camera
    width: int = static(default=80)
    field_of_view: float = static(default=80.0)  # degrees, from left to right
    pitch: float = static(default=12.0)  # degrees that the camera looks down
    length: int = static(default=250)  # m, the route
    max_speed: float = static(default=10 / 3.6)  # m/s
    max_steering: float = static(default=0.4)  # rad
    observation: Literal["camera", "features"] = static(default="camera")  # what is observed
    safety_driver: bool = static(default=False)  # a disengagement does not terminate the episode
    time_limit: int | None = static(default=1500)

    @property
    def spec(self) -> Spec:
        """Pictures and two numbers, or features; steering and speed."""
        action = Box((2,), (-self.max_steering, 0.0), (self.max_steering, self.max_speed))
        measures = {"distance": "sum", "disengagements": "sum", "time": "sum"}
        ratios = {"metres_per_disengagement": ("distance", "disengagements")}
        return Spec(self._seen_space(), action, self.time_limit, measures=measures, ratios=ratios)

    @property
    def fps(self) -> float:
        """Pictures a second of a film in real time."""
        return 1 / float(self.timestep)

    def reset(self, key: jax.Array) -> tuple[Tree, Tree]:
        """At rest near the middle of a random road's lane."""
        key_road, key_offset, key_angle = jax.random.split(key, 3)
        road, zero = self.road(key_road), jnp.zeros(())
        car = Car(
            progress=zero,
            offset=jax.random.uniform(key_offset, minval=-0.2, maxval=0.2),
            angle=jax.random.uniform(key_angle, minval=-0.05, maxval=0.05),
            speed=zero,
            steering=zero,
        )
        return (road, car), self._observe(road, car)

    def step(self, state: Tree, action: Array, key: jax.Array) -> Step:
        """One step of a bicycle car, by the midpoint rule."""
        road, before = state
        car = self.drive(road, before, jnp.asarray(action, jnp.float32))
        out = jnp.abs(car.offset) > (road.lane_width - self.car_width) / 2
        passed = car.progress - before.progress
        arrived = car.progress >= self.length
        if self.safety_driver:
            zero = jnp.zeros(())
            put_back = Car(car.progress, zero, zero, zero, zero)
            car = jax.tree.map(lambda put, own: jnp.where(out, put, own), put_back, car)
        terminated = jnp.array(False) if self.safety_driver else out
        measures = {
            "distance": passed,
            "disengagements": jnp.float32(out),
            "time": jnp.asarray(self.timestep, jnp.float32),
        }
        return Step(
            (road, car), self._observe(road, car), passed, terminated, arrived & ~terminated, measures
        )

    def drive(self, road: Road, car: Car, action: Array) -> Car:
        """The car one step on, with its rear axle on the curve; steering and speed follow what is asked of them."""
        asked, dt = jnp.stack([action[0], action[1]]), self.timestep
        limits = jnp.array([[-self.max_steering, 0.0], [self.max_steering, self.max_speed]])
        times = jnp.stack([jnp.float32(self.steering_time), jnp.float32(self.speed_time)])
        now = jnp.stack([car.steering, car.speed])
        after = now + (jnp.clip(asked, *limits) - now) * -jnp.expm1(-dt / times)
        steering, speed = (now + after) / 2

        def rates(progress: Array, offset: Array, angle: Array) -> Array:
            bend = table_at(road.curvature, progress)
            along = speed * jnp.cos(angle) / jnp.maximum(1 - offset * bend, 0.3)
            turn = speed * jnp.tan(steering) / self.wheelbase - bend * along
            return jnp.stack([along, speed * jnp.sin(angle), turn])

        place = jnp.stack([car.progress, car.offset, car.angle])
        middle = place + dt / 2 * rates(*place)
        progress, offset, angle = place + dt * rates(*middle)
        return Car(progress, offset, angle, speed=after[1], steering=after[0])

    def road(self, key: jax.Array) -> Road:
        """A random road: its curve, tabulated by the metre, and all that it looks like."""
        key_some, key_any = jax.random.split(key)
        some = self.first_road + jax.random.randint(key_some, (), 0, jnp.maximum(self.roads, 1))
        number = jnp.where(self.roads > 0, some, jax.random.randint(key_any, (), 0, 2**30))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 3)
        s = jnp.arange(0.0, self.length + VIEW, SPACING)
        # kappa(s), a sum of sines of 25 m to 200 m, which begins at 0
        wave = jax.random.uniform(keys[0], (WAVES, 1), minval=np.log(25.0), maxval=np.log(200.0))
        phase = jax.random.uniform(keys[1], (WAVES, 1), maxval=2 * np.pi)
        bend = jnp.sin(2 * np.pi * s / jnp.exp(wave) + phase).sum(axis=0) * np.sqrt(2 / WAVES)
        curvature = self.curvature * jnp.clip(bend, -2, 2) * jnp.clip(s / 15, 0, 1)
        heading = SPACING * (jnp.cumsum(curvature) - curvature / 2 - curvature[0] / 2)
        east, north = (
            SPACING * (jnp.cumsum(x) - x / 2 - x[0] / 2) for x in (jnp.cos(heading), jnp.sin(heading))
        )
        low, high = self.lane_width
        lane_width = jax.random.uniform(keys[2], minval=low, maxval=high)
        look = jnp.where(self.looks > 0, number % jnp.maximum(self.looks, 1), number)
        look = draw_look(jax.random.fold_in(jax.random.key(1), look))
        return Road(curvature, Table(east, north, heading), lane_width, look)

    def draw(self, state: Tree) -> np.ndarray:
        """The driver's view beside a map of the road, [360, 840, 3]."""
        road, car = jax.tree.map(np.asarray, state)
        view = _paint(Camera(360, 480, self.field_of_view, self.pitch), self.camera_height, road, car)
        return np.concatenate([np.asarray(view), road_view.draw_map(road, car, 360)], axis=1)

    def _seen_space(self) -> Any:
        if self.observation == "features":
            return Box((2 + len(AHEAD) + 3,))
        camera = Box((self.height, self.width, 3), 0.0, 255.0, "uint8")
        return {"camera": camera, "car": Box((2,), -1.0, 1.0)}

    def _observe(self, road: Road, car: Car) -> Tree:
        own = jnp.stack([car.speed / self.max_speed, car.steering / self.max_steering])
        if self.observation == "features":
            bends = [table_at(road.curvature, car.progress + ahead) for ahead in AHEAD]
            return jnp.concatenate([jnp.stack([car.offset, car.angle, *bends, road.lane_width / 2]), own])
        camera = Camera(self.height, self.width, self.field_of_view, self.pitch)
        return {"camera": road_view.paint(camera, self.camera_height, road, car), "car": own}


_paint = jax.jit(road_view.paint, static_argnums=0)

ENVIRONMENTS = {"Lane": Lane}
