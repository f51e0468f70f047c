"""Reads what large_tensor.c wrote with the reference reader, the Python package safetensors, and compares all of it
with the same formula: rows around every boundary of 32 bits first, then the whole tensor.

    large_tensor.py BF16|F32 FOLDER
"""
import pathlib
import sys

import numpy as np
from safetensors import safe_open

ROWS, COLUMNS = 256000, 12288
FACTOR = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 128     # rows at a time

# NumPy has no BF16. The reader asks it for a type of that name, and gets one that keeps the bits.
np.sctypeDict['bfloat16'] = np.uint16


def formula(kind, first, n):
    """The bits of the elements [first, first + n) of the file."""
    x = np.arange(first, first + n, dtype=np.uint64)
    x *= FACTOR
    if kind == 'BF16':
        return (x >> np.uint64(48)).astype(np.uint16) & np.uint16(0xBFFF)
    return (x >> np.uint64(32)).astype(np.uint32) & np.uint32(0xBFFFFFFF)


def compare(kind, found, first, what):
    bits = formula(kind, first, found.size)
    if not np.array_equal(found.reshape(-1).view(bits.dtype), bits):
        sys.exit(f'{what} is not what was written')


def check_rows(kind, tensor, r0, r1):
    compare(kind, tensor[r0:r1], r0 * COLUMNS, f'rows {r0} to {r1}')


def boundary_rows(size):
    """Rows of the first and last elements, and of those where a count or an offset of 31 or 32 bits ends."""
    edges = {2 ** bits // unit for bits in (31, 32) for unit in (1, size)}
    rows = {0, ROWS - 1} | {edge // COLUMNS for edge in edges if edge < ROWS * COLUMNS}
    return sorted(rows)


def main():
    kind, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    size = {'BF16': 2, 'F32': 4}[kind]
    with safe_open(folder / 'model.safetensors', 'numpy') as f:
        if sorted(f.keys()) != ['embed.weight', 'norm.weight']:
            sys.exit(f'other tensors than were written: {f.keys()}')
        tensor, behind = f.get_slice('embed.weight'), f.get_tensor('norm.weight')
        if tensor.get_shape() != [ROWS, COLUMNS] or tensor.get_dtype() != kind or behind.shape != (COLUMNS,):
            sys.exit('another shape or type than was written')
        compare(kind, behind, ROWS * COLUMNS, 'norm.weight')
        for row in boundary_rows(size):
            check_rows(kind, tensor, max(row - 1, 0), min(row + 2, ROWS))
        for row in range(0, ROWS, CHUNK):
            check_rows(kind, tensor, row, row + CHUNK)
    print(f'{ROWS} x {COLUMNS} {kind}: every element as written, also the rows {boundary_rows(size)}')


if __name__ == '__main__':
    main()
