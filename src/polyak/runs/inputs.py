"""Inputs of a run from other runs: `--init` begins with another's weights, `--use` gives the algorithm its policy.

What is read of the other run are its settings and arrays, held against this run's shapes; no code that it names is
imported. Once this run has a checkpoint of its own, the other one is not looked at any more.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from polyak.drivers.act import row_shape
from polyak.drivers.learn import initial_states, learn
from polyak.drivers.program import WITH_RING, Program, at_step_zero, is_shared, map_seeded, over_seeds
from polyak.errors import CheckpointError, UserError, brief, nearest
from polyak.interface import Algorithm, Array, Given, Spec, Tree, rows_of
from polyak.parts import replay
from polyak.pytree import Counter
from polyak.runs.algorithm import wrapped
from polyak.runs.folder import RunFolder
from polyak.runs.plan import Plan
from polyak.runs.reading import STATE, state_shapes
from polyak.runs.session import Session
from polyak.runs.spec import read_spec, shapes, show_space
from polyak.runs.values import plain
from polyak.store import checkpoint, storage
from polyak.store.storage import Field
from polyak.wrappers.freeze import TARGET

INNER = "inner/"  # before the names of an algorithm's arrays in a wrapper's state
DEEPEST = 4  # wrappers around an algorithm
MARK = "frozen"  # in the name of what is frozen, which is copied like anything else

Names = dict[str, str]  # arrays of a state: from their names without marks to their names


class Source(NamedTuple):
    """One `--init RUN[:FIELD[=FIELD]]`."""

    text: str
    path: Path
    field: str  # of the other run's state; "" for all that it learned
    target: str  # of this run's state


class Copy(NamedTuple):
    """An array of another run that takes the place of one of this run's."""

    path: Path  # the run
    name: str  # in its checkpoint
    seeds: list[int]  # for each seed of this run the place of one in the other


# ---- what was said


def read_source(text: str) -> Source:
    """The parts of RUN[:FIELD[=FIELD]]; UserError where they are none."""
    path, colon, fields = text.rpartition(":")
    if not colon or (Path(text) / "config.json").is_file():
        return Source(text, Path(text), "", "")
    field, _, target = fields.partition("=")
    if not path or not field:
        raise UserError(f"--init is {brief(text)}, but must be RUN, RUN:FIELD or RUN:FIELD=FIELD")
    return Source(text, Path(path), field, target or field)


def recorded(plan: Plan) -> Plan:
    """The plan with the digest of each run that it begins from, and how it acts; UserError where there is none."""
    init, digests, use = {}, {}, {}
    for text in plan.init:
        path = read_source(text).path
        digests[path] = digests.get(path) or digest_of(f"--init {text}", path)
        init[text] = digests[path]
    for name, said in plan.use.items():
        path = Path(said["run"])
        digest = digest_of(f"--use {name}={path}", path)
        use[name] = said | {"digest": digest, "plan": plain(RunFolder(path).plan())}
    return dataclasses.replace(plan, init=init, use=use, data=plan.data and recorded_data(plan))


def recorded_data(plan: Plan) -> dict[str, Any]:
    """The run whose replay this one begins with, with its digest and its number of rows; UserError without any."""
    path, where = Path(plan.data["run"]), f"--data {plan.data['run']}"
    digest = digest_of(where, path)
    manifest = checkpoint.describe(path / "checkpoints")[1]
    if not manifest.clock:
        raise UserError(f"{where}: a run of {RunFolder(path).plan().algorithm}, which has no replay")
    return {"run": str(path), "digest": digest, "rows": manifest.clock - manifest.oldest}


def digest_of(where: str, path: Path) -> str:
    """The digest of a run: of all that its newest checkpoint holds."""
    try:
        RunFolder(path).config()
        return checkpoint.digest(path)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def check_digest(where: str, path: Path, digest: str) -> None:
    """UserError where a run is another by now."""
    if digest_of(where, path) != digest:
        raise UserError(f"{where}: {path} has gone on since this run was planned: its digest is another")


# ---- what goes where


def check(session: Session) -> None:
    """UserError, one line, where inputs do not fit, or where what is to be frozen is not there."""
    plan = session.plan
    check_use(session)
    if plan.data:
        check_rows(session)
    if plan.init or plan.freeze:
        copies(plan, shapes_of(session))
    if plan.freeze:
        check_frozen(plan.algorithm, session.algorithm, session.cfg, session.spec)


def check_use(session: Session) -> None:
    """UserError where a policy is given that the algorithm does not ask for, or one of another world."""
    plan = session.plan
    for name, said in plan.use.items():
        where = f"--use {name}={said['run']}"
        if name not in session.algorithm.uses:
            asked = nearest(name, session.algorithm.uses) or "it uses none"
            raise UserError(f"{where}: {plan.algorithm} does not ask for a policy {name!r}: {asked}")
        if "normalize_obs" in plan.wrap:
            raise UserError(
                f"{where}: sees the environment's own observations, not those that are normalised: drop --wrap"
            )
        check_same_world(where, Path(said["run"]), session)


def check_rows(session: Session) -> None:
    """UserError where another run's replay is not what this one could have collected."""
    plan = session.plan
    path, where = Path(plan.data["run"]), f"--data {plan.data['run']}"
    theirs = RunFolder(path).plan()
    if not session.cfg.data.replays:
        raise UserError(f"{where}: {plan.algorithm} keeps no rows, since it has no replay")
    if theirs.num_envs != plan.num_envs:
        raise UserError(
            f"{where}: --num-envs is {plan.num_envs}, and that run has {theirs.num_envs}: rows are kept by environment"
        )
    matching(where, theirs, plan)
    check_same_world(where, path, session)


def check_same_world(where: str, run: Path, session: Session) -> None:
    """UserError where another run's observations or actions are of other shapes."""
    path, manifest = checkpoint.describe(run / "checkpoints")
    theirs, mine = read_spec(manifest.extra, path), session.env_spec
    kinds = ("observations", theirs.obs, mine.obs), ("actions", theirs.action, mine.action)
    for what, there, here in kinds:
        if shapes(there) != shapes(here):
            raise UserError(
                f"{where}: its {what} are {show_space(there)}, and here they are {show_space(here)}"
            )


def check_frozen(name: str, algorithm: Algorithm, cfg: Any, spec: Spec) -> None:
    """UserError where learning takes a state whose networks are frozen in parts for another; found by tracing it."""

    def learned(key: Array) -> tuple[Tree, Tree]:
        state = algorithm.init(cfg, spec, key)
        row = row_shape(algorithm, cfg, spec, state)
        rows = rows_of(cfg.data, spec.time_limit)
        rollout = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), row)
        buffer = replay.index.empty(row, cfg.data.steps, cfg.data) if cfg.data.replays else ()
        return state, learn(algorithm, cfg, spec, state, buffer, rollout, key)[0]

    try:
        before, after = jax.eval_shape(learned, jax.random.key(0))
        same = jax.tree.structure(before) == jax.tree.structure(after)
    except (TypeError, ValueError):
        same = False
    if not same:
        raise UserError(
            f"--freeze: {name} moves its networks in a way of its own, which can leave no part of them out"
        )


def states(session: Session) -> Tree | None:
    """The states [S, ...] that a run begins with; None where they are those of the algorithm's `init` alone."""
    plan = session.plan
    if not (plan.init or plan.use):
        return None
    found, arrays = copies(plan, shapes_of(session)), {}
    for text, digest in plan.init.items():
        path = read_source(text).path
        if path not in arrays:
            check_digest(f"--init {text}", path, digest)
            arrays[path] = checkpoint.read(path / "checkpoints")[0]
    known = dataclasses.replace(session.spec, given=policies(session))
    begun = initial_states(session.algorithm, session.cfg, known, list(plan.all_seeds))
    leaves = storage.flatten(begun)
    for name, copy in found.items():
        leaves[name] = np.take(arrays[copy.path][copy.name], copy.seeds, axis=0)
    return jax.tree.map(jnp.array, storage.unflatten(begun, leaves))


def policies(session: Session) -> dict[str, Given]:
    """The policies that a plan uses, with what they learned: those of each run's first seed."""
    found = {}
    for name, policy in session.spec.given.items():
        path, digest = Path(session.plan.use[name]["run"]), session.plan.use[name]["digest"]
        check_digest(f"--use {name}={path}", path, digest)
        theirs, (arrays, manifest) = RunFolder(path).plan(), checkpoint.read(path / "checkpoints")
        template = state_shapes(theirs, read_spec(manifest["extra"], path), storage.fields(arrays), path)
        own = {n.removeprefix(STATE): value for n, value in arrays.items() if n.startswith(STATE)}
        state = map_seeded(lambda x: x[0], storage.unflatten(template, own, path))
        found[name] = policy._replace(actor=wrapped(theirs).actor(jax.tree.map(jnp.array, state)))
    return found


def rows_in_rollout(session: Session) -> int:
    """Rows of every environment that are added to the ring at once."""
    return rows_of(session.cfg.data, session.spec.time_limit)


def rollouts_given(session: Session) -> int:
    """Whole rollouts that another run's rows are."""
    return session.plan.data.get("rows", 0) // max(1, rows_in_rollout(session))


def filled(session: Session, carry: Any) -> Any:
    """A driver's run that has not stepped, once it has seen and kept the rows of another run's replay, oldest first.

    What comes after them is another episode in every environment. Clocks are at 0 again.
    """
    plan, driver = session.plan, session.driver
    if not plan.data:
        return carry
    path, where = Path(plan.data["run"]), f"--data {plan.data['run']}"
    check_digest(where, path, plan.data["digest"])
    packed, extra = driver.pack(carry)
    packed = jax.tree.map(np.asarray, dict(packed))
    state, ring = jax.tree.map(jnp.array, (packed["state"], packed["buffer"]))
    count, each = rollouts_given(session), rows_in_rollout(session)
    rows = rows_from(where, path, ring.rows, count * each, matching(where, RunFolder(path).plan(), plan))
    one = partial(learn, session.algorithm, session.cfg, session.spec, key=jax.random.key(0), warm=True)
    see = Program(
        lambda *run: over_seeds(lambda *each: one(*each)[:2], *run), donate=(0, 1), options=WITH_RING
    )
    for number in range(count):
        part = slice(number * each, (number + 1) * each)
        state, ring = see(state, ring, jax.tree.map(lambda x: x[:, part], rows))  # noqa: B023
    ended = jnp.ones(session.spec.num_envs, bool)
    ring = over_seeds(lambda ring: replay.index.cut(ring, ended), ring)
    moved = {"state": at_step_zero(state), "buffer": ring}
    if driver.rows and "iteration" in packed:  # elsewhere an iteration is no rollout
        moved["iteration"] = Counter(jnp.int32(count))
    return driver.unpack({**packed, **moved}, {**extra, "iteration": count} if extra else extra)


def rows_from(where: str, path: Path, like: Tree, count: int, seeds: list[int]) -> Tree:
    """The newest rows [S, T, N, ...] of a run's replay as a ring keeps them; UserError where a field is not there."""
    newest = checkpoint.latest(path / "checkpoints")
    arrays, wanted = checkpoint.newest_rows(newest, count) if newest else {}, storage.fields(like)
    for name, field in wanted.items():
        found = arrays.get(name)
        if found is None or (str(found.dtype), found.shape[2:]) != (field.dtype, field.shape[2:]):
            there = "not there" if found is None else f"{found.dtype}{list(found.shape[2:])}"
            raise UserError(
                f"{where}: {name} is {there} in its rows and {field.dtype}{list(field.shape[2:])} here"
            )
    leaves = [np.take(arrays[name], seeds, axis=0) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def shapes_of(session: Session) -> Tree:
    """Shapes of the algorithm's states [S, ...]."""
    seeds = list(session.plan.all_seeds)
    return jax.eval_shape(lambda: initial_states(session.algorithm, session.cfg, session.spec, seeds))


def copies(plan: Plan, template: Tree) -> dict[str, Copy]:
    """What takes the place of each array of the states, by its name; UserError where something does not fit."""
    found: dict[str, Copy] = {}
    for text in plan.init:
        found |= copies_of(read_source(text), plan, template)
    return found


def copies_of(source: Source, plan: Plan, template: Tree) -> dict[str, Copy]:
    """The same of one `--init`."""
    where, folder = f"--init {source.text}", RunFolder(source.path)
    fields, theirs = storage.fields(template), folder.plan()
    saved = checkpoint.describe(folder.checkpoints)[1].arrays
    arrays = {name.removeprefix(STATE): field for name, field in saved.items() if name.startswith(STATE)}
    there, counted = unmarked(arrays), parts_of(template, is_shared)
    here = unmarked(name for name in fields if not name.startswith(counted))
    if source.field:
        taken, placed = below(where, there, source.field), below(where, here, source.target)
    elif theirs.algorithm == plan.algorithm:
        optimizer = parts_of(template, is_optimizer)
        placed = {name: full for name, full in here.items() if not full.startswith(optimizer)}
        learned = {n: full for n, full in there.items() if not full.startswith((*optimizer, *counted))}
        taken = {name: full for name, full in learned.items() if tops([name])[0] in tops(placed)}
    else:
        example = f"{source.text}:{tops(there)[0]}={tops(here)[0]}"
        raise UserError(
            f"{where}: a run of {theirs.algorithm}, while this is one of {plan.algorithm}: say what goes where, as in "
            f"--init {example} (there: {', '.join(tops(there))}; here: {', '.join(tops(here))})"
        )
    check_same(
        where, {n: arrays[full] for n, full in taken.items()}, {n: fields[full] for n, full in placed.items()}
    )
    seeds = matching(where, theirs, plan)
    found = {full: Copy(source.path, STATE + taken[name], seeds) for name, full in placed.items()}
    follow = {target_of(full): copy for full, copy in found.items()}
    return found | {full: copy for full, copy in follow.items() if full in fields}


def unmarked(names: Iterable[str]) -> Names:
    """Arrays by their names without what says that they are frozen."""
    return {"/".join(part for part in name.split("/") if part != MARK): name for name in names}


def parts_of(template: Tree, kind: Callable[[Any], bool]) -> tuple[str, ...]:
    """Beginnings of the names of all arrays that are in parts of a kind."""
    paths = jax.tree_util.tree_flatten_with_path(template, is_leaf=kind)[0]
    return tuple(
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}/" for path, part in paths if kind(part)
    )


def is_optimizer(part: Any) -> bool:
    """Whether this is what an optimiser keeps: moments, and how many steps they are of."""
    return type(part).__module__.partition(".")[0] == "optax"


def tops(names: Iterable[str]) -> list[str]:
    """The fields of an algorithm's state, which a wrapper may have around it."""
    return list(dict.fromkeys(own(name).partition("/")[0] for name in names))


def own(name: str) -> str:
    """The name of an array in the state of the algorithm itself."""
    while name.startswith(INNER):
        name = name.removeprefix(INNER)
    return name


def target_of(name: str) -> str:
    """The name of the array that a target network would have for this one."""
    rest = own(name)
    top, slash, below = rest.partition("/")
    return name.removesuffix(rest) + top + TARGET + slash + below


def below(where: str, names: Names, field: str) -> Names:
    """The arrays of a part of a state by their names in it; UserError where there is no such part."""
    for depth in range(DEEPEST + 1):
        path = INNER * depth + field
        found = {n.removeprefix(path): full for n, full in names.items() if f"{n}/".startswith(f"{path}/")}
        if found:
            return found
    parent, _, _ = field.rpartition("/")
    inside = [
        own(name).removeprefix(f"{parent}/") for name in names if f"/{own(name)}".startswith(f"/{parent}")
    ]
    known = {"/".join([parent, name.partition("/")[0]]).strip("/") for name in inside}
    raise UserError(f"{where}: there is no part {field!r} of a state: {nearest(field, known)}")


def check_same(where: str, taken: Mapping[str, Field], placed: Mapping[str, Field]) -> None:
    """UserError for the first array that only one of two parts has, or that has another shape in each."""
    for name in dict.fromkeys([*placed, *taken]):
        there, here = (
            f"{found[name].dtype}{list(found[name].shape[1:])}" if name in found else "not there"
            for found in (taken, placed)
        )
        if there != here:
            raise UserError(
                f"{where}: {name.strip('/') or 'it'} is {there} in that run and {here} in this one"
            )


def matching(where: str, theirs: Plan, mine: Plan) -> list[int]:
    """The place of a seed of the other run for each of this one: its only one, or that of the same number."""
    if theirs.seeds == 1:
        return [0] * mine.seeds
    if not set(mine.all_seeds) <= set(theirs.all_seeds):
        raise UserError(
            f"{where}: that run has the seeds {theirs.seed} to {theirs.all_seeds[-1]}, this one {mine.seed} to "
            f"{mine.all_seeds[-1]}: each begins from the same seed, or all from the only one"
        )
    return [seed - theirs.seed for seed in mine.all_seeds]
