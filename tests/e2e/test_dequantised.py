"""What a packed output means: read back by tests/parity's own reader, compared with the source, the
report and the format's description; and that GPTQ is better than rounding."""
import json
import pathlib
import shutil
import sys
import unittest

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import columns  # noqa: E402
import gptq_pack  # noqa: E402
import gptq_reference  # noqa: E402

PARTS = ('qweight', 'qzeros', 'scales', 'g_idx')
GRID = ((2, 32), (2, -1), (3, 32), (3, 128), (4, 128), (4, -1), (8, 32), (8, -1))


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))


def write_dense(packed, target):
    """The model that a packed folder stands for, in F32; returns its tensors."""
    tensors = {k: v.astype(np.float32) for k, v in gptq_reference.read_folder(packed).items()}
    target.mkdir()
    config = read_json(packed / 'config.json')
    del config['quantization_config']
    (target / 'config.json').write_text(json.dumps(config))
    shutil.copy(packed / 'tokenizer.json', target)
    harness.save_file(tensors, target / 'model.safetensors')
    return tensors


def modules_of(tensors):
    """Names of the linear layers inside the blocks of an unquantised model."""
    return {m.group(1) for m in map(gptq_pack.LINEAR.match, tensors) if m}


class OnDemo(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        sha = harness.tokenizer_sha256(harness.DEMO)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(*cls.CALIBRATION), 4096, sha)
        cls.heldout = harness.write_calib(cls.root / 'heldout.h5',
                                          harness.demo_samples(6, 128, 'heldout.jsonl'), 4096, sha)
        cls.source = gptq_reference.read_tensors(harness.DEMO)

    def quantise(self, name, *options):
        out = self.root / name
        done = harness.run(2, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def evaluate(self, model, reference):
        done = harness.run(1, 'eval', model, '--reference', reference, '--tokens', self.heldout, '--precision',
                           'f32', '--json')
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)


class Dequantised(OnDemo):
    CALIBRATION = (8, 128)

    def check_parts(self, module, tensors, bits, group, zero_points):
        """The stored properties that checkpoint formats prescribe."""
        words, zeros, scales, g_idx = (tensors[f'{module}.{part}'] for part in PARTS)
        n_out, n_in = self.source[f'{module}.weight'].shape
        group = n_in if group == -1 else group
        self.assertEqual((words.dtype, words.shape), (np.int32, (n_in * bits // 32, n_out)))
        self.assertEqual((zeros.dtype, zeros.shape), (np.int32, (n_in // group, n_out * bits // 32)))
        self.assertEqual((scales.dtype, scales.shape), (np.float16, (n_in // group, n_out)))
        stored = gptq_reference.unpack_rows(zeros.T, bits, n_out)
        if zero_points:
            self.assertGreater(len(np.unique(stored)), 1, module)
            self.assertTrue((scales > 0).all(), module)
        else:
            self.assertTrue((stored == (1 << (bits - 1)) - 1).all())
        self.assertTrue(np.isfinite(scales).all())
        self.assertEqual(g_idx.dtype, np.int32)
        np.testing.assert_array_equal(g_idx, np.arange(n_in) // group)
        codes = gptq_reference.unpack_rows(words, bits, n_in)
        # Codes that use the range: a packing that lost the upper bits would not.
        self.assertGreater(int(codes.max()) - int(codes.min()), (1 << bits) - 1 - (1 << bits) // 4)

    def check_report(self, report, dense, plan):
        """The report lists the layers of the plan {module: (bits, group)}, with NumPy's errors."""
        layers = {layer['name']: layer for layer in report['layers']}
        self.assertEqual(set(layers), set(plan))
        for module, (bits, group) in plan.items():
            weight = self.source[f'{module}.weight'].astype(np.float64)
            error = dense[f'{module}.weight'].astype(np.float64) - weight
            expected = (error ** 2).sum() / (weight ** 2).sum()
            layer = layers[module]
            self.assertLess(abs(layer['relative_error'] - expected), 1e-4 * expected, module)
            self.assertEqual(layer['bits'], bits)
            self.assertEqual(layer['group_size'], weight.shape[1] if group == -1 else group)
            self.assertEqual(layer['zero_points'], report['settings']['zero_points'])
            self.assertEqual(layer['method'], 'ldlq')
            self.assertEqual(layer['tokens'], 8 * 128)
            self.assertEqual((layer['n_out'], layer['n_in']), weight.shape)

    def check_configs(self, out, bits, group, zero_points):
        """Both copies of the settings; all else in config.json is the source's."""
        config, settings = read_json(out / 'config.json'), read_json(out / 'quantize_config.json')
        self.assertEqual(config.pop('quantization_config'), settings)
        self.assertEqual(config, read_json(harness.DEMO / 'config.json'))
        version = 'gptq_v2' if zero_points else 'gptq'
        expected = {'bits': bits, 'group_size': group, 'desc_act': False, 'sym': not zero_points,
                    'lm_head': False, 'quant_method': 'gptq', 'method': 'gptq', 'format': version,
                    'checkpoint_format': version, 'pack_dtype': 'int32'}
        self.assertEqual({k: settings.get(k) for k in expected}, expected)
        self.assertRegex(settings['meta']['quantizer'][0], r'^mpiquant:\d')
        self.assertNotIn('damp_percent', settings['meta'])  # every layer has its own
        return settings

    def check_small_files(self, out):
        for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
            self.assertEqual((out / name).read_bytes(), (harness.DEMO / name).read_bytes(), name)
        card = (out / 'README.md').read_text(encoding='utf-8')
        self.assertTrue(card.startswith('---\n'))
        self.assertIn('quantization: gptq', card)

    def check_kept(self, tensors, kept):
        """Tensors that are not quantised keep name, type and bytes; norms but for powers of two."""
        for name in kept:
            self.assertEqual(tensors[name].dtype, self.source[name].dtype, name)
            if columns.NORM.match(name):
                columns.ratio(tensors[name], self.source[name])
                continue
            np.testing.assert_array_equal(tensors[name], self.source[name], name)

    def check(self, out, bits, group, plan, zero_points=False):
        tensors = gptq_reference.read_tensors(out)
        settings = self.check_configs(out, bits, group, zero_points)
        for module, chosen in plan.items():
            self.check_parts(module, tensors, *chosen, zero_points)
            read = gptq_reference.module_settings(settings, module)
            self.assertEqual((read['bits'], read['group_size']), chosen, module)
        kept = set(self.source) - {f'{m}.weight' for m in plan}
        self.assertEqual(set(tensors), kept | {f'{m}.{part}' for m in plan for part in PARTS})
        self.check_kept(tensors, kept)
        self.check_small_files(out)
        dense = self.root / f'{out.name}-dense'
        meant = columns.unscale(write_dense(out, dense), self.source)
        self.check_report(read_json(out / 'mq_report.json'), meant, plan)
        result = self.evaluate(out, dense)
        self.assertLess(abs(result['kl']), 1e-9)
        self.assertEqual(result['top1'], 1)
        self.assertEqual(result['tokens'], 6 * 127)
        shutil.rmtree(dense)
        return settings

    def test_widths_and_groups(self):
        for bits, group in GRID:
            with self.subTest(bits=bits, group=group):
                out = self.quantise(f'b{bits}g{group}', '--bits', bits, '--group-size', group)
                settings = self.check(out, bits, group, {m: (bits, group) for m in modules_of(self.source)})
                self.assertEqual(settings['dynamic'], {})
                shutil.rmtree(out)

    def test_zero_points(self):
        for bits, group in ((2, 32), (3, -1), (8, 32)):
            with self.subTest(bits=bits, group=group):
                out = self.quantise(f'z{bits}g{group}', '--bits', bits, '--group-size', group, '--zero-points')
                plan = {m: (bits, group) for m in modules_of(self.source)}
                self.check(out, bits, group, plan, zero_points=True)
                done = harness.run(2, 'verify', out, '--source', harness.DEMO)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn('with zero points', (out / 'README.md').read_text(encoding='utf-8'))
                shutil.rmtree(out)

    def test_positive_scales(self):
        """The switch, and that without it both signs are in use."""
        negative = {}
        for option in ('--positive-scales', '--positive-scales=false'):
            out = self.quantise('signs', option, '--layers', '0:1')
            tensors = gptq_reference.read_tensors(out)
            scales = np.concatenate([v.ravel() for k, v in tensors.items() if k.endswith('.scales')])
            negative[option] = (scales < 0).mean()
            self.assertEqual(read_json(out / 'mq_report.json')['settings']['positive_scales'],
                             option == '--positive-scales')
            shutil.rmtree(out)
        self.assertEqual(negative['--positive-scales'], 0)
        self.assertTrue(0.3 < negative['--positive-scales=false'] < 0.7, negative)

    def test_skip_and_override(self):
        out = self.quantise('mixed', '--skip', 'o_proj', '--override', 'down_proj=bits:8,group:32')
        plan = {m: (8, 32) if m.endswith('down_proj') else (4, 128) for m in modules_of(self.source)
                if not m.endswith('o_proj')}
        settings = self.check(out, 4, 128, plan)
        listed = {name for names in settings['modules_in_block_to_quantize'] for name in names}
        self.assertEqual(listed, {m.split('.', 3)[3] for m in plan})
        for module in modules_of(self.source):
            if module.endswith('o_proj'):
                self.assertIsNone(gptq_reference.module_settings(settings, module))

    def test_layers(self):
        out = self.quantise('some', '--layers', '1:3')
        plan = {m: (4, 128) for m in modules_of(self.source) if m.split('.')[2] in ('1', '2')}
        settings = self.check(out, 4, 128, plan)
        self.assertIsNone(gptq_reference.module_settings(settings, 'model.layers.0.mlp.up_proj'))

    def test_shards(self):
        """--max-shard-size: names, index, sizes; the tensors are those of the single file."""
        limit = 2_000_000
        out, whole = self.quantise('shards', '--max-shard-size', '2MB'), self.quantise('whole')
        self.assertFalse((whole / 'model.safetensors.index.json').exists())
        index = read_json(out / 'model.safetensors.index.json')
        files = sorted(p.name for p in out.glob('*.safetensors'))
        n = len(files)
        self.assertGreater(n, 2)
        self.assertEqual(files, [f'model-{i:05d}-of-{n:05d}.safetensors' for i in range(1, n + 1)])
        self.assertEqual(sorted(set(index['weight_map'].values())), files)
        tensors, total = gptq_reference.read_tensors(out), 0
        for name in files:
            header, data, start = harness.bf16_raw(out / name)
            self.assertEqual(header.pop('__metadata__'), {'format': 'pt'})
            bytes_ = len(data) - start
            self.assertTrue(bytes_ <= limit or len(header) == 1, (name, bytes_, len(header)))
            total += bytes_
        self.assertEqual(index['metadata']['total_size'], total)
        single = gptq_reference.read_tensors(whole)
        self.assertEqual(set(tensors), set(single))
        for name, value in single.items():
            np.testing.assert_array_equal(tensors[name], value, name)


class DeadInputs(OnDemo):
    """Input channels that are zero on every token: what stands in their columns of W can be anything
    without changing the model, so it must not change what the live columns get."""
    CALIBRATION = 8, 128

    def model(self, name, factor):
        model = harness.copy_model(harness.DEMO, self.root / name)
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        begin = start + header['model.layers.0.input_layernorm.weight']['data_offsets'][0]
        data[begin:begin + 2 * 64] = bytes(2 * 64)
        for leaf in ('q_proj', 'k_proj', 'v_proj'):
            entry = header[f'model.layers.0.self_attn.{leaf}.weight']
            begin, end = (start + at for at in entry['data_offsets'])
            bits = np.frombuffer(data[begin:end], np.uint16).reshape(entry['shape']).copy()
            # A power of two is an exponent; zeros stay.
            bits[:, :64] += np.where(bits[:, :64] & 0x7FFF, factor << 7, 0).astype(np.uint16)
            data[begin:end] = bits.tobytes()
        path.write_bytes(data)
        return model

    def losses(self, name, factor, preset):
        out = self.root / f'{name}-{preset}'
        model = self.root / name
        if not model.exists():
            self.model(name, factor)
        done = harness.run(2, 'quantize', model, '--calib', self.calib, '--output', out, '--layers', '0:1',
                           '--preset', preset)
        self.assertEqual(done.returncode, 0, done.stderr)
        layers = read_json(out / 'mq_report.json')['layers'][:3]
        self.assertEqual([layer['dead_columns'] for layer in layers], [64] * 3)
        return [layer['relative_loss'] for layer in layers]

    def test_reported_loss(self):
        for preset in ('fast', 'default', 'best'):
            with self.subTest(preset=preset):
                small, large = (self.losses(name, factor, preset) for name, factor in (('dead', 0), ('dead-large', 6)))
                np.testing.assert_allclose(large, small, rtol=1e-6)


class BetterThanRounding(OnDemo):
    CALIBRATION = (64, 256)

    def test_three_bits(self):
        group = 128
        out, rounded = self.quantise('gptq', '--bits', 3, '--group-size', group), self.root / 'rounded'
        gptq_pack.pack_folder(harness.DEMO, rounded, gptq_pack.quantize_config(3, group, 'gptq', {}))
        ours, theirs = (self.evaluate(model, harness.DEMO)['kl'] for model in (out, rounded))
        self.assertGreater(ours, 0)
        self.assertLess(ours, 0.7 * theirs)


del OnDemo

if __name__ == '__main__':
    unittest.main()
