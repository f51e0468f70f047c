"""`mpiquant inspect` of token files: what it prints, and files that want to be read as something else."""
import json
import unittest

import h5py
import numpy as np

import harness

OK, BAD_INPUT = 0, 3
SAMPLES = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


class TokenFiles(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.good = harness.write_calib(cls.root / 'good.h5', SAMPLES, 96, sha256='ab12', temperature=0.5,
                                       pair=np.array([7, 8], np.int16))

    def changed(self, name, change, samples=SAMPLES):
        """A good token file, changed by a function of the open file."""
        path = harness.write_calib(self.root / name, samples, 96)
        with h5py.File(path, 'a') as f:
            change(f)
        return path

    def check_refused(self, path, *said):
        done = harness.run(1, 'inspect', path)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertEqual(done.stdout, '')
        for text in (path.name, *said):
            self.assertIn(text, done.stderr)

    def test_json(self):
        done = harness.run(2, 'inspect', self.good, '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        found = json.loads(done.stdout)
        attributes = {a.pop('name'): a for a in found.pop('attributes')}
        datasets = {d.pop('name'): d for d in found.pop('datasets')}
        self.assertEqual(found, {'format': 'mpiquant-calib', 'version': 1, 'vocab_size': 96,
                                 'source': 'end-to-end test', 'samples': 3, 'tokens': 11, 'shortest': 1,
                                 'longest': 7})
        self.assertEqual(attributes, {
            'format': {'type': 'string', 'shape': [], 'value': 'mpiquant-calib'},
            'pair': {'type': 'int16', 'shape': [2]},
            'source': {'type': 'string', 'shape': [], 'value': 'end-to-end test'},
            'temperature': {'type': 'float64', 'shape': [], 'value': 0.5},
            'tokenizer_sha256': {'type': 'string', 'shape': [], 'value': 'ab12'},
            'version': {'type': 'int64', 'shape': [], 'value': 1},
            'vocab_size': {'type': 'int64', 'shape': [], 'value': 96}})
        self.assertEqual(datasets, {'offsets': {'type': 'int64', 'shape': [4]},
                                    'tokens': {'type': 'int32', 'shape': [11]}})

    def test_table(self):
        done = harness.run(2, 'inspect', self.good)
        self.assertEqual(done.returncode, OK, done.stderr)
        lines = [' '.join(line.split()) for line in done.stdout.splitlines()]
        for line in ('attribute type value', 'vocab_size int64 96', 'temperature float64 0.5', 'pair int16',
                     'dataset type shape', 'offsets int64 [4]', 'tokens int32 [11]',
                     '3 samples of 1 to 7 tokens, 11 tokens'):
            self.assertEqual(lines.count(line), 1, done.stdout)

    def test_other_members(self):
        def add(f):
            f.create_group('extra')
            f['square'] = np.zeros((2, 3), np.uint8)
            f['elsewhere'] = h5py.ExternalLink('nowhere.h5', '/x')
            f.attrs.create('nothing', h5py.Empty('f4'))
            f.attrs['bell'] = 'a\x1b[31m\x07b\u0085'
            f.attrs['latin'] = np.bytes_(b'caf\xe9')
            del f.attrs['vocab_size']
        done = harness.run(1, 'inspect', self.changed('others.h5', add), '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        found = json.loads(done.stdout)
        self.assertNotIn('vocab_size', found)
        entries = {e['name']: e for e in found['attributes'] + found['datasets']}
        self.assertEqual(entries['extra'], {'name': 'extra', 'type': 'group'})
        self.assertEqual(entries['square'], {'name': 'square', 'type': 'uint8', 'shape': [2, 3]})
        self.assertEqual(entries['elsewhere'], {'name': 'elsewhere', 'type': 'link'})
        self.assertEqual(entries['nothing'], {'name': 'nothing', 'type': 'float32'})
        self.assertEqual(entries['bell']['value'], 'a?[31m?b??')
        self.assertEqual(entries['latin']['value'], 'caf?')

    def test_not_token_files(self):
        def replace(name, value):
            def change(f):
                del f[name]
                f[name] = value
            return change
        for name, change, said in (
                ('format', lambda f: f.attrs.__setitem__('format', 'other'), 'other'),
                ('no-tokens', lambda f: f.__delitem__('tokens'), '"tokens"'),
                ('descending', replace('offsets', np.array([0, 4, 3, 11])), 'sample 1'),
                ('short', replace('offsets', np.array([0, 3, 4, 10])), '11'),
                ('floats', replace('tokens', np.zeros(11)), '"tokens"'),
                ('vocabulary', replace('tokens', np.array([1] * 5 + [96] + [1] * 5, np.int32)),
                 'sample 2, position 1: token 96'),
                ('wide', replace('tokens', np.array([1] * 10 + [2 ** 40])), '"tokens"[10]')):
            with self.subTest(name):
                self.check_refused(self.changed(f'{name}.h5', change), said)

    def test_data_of_other_files(self):
        """Nothing but the file itself may be read as tokens: no links, no external or virtual data."""
        secret = self.root / 'secret'
        np.arange(11, dtype=np.int32).tofile(secret)

        def external(f):
            del f['tokens']
            f.create_dataset('tokens', (11,), np.int32, external=[(str(secret), 0, 44)])

        def virtual(f):
            del f['tokens']
            layout = h5py.VirtualLayout((11,), np.int32)
            layout[:] = h5py.VirtualSource(str(self.good), 'tokens', (11,))
            f.create_virtual_dataset('tokens', layout)

        def link(f):
            del f['tokens']
            f['tokens'] = h5py.ExternalLink(str(self.good), '/tokens')

        for change in (external, virtual, link):
            with self.subTest(change.__name__):
                path = self.changed(f'{change.__name__}.h5', change)
                with h5py.File(path) as f:
                    self.assertEqual(len(f['tokens'][:]), 11)      # h5py reads them
                self.check_refused(path, '"tokens"')

    def test_truncated(self):
        data = self.good.read_bytes()
        for n in range(0, len(data), len(data) // 4):
            path = self.root / 'cut.h5'
            path.write_bytes(data[:n])
            self.check_refused(path)


if __name__ == '__main__':
    unittest.main()
