"""Runs the built program under mpirun, and makes the small inputs that the end-to-end tests use."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import h5py
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get('MPIQUANT', str(ROOT / 'build' / 'mpiquant'))
DEMO = ROOT / 'models' / 'demo'
TIMEOUT = 240


# Shared memory only, as in tools/common.sh: without it, mpirun looks for networks first.
OPEN_MPI = {'OMPI_MCA_btl': '^tcp', 'OMPI_MCA_btl_vader_single_copy_mechanism': 'none',
            'OMPI_MCA_btl_base_warn_component_unused': '0'}


def run(ranks, *arguments, env=None):
    """Runs `mpiquant ARGUMENTS` on `ranks` ranks, one rank without mpirun, as users run it; returns
    the finished process with its texts."""
    command = []
    if ranks > 1:
        command = ['mpirun', '--oversubscribe', '--bind-to', 'none', '-n', str(ranks)]
        if os.geteuid() == 0:
            command.insert(1, '--allow-run-as-root')
    return subprocess.run(command + [PROGRAM, *map(str, arguments)], text=True, timeout=TIMEOUT,
                          capture_output=True, env={**OPEN_MPI, **os.environ, **(env or {})},
                          check=False)


def files_hash(folder):
    """One checksum over names and bytes of all files but mq_report.json, which holds times."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob('*')):
        if path.is_file() and path.name != 'mq_report.json':
            digest.update(path.name.encode() + b'\0')
            digest.update(path.read_bytes())
    return digest.hexdigest()


def tokenizer_sha256(model):
    return hashlib.sha256((pathlib.Path(model) / 'tokenizer.json').read_bytes()).hexdigest()


def write_calib(path, samples, vocab_size, sha256='', **attributes):
    """A token file from lists of token ids."""
    tokens = np.concatenate([np.asarray(s, np.int32) for s in samples]) if samples else np.zeros(0, np.int32)
    offsets = np.cumsum([0] + [len(s) for s in samples]).astype(np.int64)
    with h5py.File(path, 'w') as f:
        f['tokens'] = tokens
        f['offsets'] = offsets
        values = {'format': 'mpiquant-calib', 'version': np.int64(1), 'vocab_size': np.int64(vocab_size),
                  'tokenizer_sha256': sha256, 'source': 'end-to-end test', **attributes}
        for key, value in values.items():
            f.attrs[key] = value
    return path


def demo_samples(n, length, text='calibration.jsonl'):
    """n samples of `length` tokens of one of the demo model's own texts."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(DEMO / 'tokenizer.json'))
    ids = []
    with open(DEMO / text, encoding='utf-8') as f:
        for line in f:
            ids += tokenizer.encode(json.loads(line)['text']).ids
            if len(ids) >= n * length:
                break
    return [ids[i * length:(i + 1) * length] for i in range(n)]


def copy_model(source, target):
    """A copy of a model folder that a test may damage."""
    shutil.copytree(source, target)
    return pathlib.Path(target)


def load_tensors(folder):
    tensors = {}
    for path in sorted(pathlib.Path(folder).glob('*.safetensors')):
        with safe_open(path, 'numpy') as f:
            tensors.update({k: f.get_tensor(k) for k in f.keys()})
    return tensors


def scratch():
    return tempfile.TemporaryDirectory(prefix='mpiquant-')


class InScratch(unittest.TestCase):
    """Tests with a folder of their class, `root`, which goes when they are done."""

    @classmethod
    def setUpClass(cls):
        cls.folder = scratch()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.root = pathlib.Path(cls.folder.name).resolve()


def bf16_raw(path):
    """Header and raw bytes of a safetensors file (NumPy has no BF16)."""
    data = pathlib.Path(path).read_bytes()
    n = int.from_bytes(data[:8], 'little')
    return json.loads(data[8:8 + n]), bytearray(data), 8 + n


def edit(model, tensor, change):
    """Replaces a BF16 tensor by change(its values)."""
    path = pathlib.Path(model) / 'model.safetensors'
    header, data, start = bf16_raw(path)
    begin, end = (start + offset for offset in header[tensor]['data_offsets'])
    values = (np.frombuffer(data[begin:end], '<u2').astype('<u4') << 16).view('<f4')
    values = np.asarray(change(values.reshape(header[tensor]['shape']).copy()), '<f4')
    data[begin:end] = ((values.reshape(-1).view('<u4') + 0x8000) >> 16).astype('<u2').tobytes()
    path.write_bytes(data)


def add_tensor(model, name, like, change):
    """Adds a BF16 tensor, change(the values of another one)."""
    path = pathlib.Path(model) / 'model.safetensors'
    header, data, start = bf16_raw(path)
    begin, end = header[like]['data_offsets']
    size = len(data) - start
    header[name] = {**header[like], 'data_offsets': [size, size + end - begin]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + bytes(data[start:]) +
                     bytes(data[start + begin:start + end]))
    edit(model, name, change)


__all__ = ['run', 'files_hash', 'tokenizer_sha256', 'write_calib', 'demo_samples', 'copy_model', 'load_tensors',
           'scratch', 'InScratch', 'bf16_raw', 'edit', 'add_tensor', 'save_file', 'ROOT', 'PROGRAM', 'DEMO']
