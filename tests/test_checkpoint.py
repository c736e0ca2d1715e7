import copy
import hashlib
import json
import os
import random
import re
import shutil
import tracemalloc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from polyak import files
from polyak.errors import CheckpointError
from polyak.pytree import Record, pytree
from polyak.store import checkpoint, storage

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "float16", "float32", "float64"]


FSYNC = os.fsync


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Pair(NamedTuple):
    left: object
    right: object


@pytree
class Layer(Record):
    weight: object
    bias: object


class Killed(BaseException):
    """The process ends here."""


def equal(a, b):
    same = jax.tree.map(
        lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b
    )
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


def refuse_warnings(message):
    raise AssertionError(message)


# ---- trees and files


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 99))
    values = np.random.default_rng(seed).integers(0, 256, (*shape, 16)).astype(np.uint8)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.name == "bool":
        return values[..., 0] > 100
    return values[..., : dtype.itemsize].copy().view(dtype).reshape(shape)


trees = st.recursive(
    arrays(),
    lambda inner: st.one_of(
        st.dictionaries(st.text("ab/ .é\n\\", min_size=1, max_size=3), inner, max_size=3),
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.builds(Layer, inner, inner),
        st.none(),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_any_tree_comes_back_bit_for_bit(tmp_path_factory, tree):
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(tree)]
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match="is taken"):
            storage.flatten(tree)
        return
    flat = storage.flatten(tree)
    path = tmp_path_factory.mktemp("tree") / "arrays.safetensors"
    sha256 = storage.write_arrays(path, flat)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    back = storage.unflatten(tree, storage.read_arrays(path, sha256=sha256))
    assert equal(tree, back)


def test_names_are_the_paths_of_keys():
    tree = {"state": Pair(Layer(np.zeros(1), np.zeros(2)), [np.zeros(3)]), "none": None}
    assert list(storage.flatten(tree)) == ["state/left/weight", "state/left/bias", "state/right/0"]
    assert list(storage.flatten(np.zeros(1))) == [""]


def test_what_cannot_be_stored_is_refused_by_name():
    with pytest.raises(TypeError, match=r"'rng'.*key<fry>"):
        storage.flatten({"rng": jax.random.key(0)})
    with pytest.raises(TypeError, match=r"'a/0'.*int"):
        storage.flatten({"a": [3]})
    with pytest.raises(TypeError, match="bfloat16"):
        storage.flatten({"a": jnp.zeros(1, jnp.bfloat16)})
    with pytest.raises(ValueError, match="'a/b'"):
        storage.flatten({"a/b": np.zeros(1), "a": {"b": np.zeros(1)}})
    with pytest.raises(ValueError, match="__metadata__"):
        storage.flatten({"__metadata__": np.zeros(1)})


def test_files_are_those_of_the_safetensors_library(tmp_path):
    rng = np.random.default_rng(0)
    given = {
        f"{d}/{i}": rng.integers(0, 2, s).astype(d)
        for d in DTYPES
        for i, s in enumerate([(), (0, 2), (3, 2)])
    }
    given["transposed"] = np.arange(6.0).reshape(2, 3).T
    storage.write_arrays(tmp_path / "ours", given)
    assert equal(safetensors.numpy.load_file(tmp_path / "ours"), given)
    library = {name: np.ascontiguousarray(a) if a.ndim else a for name, a in given.items()}
    safetensors.numpy.save_file(library, tmp_path / "theirs", metadata={"format": "np"})
    assert equal(storage.read_arrays(tmp_path / "theirs"), given)


def test_unflatten_names_the_file_and_the_field():
    template = {"a": np.zeros((2, 3), np.float32), "b": jax.ShapeDtypeStruct((1,), np.int32)}
    good = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.int32)}
    storage.unflatten(template, good)
    for change, message in [
        ({"a": good["a"].astype("float16")}, r"here: field 'a' is float16\[2, 3\], expected float32\[2, 3\]"),
        ({"b": np.zeros(2, np.int32)}, r"here: field 'b' is int32\[2\], expected int32\[1\]"),
        ({"c": np.zeros(1)}, "here: field 'c' is unexpected"),
    ]:
        with pytest.raises(CheckpointError, match=f"^{message}$"):
            storage.unflatten(template, good | change, "here")
    with pytest.raises(CheckpointError, match=r"^here: field 'b' is missing$"):
        storage.unflatten(template, {"a": good["a"]}, "here")


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="U8", shape=(4,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE = {
    "empty": b"",
    "header of 2^63 bytes": raw({}, length=1 << 63),
    "header longer than the file": raw({"a": entry()}, b"1234", length=1000),
    "header above the limit": raw(b" " * (files.MAX_JSON + 1)),
    "no object": raw(b"[1]"),
    "no JSON": raw(b"{"),
    "no UTF-8": raw(b'{"\xff": 1}'),
    "deep": raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "digits": raw(b'{"a":' + b"9" * 10_000 + b"}"),
    "terabyte": raw({"a": entry("F32", (1 << 38,), 0, 1 << 40)}, b"1234"),
    "overflow": raw({"a": entry("F32", (1 << 62, 1 << 62), 0, 0)}, b""),
    "too large with no bytes": raw({"a": entry("F32", (0, 1 << 62, 1 << 62), 0, 0)}, b""),
    "negative": raw({"a": entry("U8", (-4,), 0, -4)}, b""),
    "many axes": raw({"a": entry("U8", (1,) * 80, 0, 1)}, b"1"),
    "float shape": raw({"a": entry("U8", (4.0,))}, b"1234"),
    "true shape": raw({"a": entry("U8", (True,), 0, 1)}, b"1"),
    "dtype": raw({"a": entry("O")}, b"1234"),
    "dtype is a list": raw({"a": entry(["U8"])}, b"1234"),
    "bfloat16": raw({"a": entry("BF16", (2,))}, b"1234"),
    "extra key": raw({"a": entry() | {"pickle": "x"}}, b"1234"),
    "no dict": raw({"a": 3}),
    "gap": raw({"a": entry(begin=1, end=5)}, b"12345"),
    "overlap": raw({"a": entry(), "b": entry(begin=2, end=6)}, b"123456"),
    "overlap and gap": raw({"a": entry(), "b": entry(begin=2, end=6)}, b"12345678"),
    "beyond": raw({"a": entry(begin=1, end=5)}, b"1234"),
    "same bytes": raw({"a": entry(), "b": entry()}, b"1234"),
    "trailing": raw({"a": entry()}, b"12345"),
    "short": raw({"a": entry()}, b"123"),
    "twice": raw(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
    "no boolean": raw({"a": entry("BOOL")}, b"\0\1\2\1"),
    "NaN": raw(b'{"a":NaN}'),
    "infinite": raw(b'{"a":1e999}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_array_files_raise_one_line_before_memory_is_taken(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"^[^\n]*x\.safetensors: [^\n]{1,420}$"):
            storage.read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_declared_size_is_checked_before_data_is_read(tmp_path):
    path, size = tmp_path / "x.safetensors", 1 << 33
    path.write_bytes(raw({"a": entry("U8", (size,), 0, size)}))
    os.truncate(path, path.stat().st_size + size)  # sparse: eight gigabytes of nothing
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="declares 8589934592 bytes"):
            storage.read_arrays(path, max_bytes=1 << 30)
        with pytest.raises(CheckpointError, match="field 'a' is"):
            storage.read_arrays(path, wanted={"a": storage.Field("uint8", (4,))})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'"a"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b"\xff\xfe{}",
        b"{} {}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"a": "%s"}' % (b"x" * files.MAX_JSON),
    ],
    ids=lambda data: ascii(data[:12]),
)
def test_hostile_json_raises_one_line(tmp_path, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"^[^\n]*x\.json: [^\n]+$"):
        files.read_json(path)


def test_json_comes_back_equal_or_is_refused(tmp_path):
    path = tmp_path / "x.json"
    value = {"a": [1, -0.5, True, None, "é\ud800"], "b": {"c": 1 << 100}}
    files.write_json(path, value)
    assert files.read_json(path) == value
    for wrong in [
        {"a": float("nan")},
        {1: 2},
        {"a": (1, 2)},
        {"a": np.int64(3)},
        {"a": "x" * files.MAX_JSON},
        [1],
    ]:
        with pytest.raises(CheckpointError, match=r"x\.json"):
            files.write_json(path, wrong)
    assert files.read_json(path) == value


def test_links_pipes_and_folders_are_no_files(tmp_path):
    files.write_json(tmp_path / "real.json", {})
    (tmp_path / "link.json").symlink_to("real.json")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CheckpointError, match=r"link\.json: is a symbolic link$"):
        files.read_json(tmp_path / "link.json")
    for name in ("link", "folder", "pipe", "missing"):
        with pytest.raises(CheckpointError, match=rf"{name}\.json"):
            files.read_json(tmp_path / f"{name}.json")
        with pytest.raises(CheckpointError, match=rf"{name}\.json"):
            storage.read_arrays(tmp_path / f"{name}.json")


# ---- a run: a tree and a ring, beside a Python list of rows


class Run:
    """S seeds, a ring of C slots, and every row of time in a list."""

    def __init__(self, folder, capacity=7, on_device=False):
        self.folder, self.capacity, self.on_device = folder, capacity, on_device
        self.rng = np.random.default_rng(0)
        self.clock, self.history = 0, []
        shape = (2, capacity, 3)
        self.rows = {"obs": np.zeros((*shape, 2), np.float32), "flag": Pair(np.zeros(shape, bool), ())}

    def write(self, count):
        for _ in range(count):
            row = self.rng.standard_normal((2, 3, 2)).astype(np.float32), self.rng.random((2, 3)) < 0.5
            self.history.append(row)
            self.put(self.clock, row)
            self.clock += 1

    def put(self, when, row):
        self.rows["obs"][:, when % self.capacity], self.rows["flag"].left[:, when % self.capacity] = row

    def cut(self):
        """The newest row changes after it was written."""
        if self.clock:
            obs, flag = self.history[-1]
            self.history[-1] = obs, ~flag
            self.put(self.clock - 1, self.history[-1])

    def tree(self):
        return {"clock": np.asarray(self.clock, np.int32), "w": (np.arange(3.0) + self.clock,)}

    def save(self, env_steps, **options):
        rows = jax.tree.map(jnp.array, self.rows) if self.on_device else copy.deepcopy(self.rows)
        extra = {"clock": self.clock, "seeds": [1, 2]}
        return checkpoint.save(self.folder, env_steps, self.tree(), extra, rows, self.clock, **options)

    def load(self, path=None, warn=refuse_warnings):
        return checkpoint.load(path or self.folder, self.tree(), self.rows, warn)

    def check(self, loaded):
        """What was loaded is this run as it is now: ring, tree and counters."""
        rows = jax.tree.map(np.zeros_like, self.rows)
        for when in range(max(0, self.clock - self.capacity), self.clock):
            obs, flag = self.history[when]
            rows["obs"][:, when % self.capacity], rows["flag"].left[:, when % self.capacity] = obs, flag
        assert equal(loaded.rows, rows)
        assert equal(loaded.tree, self.tree())
        assert (loaded.clock, loaded.extra["clock"]) == (self.clock, self.clock)

    def segments(self):
        return sorted(p.name for p in (self.folder / "segments").iterdir())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "checkpoints")


def span(name):
    return tuple(int(n) for n in re.findall(r"\d+", name))


@pytest.mark.parametrize("on_device", [False, True])
def test_the_ring_is_that_of_a_list_of_rows_whatever_is_written_between_saves(
    tmp_path_factory, monkeypatch, on_device
):
    monkeypatch.setattr(checkpoint, "MAX_SEGMENTS", 5)
    for case in range(10 if on_device else 30):
        draw = random.Random(case)
        run = Run(tmp_path_factory.mktemp("run") / "checkpoints", draw.randint(1, 9), on_device)
        for step in range(1, 12):
            run.write(draw.choice([0, 0, 1, 1, 2, 3, run.capacity, 2 * run.capacity + 1]))
            path = run.save(10 * step, keep=draw.randint(1, 3))
            run.check(run.load())
            run.check(run.load(path))
            listed = checkpoint.read(path)[1]["segments"]
            assert len(listed) <= 5
            if draw.random() < 0.3:  # killed and resumed: the ring is what was loaded
                run.rows = run.load().rows
            if draw.random() < 0.5:
                run.cut()


def test_a_save_writes_the_new_rows_and_the_newest_one_again(run):
    run.write(3)
    run.save(10)
    before = (run.folder / "segments" / run.segments()[0]).stat()
    run.write(2)
    run.cut()
    run.save(20)
    assert [span(name) for name in run.segments()] == [(0, 3), (2, 5)]
    after = (run.folder / "segments" / run.segments()[0]).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    run.write(30)
    run.save(30)
    assert span(run.segments()[-1]) == (28, 35)  # never more than the ring holds
    run.check(run.load())


def test_every_kept_checkpoint_loads_and_no_file_is_left_that_none_needs(run):
    saved = {}
    for step in range(1, 10):
        run.write(3)
        path = run.save(10 * step, keep=3)
        saved[path.name] = copy.deepcopy(run)
    kept = [p.name for p in checkpoint.complete(run.folder)]
    assert kept == ["00000070", "00000080", "00000090"]
    listed = set()
    for name in kept:
        saved[name].check(run.load(run.folder / name))
        listed |= {s["name"] for s in checkpoint.read(run.folder / name)[1]["segments"]}
    assert set(run.segments()) == listed
    assert sorted(p.name for p in run.folder.iterdir()) == [*kept, "segments"]


def test_saving_leaves_a_donated_ring_in_place(run):
    run.on_device = True
    rows = jax.tree.map(jnp.array, run.rows)
    where = rows["obs"].unsafe_buffer_pointer()
    checkpoint.save(run.folder, 10, run.tree(), {}, rows, 5)
    after = jax.jit(lambda x: x.at[0].set(1), donate_argnums=0)(rows["obs"])
    assert after.unsafe_buffer_pointer() == where


def test_a_resume_from_an_older_checkpoint_forgets_the_abandoned_future(run):
    run.write(4)
    run.save(10)
    past = copy.deepcopy(run)
    run.write(3)
    run.save(20)
    run.write(3)
    run.save(30)
    past.rng = np.random.default_rng(1)  # other rows than those of 20 and 30
    past.write(4)
    past.save(25)
    assert [p.name for p in checkpoint.complete(run.folder)] == ["00000010", "00000020", "00000025"]
    past.check(past.load())
    assert [span(s["name"]) for s in checkpoint.read(past.folder)[1]["segments"]] == [(1, 8)]


def test_a_clock_that_went_back_continues_nothing(run):
    run.write(6)
    run.save(4)
    run.put(5, (0, False))
    run.history, run.clock = run.history[:5], 5
    run.save(5)
    run.check(run.load())


def test_the_next_save_removes_what_a_kill_left_behind(tmp_path, run):
    run.write(3)
    run.save(10)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    for folder in (run.folder, run.folder / "segments"):
        (folder / ".tmp-a").write_bytes(b"x")
        (folder / ".tmp-b").mkdir()
        (folder / ".tmp-b" / "arrays.safetensors").write_bytes(b"x")
        (folder / ".tmp-c").symlink_to(tmp_path / "outside")
    (run.folder / "00000005").mkdir()  # never complete
    run.write(1)
    run.save(20)
    assert sorted(p.name for p in run.folder.iterdir()) == ["00000010", "00000020", "segments"]
    assert len(run.segments()) == 2
    assert (tmp_path / "outside" / "file").exists()


def test_rewind_forgets_newer_checkpoints(run):
    run.write(4)
    run.save(10)
    past = copy.deepcopy(run)
    for step in (20, 30):
        run.write(3)
        run.save(step)
    checkpoint.rewind(run.folder, 10)
    assert [p.name for p in checkpoint.complete(run.folder)] == ["00000010"]
    past.check(past.load())
    past.write(1)
    past.save(20)
    past.check(past.load())
    assert [span(name) for name in past.segments()] == [(0, 4), (3, 5)]
    checkpoint.rewind(run.folder.parent / "none", 10)


def test_rows_are_compared_further_back_where_the_newest_segment_is_one_row(run):
    run.write(6)
    for step in (1, 2, 3):
        run.cut()
        run.save(step)
    run.history, run.clock = run.history[:2], 2
    run.write(7)
    run.save(4)
    run.check(run.load())


def test_a_checkpoint_that_stays_besides_keeps_its_arrays_and_not_its_rows(run):
    for step in range(1, 10):
        run.write(3)
        run.save(10 * step, keep=2, also=[30] if step < 8 else [30, 80, 555])
        if step == 3:
            best = run.tree()
    assert [int(p.name) for p in checkpoint.complete(run.folder)] == [30, 80, 90]
    assert equal(checkpoint.load(run.folder / "00000030", run.tree()).tree, best)
    listed = [
        s["name"]
        for name in ("00000080", "00000090")
        for s in checkpoint.read(run.folder / name)[1]["segments"]
    ]
    assert set(run.segments()) == set(listed)
    run.check(run.load())
    run.save(100, keep=2)
    assert [int(p.name) for p in checkpoint.complete(run.folder)] == [90, 100]


def test_saving_again_at_the_same_step_replaces_the_checkpoint(run):
    run.write(4)
    run.save(10, keep=1)
    run.cut()
    assert run.save(10, keep=1).name == "00000010"
    run.check(run.load())
    run.rng = np.random.default_rng(5)
    run.history, run.clock = run.history[:2], 2
    run.write(2)
    run.save(10, keep=1)
    run.check(run.load())
    assert [p.name for p in checkpoint.complete(run.folder)] == ["00000010"]


def test_all_rows_are_written_where_the_segments_cannot_be_continued(run):
    for damage in (os.unlink, lambda p: p.write_bytes(b"x"), lambda p: os.truncate(p, 20)):
        run.write(3)
        run.save(10 * run.clock)
        damage(run.folder / "segments" / run.segments()[-1])
        run.write(1)
        run.save(10 * run.clock)
        run.check(run.load())


def test_a_run_without_rows_needs_no_segments(tmp_path):
    folder = tmp_path / "checkpoints"
    tree = {"a": jnp.arange(3)}
    path = checkpoint.save(folder, 5, tree, {"n": 1})
    loaded = checkpoint.load(folder, tree)
    assert equal(loaded.tree, tree)
    assert loaded[1:] == (None, 0, {"n": 1}, 5, path)
    found, manifest = checkpoint.read(folder)
    assert (list(found), manifest["extra"], manifest["env_steps"]) == (["a"], {"n": 1}, 5)
    assert equal(checkpoint.load(path, None).tree, found)
    with pytest.raises(CheckpointError, match="capacity is 0, expected 4"):
        checkpoint.load(folder, tree, {"r": np.zeros((1, 4, 1))})


def test_a_template_may_be_a_function_of_extra(run):
    run.write(2)
    run.save(10)
    loaded = checkpoint.load(run.folder, lambda extra: run.tree() if extra["clock"] == 2 else None)
    assert equal(loaded.tree, run.tree())
    with pytest.raises(CheckpointError, match=r"manifest\.json: .*absent"):
        checkpoint.load(run.folder, lambda extra: extra["absent"])


def test_nothing_to_load_is_an_error_and_no_newest(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    assert checkpoint.latest(tmp_path) is None
    for path in (tmp_path, tmp_path / "none", tmp_path / "00000010"):
        with pytest.raises(CheckpointError, match=re.escape(path.name)):
            checkpoint.load(path, None)
    with pytest.raises(CheckpointError):
        checkpoint.digest(tmp_path)


def test_a_template_of_another_shape_is_refused_by_field(run):
    run.write(2)
    run.save(10)
    with pytest.raises(CheckpointError, match="00000010: field 'w/0' is float64"):
        checkpoint.load(run.folder, run.tree() | {"w": (np.zeros(4),)}, run.rows)
    wrong = run.rows | {"obs": np.zeros((2, 7, 3, 5), np.float32)}
    with pytest.raises(CheckpointError, match="safetensors: field 'obs' is float32"):
        checkpoint.load(run.folder, run.tree(), wrong)


# ---- kills


KILLABLE = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


class Reaper:
    """Ends the process at call k of what reaches the disk, half-way through where it writes."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at = 0, at
        for name in KILLABLE:
            monkeypatch.setattr(os, name, self.mortal(name, getattr(os, name)))
        monkeypatch.setattr(storage, "save_file", self.mortal("save_file", storage.save_file))

    def mortal(self, name, function):
        def call(*args, **options):
            self.calls += 1
            if self.calls == self.at:
                if name == "write":
                    function(args[0], bytes(args[1])[: len(args[1]) // 2])
                elif name == "save_file":
                    function(*args)
                    os.truncate(args[1], os.stat(args[1]).st_size // 2)
                raise Killed
            return None if name == "fsync" else function(*args, **options)

        return call


def first_save(run):
    run.write(3)


def later_save(run):
    for step in (1, 2, 3):
        run.write(3)
        run.save(step, keep=2)
    run.write(3)


def only_one_again(run):
    run.write(3)
    run.save(4, keep=1)
    run.cut()


def another_history_again(run):
    run.write(4)
    run.save(4, keep=2)
    run.history, run.clock = run.history[:1], 1
    run.rng = np.random.default_rng(9)
    run.write(3)  # rows of the same times, which are others


@pytest.mark.parametrize("prepare", [first_save, later_save, only_one_again, another_history_again])
def test_a_kill_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path, prepare):
    run = Run(tmp_path / "before" / "checkpoints")
    run.folder.parent.mkdir()
    keep = 1 if prepare is only_one_again else 2
    prepare(run)
    try:
        old = run.load()
    except CheckpointError:
        old = None
    outcomes = []
    for at in range(1, 500):
        run.folder = tmp_path / str(at) / "checkpoints"
        shutil.copytree(tmp_path / "before", run.folder.parent)
        with pytest.MonkeyPatch.context() as patch:
            reaper = Reaper(patch, at)
            try:
                run.save(4, keep=keep)
            except Killed:
                pass
            else:
                assert reaper.calls < at
                break
        outcomes.append(check_old_or_new(run, old))
        run.save(4, keep=keep)
        run.check(run.load())
        assert not [p for p in run.folder.rglob("*") if p.name.startswith(".")]
        shutil.rmtree(run.folder.parent)
    assert len(outcomes) > 20
    assert outcomes == sorted(outcomes)  # once new, always new
    assert outcomes[0] == 0
    assert outcomes[-1] == 1


def check_old_or_new(run, old):
    """0 where the old checkpoint is there, 1 where the new one is; anything else fails."""
    for path in checkpoint.complete(run.folder):
        run.load(path)
    try:
        loaded = run.load()
    except CheckpointError:
        assert old is None
        return 0
    if old is not None and equal(loaded[:2], old[:2]):
        return 0
    run.check(loaded)
    return 1


def test_everything_is_on_disk_before_it_gets_its_name(run, monkeypatch):
    run.write(3)
    synced, named = set(), []

    def note_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        FSYNC(descriptor)

    def note_name(function):
        def call(source, target):
            files = [source] if os.path.isfile(source) else [source, *(e.path for e in os.scandir(source))]
            assert {os.stat(f).st_ino for f in files} <= synced
            function(source, target)
            named.append(os.path.basename(target))
            synced.discard(os.stat(os.path.dirname(target)).st_ino)

        return call

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_name(os.rename))
    monkeypatch.setattr(os, "replace", note_name(os.replace))
    run.save(10)
    assert [span(n) or n for n in named[:1]] == [(0, 3)]
    assert named[1:] == ["arrays.safetensors", "manifest.json", "COMPLETE", "00000010"]
    assert os.stat(run.folder).st_ino in synced


def test_a_full_disk_is_one_line_and_leaves_the_old_checkpoint(run, monkeypatch):
    run.write(3)
    run.save(10)
    old = copy.deepcopy(run)
    run.write(3)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(CheckpointError, match=r"^[^\n]*manifest\.json: No space left on device$"):
            run.save(20)
    old.check(old.load())


# ---- damage


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def to_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "flipped": flip,
    "deleted": os.unlink,
    "link": to_link,
    "folder": to_folder,
    "pipe": to_pipe,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["manifest.json", "arrays.safetensors", "COMPLETE", "segment"])
def test_an_older_checkpoint_replaces_a_damaged_one_and_says_so(run, file, damage):
    run.write(4)
    run.save(10)
    old = copy.deepcopy(run)
    run.write(2)
    new = run.save(20)
    DAMAGE[damage](run.folder / "segments" / run.segments()[-1] if file == "segment" else new / file)
    messages = []
    old.check(old.load(warn=messages.append))
    incomplete = file == "COMPLETE" and damage in ("deleted", "folder", "pipe")
    assert len(messages) == (0 if incomplete else 1)
    assert incomplete or "older checkpoint 00000010" in messages[0]
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        run.load(new)
    run.save(30)  # and the run goes on
    run.check(run.load())


def test_where_no_checkpoint_is_sound_the_newest_ones_error_is_raised(run):
    run.write(4)
    for step in (1, 2):
        flip(run.save(step) / "arrays.safetensors")
    with pytest.raises(CheckpointError, match=r"00000002/arrays\.safetensors"):
        run.load()


def test_links_to_folders_are_not_followed_when_loading_or_saving(tmp_path, run):
    run.write(4)
    run.save(10)
    outside = tmp_path / "outside"
    for inner in ("segments", "00000010", ""):
        shutil.copytree(run.folder, tmp_path / "copy", dirs_exist_ok=True)
        target = run.folder / inner
        target.rename(outside)
        target.symlink_to(outside)
        before = sorted(p.name for p in outside.rglob("*"))
        with pytest.raises(CheckpointError):
            run.load()
        if inner != "00000010":  # that one is replaced
            with pytest.raises(CheckpointError, match="symbolic link"):
                run.save(10)
        else:
            run.save(10)
            run.check(run.load())
        assert sorted(p.name for p in outside.rglob("*")) == before
        if target.is_symlink():
            target.unlink()
        shutil.rmtree(run.folder, ignore_errors=True)
        shutil.rmtree(outside)
        shutil.copytree(tmp_path / "copy", run.folder)
        shutil.rmtree(tmp_path / "copy")


def reseal(path, manifest):
    """A manifest as a liar would write it, with the right digest in COMPLETE."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "COMPLETE").write_text(hashlib.sha256(text).hexdigest() + "\n")


ODD = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**62,
    2**70,
    0.5,
    "",
    "x",
    "../../x",
    "é\n",
    [],
    [0],
    {},
    {"a": 1},
    [[]],
    [{}],
]


def mutations(value, path=()):
    """Every place in a JSON value, with something odd there, missing, or twice."""
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in places:
        for odd in ODD:
            yield (*path, key), odd
        yield (*path, key), "DELETE"
        yield from mutations(inner, (*path, key))


def mutated(value, path, odd):
    value = copy.deepcopy(value)
    at = value
    for key in path[:-1]:
        at = at[key]
    if odd == "DELETE":
        del at[path[-1]]
    else:
        at[path[-1]] = odd
    return value


def load_or_checkpoint_error(run, path):
    """Whether it loads; anything but success and a CheckpointError of one line fails."""
    for attempt in (
        lambda: run.load(path),
        lambda: checkpoint.load(path, lambda extra: run.tree()),
        lambda: checkpoint.read(path),
        lambda: checkpoint.digest(run.folder),
    ):
        try:
            attempt()
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert str(run.folder) in str(error)  # noqa: PT017


def test_a_lying_manifest_loads_or_raises_checkpoint_error(run):
    run.write(9)
    run.save(10)
    run.write(2)
    path = run.save(20)
    manifest = json.loads((path / "manifest.json").read_bytes())
    cases = list(mutations(manifest))
    assert len(cases) > 200
    for place, odd in random.Random(0).sample(cases, 200) + [c for c in cases if len(c[0]) == 1]:
        reseal(path, mutated(manifest, place, odd))
        load_or_checkpoint_error(run, path)
        if place[0] != "extra" and odd != mutated_value(manifest, place):
            with pytest.raises(CheckpointError):
                run.load(path)
    reseal(path, manifest | {"more": 1})
    with pytest.raises(CheckpointError):
        run.load(path)
    for data in (b"", b"[]", b"\xff", b'{"a":' * 99_999, json.dumps(manifest).encode()[:-9]):
        reseal(path, data)
        load_or_checkpoint_error(run, path)


def mutated_value(value, path):
    for key in path:
        value = value[key]
    return value


def test_a_lying_header_loads_or_raises_checkpoint_error(run):
    run.write(9)
    path = run.save(20)
    manifest = json.loads((path / "manifest.json").read_bytes())
    segment = run.folder / "segments" / run.segments()[0]
    for file in (path / "arrays.safetensors", segment):
        whole = file.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
        for place, odd in random.Random(1).sample(list(mutations(header)), 60):
            file.write_bytes(raw(mutated(header, place, odd), data))
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
            lie = copy.deepcopy(manifest)
            if file == segment:
                lie["segments"][0]["sha256"] = sha256
            else:
                lie["sha256"] = sha256
            reseal(path, lie)
            load_or_checkpoint_error(run, path)
        file.write_bytes(whole)
    reseal(path, manifest)
    run.check(run.load())


@pytest.mark.parametrize(
    "name",
    [
        "../0-7.safetensors",
        "/0-7.safetensors",
        "0-7.safetensors\n",
        "٠-٧.safetensors",
        "7-0.safetensors",
        "0-7.pkl",
        f"{'0' * 5000}-7.safetensors",
        "0-7.safetensors/../../x",
        "a\0-7.safetensors",
    ],
    ids=lambda name: ascii(name[:12]),
)
def test_no_segment_name_becomes_another_path(run, name):
    run.write(7)
    path = run.save(10)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["segments"][0]["name"] = name
    reseal(path, manifest)
    with pytest.raises(CheckpointError, match="field 'segments'"):
        run.load(path)


def test_a_clock_beyond_the_segments_is_refused(run):
    run.write(5)
    path = run.save(10)
    manifest = json.loads((path / "manifest.json").read_bytes())
    for clock in (6, 4, 12, 2**62):
        reseal(path, manifest | {"clock": clock})
        with pytest.raises(CheckpointError, match="field 'segments'"):
            run.load(path)


def test_loading_stays_within_twice_the_declared_size_also_past_a_damaged_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    rows = {"obs": np.ones((1, 4096, 1, 1024), np.float32)}  # 16 MB
    tree = {"w": np.ones(1 << 21, np.float32)}  # 8 MB
    checkpoint.save(folder, 10, tree, {}, rows, 4096)
    checkpoint.save(folder, 20, tree, {}, rows, 3 * 4096)
    flip(folder / "segments" / max(p.name for p in (folder / "segments").iterdir()))
    messages = []
    tracemalloc.start()
    try:
        assert checkpoint.load(folder, tree, rows, messages.append).env_steps == 10
        assert tracemalloc.get_traced_memory()[1] < 2 * (24 << 20) + (1 << 20)
    finally:
        tracemalloc.stop()
    assert len(messages) == 1


def test_no_segment_goes_while_a_kept_manifest_cannot_be_read(run):
    run.write(4)
    path = run.save(10)
    whole = (path / "manifest.json").read_bytes()
    past = copy.deepcopy(run)
    flip(path / "manifest.json")
    run.write(9)
    run.save(20)
    (path / "manifest.json").write_bytes(whole)
    past.check(past.load(path))


# ---- the digest


def test_the_digest_does_not_depend_on_how_rows_were_cut_into_segments(tmp_path):
    digests, spans = set(), []
    for cuts in ([11], [3, 11], [1, 2, 7, 10, 11], [11, 11]):
        run = Run(tmp_path / str(cuts) / "checkpoints")
        run.folder.parent.mkdir()
        for step, clock in enumerate(cuts):
            run.write(clock - run.clock)
            if step < len(cuts) - 1:
                run.save(step + 1)
        run.save(99)
        spans.append(tuple(span(s["name"]) for s in checkpoint.read(run.folder)[1]["segments"]))
        digests.add(checkpoint.digest(run.folder))
        assert checkpoint.digest(run.folder.parent) == checkpoint.digest(run.folder)
    assert len(digests) == 1
    assert len(set(spans)) >= 3


def test_the_digest_changes_with_every_array_row_and_metric_but_not_with_time(run):
    run.write(9)
    metrics = run.folder.parent / "metrics.jsonl"

    def digest():
        shutil.rmtree(run.folder, ignore_errors=True)
        run.save(10)
        return checkpoint.digest(run.folder)

    metrics.write_text('{"env_steps": 1, "eval/return": 2.0, "time/s": 3}\n{"a": null}\n')
    first = digest()
    assert digest() == first
    metrics.write_text('{"time/s": 4, "eval/return": 2.0, "time/x": 3, "env_steps": 1}\n{"a": null}\n{"cut o')
    assert digest() == first
    seen = {first}
    metrics.write_text('{"env_steps": 1, "eval/return": 2.5}\n{"a": null}\n')
    seen.add(digest())
    metrics.write_text('{"a": null}\n{"env_steps": 1, "eval/return": 2.0}\n')
    seen.add(digest())
    metrics.unlink()
    seen.add(digest())
    for when in (2, 5, 8):  # the oldest, one between and the newest of the ring's seven
        run.rows["obs"][1, when % 7, 2, 1] += 1
        seen.add(digest())
    run.tree = lambda: {"clock": np.asarray(9, np.int32), "w": (np.asarray([9.0, 10.0, 11.5]),)}
    seen.add(digest())
    run.tree = lambda: {"clock": np.asarray(9, np.int32), "v": (np.asarray([9.0, 10.0, 11.5]),)}
    seen.add(digest())
    assert len(seen) == 9


@pytest.mark.parametrize("text", [b"[1]\n", b"{\n", b"\xff\n", b'{"a":' * 9999 + b"\n", b" " * (2 << 20)])
def test_damaged_metrics_have_no_digest(run, text):
    run.save(10)
    (run.folder.parent / "metrics.jsonl").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
        checkpoint.digest(run.folder)
