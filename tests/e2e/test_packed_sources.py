"""Sources whose weights are packed: FP8 of every kind, GPTQ, compressed-tensors, EXL2. Each is quantised beside its
twin, whose weights NumPy has dequantised: the same bytes must come out."""
import json
import sys
import unittest

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import compressed_reference  # noqa: E402
import exl2_reference  # noqa: E402
import gptq_reference  # noqa: E402

OK, INPUT = 0, 3
TINY = harness.ROOT / 'tests' / 'data' / 'tiny'
LATENT = harness.ROOT / 'tests' / 'data' / 'tiny' / 'deepseek_v3'
OPTIONS = ('--bits', 3, '--group-size', 64, '--preset', 'fast', '--layers', '0:1')


# quantization_config of Kimi-K2-Thinking as it is published
KIMI_INT4 = {
    'config_groups': {'group_0': {
        'input_activations': None, 'output_activations': None, 'targets': ['Linear'],
        'weights': {'actorder': None, 'block_structure': None, 'dynamic': False, 'group_size': 32, 'num_bits': 4,
                    'observer': 'minmax', 'observer_kwargs': {}, 'strategy': 'group', 'symmetric': True,
                    'type': 'int'}}},
    'format': 'pack-quantized',
    'ignore': ['lm_head', 're:.*self_attn.*', 're:.*shared_experts.*', 're:.*mlp\\.(gate|up|gate_up|down)_proj.*'],
    'kv_cache_scheme': None, 'quant_method': 'compressed-tensors', 'quantization_status': 'compressed'}


def e4m3_values():
    """What the 256 codes of F8_E4M3 stand for, from its definition."""
    code = np.arange(256)
    exponent, rest = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, rest / 8 * 2.0 ** -6, (1 + rest / 8) * 2.0 ** (exponent - 7.0))
    size[(code & 127) == 127] = np.nan
    return np.where(code < 128, size, -size).astype(np.float32)


E4M3 = e4m3_values()


def to_e4m3(x):
    """The nearest codes."""
    positive = E4M3[:127]
    above = np.clip(np.searchsorted(positive, np.abs(x)), 1, 126)
    nearer = np.abs(x) - positive[above - 1] < positive[above] - np.abs(x)
    return ((above - nearer) | np.where(x < 0, 128, 0)).astype(np.uint8)


def to_bf16(x):
    """To the nearest BF16, ties to even: its 16 bits."""
    u = np.ascontiguousarray(x, '<f4').view('<u4').astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype('<u2')


def write_folder(source, folder, tensors, quantization):
    """A copy of a model folder with other tensors, {name: (dtype, array as the file has it)}."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix == '.json' and 'index' not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    header, data, at = {}, [], 0
    for name, (dtype, value) in sorted(tensors.items()):
        raw = np.ascontiguousarray(value).tobytes()
        header[name] = {'dtype': dtype, 'shape': list(value.shape), 'data_offsets': [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    (folder / 'model.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text + b''.join(data))
    config = json.loads((source / 'config.json').read_text(encoding='utf-8'))
    config.pop('quantization_config', None)
    if quantization:
        config['quantization_config'] = quantization
    (folder / 'config.json').write_text(json.dumps(config, indent=2), encoding='utf-8')
    return folder


class PackedSources(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        sha = harness.tokenizer_sha256(harness.DEMO)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(4, 64), 4096, sha)
        cls.tokens = harness.write_calib(cls.root / 'tokens.h5', harness.demo_samples(2, 64, 'heldout.jsonl'), 4096, sha)
        cls.demo = gptq_reference.read_tensors(harness.DEMO)

    def dense(self, values):
        """Tensors of a folder in BF16."""
        return {name: ('BF16', to_bf16(value)) for name, value in values.items()}

    def fp8(self, name, block, scale_name, dtype='F32', scale_shape=None, quantization=None, model=harness.DEMO,
            copied=None):
        """A model in FP8 with a scale for each block of rows x columns, and its twin, which has FP8 where names begin
        with `copied`."""
        source = self.demo if model == harness.DEMO else gptq_reference.read_tensors(model)
        tensors, values = {}, dict(source)
        for key, w in source.items():
            if 'proj.weight' not in key:
                tensors[key] = ('BF16', to_bf16(w))
                continue
            rows, columns = min(block[0], w.shape[0]), min(block[1], w.shape[1])
            shape = -(-w.shape[0] // rows), -(-w.shape[1] // columns)
            scale = np.empty(shape, np.float32)
            for i, j in np.ndindex(shape):
                part = w[i * rows:(i + 1) * rows, j * columns:(j + 1) * columns]
                scale[i, j] = np.abs(part).max() / 448
            if dtype == 'BF16':
                scale = (to_bf16(scale).astype('<u4') << 16).view('<f4')
            whole = scale.repeat(rows, 0).repeat(columns, 1)[:w.shape[0], :w.shape[1]]
            codes = to_e4m3(w / whole)
            values[key] = E4M3[codes] * whole
            stored = scale if scale_shape is None else scale.reshape([s if s else w.shape[0] for s in scale_shape])
            tensors[key] = ('F8_E4M3', codes)
            tensors[key.replace('weight', scale_name)] = (dtype, to_bf16(stored) if dtype == 'BF16' else stored)
            tensors[key.replace('weight', 'input_scale')] = ('F32', np.ones([], '<f4'))
        same = {key: value for key, value in tensors.items() if copied and key.startswith(copied)}
        return (write_folder(model, self.root / name, tensors, quantization),
                write_folder(model, self.root / (name + '-dense'), {**self.dense(values), **same}, None))

    def quantise(self, model, *options, ranks=1, code=OK):
        out = self.root / f'{model.name}-{len(list(self.root.iterdir()))}'
        done = harness.run(ranks, 'quantize', model, '--calib', self.calib, '--output', out, *OPTIONS, *options)
        self.assertEqual(done.returncode, code, done.stderr)
        return out if code == OK else done.stderr

    def check_same(self, packed, dense, *options):
        """Same bytes out of both, at two ranks and one, in an output that verify accepts."""
        ours, twins = self.quantise(packed, *options, ranks=2), self.quantise(dense, *options)
        self.assertEqual((ours / 'model.safetensors').read_bytes(), (twins / 'model.safetensors').read_bytes())
        self.assertEqual(*(json.loads((out / 'config.json').read_text(encoding='utf-8')) for out in (ours, twins)))
        done = harness.run(2, 'verify', ours, '--source', packed)
        self.assertEqual(done.returncode, OK, done.stderr)

    def check_eval(self, packed, dense):
        """The program reads the same numbers from both."""
        done = harness.run(1, 'eval', packed, '--reference', dense, '--tokens', self.tokens, '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertEqual(json.loads(done.stdout)['kl'], 0)

    def test_fp8_of_blocks(self):
        packed, dense = self.fp8('fp8', (128, 128), 'weight_scale_inv',
                                 quantization={'quant_method': 'fp8', 'fmt': 'e4m3', 'weight_block_size': [128, 128]})
        self.check_same(packed, dense)
        self.check_same(packed, dense, '--skip', 'down_proj', '--format', 'dense')
        self.check_eval(packed, dense)

    def test_fp8_of_odd_blocks(self):
        self.check_same(*self.fp8('odd', (100, 48), 'weight_scale_inv', quantization={
            'quant_method': 'fp8', 'weight_block_size': [100, 48]}))

    def test_fp8_of_channels(self):
        config = {'quant_method': 'compressed-tensors', 'format': 'float-quantized',
                  'config_groups': {'group_0': {'weights': {'num_bits': 8, 'type': 'float', 'strategy': 'channel'}}}}
        self.check_same(*self.fp8('channels', (1, 1 << 30), 'weight_scale', 'BF16', quantization=config))
        self.check_eval(*self.fp8('flat', (1, 1 << 30), 'weight_scale', 'BF16', [0], quantization=config))

    def test_fp8_of_tensors(self):
        config = {'quant_method': 'fp8', 'activation_scheme': 'static'}
        self.check_same(*self.fp8('scalar', (1 << 30, 1 << 30), 'weight_scale', 'F32', [], config))
        self.check_eval(*self.fp8('one', (1 << 30, 1 << 30), 'weight_scale', 'F32', [1], config))

    def test_fp8_of_latents(self):
        """The 36 rows of kv_a are two blocks of 16 and a part of one; a block that is only copied stays in FP8."""
        samples = [[(7 * i + 11 * j) % 90 for j in range(50)] for i in range(4)]
        calib = harness.write_calib(self.root / 'latents.h5', samples, 96)
        folders = self.fp8('latents', (16, 16), 'weight_scale_inv', model=LATENT, copied='model.layers.2.',
                           quantization={'quant_method': 'fp8', 'weight_block_size': [16, 16]})
        outs = [folder.with_name(folder.name + '-out') for folder in folders]
        for ranks, folder, out in zip((2, 1), folders, outs):
            done = harness.run(ranks, 'quantize', folder, '--calib', calib, '--output', out, '--bits', 4,
                               '--group-size', 32, '--preset', 'fast')
            self.assertEqual(done.returncode, OK, done.stderr)
        self.assertEqual(*((out / 'model.safetensors').read_bytes() for out in outs))
        done = harness.run(2, 'verify', outs[0], '--source', folders[0])
        self.assertEqual(done.returncode, OK, done.stderr)

    def test_mxfp4(self):
        value = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6], np.float32)
        tensors, values = self.dense(self.demo), dict(self.demo)
        for key, w in self.demo.items():
            if 'proj' not in key:
                continue
            part = w.reshape(len(w), -1, 32)
            scale = np.ceil(np.log2(np.abs(part).max(2) / 6 + 1e-30)).astype(int)
            codes = np.abs(part[..., None] / 2.0 ** scale[..., None, None] - value).argmin(3)
            values[key] = (value[codes] * np.float32(2) ** scale[..., None]).reshape(w.shape).astype(np.float32)
            codes = codes.reshape(len(w), -1, 2)
            del tensors[key]
            tensors[key + '_packed'] = ('U8', (codes[..., 0] | codes[..., 1] << 4).astype(np.uint8))
            tensors[key + '_scale'] = ('U8', (scale + 127).astype(np.uint8))
        packed = write_folder(harness.DEMO, self.root / 'mxfp4', tensors,
                              {'quant_method': 'compressed-tensors', 'format': 'mxfp4-pack-quantized'})
        dense = write_folder(harness.DEMO, self.root / 'mxfp4-dense', self.dense(values), None)
        self.check_same(packed, dense)
        self.check_eval(packed, dense)

    def test_gptq(self):
        packed = self.quantise(harness.DEMO, '--bits', 4, '--format', 'gptq')
        values = gptq_reference.read_folder(packed)
        dense = write_folder(packed, self.root / 'gptq-dense', self.dense(values), None)
        self.check_same(packed, dense)
        self.check_same(packed, dense, '--skip', 'mlp')
        self.check_eval(packed, dense)

    def test_compressed_tensors(self):
        packed = self.quantise(harness.DEMO, '--bits', 4, '--format', 'compressed-tensors', '--zero-points')
        values = compressed_reference.read_folder(packed)
        dense = write_folder(packed, self.root / 'compressed-dense', self.dense(values), None)
        self.check_same(packed, dense)
        self.check_same(packed, dense, '--layers', '1:2', '--format', 'compressed-tensors', '--bits', 2)
        self.check_eval(packed, dense)

    def int4_experts(self, source, nested):
        """A model with experts as Kimi-K2-Thinking is published, or (nested) Kimi-K2.5: those of the routed experts in
        groups of 32 columns, all else in BF16; and its twin."""
        values = gptq_reference.read_tensors(source)
        tensors, name = self.dense(values), f'{source.name}-int4'
        for key in [key for key in values if '.mlp.experts.' in key]:
            w = values[key]
            groups = w.reshape(len(w), -1, 32)
            bits = to_bf16(np.abs(groups).max(2) / 7)
            scale = (bits.astype('<u4') << 16).view('<f4')[..., None]
            codes = np.clip(np.rint(groups / scale), -8, 7) + 0.0       # no -0
            values[key] = (codes * scale).reshape(w.shape)
            nibbles = (codes + 8).astype(np.uint32).reshape(len(w), -1, 8) << 4 * np.arange(8, dtype=np.uint32)
            del tensors[key]
            tensors[key + '_packed'] = ('I32', nibbles.sum(2, dtype=np.uint32))
            tensors[key + '_scale'] = ('BF16', bits)
            tensors[key + '_shape'] = ('I32', np.array(w.shape, '<i4'))
        packed = write_folder(source, self.root / name, tensors, None if nested else KIMI_INT4)
        if nested:
            config = json.loads((packed / 'config.json').read_text(encoding='utf-8'))
            config['text_config']['quantization_config'] = KIMI_INT4
            (packed / 'config.json').write_text(json.dumps(config, indent=2), encoding='utf-8')
        return packed, write_folder(source, self.root / (name + '-dense'), self.dense(values), None)

    def check_int4_experts(self, model, nested):
        samples = [[(7 * i + 11 * j) % 90 for j in range(50)] for i in range(6)]
        calib = harness.write_calib(self.root / f'{model}.h5', samples, 96)
        folders = self.int4_experts(TINY / model, nested)
        for options in (('--preset', 'best', '--bits', 3), ('--format', 'compressed-tensors', '--skip', 'experts')):
            outs = []
            for ranks, folder in ((1, folders[0]), (3, folders[0]), (1, folders[1])):
                outs.append(self.root / f'{model}-out-{len(list(self.root.iterdir()))}')
                done = harness.run(ranks, 'quantize', folder, '--calib', calib, '--output', outs[-1],
                                   '--group-size', 32, '--unit-tokens', 70, *options)
                self.assertEqual(done.returncode, OK, done.stderr)
            self.assertEqual(harness.files_hash(outs[0]), harness.files_hash(outs[1]))
            self.assertEqual((outs[0] / 'model.safetensors').read_bytes(), (outs[2] / 'model.safetensors').read_bytes())
            self.assertEqual(*(json.loads((out / 'config.json').read_text(encoding='utf-8')) for out in outs[::2]))
            done = harness.run(3, 'verify', outs[0], '--source', folders[0])
            self.assertEqual(done.returncode, OK, done.stderr)
        for ranks in (1, 3):
            done = harness.run(ranks, 'eval', folders[0], '--reference', folders[1], '--tokens', calib, '--json')
            self.assertEqual(done.returncode, OK, done.stderr)
            self.assertEqual(json.loads(done.stdout)['kl'], 0)

    def test_int4_experts(self):
        self.check_int4_experts('deepseek_v3', nested=False)

    def test_int4_experts_of_a_language_model(self):
        self.check_int4_experts('kimi_k25', nested=True)

    def exl2(self):
        """The demo model as ExLlamaV2's converter leaves it, channels in any order and groups of several widths,
        and its twin."""
        types, rng = {'int32': 'I32', 'int16': 'I16', 'float16': 'F16'}, np.random.default_rng(5)
        tensors, values = self.dense(self.demo), dict(self.demo)
        for key, w in self.demo.items():
            if 'proj' not in key:
                continue
            widths = [(8, 32), (6, 32), (5, 32), (4, 64), (3, 32), (2, 16), (2, w.shape[1] - 208)]
            parts = exl2_reference.pack(w, widths, rng.permutation(w.shape[1]))
            values[key] = exl2_reference.dequantise(parts, len(w))
            del tensors[key]
            tensors.update({key.replace('weight', part): (types[str(v.dtype)], v) for part, v in parts.items()})
        return (write_folder(harness.DEMO, self.root / 'exl2', tensors, {'quant_method': 'exl2', 'bits': 3.1}),
                write_folder(harness.DEMO, self.root / 'exl2-dense', self.dense(values), None))

    def test_exl2(self):
        packed, dense = self.exl2()
        self.check_same(packed, dense, '--skip', 'down_proj', '--format', 'dense')
        self.check_eval(packed, dense)
        self.check_damage(packed)

    def check_damage(self, good):
        """Tables of EXL2 that make no sense."""
        name = 'model.layers.1.mlp.up_proj'
        for i, (part, byte, said) in enumerate((('q_groups', b'\7\0', 'up_proj: q_groups: group 0, of 7 bits'),
                                                ('q_invperm', b'\0\0\1\0', r'up_proj: q_invperm\[0\] = 65536'),
                                                ('q_scale_max', b'\0\x7c', r'up_proj: q_scale_max\[0\]'))):
            model = harness.copy_model(good, self.root / f'bad-exl2-{i}')
            header, data, start = harness.bf16_raw(model / 'model.safetensors')
            at = start + header[f'{name}.{part}']['data_offsets'][0]
            data[at:at + len(byte)] = byte
            (model / 'model.safetensors').write_bytes(data)
            self.assertRegex(self.quantise(model, '--layers', '1:2', code=INPUT), said)

    def test_a_warning_says_so(self):
        packed = self.quantise(harness.DEMO)
        done = harness.run(1, 'quantize', packed, '--calib', self.calib, '--output', self.root / 'warned', *OPTIONS)
        self.assertIn('is quantised already (GPTQ)', done.stderr)

    def test_bad_fp8(self):
        config = {'quant_method': 'fp8', 'weight_block_size': [128, 128]}
        good, _ = self.fp8('good', (128, 128), 'weight_scale_inv', quantization=config)
        name = 'model.layers.1.mlp.up_proj.weight'
        for i, (tensor, byte, said) in enumerate(((name, b'\x7f', 'up_proj: row 0, column 0 is NaN'),
                                                  (name + '_scale_inv', b'\0\0\x80\x7f', 'scale of output channel 0'))):
            model = harness.copy_model(good, self.root / f'bad{i}')
            header, data, start = harness.bf16_raw(model / 'model.safetensors')
            at = start + header[tensor]['data_offsets'][0]
            data[at:at + len(byte)] = byte
            (model / 'model.safetensors').write_bytes(data)
            self.assertIn(said, self.quantise(model, code=INPUT))
        for i, (change, said) in enumerate((
                ({'quantization_config': None}, 'no quantization_config'),
                ({'quantization_config': {**config, 'fmt': 'e5m2'}}, 'e5m2'),
                ({'quantization_config': {**config, 'weight_block_size': [128]}}, 'two whole numbers'),
                ({'quantization_config': {**config, 'weight_block_size': [64, 64]}}, 'weight_scale_inv is F32'),
                ({'quantization_config': {'quant_method': 'fp8'}}, 'weight_scale_inv is F32'))):
            model = harness.copy_model(good, self.root / f'config{i}')
            settings = json.loads((model / 'config.json').read_text(encoding='utf-8'))
            settings.update(change)
            (model / 'config.json').write_text(json.dumps(settings), encoding='utf-8')
            self.assertIn(said, self.quantise(model, code=INPUT))


if __name__ == '__main__':
    unittest.main()
