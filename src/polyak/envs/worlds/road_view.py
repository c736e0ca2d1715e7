"""What the camera of a car sees of a road, in JAX: each pixel below the horizon is a place on flat ground.

Inverse perspective mapping: the ray of a pixel meets the ground at a place, the place lies at a distance to the left
of the lane's centre line and at a distance along it, and these two say what is there. No loops and no objects.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.interface import Array
from polyak.pytree import Record, pytree

SPACING = 1.0  # m between two entries of a road's tables
VIEW = 80.0  # m of road that are seen ahead

# colours of the ground beside the road, of the sky above and at the horizon, and of the light that belongs to it
GROUND = np.array(
    [[0.33, 0.47, 0.20], [0.22, 0.33, 0.15], [0.56, 0.52, 0.28], [0.50, 0.38, 0.20], [0.40, 0.50, 0.34]]
)
SKY = np.array([[0.30, 0.53, 0.86], [0.60, 0.64, 0.69], [0.30, 0.35, 0.60], [0.43, 0.50, 0.74]])
HORIZON = np.array([[0.78, 0.88, 0.95], [0.81, 0.83, 0.84], [0.98, 0.74, 0.52], [0.96, 0.85, 0.80]])
LIGHT = np.array([[1.05, 1.03, 0.98], [0.84, 0.86, 0.90], [1.02, 0.82, 0.64], [0.90, 0.82, 0.80]])
PAINT = np.array([[0.93, 0.93, 0.90], [0.92, 0.74, 0.22]])  # of markings: white, yellow
ROADSIDE = np.array([[0.52, 0.47, 0.40], [0.40, 0.36, 0.30], [0.62, 0.58, 0.52]])  # gravel and earth


class Camera(NamedTuple):
    """A camera that looks along a car and down a little."""

    height: int  # pixels
    width: int
    field_of_view: float  # degrees, from left to right
    pitch: float  # degrees that it looks down


@pytree
class Table(Record):
    """The centre line of a lane, by the metre: [P] each."""

    east: Array  # m
    north: Array  # m
    heading: Array  # rad from east to north


@pytree
class Look(Record):
    """What a road looks like in one episode: colours [3] and numbers."""

    asphalt: Array
    ground: Array
    patch: Array  # of the ground, in places
    roadside: Array
    paint: Array
    sky: Array
    horizon: Array
    light: Array
    hill: Array
    waves: Array  # [2, 3, 2] of two ridges: heights (rad) and phases
    edge: Array  # [2] of the marking right and left: 0 none, 1 there
    dashed: Array  # [2] likewise: 1 dashed
    second_lane: Array  # 1 where there is one for those who come towards you
    side: Array  # 1 where one drives on the right, -1 on the left
    line: Array  # m, width of a marking
    period: Array  # m, from a dash to the next
    verge: Array  # m of asphalt beyond the marking
    shoulder: Array  # m of gravel beyond the asphalt
    grain: Array  # of asphalt and ground
    wear: Array  # of the markings
    tracks: Array  # darkness of where the wheels run
    shadow: Array  # darkness of the shadows on the ground
    visibility: Array  # m
    seed: Array  # uint32, of all that is random in a texture


@pytree
class Road(Record):
    """A lane of constant width along a curve."""

    curvature: Array  # [P] 1/m, to the left
    centre: Table
    lane_width: Array  # m
    look: Look


def draw_look(key: jax.Array) -> Look:
    """A random look."""
    key_number, key_which, key_seed = jax.random.split(key, 3)
    drawn, chosen = iter(jax.random.uniform(key_number, (40,))), iter(jax.random.uniform(key_which, (5,)))

    def between(low: float, high: float) -> Array:
        return low + (high - low) * next(drawn)

    def chance(p: float) -> Array:
        return jnp.float32(next(drawn) < p)

    def one_of(table: np.ndarray) -> tuple[Array, Array]:
        which = jnp.int32(next(chosen) * len(table))
        return jnp.asarray(table, jnp.float32)[which] * between(0.9, 1.1), which

    (ground, _), (patch, _), (roadside, _) = one_of(GROUND), one_of(GROUND), one_of(ROADSIDE)
    (paint, _), (sky, weather) = one_of(PAINT), one_of(SKY)
    horizon, light = (jnp.asarray(table, jnp.float32)[weather] for table in (HORIZON, LIGHT))
    bright = between(0.7, 1.08)
    sky, horizon = bright * sky, bright * horizon
    second_lane = chance(0.4)
    left = jnp.maximum(second_lane, chance(0.6))  # who has two lanes has a line between them
    ridges = [[[between(0.01, high), between(0.0, 2 * np.pi)] for _ in range(3)] for high in (0.05, 0.025)]
    return Look(
        asphalt=between(0.26, 0.52) * jnp.stack([between(0.96, 1.06), jnp.ones(()), between(0.94, 1.06)]),
        ground=ground,
        patch=0.6 * ground + 0.4 * patch,
        roadside=roadside,
        paint=paint,
        sky=sky,
        horizon=horizon,
        light=light * bright,
        hill=0.55 * ground * light * bright + 0.45 * horizon,
        waves=jnp.stack([jnp.stack([jnp.stack(pair) for pair in ridge]) for ridge in ridges]),
        edge=jnp.stack([chance(0.75), left]),
        dashed=jnp.stack([chance(0.3), jnp.maximum(second_lane * chance(0.8), chance(0.3))]),
        second_lane=second_lane,
        side=2 * chance(0.5) - 1,
        line=between(0.10, 0.20),
        period=between(4.0, 9.0),
        verge=between(0.1, 0.5),
        shoulder=between(0.0, 0.9),
        grain=between(0.04, 0.16),
        wear=between(0.0, 0.7),
        tracks=between(0.0, 0.14),
        shadow=between(0.0, 0.5) * chance(0.6),
        visibility=between(40.0, 250.0),
        seed=jax.random.bits(key_seed),
    )


# ---- geometry


class Rays(NamedTuple):
    """Where the rays of a camera meet flat ground a metre below it, and where they point above the horizon."""

    horizon: int  # rows of sky
    forward: np.ndarray  # [R, 1] m, of each row of ground
    left: np.ndarray  # [R, W] m
    tall: np.ndarray  # [R, 1] m of ground in a pixel, from its lower edge to its upper
    wide: np.ndarray  # [R, 1] m likewise from side to side
    elevation: np.ndarray  # [S, 1] rad above the horizon, of each row of sky
    azimuth: np.ndarray  # [W] rad to the left
    pixel: float  # rad


@functools.cache
def rays(camera: Camera) -> Rays:
    """The rays of a camera's pixels."""
    focal = camera.width / 2 / np.tan(np.radians(camera.field_of_view) / 2)
    pitch = np.radians(camera.pitch)
    down = (np.arange(camera.height) + 0.5 - camera.height / 2) / focal
    side = -(np.arange(camera.width) + 0.5 - camera.width / 2) / focal
    fall = np.sin(pitch) + np.cos(pitch) * down  # of a ray, per unit along the camera's axis
    horizon = int((fall <= 0.2 / focal).sum())
    reach = 1 / fall[horizon:, None]
    elevation = np.arctan2(-fall[:horizon], np.cos(pitch) - np.sin(pitch) * down[:horizon])[:, None]
    found = Rays(
        horizon=horizon,
        forward=reach * (np.cos(pitch) - np.sin(pitch) * down[horizon:, None]),
        left=reach * side,
        tall=reach**2 / focal,
        wide=reach / focal,
        elevation=elevation,
        azimuth=np.arctan(side / np.cos(pitch)),
        pixel=1 / focal,
    )
    arrays = {
        name: np.asarray(x, np.float32) for name, x in found._asdict().items() if isinstance(x, np.ndarray)
    }
    return found._replace(**arrays)


def table_at(table: Array, place: Array) -> Array:
    """A table's value at so many metres from the start of the road, linear between its entries."""
    at = jnp.clip(place / SPACING, 0, len(table) - 1.001)
    low = at.astype(jnp.int32)
    share = at - low
    return table[low] * (1 - share) + table[low + 1] * share


def on_road(rays: Rays, camera_height: Any, road: Road, car: Any) -> tuple[Array, Array, Array]:
    """Of each pixel of ground: m left of the lane's centre line and m along it [R, W]; of each row the slant [R, 1].

    For each row the place of the centre line is found that lies as far ahead; what lies beside it is measured from the
    circle through that place in the road's direction, which is as good as exact on the road and beside it.
    """
    here = car.progress
    heading = table_at(road.centre.heading, here)
    sin, cos = jnp.sin(heading), jnp.cos(heading)
    east = table_at(road.centre.east, here) - sin * car.offset
    north = table_at(road.centre.north, here) + cos * car.offset
    ahead = heading + car.angle
    sin, cos = jnp.sin(ahead), jnp.cos(ahead)

    forward = camera_height * rays.forward[:, 0]
    near = jnp.minimum(forward, VIEW - 5)  # beyond, the road goes on straight

    def seen_from_car(along: Array) -> tuple[Array, Array, Array]:
        x, y = table_at(road.centre.east, along) - east, table_at(road.centre.north, along) - north
        turned = jnp.clip(table_at(road.centre.heading, along) - ahead, -1.2, 1.2)
        return x * cos + y * sin, y * cos - x * sin, turned

    along = here + near
    for _ in range(3):  # Newton's method for the place that lies `near` metres ahead
        x, _, turned = seen_from_car(along)
        along = jnp.clip(along + (near - x) / jnp.cos(turned), here, here + VIEW)
    x, y, turned = seen_from_car(along)
    y = y + (forward - x) * jnp.tan(turned)
    beside = camera_height * rays.left - y[:, None]
    slant = jnp.cos(turned)[:, None]
    beyond = (forward - x) / jnp.cos(turned)
    further = beside * jnp.sin(turned)[:, None]
    # the road bends away from that straight line, as a circle does
    bent = table_at(road.curvature, along)[:, None] * jnp.clip(further, -8, 8) ** 2 / 2
    return beside * slant - bent, (along + beyond)[:, None] + further, slant


# ---- textures


def speckle(i: Array, j: Array, seed: Array) -> Array:
    """A random number in [0, 1) for each cell, whole numbers i and j, of a grid that has no end."""
    h = i.astype(jnp.uint32) * np.uint32(0x9E3779B1) ^ j.astype(jnp.uint32) * np.uint32(0x85EBCA77) ^ seed
    h = (h ^ (h >> 15)) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> 12)) * np.uint32(0x297A2D39)
    return (h >> 8).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def clouds(x: Array, y: Array, seed: Array) -> Array:
    """A smooth random number in [0, 1] at a place, with cells of 1 by 1."""
    i, j = jnp.floor(x), jnp.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = i.astype(jnp.int32), j.astype(jnp.int32)
    near = speckle(i, j, seed) * (1 - u) + speckle(i + 1, j, seed) * u
    far = speckle(i, j + 1, seed) * (1 - u) + speckle(i + 1, j + 1, seed) * u
    return near * (1 - v) + far * v


def band(x: Array, low: Any, high: Any, pixel: Array) -> Array:
    """The share of a pixel about x that lies between two bounds."""
    return jnp.clip((x - low) / pixel + 0.5, 0, 1) * jnp.clip((high - x) / pixel + 0.5, 0, 1)


def stripe(x: Array, middle: Any, wide: Any, pixel: Array) -> Array:
    """The share of a pixel about x that a stripe covers, which may be thinner than a pixel."""
    share = jnp.clip((wide / 2 - jnp.abs(x - middle)) / pixel + 0.5, 0, 1)
    return jnp.minimum(share, wide / pixel)


# ---- the picture


def paint(camera: Camera, camera_height: Any, road: Road, car: Any) -> Array:
    """The picture [H, W, 3] uint8 that the camera of a car takes on a road."""
    found, look = rays(camera), road.look
    heading = table_at(road.centre.heading, car.progress) + car.angle
    ground = paint_ground(found, camera_height, road, car)
    picture = jnp.concatenate([paint_sky(found, look, heading), ground], axis=1)  # [3, H, W]
    return jnp.moveaxis(jnp.clip(255 * picture + 0.5, 0, 255).astype(jnp.uint8), 0, -1)


def paint_ground(rays: Rays, camera_height: Any, road: Road, car: Any) -> Array:
    """Ground, gravel, asphalt, markings, shadows and haze, [3, R, W]."""
    look, half = road.look, road.lane_width / 2
    beside, along, slant = on_road(rays, camera_height, road, car)
    beside = beside * look.side
    wide = camera_height * rays.wide * jnp.maximum(slant, 0.2) + 0.01
    tall = camera_height * rays.tall + 0.01

    # what covers which share of a pixel
    outer = half + look.second_lane * road.lane_width
    asphalt = band(beside, -half - look.verge, outer + look.verge, wide)
    edge = look.verge + look.shoulder
    gravel = band(beside, -half - edge, outer + edge, wide)
    dash = look.period / 2
    phase = jnp.abs(along - look.period * jnp.round(along / look.period))
    dashes = jnp.clip((dash / 2 - phase) / tall + 0.5, 0, 1)
    lines = 0.0
    for which, middle in enumerate((-half, half)):
        drawn = look.edge[which] * (1 - look.dashed[which] * (1 - dashes))
        lines = lines + drawn * stripe(beside, middle, look.line, wide)
    lines = lines + look.second_lane * stripe(beside, outer, look.line, wide)

    # textures fade where a pixel is larger than their cells
    fine = jnp.minimum(1, 0.12 / tall)
    grain = (
        speckle(jnp.floor(along * 9).astype(jnp.int32), jnp.floor(beside * 16).astype(jnp.int32), look.seed)
        - 0.5
    )
    grain = grain * fine
    coarse = clouds(along / 3.5, beside / 2.2, look.seed)
    patch = jnp.clip(3 * coarse - 1, 0, 1)
    wheels = jnp.abs(jnp.abs(beside) - 0.75)
    dirt = look.tracks * jnp.clip(1 - wheels / 0.35, 0, 1)
    shade = 1 - look.shadow * jnp.clip(6 * (coarse - 0.55), 0, 1)
    worn = lines * (1 - look.wear * jnp.clip(0.5 + 2 * grain + (1 - coarse) * 0.5, 0, 1))
    haze = jnp.exp(-camera_height * rays.forward / look.visibility)

    def plane(colour: dict[str, Array]) -> Array:
        """One of the three colours."""
        seen = colour["ground"] + (colour["patch"] - colour["ground"]) * patch
        seen = seen * (1 + 2 * look.grain * grain)
        stones = colour["roadside"] * (1 + 2.5 * look.grain * grain)
        seen = seen + (stones - seen) * gravel
        tar = colour["asphalt"] * (1 + 1.5 * look.grain * grain - dirt + 0.1 * (coarse - 0.5))
        seen = seen + (tar - seen) * asphalt
        seen = seen + (colour["paint"] - seen) * worn
        return colour["horizon"] + (seen * shade * colour["light"] - colour["horizon"]) * haze

    # A loop, before which each share is computed once; without it XLA computes them again for each colour.
    names = ("ground", "patch", "roadside", "asphalt", "paint", "horizon", "light")
    return jax.lax.map(plane, {name: getattr(look, name) for name in names})


def paint_sky(rays: Rays, look: Look, heading: Array) -> Array:
    """The sky and two ridges of hills, [3, S, W]."""
    towards = rays.azimuth + heading
    height = jnp.clip(rays.elevation / 0.5, 0, 1)
    ridges = []
    for ridge, turns in enumerate(((2.0, 5.0, 11.0), (7.0, 17.0, 31.0))):
        top = sum(
            look.waves[ridge, k, 0] * (1 + jnp.sin(turn * towards + look.waves[ridge, k, 1]))
            for k, turn in enumerate(turns)
        )
        ridges.append(jnp.clip((top - rays.elevation) / rays.pixel + 0.5, 0, 1))

    def plane(colour: tuple[Array, Array, Array]) -> Array:
        sky, horizon, hill = colour
        seen = horizon + (sky - horizon) * height
        for ridge, nearness in zip(ridges, (0.35, 0.75), strict=True):
            seen = seen + (horizon + (0.7 * hill - horizon) * nearness - seen) * ridge
        return seen

    return jax.lax.map(plane, (look.sky, look.horizon, look.hill))


# ---- a map for people


def draw_map(road: Road, car: Any, size: int) -> np.ndarray:
    """The road from above and the car on it, [size, size, 3] uint8."""
    from PIL import Image, ImageDraw

    east, north = np.asarray(road.centre.east), np.asarray(road.centre.north)
    centre = np.array([east.max() + east.min(), north.max() + north.min()]) / 2
    scale = 0.88 * size / max(np.ptp(east), np.ptp(north), 40.0)

    def on_map(x: Any, y: Any) -> list[tuple[float, float]]:
        points = (np.stack([x, y], axis=-1) - centre) * scale * [1, -1] + size / 2
        return [tuple(point) for point in points.reshape(-1, 2).tolist()]

    look = road.look
    colours = [look.ground, look.asphalt, look.paint]
    ground, asphalt, paint = (tuple(int(255 * x) for x in np.clip(c * look.light, 0, 1)) for c in colours)
    picture = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(picture)
    line = on_map(east, north)
    pen.line(line, fill=asphalt, width=max(5, round(float(road.lane_width) * scale)), joint="curve")
    pen.line(line, fill=paint, width=1)
    at = float(car.progress)
    x, y, turned = (
        float(table_at(table, at)) for table in (road.centre.east, road.centre.north, road.centre.heading)
    )
    x, y = x - np.sin(turned) * float(car.offset), y + np.cos(turned) * float(car.offset)
    turned += float(car.angle)
    ahead, left = np.array([np.cos(turned), np.sin(turned)]), np.array([-np.sin(turned), np.cos(turned)])
    shape = np.array([x, y]) + np.array([14 * ahead, -8 * ahead + 7 * left, -8 * ahead - 7 * left]) / scale
    pen.polygon(on_map(shape[:, 0], shape[:, 1]), fill=(214, 40, 40), outline=(255, 255, 255))
    return np.array(picture)
