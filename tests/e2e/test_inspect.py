"""`mpiquant inspect` of token files: what it prints, and files that want to be read as something else;
`inspect --arch` of models: all that stands in the way, not only the first thing."""
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


class Models(harness.InScratch):
    TINY = harness.ROOT / 'tests' / 'data' / 'tiny' / 'qwen3'

    def model(self, name, **keys):
        """A copy of the tiny model, with keys of config.json set, or taken out where they are None."""
        folder = self.root / name
        folder.mkdir()
        config = json.loads((self.TINY / 'config.json').read_text(encoding='utf-8'))
        config = {k: v for k, v in {**config, **keys}.items() if v is not None}
        (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
        (folder / 'model.safetensors').write_bytes((self.TINY / 'model.safetensors').read_bytes())
        return folder

    def rewrite(self, model, change):
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, 'little') + text + bytes(data[start:]))

    def arch(self, code, model, ranks=1):
        done = harness.run(ranks, 'inspect', '--arch', model, '--json')
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout)

    def first_error(self, model):
        """What a run says, which stops at the first thing that is wrong."""
        calib = harness.write_calib(self.root / 'tiny.h5', [[1, 2, 3]], 96)
        done = harness.run(1, 'quantize', model, '--calib', calib, '--output', self.root / 'none')
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        return done.stderr

    def test_every_family(self):
        for config in sorted(self.TINY.parent.glob('*/config.json')):
            with self.subTest(config.parent.name):
                found = self.arch(OK, config.parent)
                self.assertTrue(found['quantisable'] and found['known'] and found['weights'])
                header, _, _ = harness.bf16_raw(config.parent / 'model.safetensors')
                header.pop('__metadata__', None)
                self.assertEqual(sum(m['tensors'] for m in found['mapped']), len(header))
                spans = [t['data_offsets'] for t in header.values()]
                self.assertEqual(sum(m['bytes'] for m in found['mapped']), sum(e - b for b, e in spans))

    def test_what_was_read(self):
        found = self.arch(OK, self.TINY, ranks=2)
        read = found['read']
        self.assertEqual((found['family'], found['model_type']), ('qwen3', 'qwen3'))
        self.assertEqual((read['hidden'], read['n_blocks'], read['head_dim'], read['qk_norm'], read['rope']),
                         (64, 2, 24, 'head_shared', 'default'))
        self.assertIn({'role': 'q', 'tensors': 2, 'bytes': 2 * 2 * 96 * 64}, found['mapped'])

    def test_config_alone(self):
        model = self.model('config-alone')
        (model / 'model.safetensors').unlink()
        found = self.arch(OK, model)
        self.assertEqual((found['weights'], found['missing'], found['mapped']), (False, [], []))
        done = harness.run(1, 'inspect', '--arch', model)
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertIn('no safetensors in this folder', done.stdout)

    def test_everything_at_once(self):
        model = self.model('much', clip_qkv=8.0, experts={'n': 4}, pretraining_tp=2,
                           rope_parameters={'rope_type': 'spiral', 'rope_theta': 1e6})

        def change(header):
            for block in (0, 1):
                header[f'model.layers.{block}.mlp.w_up.weight'] = header.pop(f'model.layers.{block}.mlp.up_proj.weight')
            shape = header['model.layers.1.self_attn.k_proj.weight']['shape']
            header['model.layers.1.self_attn.k_proj.weight']['shape'] = shape[::-1]
        self.rewrite(model, change)
        for ranks in (1, 2):
            found = self.arch(BAD_INPUT, model, ranks)
            self.assertEqual(found['unknown_keys'], ['clip_qkv', 'experts'])
            self.assertEqual(len(found['config']), 2)
            self.assertIn('spiral', found['config'][0])
            self.assertIn('pretraining_tp', found['config'][1])
            self.assertEqual(found['missing'], [{'name': f'model.layers.{b}.mlp.up_proj.weight', 'shape': [96, 64]}
                                                for b in (0, 1)])
            self.assertEqual([w['name'] for w in found['wrong']], ['model.layers.1.self_attn.k_proj.weight'])
            self.assertIn('[48, 64]', found['wrong'][0]['message'])
            self.assertEqual(found['unmapped'], [f'model.layers.{b}.mlp.w_up.weight' for b in (0, 1)])
            self.assertFalse(found['quantisable'])
        self.assertIn(found['config'][0], self.first_error(model))
        done = harness.run(1, 'inspect', '--arch', model)
        self.assertEqual(done.returncode, BAD_INPUT)
        self.assertIn('model.layers.0.mlp.up_proj.weight  [96,64]  and 1 more', done.stdout)

    def test_sizes_that_are_missing(self):
        found = self.arch(BAD_INPUT, self.model('sizes', hidden_size=None, vocab_size=None, odd_key=3))
        self.assertEqual(len(found['config']), 2)
        self.assertIn('"hidden_size" is missing', found['config'][0])
        self.assertIn('"vocab_size" is missing', found['config'][1])
        self.assertEqual((found['unknown_keys'], found['tensors_checked'], found['missing']), (['odd_key'], False, []))

    def test_unknown_model_type(self):
        model = self.model('unknown', model_type='mystery', odd_key=3)
        found = self.arch(BAD_INPUT, model)
        self.assertFalse(found['known'] or found['quantisable'])
        self.assertEqual(found['nearest'][0], {'family': 'qwen3', 'names_alike': 14, 'names': 14,
                                               'config_findings': 1})
        self.assertEqual((found['family'], found['unknown_keys'], found['missing']), ('qwen3', ['odd_key'], []))
        (model / 'model.safetensors').unlink()      # by its keys alone
        self.assertEqual(self.arch(BAD_INPUT, model)['nearest'][0]['config_findings'], 1)
        self.assertIn('inspect --arch', self.first_error(model))

    def test_weights_that_cannot_be_read(self):
        model = self.model('cut', odd_key=3)
        data = (model / 'model.safetensors').read_bytes()
        (model / 'model.safetensors').write_bytes(data[:-10])
        found = self.arch(BAD_INPUT, model)
        self.assertEqual((found['unknown_keys'], found['weights'], found['tensors_checked']), (['odd_key'], True, False))
        self.assertIn('model.safetensors', found['wrong'][0]['message'])

    def test_nothing_to_read(self):
        done = harness.run(1, 'inspect', '--arch', self.root / 'nowhere')
        self.assertEqual(done.returncode, 4, done.stderr)
        model = self.model('typeless', model_type=None)
        done = harness.run(1, 'inspect', '--arch', model)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertIn('model_type', done.stderr)


if __name__ == '__main__':
    unittest.main()
