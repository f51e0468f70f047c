"""No layer worse than rounding to nearest, measured outside the program: from the packed tensors, with inputs
that NumPy computes, against rounding with the scales that the largest weights give. On text enough, on one sample
of eight tokens, and on models with damaged channels."""
import json
import sys
import unittest

import harness
import llama_numpy
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import columns  # noqa: E402
import gptq_pack  # noqa: E402
import gptq_reference  # noqa: E402

GROUP = 64
EIGHT_TOKENS, SOME = (1, 8), (6, 100)   # samples, tokens each


def nearest(weight, bits):
    """Rounded with the scales from the largest weights, F16 as they are stored; (n_out, n_in)."""
    codes, scales, zeros = gptq_pack.round_to_nearest(weight.astype(np.float32), bits, GROUP)
    step = np.repeat(scales.astype(np.float64), GROUP, 0)
    return ((codes - np.repeat(zeros.astype(np.float64), GROUP, 0)) * step).T


def outputs(model, samples):
    """layer -> inputs and the residual stream before, over all tokens."""
    parts = {}
    for sample in samples:
        for layers, y, x in llama_numpy.taps(model, sample):
            for layer in layers:
                parts.setdefault(layer, []).append((y, x))
    return {k: tuple(np.concatenate(p) for p in zip(*v)) for k, v in parts.items()}


class LayerLosses(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sha = harness.tokenizer_sha256(harness.DEMO)
        cls.count = 0

    def quantise(self, source, samples, *options):
        """The original model, what the packed folder stands for, both as llama_numpy takes them, and the report."""
        LayerLosses.count += 1
        calib = harness.write_calib(self.root / f'calib{self.count}.h5', samples, 4096, self.sha)
        out = self.root / f'out{self.count}'
        done = harness.run(1, 'quantize', source, '--calib', calib, '--output', out, '--group-size', GROUP, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        config, tensors = llama_numpy.load(source)
        packed = columns.unscale(gptq_reference.read_folder(out), gptq_reference.read_tensors(source))
        packed = {k: v.astype(np.float64) for k, v in packed.items()}
        report = json.loads((out / 'mq_report.json').read_text(encoding='utf-8'))
        return (config, tensors), (config, packed), {layer['name']: layer for layer in report['layers']}

    def check(self, source, samples, bits, *options):
        """Every tap of the packed model has the inputs that the run solved it on: everything before is packed."""
        original, packed, report = self.quantise(source, samples, '--bits', bits, *options)
        self.assertEqual(len(report), 56)
        for layer, (y, _) in outputs(packed, samples).items():
            w, kept = (m[1][layer + '.weight'] for m in (original, packed))
            lost, rounded = (np.square(y @ (w - v).T).sum() for v in (kept, nearest(w, bits)))
            self.assertLess(lost, rounded, (layer, bits, options))
            self.assertTrue(np.isfinite(kept).all(), layer)
            # Coupled rows could lose by what they are judged by, and a whole head would be rounded again.
            if layer.endswith(('q_proj', 'k_proj', 'v_proj')):
                self.assertEqual(report[layer]['rtn_rows'], 0, layer)
            # The run's activations are BF16: 2e-6 where few tokens leave next to no loss.
            share = lost / np.square(y @ w.T).sum()
            self.assertLess(abs(report[layer]['relative_loss'] - share), 0.05 * share + 2e-6, layer)

    def check_corrected(self, source, samples, bits):
        """With the correction a layer aims at the original model's outputs: o and down at the stream after them."""
        original, packed, report = self.quantise(source, samples, '--bits', bits, '--preset', 'best')
        self.assertEqual(len(report), 56)
        aims = outputs(original, samples)
        for layer, (y, x) in outputs(packed, samples).items():
            w, kept = (m[1][layer + '.weight'] for m in (original, packed))
            aim, stream = aims[layer][0] @ w.T, 0
            if layer.endswith(('o_proj', 'down_proj')):
                aim, stream = aim + aims[layer][1], x
            lost, rounded = (np.square(aim - stream - y @ v.T).sum() for v in (kept, nearest(w, bits)))
            self.assertLess(lost, rounded, (layer, bits))

    def test_sizes(self):
        for (n, length), bits, preset in ((EIGHT_TOKENS, 3, 'default'), (EIGHT_TOKENS, 4, 'fast'),
                                          ((2, 40), 2, 'default'), (SOME, 3, 'default')):
            with self.subTest(f'{n} of {length}, {bits} bits, {preset}'):
                self.check(harness.DEMO, harness.demo_samples(n, length), bits, '--preset', preset)

    def test_corrected(self):
        for n, length in (EIGHT_TOKENS, SOME):
            with self.subTest(f'{n} of {length}'):
                self.check_corrected(harness.DEMO, harness.demo_samples(n, length), 3)

    def test_damaged_channels(self):
        def dead(w):
            w[3::8] = 0
            return w

        def twice(w):
            w[..., 1::2] = w[..., ::2]
            return w

        def spread(w):
            return w * 10 ** np.linspace(0, -8, len(w))

        norms = ('model.layers.0.input_layernorm.weight', 'model.layers.3.post_attention_layernorm.weight')
        changes = {'dead': (dead, norms), 'spread': (spread, norms),
                   'twice': (twice, ('model.embed_tokens.weight', norms[0]))}
        for name, (change, tensors) in changes.items():
            model = harness.copy_model(harness.DEMO, self.root / name)
            for tensor in tensors:
                harness.edit(model, tensor, change)
            for n, length in (EIGHT_TOKENS, SOME) if name == 'dead' else (EIGHT_TOKENS,):
                with self.subTest(f'{name}, {n} of {length}'):
                    self.check(model, harness.demo_samples(n, length), 3, '--preset', 'fast')


if __name__ == '__main__':
    unittest.main()
