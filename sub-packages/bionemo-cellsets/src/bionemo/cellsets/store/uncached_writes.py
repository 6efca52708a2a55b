"""For compiled kernels: memory written past the caches, 64 bytes at a time.

A batch of dense rows is larger than the caches. Written the usual way, each of its lines is fetched from memory only to
be overwritten, and sent back later. Stores with LLVM's ``nontemporal`` mark send whole lines and fetch none; where a
processor knows no such stores the compiler emits usual ones.
"""

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import types

LINE = 64
"""Bytes of a cache line on the processors that are meant."""
_intrinsic: Any = extending.intrinsic  # what it returns is called without the first argument


@_intrinsic
def address(typingctx, array):
    """Return where an array begins in memory."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), codegen


@_intrinsic
def move_line(typingctx, target, to, source, at):
    """Move `LINE` bytes from entry `at` of `source`, which is zero then, to entry `to` of `target`.

    Both are contiguous arrays of one type, and both entries begin a line.
    """

    def codegen(context, builder, signature, args):
        dtype = signature.args[0].dtype
        line = ir.VectorType(context.get_value_type(dtype), 8 * LINE // dtype.bitwidth)
        places = []
        for array, kind, entry in ((args[0], signature.args[0], args[1]), (args[2], signature.args[2], args[3])):
            data = context.make_array(kind)(context, builder, array).data
            places.append(builder.bitcast(builder.gep(data, [entry]), line.as_pointer()))
        store = builder.store(builder.load(places[1], align=LINE), places[0], align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        builder.store(ir.Constant(line, None), places[1], align=LINE)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


@_intrinsic
def fence(typingctx):
    """Wait until other threads see what was moved: the marked stores keep no order of their own."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
