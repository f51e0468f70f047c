"""Output formats besides GPTQ v1: what their folders hold, read by NumPy alone, on the demo model."""
import json
import sys
import unittest

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import compressed_reference  # noqa: E402
import exl2_reference  # noqa: E402
import gptq_reference  # noqa: E402

OK, USAGE, INPUT = 0, 2, 3
OPTIONS = ('--bits', 4, '--group-size', 64, '--preset', 'fast', '--layers', '0:2')


def read_json(path):
    return json.loads(path.read_text(encoding='utf-8'))


def to_bf16(x):
    """To the nearest BF16, ties to even, as float32."""
    u = np.ascontiguousarray(x, '<f4').view('<u4').astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16 << 16).astype('<u4').view('<f4')


class Formats(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        sha = harness.tokenizer_sha256(harness.DEMO)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(4, 64), 4096, sha)
        cls.source = gptq_reference.read_tensors(harness.DEMO)
        cls.made = {}

    def quantise(self, *options, ranks=2, code=OK):
        """The folder of these options, made once; the message when it is refused."""
        if (options, ranks) not in self.made:
            out = self.root / f'out{len(self.made)}'
            done = harness.run(ranks, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, *OPTIONS,
                               *options)
            self.assertEqual(done.returncode, code, done.stderr)
            self.made[options, ranks] = out if code == OK else done.stderr
        return self.made[options, ranks]

    def verify(self, out, code=OK):
        done = harness.run(2, 'verify', out, '--source', harness.DEMO)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def packed(self):
        """Names of the layers that are quantised."""
        return [k.removesuffix('.weight') for k in self.source
                if 'proj' in k and k.split('.')[2] in ('0', '1')]

    def check_kept(self, tensors):
        for name, value in self.source.items():
            if name.removesuffix('.weight') not in self.packed():
                np.testing.assert_array_equal(tensors[name], value, name)

    def test_settings_in_a_file_of_their_own_alone(self):
        """Old GPTQ folders have nothing of it in config.json, and do not name the method."""
        out = self.quantise()
        old = harness.copy_model(out, self.root / 'old')
        config, settings = read_json(old / 'config.json'), read_json(old / 'quantize_config.json')
        self.assertEqual(config.pop('quantization_config'), settings)
        settings.pop('quant_method')
        (old / 'config.json').write_text(json.dumps(config))
        for text in ('[1]', '{', None):
            path = old / 'quantize_config.json'
            path.write_text(text) if text else path.unlink()
            done = harness.run(1, 'eval', old, '--tokens', self.calib, '--reference', out)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn('quantize_config.json', done.stderr)
        (old / 'quantize_config.json').write_text(json.dumps(settings))
        done = harness.run(1, 'eval', old, '--tokens', self.calib, '--reference', out, '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertEqual(json.loads(done.stdout)['kl'], 0)

    def test_dense_layers_of_few_weights_verify(self):
        """Few enough for what BF16 rounds off them to be seen in their error."""
        samples = [[(7 * i + 13 * j) % 90 for j in range(32)] for i in range(8)]
        calib, out = harness.write_calib(self.root / 'tiny.h5', samples, 96), self.root / 'tiny'
        model = harness.ROOT / 'tests' / 'data' / 'tiny' / 'mistral'
        done = harness.run(1, 'quantize', model, '--calib', calib, '--output', out, '--group-size', 32,
                           '--format', 'dense')
        self.assertEqual(done.returncode, OK, done.stderr)
        done = harness.run(1, 'verify', out, '--source', model)
        self.assertEqual(done.returncode, OK, done.stderr)

    def test_dense_is_gptq_rounded_to_the_source_type(self):
        out, gptq = self.quantise('--format', 'dense'), self.quantise()
        tensors, meant = gptq_reference.read_tensors(out), gptq_reference.read_folder(gptq)
        self.assertEqual(set(tensors), set(self.source))
        for name in self.packed():
            np.testing.assert_array_equal(tensors[f'{name}.weight'], to_bf16(meant[f'{name}.weight']))
        self.check_kept(tensors)
        self.assertEqual((out / 'config.json').read_bytes(), (harness.DEMO / 'config.json').read_bytes())
        self.assertFalse((out / 'quantize_config.json').exists())
        self.assertNotIn('quantization:', (out / 'README.md').read_text(encoding='utf-8'))
        self.verify(out)

    def test_gptq_v2_means_what_v1_does(self):
        v1, v2 = self.quantise(), self.quantise('--format', 'gptq_v2')
        self.assertEqual(read_json(v2 / 'quantize_config.json')['checkpoint_format'], 'gptq_v2')
        a, b = gptq_reference.read_folder(v1), gptq_reference.read_folder(v2)
        for name, value in a.items():
            np.testing.assert_array_equal(b[name], value, name)
        self.verify(v2)

    def test_compressed_tensors(self):
        out = self.quantise('--format', 'compressed-tensors')
        tensors, raw = compressed_reference.read_folder(out), gptq_reference.read_tensors(out)
        report = {layer['name']: layer for layer in read_json(out / 'mq_report.json')['layers']}
        self.assertEqual(set(report), set(self.packed()))
        for name in self.packed():
            w = self.source[f'{name}.weight'].astype(np.float64)
            error = ((tensors[f'{name}.weight'] - w) ** 2).sum() / (w ** 2).sum()
            self.assertAlmostEqual(error / report[name]['relative_error'], 1, delta=1e-4)
            self.assertNotIn(f'{name}.weight_zero_point', raw)
            np.testing.assert_array_equal(to_bf16(raw[f'{name}.weight_scale']), raw[f'{name}.weight_scale'])
        self.check_kept(tensors)
        config = compressed_reference.quantization_config(out)
        linears = {k.removesuffix('.weight') for k in self.source if 'proj' in k} | {'lm_head'}
        self.assertEqual(set(config['ignore']), linears - set(self.packed()))
        self.assertEqual(config['config_groups']['group_0']['targets'], ['Linear'])
        self.assertFalse((out / 'quantize_config.json').exists())
        self.verify(out)

    def test_compressed_tensors_of_several_kinds(self):
        options = ('--format', 'compressed-tensors', '--zero-points', '--override', 'down_proj=bits:8,group:32',
                   '--override', 'v_proj=bits:2,group:-1')
        out = self.quantise(*options)
        tensors = compressed_reference.read_folder(out)
        groups = compressed_reference.quantization_config(out)['config_groups'].values()
        self.assertEqual(sorted(n for g in groups for n in g['targets']), sorted(self.packed()))
        found = {(g['weights']['num_bits'], g['weights']['strategy'], g['weights']['group_size']) for g in groups}
        self.assertEqual(found, {(4, 'group', 64), (8, 'group', 32), (2, 'channel', None)})
        for name in self.packed():
            difference = tensors[f'{name}.weight'] - self.source[f'{name}.weight']
            self.assertLess((difference ** 2).sum(), 0.5 * (self.source[f'{name}.weight'] ** 2).sum(), name)
        self.verify(out)

    def check_exl2(self, out, bits_of):
        """Layers as the report has them, on the grid of their shared scales; returns all tensors."""
        raw = gptq_reference.read_tensors(out)
        tensors = exl2_reference.read_folder(out, lambda name: len(self.source[f'{name}.weight']))
        report = {layer['name']: layer for layer in read_json(out / 'mq_report.json')['layers']}
        for name in self.packed():
            w = self.source[f'{name}.weight'].astype(np.float64)
            error = ((tensors[f'{name}.weight'] - w) ** 2).sum() / (w ** 2).sum()
            self.assertAlmostEqual(error / report[name]['relative_error'], 1, delta=1e-4)
            np.testing.assert_array_equal(raw[f'{name}.q_invperm'], np.arange(w.shape[1]))
            self.assertEqual(set(raw[f'{name}.q_groups'][::2]), {bits_of(name)})
            self.assertTrue((raw[f'{name}.q_scale_max'] > 0).all())
        self.assertEqual(set(raw), set(self.source) - {f'{n}.weight' for n in self.packed()}
                         | {f'{n}.{p}' for n in self.packed() for p in exl2_reference.PARTS})
        self.check_kept(tensors)
        self.verify(out)
        return tensors

    def test_exl2(self):
        out = self.quantise('--format', 'exl2')
        self.check_exl2(out, lambda name: 4)
        self.assertFalse((out / 'quantize_config.json').exists())
        self.assertIn('library_name: exllamav2', (out / 'README.md').read_text(encoding='utf-8'))
        config = exl2_reference.quantization_config(out)
        self.assertEqual(config, {'quant_method': 'exl2', 'version': '0.3.2', 'bits': 4, 'head_bits': 16,
                                  'calibration': {'rows': 4, 'length': 64, 'dataset': 'end-to-end test'}})

    def test_exl2_of_several_kinds(self):
        """All that sets scales: the measuring run, the judge, refinement, correction and coupled rows; other bits
        and groups."""
        out = self.quantise('--format', 'exl2', '--preset', 'best', '--bits', 3.25,
                            '--override', 'down_proj=group:32', '--override', 'v_proj=bits:8,group:-1')
        report = read_json(out / 'mq_report.json')
        bits = {layer['name']: layer['bits'] for layer in report['layers']}
        self.check_exl2(out, bits.get)
        self.assertGreater(len(set(bits.values())), 2)
        self.assertAlmostEqual(exl2_reference.quantization_config(out)['bits'], report['budget']['average_bits'])

    def test_the_same_bytes_for_any_number_of_ranks(self):
        for form in ('compressed-tensors', 'dense', 'gptq_v2', 'exl2'):
            hashes = {harness.files_hash(self.quantise('--format', form, ranks=n)) for n in (1, 2, 3)}
            self.assertEqual(len(hashes), 1, form)

    def test_eval_reads_every_format(self):
        tokens = harness.write_calib(self.root / 'heldout.h5', harness.demo_samples(2, 64, 'heldout.jsonl'), 4096,
                                     harness.tokenizer_sha256(harness.DEMO))
        kl = {}
        for form in ('gptq', 'gptq_v2', 'compressed-tensors', 'exl2', 'dense'):
            out = self.quantise() if form == 'gptq' else self.quantise('--format', form)
            done = harness.run(1, 'eval', out, '--reference', harness.DEMO, '--tokens', tokens, '--precision', 'f32',
                               '--json')
            self.assertEqual(done.returncode, OK, done.stderr)
            kl[form] = json.loads(done.stdout)['kl']
        self.assertEqual(kl['gptq'], kl['gptq_v2'])
        self.assertGreater(kl['gptq'], 0)
        self.assertAlmostEqual(kl['dense'] / kl['gptq'], 1, delta=0.1)
        self.assertAlmostEqual(kl['compressed-tensors'] / kl['gptq'], 1, delta=0.3)
        self.assertAlmostEqual(kl['exl2'] / kl['gptq'], 1.2, delta=0.3)

    def test_what_a_format_cannot_hold(self):
        said = self.quantise('--format', 'compressed-tensors', '--bits', 3, code=USAGE)
        self.assertRegex(said, 'compressed-tensors.*q_proj of 3 bits.*--format gptq')
        said = self.quantise('--format', 'compressed-tensors', '--bits', 3.25, code=USAGE)
        self.assertIn('3 bits', said)
        said = self.quantise('--format', 'exl2', '--group-size', 16, code=USAGE)
        self.assertRegex(said, 'exl2.*q_proj.*groups of multiples of 32.*--format gptq')
        said = self.quantise('--format', 'exl2', '--zero-points', code=USAGE)
        self.assertIn('no zero points', said)
        said = self.quantise('--format', 'awq', code=USAGE)
        self.assertRegex(said, '--format awq: gptq, gptq_v2, compressed-tensors, exl2, gguf or dense')

    def test_a_sublayer_packed_in_part(self):
        """ExLlamaV2 refuses it; whole ones that are kept are none of its business."""
        for skip, said in (('o_proj', True), ('mlp', False)):
            done = harness.run(1, 'quantize', harness.DEMO, '--calib', self.calib, '--output',
                               self.root / f'skip-{skip}', *OPTIONS, '--format', 'exl2', '--layers', '0:1',
                               '--skip', skip)
            self.assertEqual(done.returncode, OK, done.stderr)
            self.assertEqual('ExLlamaV2 will refuse' in done.stderr, said, done.stderr)

    def test_damage_is_found(self):
        for form, part in (('compressed-tensors', 'weight_scale'), ('dense', 'weight'), ('exl2', 'q_scale')):
            out = harness.copy_model(self.quantise('--format', form), self.root / f'damaged-{form}')
            header, data, start = harness.bf16_raw(out / 'model.safetensors')
            data[start + header[f'model.layers.1.mlp.up_proj.{part}']['data_offsets'][0] + 9] ^= 1
            (out / 'model.safetensors').write_bytes(data)
            self.assertRegex(self.verify(out, INPUT), rf'up_proj(\.{part}|: the weights are off)')


if __name__ == '__main__':
    unittest.main()
