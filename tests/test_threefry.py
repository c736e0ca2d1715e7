"""The generator against its published answers, and against JAX as it comes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import AS_USED

from polyak.drivers.program import Program
from polyak.drivers.threefry import threefry, written_out

# key, counter, answer: Random123's known answers for threefry2x32 with 20 rounds
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]

DRAWS = """
import jax, numpy as np, zlib
keys = jax.random.split(jax.random.key(7), 7)
draws = [
    jax.random.normal(keys[0], (3, 5)),
    jax.random.bits(keys[1], (1, 1001)),
    jax.random.randint(keys[2], (64, 2), 0, 1000),
    jax.random.permutation(keys[3], 77),
    jax.random.key_data(jax.random.split(jax.random.fold_in(keys[4], 123), 9)),
    jax.vmap(lambda k: jax.random.gumbel(k, (2,)))(jax.random.split(keys[5], 130)),
    jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(keys[6], np.arange(300))),
]
answer = [zlib.crc32(np.ascontiguousarray(draw).tobytes()) for draw in draws]
"""


both = pytest.mark.parametrize("wanted", [False, True], ids=["loop", "written out"])


@both
@pytest.mark.parametrize(("key", "counter", "answer"), KNOWN)
def test_known_answers(key, counter, answer, wanted):
    """Two words of key and counter give the published two words, also in arrays."""
    words = [jnp.full((2, 3), word, jnp.uint32) for word in (*key, *counter)]
    with written_out(wanted):
        found = threefry(*words)
    for got, wanted_word in zip(found, answer, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.full((2, 3), wanted_word, np.uint32))


OURS = f"""
from polyak.drivers.threefry import written_out
for wanted in (False, True):
    jax.clear_caches()
    with written_out(wanted):
        exec({DRAWS!r})
    print(answer)
"""


def said(program):
    """What a process prints that is started as users start one."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


def test_bits_are_those_of_jax_as_it_comes():
    """Every draw, in a loop and written out, has the bits that it has where nobody has heard of polyak."""
    stock = said(DRAWS + "print(answer)")
    assert said("import jax" + OURS) == [stock[0], *stock]


def a_draw():
    """A function of its own, since JAX keeps what it has lowered for a function."""
    return lambda data: jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(data), 3), (64, 8))


def has_loop(text):
    return " while(" in text


def test_a_program_on_a_cpu_draws_without_a_loop():
    """Neither a draw nor a key folded in is compiled as a loop."""
    if jax.default_backend() != "cpu":
        pytest.skip("only for a CPU")
    program = Program(a_draw(), options=AS_USED)
    program.compile(jnp.zeros(2, jnp.uint32))
    assert not has_loop(program.text())


def test_what_others_compile_is_as_jax_compiles_it():
    """Importing polyak does not change the programs of others."""
    if jax.default_backend() != "cpu":
        pytest.skip("only for a CPU")
    assert has_loop(
        jax.jit(a_draw(), compiler_options=AS_USED).lower(jnp.zeros(2, jnp.uint32)).compile().as_text()
    )
