"""Compiled loops with numba, and vectors of eight numbers for them.

A vector becomes one or two registers of the processor. LLVM finds hardly any of them by itself in
loops this short, because it does not know that arrays do not overlap.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

LANES = 8
# numbers of a wide vector: several registers that share what they are multiplied by
WIDE = 32
# sums may be reordered, but NaN and infinity must still show
FAST = ("contract", "reassoc", "nsz")


def compile_loop(function):
    """Compile at the first call, for float32 and float64; keep the code on disk, if possible."""
    options = {"nogil": True, "fastmath": set(FAST), "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written to
        return njit(**options)(function)


class Vector(types.Type):
    """Eight numbers of one type, or as many as a wide vector has."""

    def __init__(self, dtype, lanes=LANES):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _point(context, builder, array_type, array, start, lanes=LANES):
    """Return a pointer to the numbers of an array from an index on, as a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.gep(data, [start])
    element = context.get_value_type(array_type.dtype)
    return builder.bitcast(pointer, ir.VectorType(element, lanes).as_pointer())


def _broadcast(builder, value, lanes):
    """Return a vector that repeats a number; a vector is returned as it is."""
    if isinstance(value.type, ir.VectorType):
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, order)


def _load(array, lanes):
    """Return the type and the code of a function that loads a vector."""

    def generate(context, builder, signature, args):
        pointer = _point(context, builder, signature.args[0], *args, lanes)
        return builder.load(pointer, align=signature.args[0].dtype.bitwidth // 8)

    return Vector(array.dtype, lanes)(array, types.intp), generate


@intrinsic
def load(typing, array, start):
    """Return ``array[start : start + 8]`` as a vector."""
    return _load(array, LANES)


@intrinsic
def load_wide(typing, array, start):
    """Return the numbers of an array from an index on as a wide vector."""
    return _load(array, WIDE)


@intrinsic
def store(typing, array, start, vector):
    """Set the numbers of an array from an index on to a vector."""

    def generate(context, builder, signature, args):
        pointer = _point(context, builder, signature.args[0], *args[:2], vector.lanes)
        builder.store(args[2], pointer, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def take(typing, array, index):
    """Return ``array[index]``, for an index that is not negative."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def fill(typing, value):
    """Return a vector of eight times the same number."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, args[0], LANES)

    return Vector(value)(value), generate


@intrinsic
def fill_wide(typing, value):
    """Return a wide vector of the same number."""

    def generate(context, builder, signature, args):
        return _broadcast(builder, args[0], WIDE)

    return Vector(value, WIDE)(value), generate


@intrinsic
def multiply(typing, a, b):
    """Return a b, for a vector a and a vector or number b."""

    def generate(context, builder, signature, args):
        return builder.fmul(args[0], _broadcast(builder, args[1], a.lanes), flags=FAST)

    return a(a, b), generate


@intrinsic
def add_product(typing, a, b, c):
    """Return a + b c, for vectors a and b and a vector or number c."""

    def generate(context, builder, signature, args):
        product = builder.fmul(args[1], _broadcast(builder, args[2], a.lanes), flags=FAST)
        return builder.fadd(args[0], product, flags=FAST)

    return a(a, b, c), generate


@intrinsic
def total(typing, vector):
    """Return the sum of the eight numbers."""

    def generate(context, builder, signature, args):
        half, value = LANES // 2, args[0]
        while half:
            order = list(range(half, 2 * half)) + [0] * half
            order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), (order + [0] * LANES)[:LANES])
            value = builder.fadd(value, builder.shuffle_vector(value, value, order))
            half //= 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return vector.dtype(vector), generate


@intrinsic
def turn(typing, square):
    """Transpose the eight by eight numbers at the beginning of an array."""

    def generate(context, builder, signature, args):
        starts = [context.get_constant(types.intp, LANES * i) for i in range(LANES)]
        array = signature.args[0], args[0]
        align = array[0].dtype.bitwidth // 8
        rows = [builder.load(_point(context, builder, *array, i), align=align) for i in starts]
        step = 1
        while step < LANES:  # exchange this bit of the row and of the column
            low = [j if not j & step else LANES + j - step for j in range(LANES)]
            high = [j + step if not j & step else LANES + j for j in range(LANES)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), m) for m in (low, high))
            for i in range(LANES):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i] = builder.shuffle_vector(*pair, low)
                    rows[i + step] = builder.shuffle_vector(*pair, high)
            step *= 2
        for start, row in zip(starts, rows):
            builder.store(row, _point(context, builder, *array, start), align=align)
        return context.get_dummy_value()

    return types.void(square), generate
