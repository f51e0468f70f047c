"""Every family of tests/data/tiny from end to end with all the solver has: the same bytes for any number of ranks,
an output that `verify` accepts, and that `eval` reads as the weights it stands for."""
import json
import pathlib
import shutil
import sys
import unittest

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import gptq_reference  # noqa: E402

TINY = harness.ROOT / 'tests' / 'data' / 'tiny'
OPTIONS = ('--preset', 'best', '--bits', 3, '--group-size', 32, '--unit-tokens', 70)


def write_dense(packed, target):
    """The model that a packed folder stands for, in F32, by the tests' own reader."""
    target.mkdir()
    config = json.loads((packed / 'config.json').read_text(encoding='utf-8'))
    del config['quantization_config']
    (target / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    tensors = {k: v.astype(np.float32) for k, v in gptq_reference.read_folder(packed).items()}
    harness.save_file(tensors, target / 'model.safetensors')


class Families(unittest.TestCase):
    def setUp(self):
        folder = harness.scratch()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        samples = [[(7 * i + 13 * j) % 90 for j in range(60 - i)] for i in range(8)]
        self.calib = harness.write_calib(self.root / 'tiny.h5', samples, 96)

    def mpiquant(self, ranks, *arguments):
        done = harness.run(ranks, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check(self, model):
        out, again, dense = (self.root / f'{model.name}-{name}' for name in ('one', 'three', 'dense'))
        for ranks, folder in ((1, out), (3, again)):
            self.mpiquant(ranks, 'quantize', model, '--calib', self.calib, '--output', folder, *OPTIONS)
        self.assertEqual(harness.files_hash(out), harness.files_hash(again))
        self.mpiquant(1, 'verify', out, '--source', model)
        write_dense(out, dense)
        result = self.mpiquant(1, 'eval', out, '--reference', dense, '--tokens', self.calib, '--precision', 'f32',
                               '--json')
        self.assertLess(abs(json.loads(result)['kl']), 1e-9)
        shutil.rmtree(dense)

    def test_all(self):
        for model in sorted(path.parent for path in TINY.glob('*/config.json')):
            with self.subTest(model=model.name):
                self.check(model)


if __name__ == '__main__':
    unittest.main()
