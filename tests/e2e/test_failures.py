"""Calibration gone wrong: what the run says, and that every layer gets a finite, reported result that is no
worse than rounding to nearest. After the reports on GPTQ of wide models: too few and too short samples, an inf
in one sample, dead and duplicated channels, channels of very different size."""
import json
import re
import sys
import unittest

import harness
import numpy as np
from safetensors import safe_open

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import gptq_reference  # noqa: E402

OK, USAGE, NUMERIC = 0, 2, 5
TOKEN = 77        # the token whose activations overflow
CHANNEL = 31      # ... in this column of the MLP's inputs
FEW = ('--layers', '0:2')
UNDAMPED = ('--damp', 1e-9, '--shrinkage', 0)  # the Hessian as the samples make it


def packed(folder, pattern):
    """Tensors whose names match; BF16, which NumPy lacks, must not."""
    with safe_open(folder / 'model.safetensors', 'numpy') as f:
        return {k: f.get_tensor(k) for k in f.keys() if re.match(pattern, k)}


class Failures(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sha = harness.tokenizer_sha256(harness.DEMO)
        cls.count = 0
        cls.fragile = cls.overflowing()

    @classmethod
    def overflowing(cls):
        """A model whose MLP inputs in block 0 overflow BF16 for one token of the vocabulary and no other: it
        alone has anything in a channel that the norm's weight all but overflows."""
        model = harness.copy_model(harness.DEMO, cls.root / 'fragile')
        layer = 'model.layers.0.'

        def embedding(e):
            e[:, CHANNEL] = 0
            e[TOKEN, CHANNEL] = 50 * np.abs(e).max()
            return e

        def without_channel(w):
            w[CHANNEL] = 0
            return w

        def huge(w):
            w[CHANNEL] = 1e38
            return w
        harness.edit(model, 'model.embed_tokens.weight', embedding)
        harness.edit(model, layer + 'self_attn.o_proj.weight', without_channel)
        harness.edit(model, layer + 'post_attention_layernorm.weight', huge)
        return model

    def calib(self, samples):
        Failures.count += 1
        return harness.write_calib(self.root / f'calib{Failures.count}.h5', samples, 4096, self.sha)

    def samples(self, n=6, length=40):
        """Text without the dangerous token."""
        return [[4 if t == TOKEN else t for t in s] for s in harness.demo_samples(n, length)]

    def quantise(self, code, model, calib, *options, ranks=1):
        Failures.count += 1
        out = self.root / f'out{Failures.count}'
        done = harness.run(ranks, 'quantize', model, '--calib', calib, '--output', out, '--preset', 'fast', *options)
        self.assertEqual(done.returncode, code, done.stderr)
        return out, done.stderr

    def check_layers(self, out):
        """All finite, and not worse than rounding to nearest; returns the report."""
        report = json.loads((out / 'mq_report.json').read_text())
        for layer in report['layers']:
            self.assertEqual(layer['method'], 'ldlq', layer)
            self.assertTrue(0 <= layer['relative_loss'] < 1, layer)
            self.assertTrue(layer['relative_loss'] <= layer['rtn_loss'] < 10, layer)
            self.assertTrue(0 <= layer['rtn_rows'] <= layer['n_out'], layer)
            self.assertTrue(np.isfinite(layer['relative_error']), layer)
        for name, tensor in packed(out, '.*scales$').items():
            self.assertTrue(np.isfinite(tensor).all(), name)
        return report

    # ---- not finite ----

    def test_inf_in_one_sample_stops(self):
        samples = self.samples()
        samples[4][17] = TOKEN
        samples[5][3] = TOKEN
        for ranks in (1, 3):
            out, log = self.quantise(NUMERIC, self.fragile, self.calib(samples), '--unit-tokens', 50, ranks=ranks)
            for word in ('block 0', 'mlp_in', 'sample 4', 'token 17', f'column {CHANNEL}', 'inf', '2 samples',
                         '--on-failure'):
                self.assertIn(word, log)
            self.assertFalse((out / 'model.safetensors').exists())

    def test_inf_in_one_sample_is_left_out(self):
        samples = self.samples()
        samples[4][17] = TOKEN
        calib, outs = self.calib(samples), []
        for ranks in (1, 3):
            out, log = self.quantise(OK, self.fragile, calib, '--unit-tokens', 90, '--on-failure', 'rtn', *FEW,
                                     ranks=ranks)
            self.assertRegex(log, r'warning: block 0, mlp_in: 1 of 6 SAMPLES LEFT OUT.*sample 4 .*token 17')
            self.assertRegex(log.splitlines()[-2], '1 OF 6 SAMPLES WERE LEFT OUT')
            report = self.check_layers(out)
            self.assertEqual(report['summary']['samples_left_out'], 1)
            self.assertEqual(report['summary']['rounded_to_nearest'], 0)
            for layer in report['layers']:
                after = layer['block'] > 0 or 'mlp' in layer['name']
                self.assertEqual((layer['samples_left_out'], layer['tokens']), (1, 200) if after else (0, 240), layer)
            outs.append(out)
        self.assertEqual(harness.files_hash(outs[0]), harness.files_hash(outs[1]))

    def test_left_out_is_as_if_never_there(self):
        """Samples in units of their own, and the inf in a block before those that are quantised: the same codes
        as without that sample. The best preset has two streams; measured damping would hold other samples out."""
        samples = self.samples(8, 60)
        samples[3][0] = TOKEN
        options = ('--unit-tokens', 60, '--layers', '1:2', '--group-size', 64, '--preset', 'best',
                   '--damp', 0.05)
        out, log = self.quantise(OK, self.fragile, self.calib(samples), *options, '--on-failure', 'rtn', ranks=2)
        self.assertRegex(log, 'block 1, attn_in: 1 of 8 SAMPLES LEFT OUT')
        clean, _ = self.quantise(OK, self.fragile, self.calib(samples[:3] + samples[4:]), *options)
        ours, theirs = (packed(o, r'.*layers\.1\..*(qweight|scales)$') for o in (out, clean))
        self.assertEqual(len(theirs), 14)
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], name)

    def test_every_sample_spoilt(self):
        samples = [s[:20] + [TOKEN] + s[21:] for s in self.samples()]
        calib = self.calib(samples)
        self.quantise(NUMERIC, self.fragile, calib)
        for ranks, form in ((1, 'gptq'), (2, 'exl2')):
            out, log = self.quantise(OK, self.fragile, calib, '--on-failure', 'rtn', *FEW, '--format', form,
                                     ranks=ranks)
            done = harness.run(1, 'verify', out, '--source', self.fragile)
            self.assertEqual(done.returncode, OK, done.stderr)
            self.assertIn('6 of 6 SAMPLES LEFT OUT', log)
            self.assertIn('warning: model.layers.0.mlp.up_proj: ROUNDED TO NEAREST', log)
            end = '\n'.join(log.splitlines()[-3:])
            self.assertIn('6 OF 6 SAMPLES WERE LEFT OUT', end)
            self.assertIn('10 LAYERS WERE ROUNDED TO NEAREST', end)
            report = json.loads((out / 'mq_report.json').read_text())
            self.assertEqual(report['summary']['rounded_to_nearest'], 10)
            for layer in report['layers']:
                rounded = layer['block'] > 0 or 'mlp' in layer['name']
                self.assertEqual(layer['method'], 'rtn' if rounded else 'ldlq')
                self.assertEqual(layer['trouble'] == 'not_finite', rounded, layer)
                self.assertTrue(0 < layer['relative_error'] < 0.1, layer)
        self.assertIn('| 10 |', (out / 'README.md').read_text())

    def test_drift_too_large(self):
        """Outputs of one row are so large that the square of how far they drift is past F32, while all inputs are
        as ever."""
        def huge(w):
            w[CHANNEL] *= 1e22
            return w
        model = self.damaged('drift', {'model.layers.0.mlp.down_proj.weight': huge})
        options = ('--preset', 'best', '--layers', '0:1')
        _, log = self.quantise(NUMERIC, model, self.calib(self.samples()), *options, ranks=2)
        self.assertRegex(log, f'block 0, mlp_mid: .*column {CHANNEL}')
        out, log = self.quantise(OK, model, self.calib(self.samples()), *options, '--on-failure', 'rtn', ranks=2)
        self.assertRegex(log, f'warning: block 0, mlp_mid: NOT CORRECTED .*column {CHANNEL}')
        report = json.loads((out / 'mq_report.json').read_text())
        self.assertEqual({layer['method'] for layer in report['layers']}, {'ldlq'})

    def test_loss_is_not_finite(self):
        """Weights whose errors, under scales that end at 65504, are past F32 when they are summed."""
        def huge(w):
            w[5] = np.where(w[5] < 0, -2e38, 2e38)
            return w
        model = self.damaged('huge', {'model.layers.0.self_attn.o_proj.weight': huge})
        name, options = 'model.layers.0.self_attn.o_proj', ('--layers', '0:1', '--preset', 'default')
        for ranks in (1, 2):
            out, log = self.quantise(NUMERIC, model, self.calib(self.samples()), *options, ranks=ranks)
            self.assertRegex(log, name + ': the loss .* not a finite number.*--skip')
            self.assertFalse((out / 'model.safetensors').exists())

    def test_on_failure_is_checked(self):
        _, log = self.quantise(USAGE, harness.DEMO, self.calib(self.samples()), '--on-failure', 'hope')
        self.assertIn('stop or rtn', log)

    # ---- too little ----

    def test_one_sample_of_eight_tokens(self):
        calib = self.calib([self.samples(1, 8)[0]])
        for options in (UNDAMPED, ('--damp', 1, '--bits', 2, '--group-size', -1, *FEW),
                        ('--bits', 8, '--preset', 'best', *FEW)):
            out, log = self.quantise(OK, harness.DEMO, calib, *options)
            # Said before the work begins.
            self.assertIn('rank-deficient', log[:log.index('block 1 of')])
            report = self.check_layers(out)
            self.assertEqual(len(report['layers']), 14 if '0:2' in options else 56)
            for layer in report['layers']:
                self.assertEqual((layer['trouble'], layer['tokens']), ('rank_deficient', 8), layer)
                self.assertLessEqual(layer['rank_bound'], 8)
                if options is UNDAMPED:
                    self.assertGreater(layer['attempts'], 1)
                    self.assertEqual(layer['damping'], 0.01)
                else:
                    self.assertEqual(layer['attempts'], 1)
            if options is UNDAMPED:
                self.assertRegex(log, r'block 3, mlp_mid: the Hessian is rank-deficient \(8 tokens for \d+ columns\)')

    def test_auto_damping(self):
        """Halves of next to nothing, of one sample only, or of samples that are left out."""
        one, few = (self.samples(n, 8) for n in (1, 8))
        for samples, model, more in ((one, harness.DEMO, ()), (few, harness.DEMO, ('--preset', 'best')),
                                     (few[:3] + [few[3][:4] + [TOKEN]], self.fragile, ('--on-failure', 'rtn'))):
            out, log = self.quantise(OK, model, self.calib(samples), '--damp', 'auto', '--bits', 3, *more, *FEW)
            report = self.check_layers(out)
            self.assertEqual((report['settings']['damp'], report['settings']['shrinkage']), ('auto', 'auto'))
            self.assertEqual('there is one in all' in log, len(samples) == 1)
            for layer in report['layers']:
                self.assertIn((layer['damping'], layer['shrinkage']),
                              ((0.01, 0), (0.01, 0.1), (0.05, 0.1), (0.2, 0.1), (0.8, 0.1)))
                if len(samples) == 1:
                    self.assertEqual((layer['damping'], layer['held_out_loss']), (0.05, None))
                else:
                    self.assertTrue(0 <= layer['half_loss'] < layer['held_out_loss'] < 10, layer)
            alphas = {layer['alpha'] for layer in report['layers']}
            if 'best' in more:
                self.assertEqual(report['settings']['alpha'], 'auto')
                self.assertEqual({layer['alpha'] for layer in report['layers'][:3]}, {0}, 'nothing lost yet')
                self.assertTrue(len(alphas) > 3 and all(0 <= alpha <= 1 for alpha in alphas), alphas)
            else:
                self.assertEqual((report['settings']['alpha'], alphas), (0, {0}))
            if len(samples) > 1:
                self.assertGreater(report['summary']['more_samples'], 0.05)
                self.assertRegex(log, r'warning: calibration is thin: .* about \d+ % lower')

    def test_one_token(self):
        self.check_layers(self.quantise(OK, harness.DEMO, self.calib([[5]]), *FEW)[0])

    def wide(self, hidden=64, width=3072):
        """A block whose MLP is far wider than any calibration here is long; random weights."""
        rng = np.random.default_rng(5)
        folder = self.root / 'wide'
        config = json.loads((harness.DEMO / 'config.json').read_text())
        config.update(hidden_size=hidden, intermediate_size=width, num_hidden_layers=1, num_attention_heads=1,
                      num_key_value_heads=1, head_dim=hidden, dtype='float16')
        shapes = {'self_attn.q_proj': (hidden, hidden), 'self_attn.k_proj': (hidden, hidden),
                  'self_attn.v_proj': (hidden, hidden), 'self_attn.o_proj': (hidden, hidden),
                  'mlp.gate_proj': (width, hidden), 'mlp.up_proj': (width, hidden), 'mlp.down_proj': (hidden, width)}
        tensors = {f'model.layers.0.{k}.weight': rng.standard_normal(v) / np.sqrt(v[1]) for k, v in shapes.items()}
        tensors['model.embed_tokens.weight'] = rng.standard_normal((4096, hidden))
        for name in ('layers.0.input_layernorm', 'layers.0.post_attention_layernorm', 'norm'):
            tensors[f'model.{name}.weight'] = np.ones(hidden)
        folder.mkdir()
        (folder / 'config.json').write_text(json.dumps(config))
        (folder / 'tokenizer.json').write_bytes((harness.DEMO / 'tokenizer.json').read_bytes())
        harness.save_file({k: v.astype(np.float16) for k, v in tensors.items()}, folder / 'model.safetensors')
        return folder

    def test_short_prompts_on_a_wide_layer(self):
        """The report on Qwen-72B: a hundred prompts of a dozen tokens, and a down_proj that is wider than all of
        them together."""
        prompts = [s[:8 + i % 9] for i, s in enumerate(self.samples(100, 16))]
        n_tokens = sum(map(len, prompts))
        hashes = set()
        for ranks, options in ((1, ()), (2, ()), (3, ('--distribute-above', 0))):
            out, log = self.quantise(OK, self.wide() if ranks == 1 else self.root / 'wide', self.calib(prompts),
                                     '--group-size', 64, '--damp', 0.01, *options, ranks=ranks)
            self.assertRegex(log, rf'warning: mlp_mid: {n_tokens} tokens for 3072 columns .* rank-deficient')
            down = self.check_layers(out)['layers'][-1]
            self.assertEqual((down['trouble'], down['rank_bound'], down['attempts']), ('rank_deficient', n_tokens, 1))
            hashes.add(harness.files_hash(out))
        self.assertEqual(len(hashes), 1)

    # ---- numerically singular ----

    def test_the_same_token_over_and_over(self):
        """Tokens enough, but all alike: the rank is 1, which only the factorisation can tell."""
        out, log = self.quantise(OK, harness.DEMO, self.calib([[9] * 512] * 4), *UNDAMPED, '--layers', '0:1')
        self.assertRegex(log, 'block 0, attn_in: the Hessian is numerically indefinite at damping 1e-09')
        report = self.check_layers(out)
        q = report['layers'][0]
        self.assertEqual((q['trouble'], q['rank_deficient'], q['damping']), ('indefinite', False, 0.01))

    def damaged(self, name, changes):
        model = harness.copy_model(harness.DEMO, self.root / name)
        for tensor, change in changes.items():
            harness.edit(model, tensor, change)
        return model

    def check_channels(self, model, damp, **expected):
        calib = self.calib(self.samples(8, 64))
        out, _ = self.quantise(OK, model, calib, '--layers', '0:1', '--damp', damp,
                               '--shrinkage', 0)
        q = self.check_layers(out)['layers'][0]
        for key, value in expected.items():
            self.assertEqual(q[key], value, q)
        # What could not be factored is called indefinite and damped more, and nothing else is.
        self.assertEqual((q['trouble'], q['damping'] > damp, q['attempts'] > 1),
                         ('none', False, False) if q['trouble'] == 'none' else ('indefinite', True, True))
        out, _ = self.quantise(OK, model, calib, *FEW, '--preset', 'best', '--bits', 3, '--damp', damp)
        self.check_layers(out)
        self.check_layers(self.quantise(OK, model, calib, *FEW, '--preset', 'best', '--bits', 3)[0])

    def test_dead_channels(self):
        def dead(w):
            w[3::8] = 0
            return w
        model = self.damaged('dead', {f'model.layers.{i}.input_layernorm.weight': dead for i in range(2)})
        self.check_channels(model, 0.05, dead_columns=32, trouble='none')
        out, _ = self.quantise(OK, model, self.calib(self.samples(8, 64)), '--layers', '0:1', '--group-size', 64,
                               '--refine', 2)
        tensors, name = gptq_reference.read_tensors(out), 'model.layers.0.self_attn.q_proj'
        original, found = (folder[name + '.weight'][:, 3::8] for folder in (
            gptq_reference.read_tensors(model), gptq_reference.read_folder(out)))
        scale = tensors[name + '.scales'].T.astype(np.float32).repeat(8, 1)
        nearest = np.clip(np.rint(original / scale), -8, 7) * scale
        np.testing.assert_array_equal(found, nearest)
        self.check_channels(model, 1e-9, dead_columns=32)

    def test_duplicated_channels(self):
        def twice(e):
            e[..., 1::2] = e[..., ::2]
            return e
        model = self.damaged('twice', {'model.embed_tokens.weight': twice,
                                       'model.layers.0.input_layernorm.weight': twice})
        self.check_channels(model, 0.05, trouble='none', attempts=1)
        self.check_channels(model, 1e-12)

    def test_channels_of_very_different_size(self):
        """A diagonal that spans 1e16, and one channel that outweighs all others by as much."""
        def spread(w):
            return 10 ** np.linspace(0, -8, len(w))

        def massive(w):
            w[7] = 1e8
            return w
        for name, change in (('spread', spread), ('massive', massive)):
            model = self.damaged(name, {f'model.layers.{i}.input_layernorm.weight': change for i in range(2)})
            for damp in (0.05, 1e-9):
                self.check_channels(model, damp)


if __name__ == '__main__':
    unittest.main()
