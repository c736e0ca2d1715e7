"""MuJoCo pictures without OpenGL: one ray for every pixel, shaded with NumPy.

`mujoco.mj_multiRay` tells what a ray meets, how far away and at which angle; a sun with a soft shadow, a sky,
a checkered ground and smooth outlines make it a picture. It is for people, not pixels to learn from: textures
of geoms, transparency, tendons and reflections are not drawn.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's names come from C++ and have no stubs.

from collections.abc import Mapping
from typing import Any, NamedTuple

import mujoco
import numpy as np

GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # the geom groups that MuJoCo's own viewer shows
FAR = 1e8
ZENITH = np.array([0.36, 0.55, 0.78], np.float32)
HORIZON = np.array([0.87, 0.91, 0.95], np.float32)
# Where in a pixel, in its widths, the rays of an outline go: a rotated grid has no two on one line.
INSIDE = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]])
# The sun is a small disc: shadows from these points of it, in its radii, are averaged.
DISC = np.array([[0.0, 0.0], [0.9, 0.2], [-0.45, 0.8], [-0.45, -0.8], [0.3, -0.7]])


class Camera(NamedTuple):
    """A pinhole: the rows of `axes` are right, up and backward; `slope` is half its height at distance 1."""

    eye: np.ndarray  # [3]
    axes: np.ndarray  # [3, 3]
    slope: float
    distance: float  # to what it looks at


class Hits(NamedTuple):
    """Hits of R rays; `thing` is a geom, `ngeom` + a site, or -1 for the sky."""

    thing: np.ndarray  # [R] int32
    distance: np.ndarray  # [R]
    normal: np.ndarray  # [R, 3] float32


class RayCaster:
    """Draws the states of one model.

    camera   distance, lookat, azimuth and elevation of a free camera, as Gymnasium's environments give them;
             where the model has a camera named "track", that one is used, as Gymnasium does
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        width: int = 320,
        height: int = 240,
        camera: Mapping[str, Any] | None = None,
    ):
        self.model, self.width, self.height = model, width, height
        self.camera = dict(camera or {})
        self.track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        self.root = _travelling_body(model)
        self.planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
        self.sites = _visible_sites(model)
        self.colour = np.concatenate([_geom_colours(model), model.site_rgba[:, :3]]).astype(np.float32)
        column, row = np.meshgrid(np.arange(width), np.arange(height))
        self.pixel = np.stack([column, row], -1).reshape(-1, 2)  # [R, 2]
        self.still: np.ndarray | None = None

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """A picture [H, W, 3] uint8 of the positions that `data` holds; changes nothing in it."""
        camera = self._camera(data)
        rays = self._rays(camera, self.pixel)
        hits = self._cast(data, camera.eye, rays)
        picture = self._shade(data, camera, rays, hits)
        edge = np.flatnonzero(_outline(hits.thing.reshape(self.height, self.width)))
        if edge.size:
            rays = self._rays(camera, (self.pixel[edge, None] + INSIDE).reshape(-1, 2))
            finer = self._shade(data, camera, rays, self._cast(data, camera.eye, rays))
            picture[edge] = finer.reshape(edge.size, len(INSIDE), 3).mean(1)
        picture = np.clip(picture, 0, 1) * 255 + 0.5
        return picture.astype(np.uint8).reshape(self.height, self.width, 3)

    def segment(self, data: mujoco.MjData) -> np.ndarray:
        """The geom in each pixel, [H, W] int32; -1 is the sky, from `ngeom` on they are sites."""
        camera = self._camera(data)
        hits = self._cast(data, camera.eye, self._rays(camera, self.pixel))
        return hits.thing.reshape(self.height, self.width)

    def _camera(self, data: mujoco.MjData) -> Camera:
        """The model's own camera "track", or a free one that follows what can travel."""
        model = self.model
        if self.track >= 0:
            eye, axes = data.cam_xpos[self.track].copy(), data.cam_xmat[self.track].reshape(3, 3).T
            body = model.cam_bodyid[self.track]
            distance = float(np.linalg.norm(data.subtree_com[body] - eye))
            return Camera(eye, axes, np.tan(np.radians(model.cam_fovy[self.track]) / 2), distance)
        distance = float(self.camera.get("distance", model.stat.extent))
        azimuth = np.radians(self.camera.get("azimuth", model.vis.global_.azimuth))
        elevation = np.radians(self.camera.get("elevation", model.vis.global_.elevation))
        forward = np.array(
            [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        axes = np.stack([right, np.cross(right, forward), -forward])
        slope = np.tan(np.radians(model.vis.global_.fovy) / 2)
        return Camera(self._target(data) - distance * forward, axes, slope, distance)

    def _target(self, data: mujoco.MjData) -> np.ndarray:
        """Target of a free camera: the travelling body, else the geoms of the first picture."""
        if self.still is None:
            self.still = np.array(self.camera.get("lookat", np.median(data.geom_xpos, axis=0)), float)
        if self.root is None:
            return self.still
        at = data.subtree_com[self.root]
        return np.array([at[0], at[1], self.still[2] if "lookat" in self.camera else at[2]])

    def _rays(self, camera: Camera, pixel: np.ndarray) -> np.ndarray:
        """Unit directions [R, 3] through these points [R, 2] of the picture."""
        half = self.height / 2
        x = (pixel[:, 0] + 0.5 - self.width / 2) * (camera.slope / half)
        y = (half - 0.5 - pixel[:, 1]) * (camera.slope / half)
        inverse = 1 / np.sqrt(x * x + y * y + 1)
        return np.stack([x * inverse, y * inverse, -inverse], -1) @ camera.axes

    def _cast(self, data: mujoco.MjData, eye: np.ndarray, rays: np.ndarray) -> Hits:
        """The first thing that each ray meets: a geom, a ground that never ends, or a round site."""
        thing, distance, normal = _multi_ray(self.model, data, eye, rays)
        for geom in self.planes.tolist():
            _meet_ground(data, geom, eye, rays, thing, distance, normal)
        for site in self.sites:
            offset = data.site_xpos[site] - eye
            along = rays @ offset
            depth = along * along - (offset @ offset - self.model.site_size[site, 0] ** 2)
            near = along - np.sqrt(np.maximum(depth, 0))
            met = np.flatnonzero((depth > 0) & (near > 0) & (near < distance))
            thing[met], distance[met] = self.model.ngeom + site, near[met]
            outward = rays[met] * near[met, None] - offset
            normal[met] = outward / self.model.site_size[site, 0]
        return Hits(thing, distance, normal)

    def _shade(self, data: mujoco.MjData, camera: Camera, rays: np.ndarray, hits: Hits) -> np.ndarray:
        """Colours [R, 3] float32, sRGB, of what these rays met."""
        height = np.clip(rays[:, 2:].astype(np.float32) * 2.2, -1, 1)
        haze = np.where(height > 0, np.abs(height) ** 0.7, -0.3 * height)
        picture = HORIZON + haze * (ZENITH - HORIZON)
        sun = camera.axes.T @ np.array([-0.45, 0.2, 0.55]) + np.array([0.0, 0.0, 1.0])
        sun /= np.linalg.norm(sun)

        ground = np.isin(hits.thing, self.planes)
        solid = np.flatnonzero((hits.thing >= 0) & ~ground)
        picture[solid] = self._solid(rays, hits, solid, sun.astype(np.float32))
        ground = np.flatnonzero(ground)
        if ground.size:
            picture[ground] = self._ground(data, camera, rays, hits, ground, sun)
        return picture

    def _solid(self, rays: np.ndarray, hits: Hits, index: np.ndarray, sun: np.ndarray) -> np.ndarray:
        """A matte surface in sun and sky light, darker where it turns away, with a small highlight."""
        normal, ray = hits.normal[index], rays[index].astype(np.float32)
        facing = -(normal * ray).sum(1)
        light = normal @ sun
        diffuse = np.clip((light + 0.25) / 1.25, 0, 1)
        sky = 0.5 + 0.5 * normal[:, 2]
        rim = np.clip(facing, 0, 1) ** 0.6
        mirrored = ray + 2 * facing[:, None] * normal
        shine = np.clip(mirrored @ sun, 0, 1) ** 24
        shade = (0.26 + 0.24 * sky + 0.68 * diffuse) * (0.6 + 0.4 * rim)
        return self.colour[hits.thing[index]] * shade[:, None] + 0.18 * shine[:, None]

    def _ground(
        self,
        data: mujoco.MjData,
        camera: Camera,
        rays: np.ndarray,
        hits: Hits,
        index: np.ndarray,
        sun: np.ndarray,
    ) -> np.ndarray:
        """A checkerboard, blurred by the size of a pixel, with a shadow, fading into the horizon."""
        ray, distance = rays[index], hits.distance[index]
        place = camera.eye + ray * distance[:, None]
        cell = _round_length(0.22 * camera.distance)
        spread = distance * (2 * camera.slope / self.height)  # a pixel's width out there
        slant = spread / np.maximum(np.abs(ray[:, 2]), 1e-4)
        forward, right = -camera.axes[2], camera.axes[0]
        checker = 0.5 - 0.5 * np.prod(
            [
                _square_wave(place[:, k] / cell, (spread * abs(right[k]) + slant * abs(forward[k])) / cell)
                for k in range(2)
            ],
            axis=0,
        )
        tint = 0.75 + 0.25 * self.colour[hits.thing[index]]
        tone = tint * (0.66 + 0.13 * checker.astype(np.float32))[:, None]
        dark = self._shadow(data, camera, place, sun)
        tone *= (1 - 0.5 * dark)[:, None]
        fade = np.exp(-((distance / (9 * camera.distance)) ** 2)).astype(np.float32)[:, None]
        return HORIZON + fade * (tone - HORIZON)

    def _shadow(self, data: mujoco.MjData, camera: Camera, place: np.ndarray, sun: np.ndarray) -> np.ndarray:
        """How much of the sun [R] float32, 0 to 1, is hidden from these places [R, 3] near the body."""
        dark = np.zeros(len(place), np.float32)
        casting = np.setdiff1d(np.arange(self.model.ngeom), self.planes)
        if not casting.size:
            return dark
        centre, size = data.geom_xpos[casting], self.model.geom_rbound[casting]
        # Only places inside the box that the bounding spheres' shadows fill are asked.
        drop = (centre[:, 2:] - place[:, 2].min()) / sun[2] * sun
        reach = 1.3 * size[:, None] / sun[2] + 0.05 * camera.distance
        low, high = ((centre - drop) - reach).min(0), ((centre - drop) + reach).max(0)
        near = np.flatnonzero(((place[:, :2] > low[:2]) & (place[:, :2] < high[:2])).all(1))
        if not near.size:
            return dark
        away = 20 * camera.distance
        side = np.cross(sun, [0.0, 1.0, 0.0])
        for x, y in 0.022 * away * DISC:
            lamp = place[near].mean(0) + away * sun + x * side + y * np.cross(sun, side)
            toward = place[near] - lamp
            full = np.linalg.norm(toward, axis=1)
            _, met, _ = _multi_ray(self.model, data, lamp, toward / full[:, None])
            dark[near] += (met < full * (1 - 1e-4)) / len(DISC)
        return dark


def _multi_ray(
    model: mujoco.MjModel, data: mujoco.MjData, eye: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Geom [R] (-1: none), distance [R] (FAR: none) and normal [R, 3] float32 of rays from one point."""
    count = len(rays)
    thing = np.full((count, 1), -1, np.int32)
    distance, normal = np.empty((count, 1)), np.zeros((3 * count, 1))
    mujoco.mj_multiRay(
        model,
        data,
        np.ascontiguousarray(eye.reshape(3, 1)),
        np.ascontiguousarray(rays.reshape(-1, 1)),
        GROUPS,
        True,
        -1,
        thing,
        distance,
        normal,
        count,
        FAR,
    )
    thing, distance = thing[:, 0], distance[:, 0]
    distance[thing < 0] = FAR
    return thing, distance, normal.reshape(count, 3).astype(np.float32)


def _meet_ground(
    data: mujoco.MjData,
    geom: int,
    eye: np.ndarray,
    rays: np.ndarray,
    thing: np.ndarray,
    distance: np.ndarray,
    normal: np.ndarray,
) -> None:
    """Continue a level plane, which holds bodies everywhere, beyond the size that it is drawn with."""
    up = data.geom_xmat[geom].reshape(3, 3)[:, 2]
    height = (eye - data.geom_xpos[geom]) @ up
    if up[2] < 0.99 or height <= 0:
        return
    open_rays = np.flatnonzero(thing < 0)
    fall = -(rays[open_rays] @ up)
    met = fall > 1e-6
    down = open_rays[met]
    thing[down], distance[down], normal[down] = geom, height / fall[met], up


def _outline(thing: np.ndarray) -> np.ndarray:
    """Pixels [H, W] beside which another thing is seen."""
    edge = np.zeros(thing.shape, bool)
    across, along = thing[:, 1:] != thing[:, :-1], thing[1:] != thing[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    return edge


def _square_wave(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The mean over [x - width/2, x + width/2] of a wave that is 1 on even and -1 on odd unit cells."""
    width = np.maximum(width, 1e-4)

    def integral(y: np.ndarray) -> np.ndarray:
        return 1 - np.abs(np.mod(y, 2) - 1)

    return (integral(x + width / 2) - integral(x - width / 2)) / width


def _round_length(x: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(x))
    return float(min((1, 2, 5, 10), key=lambda m: abs(np.log(m * power / x))) * power)


def _geom_colours(model: mujoco.MjModel) -> np.ndarray:
    """Colours [ngeom, 3]: the geom's own, or its material's where the geom says nothing."""
    colour = model.geom_rgba[:, :3].copy()
    silent = (model.geom_matid >= 0) & (model.geom_rgba == np.array([0.5, 0.5, 0.5, 1], np.float32)).all(1)
    colour[silent] = model.mat_rgba[model.geom_matid[silent], :3]
    return colour


def _visible_sites(model: mujoco.MjModel) -> np.ndarray:
    """Round sites that MuJoCo's own viewer shows: goals, mostly."""
    sphere = model.site_type == mujoco.mjtGeom.mjGEOM_SPHERE
    return np.flatnonzero(sphere & (model.site_rgba[:, 3] > 0) & (model.site_group < 3))


def _travelling_body(model: mujoco.MjModel) -> int | None:
    """The first body that moves freely or along two axes; None where everything stays in place."""
    free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    slides = np.bincount(
        model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_SLIDE], minlength=model.nbody
    )
    bodies = np.union1d(free, np.flatnonzero(slides >= 2))
    return int(bodies[0]) if bodies.size else None
