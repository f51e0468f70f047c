"""Columns scaled by powers of two: on the demo model after its norms and the layers that read them were made
uneven, which changes nothing but how hard they are to quantise."""
import json
import pathlib
import sys
import unittest

import harness
import numpy as np
from gguf import GGUFReader

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import columns  # noqa: E402
import compressed_reference  # noqa: E402
import gptq_reference  # noqa: E402

OK, USAGE, INPUT = 0, 2, 3
OPTIONS = ('--bits', 4, '--group-size', 32)
BLOCKS = (0, 3)     # that are uneven
LAYERS = ('--layers', '0:4')


def uneven(n):
    return 2.0 ** np.random.default_rng(5).integers(-3, 4, n)


def make_uneven(target):
    """The demo model with the same outputs."""
    model = harness.copy_model(harness.DEMO, target)
    for block in BLOCKS:
        for norm, layers in columns.NORMS.items():
            place = f'model.layers.{block}.'
            harness.edit(model, f'{place}{norm}.weight', lambda w: w * uneven(len(w)))
            for layer in layers:
                harness.edit(model, f'{place}{layer}.weight', lambda w: w / uneven(w.shape[1]))
    return model


class ScaledColumns(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = harness.scratch()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.root = pathlib.Path(cls.folder.name)
        sha = harness.tokenizer_sha256(harness.DEMO)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(12, 128), 4096, sha)
        cls.heldout = harness.write_calib(cls.root / 'heldout.h5', harness.demo_samples(6, 128, 'heldout.jsonl'),
                                          4096, sha)
        cls.model = make_uneven(cls.root / 'uneven')
        cls.source = gptq_reference.read_tensors(cls.model)
        cls.made = {}

    def quantise(self, *options, ranks=2):
        """The folder of these options, made once."""
        if (options, ranks) not in self.made:
            out = self.root / f'out{len(self.made)}'
            done = harness.run(ranks, 'quantize', self.model, '--calib', self.calib, '--output', out, *OPTIONS,
                               *LAYERS, *options)
            self.assertEqual(done.returncode, OK, done.stderr)
            self.made[options, ranks] = out
        return self.made[options, ranks]

    def verify(self, out, *options, code=OK):
        done = harness.run(2, 'verify', out, *options)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def divergence(self, out, reference):
        done = harness.run(1, 'eval', out, '--reference', reference, '--tokens', self.heldout, '--precision', 'f32',
                           '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        return json.loads(done.stdout)['kl']

    def scaled(self, out):
        """Norms that differ from the source's."""
        tensors = gptq_reference.read_tensors(out)
        return {name for name in filter(columns.NORM.match, tensors)
                if (columns.ratio(tensors[name], self.source[name]) != 1).any()}

    def expected(self):
        return {f'model.layers.{block}.{norm}.weight' for block in BLOCKS for norm in columns.NORMS}

    def test_where_it_helps(self):
        """The uneven norms become much what they were, the others stay; the report says the same."""
        out = self.quantise()
        self.assertEqual(self.scaled(out), self.expected())
        demo, tensors = gptq_reference.read_tensors(harness.DEMO), gptq_reference.read_tensors(out)
        for name in self.expected():
            # The size of a group's weights goes into its scales.
            left = np.log2(np.abs(tensors[name] / demo[name])).reshape(-1, 32)
            left -= np.rint(left.mean(1, keepdims=True))
            self.assertGreater((np.abs(left) <= 1).mean(), 0.9, name)
        for layer in json.loads((out / 'mq_report.json').read_text(encoding='utf-8'))['layers']:
            module, block = layer['name'].rsplit('.', 1)[1], layer['block']
            norm = module in ('q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj')
            self.assertEqual(layer['scaled_columns'] > 0, norm and block in BLOCKS, layer['name'])

    def test_divergence(self):
        scaled, plain = self.quantise(), self.quantise('--scale-columns', 0)
        self.assertEqual(self.scaled(plain), set())
        self.assertLess(self.divergence(scaled, self.model), 0.7 * self.divergence(plain, self.model))

    def test_same_bytes(self):
        expected = harness.files_hash(self.quantise())
        for ranks in (1, 3, 4):
            self.assertEqual(harness.files_hash(self.quantise(ranks=ranks)), expected, ranks)

    def test_exact_in_every_format(self):
        """Packed layers with their norms stand for the weights of `dense`, which are rounded to BF16."""
        dense = self.quantise('--format', 'dense')
        meant = gptq_reference.read_tensors(dense)
        self.assertEqual(self.scaled(dense), set())
        for form, reader in (('gptq', gptq_reference), ('gptq_v2', gptq_reference)):
            out = self.quantise('--format', form)
            found = columns.unscale(reader.read_folder(out), self.source)
            for name, value in meant.items():
                bits = found[name].astype(np.float32).view('<u4').astype(np.uint64)
                rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype('<u4').view('<f4')
                np.testing.assert_array_equal(rounded, value, name)
        out = self.quantise('--format', 'compressed-tensors')
        self.assertEqual(self.scaled(out), self.expected())
        found = columns.unscale(compressed_reference.read_folder(out), self.source)
        for name in filter(columns.NORM.match, found):
            np.testing.assert_array_equal(found[name], self.source[name], name)
        self.assertLess(self.divergence(self.quantise(), dense), 1e-5)

    def test_best_and_mixed(self):
        """The correction, refinement and widths work on scaled columns too."""
        for options in (('--preset', 'best'), ('--bits', 3.5), ('--zero-points',)):
            out = self.quantise(*options)
            self.assertLessEqual(self.expected(), self.scaled(out), options)
            self.verify(out, '--source', self.model)
            plain = self.quantise(*options, '--scale-columns', 0)
            self.assertLess(self.divergence(out, self.model), 0.8 * self.divergence(plain, self.model), options)

    def test_verify(self):
        for form in ('gptq', 'gptq_v2', 'compressed-tensors', 'dense', 'exl2'):
            out = self.quantise('--format', form)
            self.verify(out)
            self.verify(out, '--source', self.model)
        other = harness.copy_model(self.model, self.root / 'other')
        harness.edit(other, 'model.layers.3.input_layernorm.weight', lambda w: w * 1.5)
        said = self.verify(self.quantise(), '--source', other, code=INPUT)
        self.assertIn('model.layers.3.input_layernorm.weight[0]', said)
        self.assertIn('times a power of two', said)

    def test_gguf(self):
        out = self.quantise('--format', 'gguf')
        self.verify(out)
        tensors = {t.name: t.data for t in GGUFReader(out / 'model.gguf').tensors}
        names = {'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}
        for block in range(8):
            for norm, name in names.items():
                original = self.source[f'model.layers.{block}.{norm}.weight']
                found = columns.ratio(tensors[f'blk.{block}.{name}.weight'], original)
                self.assertEqual((found != 1).any(), block in BLOCKS, (block, norm))

    def test_left_alone(self):
        """A layer that stays as it is would read what was scaled for the others; EXL2 shares scales between rows."""
        out = self.quantise('--skip', r'layers\.0\.self_attn\.v_proj', '--skip', r'layers\.3\.mlp\.up_proj')
        self.assertEqual(self.scaled(out), {'model.layers.0.post_attention_layernorm.weight',
                                            'model.layers.3.input_layernorm.weight'})
        for options in (('--format', 'exl2'), ('--preset', 'fast'), ('--damp', 0.05)):
            self.assertEqual(self.scaled(self.quantise(*options)), set(), options)

    def test_option(self):
        for value in ('1', '0.5', 'never'):
            done = harness.run(1, 'quantize', self.model, '--calib', self.calib, '--output', self.root / 'none',
                               '--scale-columns', value)
            self.assertEqual(done.returncode, USAGE, done.stderr)
            self.assertIn('--scale-columns', done.stderr)
        settings = [json.loads((self.quantise(*o) / 'mq_report.json').read_text(encoding='utf-8'))['settings']
                    for o in ((), ('--scale-columns', 0), ('--preset', 'fast'))]
        self.assertEqual([s['scale_columns'] for s in settings], ['auto', 0, 0])


if __name__ == '__main__':
    unittest.main()
