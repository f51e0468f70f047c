#!/usr/bin/env python3
"""Makes h5_samples.h5 with h5py, for tests/unit/test_store_h5.c.

    python3 tests/data/h5_samples.py tests/data/h5_samples.h5
"""
import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1], "w") as f:
    f.attrs["text"] = "caf\u00e9"                          # variable length, UTF-8
    f.attrs["ascii"] = np.bytes_("fixed")                  # fixed length, padded with NUL
    f.attrs["empty"] = ""
    f.attrs.create("vlen_ascii", "abc", dtype=h5py.string_dtype("ascii"))
    f.attrs["int64"] = np.int64(-(2**63))
    f.attrs["int8"] = np.int8(-5)
    f.attrs["uint64"] = np.uint64(2**63 - 1)
    f.attrs["too_large"] = np.uint64(2**63)
    f.attrs["big_endian"] = np.array(258, ">i4")
    f.attrs["one_element"] = np.array([7])
    f.attrs["two_elements"] = np.array([7, 8])
    f.attrs["null_space"] = h5py.Empty("i8")
    f.attrs["real"] = 1.5
    i = np.arange(200001)
    f["i32"] = (i * 7919 - 1000000).astype(np.int32)[:1000]
    f.create_dataset("i64_packed", data=i * 3 + 2**40, chunks=(65536 + 4096,), compression="gzip",
                     compression_opts=9, shuffle=True)
    f["u8"] = i[:300].astype(np.uint8)
    f["u64"] = np.array([0, 2**31 - 1, 2**31, 2**63 - 1, 2**63], np.uint64)
    f["edges"] = np.array([-2**31, 2**31 - 1, -2**31 - 1, 2**31], np.int64)
    f["none"] = np.zeros(0, np.int32)
    f["real"] = np.zeros(3)
    f["square"] = np.zeros((2, 2), np.int32)
    f["scalar"] = 5
    f["words"] = np.array([b"a", b"b"])
    f.create_group("group")
