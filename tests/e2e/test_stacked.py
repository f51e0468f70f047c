"""Models whose experts are stacked, one tensor for all of a block: packed, each expert is a module of its own; not
packed, it stays a stack."""
import json
import sys
import unittest

import harness
import numpy as np
import test_packed_sources as packed

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import compressed_reference  # noqa: E402
import gptq_reference  # noqa: E402

OK, USAGE = 0, 2
TINY = harness.ROOT / 'tests' / 'data' / 'tiny'
# of a block with experts: the stacks of gates and ups, and of downs, and the modules
FAMILIES = {
    'granitemoe': ('block_sparse_moe.input_linear.weight', 'block_sparse_moe.output_linear.weight',
                   'block_sparse_moe.experts', ('w1', 'w3', 'w2')),
    'gpt_oss': ('mlp.experts.gate_up_proj', 'mlp.experts.down_proj', 'mlp.experts',
                ('gate_proj', 'up_proj', 'down_proj')),
    'llama4_moe': ('feed_forward.experts.gate_up_proj', 'feed_forward.experts.down_proj', 'feed_forward.experts',
                   ('gate_proj', 'up_proj', 'down_proj')),
}
READERS = (('gptq', gptq_reference), ('compressed-tensors', compressed_reference))
BLOCK = 'model.layers.1.'    # has experts in all of them
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def experts_of(name, gate_up, down):
    """{module: weight} of the experts in two stacks of a family, by its definition in transformers."""
    result, names = {}, FAMILIES[name]
    for e in range(4):
        rows, last = (gate_up[e], down[e]) if name == 'granitemoe' else (gate_up[e].T, down[e].T)
        half = len(rows) // 2
        gate, up = (rows[::2], rows[1::2]) if name == 'gpt_oss' else (rows[:half], rows[half:])
        for leaf, weight in zip(names[3], (gate, up, last)):
            result[f'{BLOCK}{names[2]}.{e}.{leaf}'] = weight
    return result


def headers(folder):
    """{tensor: (type, shape)}"""
    header = harness.bf16_raw(folder / 'model.safetensors')[0]
    return {k: (v['dtype'], v['shape']) for k, v in header.items() if k != '__metadata__'}


def mxfp4(rows):
    """(..., n / 32, 16) and (..., n / 32) U8 near rows (..., n), and what they stand for."""
    groups = rows.reshape(*rows.shape[:-1], -1, 32)
    exponent = np.ceil(np.log2(np.abs(groups).max(-1) / 6))
    scaled = groups / 2.0 ** exponent[..., None]
    codes = np.abs(scaled[..., None] - E2M1).argmin(-1).astype(np.uint8)
    values = (E2M1[codes] * 2.0 ** exponent[..., None]).reshape(rows.shape)
    return codes[..., ::2] | codes[..., 1::2] << 4, (exponent + 127).astype(np.uint8), values.astype(np.float32)


class Stacked(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        samples = [[(7 * i + 13 * j) % 90 for j in range(60 - i)] for i in range(8)]
        cls.calib = harness.write_calib(cls.root / 'tiny.h5', samples, 96)

    def mpiquant(self, ranks, *arguments, code=OK):
        done = harness.run(ranks, *arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr if code else done.stdout

    def quantise(self, model, *options, ranks=1, code=OK):
        out = self.root / f'{model.name}-{len(list(self.root.iterdir()))}'
        text = self.mpiquant(ranks, 'quantize', model, '--calib', self.calib, '--output', out, '--group-size', 16,
                             '--preset', 'fast', *options, code=code)
        return text if code else out

    def kl(self, out, reference):
        text = self.mpiquant(1, 'eval', out, '--reference', reference, '--tokens', self.calib, '--json')
        return json.loads(text)['kl']

    def stacks(self, name, folder):
        tensors = gptq_reference.read_tensors(folder)
        return experts_of(name, *(tensors[BLOCK + FAMILIES[name][i]] for i in range(2)))

    def test_unpacked(self):
        """dense keeps the source's tensors, with the weights that the packed formats hold."""
        for name in FAMILIES:
            with self.subTest(model=name):
                model = TINY / name
                one, three = (self.quantise(model, '--format', 'dense', ranks=ranks) for ranks in (1, 3))
                self.assertEqual(harness.files_hash(one), harness.files_hash(three))
                self.assertEqual(headers(one), headers(model))
                self.mpiquant(2, 'verify', one, '--source', model)
                stood_for = gptq_reference.read_folder(self.quantise(model))
                for module, weight in self.stacks(name, one).items():
                    rounded = packed.to_bf16(stood_for[module + '.weight'])
                    np.testing.assert_array_equal(packed.to_bf16(weight), rounded, module)

    def test_some_experts(self):
        """Experts that are not packed beside packed ones are modules too; a stack of both is refused."""
        for name, (gate_up, down, _, leaves) in FAMILIES.items():
            with self.subTest(model=name):
                model = TINY / name
                originals = self.stacks(name, model)
                for form, reader in READERS if name == 'gpt_oss' else READERS[:1]:
                    skip = ('--format', form, '--skip', rf'experts\.[12]\..*({leaves[1]}|{leaves[2]})')
                    one, three = (self.quantise(model, *skip, ranks=ranks) for ranks in (1, 3))
                    self.assertEqual(harness.files_hash(one), harness.files_hash(three))
                    self.mpiquant(2, 'verify', one, '--source', model)
                    self.assertLess(self.kl(one, model), 0.2)
                    found = reader.read_folder(one)
                    self.assertFalse(any(BLOCK + stack in found for stack in (gate_up, down)))
                    for module, weight in originals.items():
                        kept = module.split('.')[-2] in '12' and module.split('.')[-1] in leaves[1:]
                        same = np.array_equal(found[module + '.weight'], weight)
                        self.assertEqual(same, kept, module)
                text = self.quantise(model, '--format', 'dense', *skip[2:], code=USAGE)
                self.assertIn(gate_up, text)

    def test_no_experts(self):
        for name, (gate_up, down, experts, _) in FAMILIES.items():
            with self.subTest(model=name):
                model = TINY / name
                out = self.quantise(model, '--skip', experts.replace('.', r'\.'))
                for stack in (gate_up, down):
                    np.testing.assert_array_equal(gptq_reference.read_tensors(out)[BLOCK + stack],
                                                  gptq_reference.read_tensors(model)[BLOCK + stack])
                self.mpiquant(1, 'verify', out, '--source', model)
                self.assertLess(self.kl(out, model), 0.2)

    def test_exact_types(self):
        """F32 and F16 are read from the file, row by row of an expert."""
        for name, dtype, form in (('granitemoe', 'F16', 'dense'), ('gpt_oss', 'F32', 'dense'),
                                  ('llama4_moe', 'F16', 'gptq')):
            with self.subTest(model=name, dtype=dtype):
                numpy_type = {'F32': '<f4', 'F16': '<f2'}[dtype]
                tensors = gptq_reference.read_tensors(TINY / name)
                model = packed.write_folder(TINY / name, self.root / f'{name}-{dtype}', {
                    k: (dtype, (v * 1.0001).astype(numpy_type)) for k, v in tensors.items()}, None)
                one, three = (self.quantise(model, '--format', form, ranks=ranks) for ranks in (1, 3))
                self.assertEqual(harness.files_hash(one), harness.files_hash(three))
                self.mpiquant(2, 'verify', one, '--source', model)

    def mxfp4_models(self):
        """gpt-oss as it is published, and its twin in BF16."""
        tensors, values = {}, gptq_reference.read_tensors(TINY / 'gpt_oss')
        for key, value in list(values.items()):
            if key.endswith(('experts.gate_up_proj', 'experts.down_proj')):
                blocks, scales, near = mxfp4(value.swapaxes(1, 2))
                tensors[key + '_blocks'], tensors[key + '_scales'] = ('U8', blocks), ('U8', scales)
                values[key] = near.swapaxes(1, 2)
            else:
                tensors[key] = ('BF16', packed.to_bf16(value))
        config = {'quant_method': 'mxfp4', 'modules_to_not_convert': [
            'model.layers.*.self_attn', 'model.layers.*.mlp.router', 'model.embed_tokens', 'lm_head']}
        dense = {k: ('BF16', packed.to_bf16(v)) for k, v in values.items()}
        return (packed.write_folder(TINY / 'gpt_oss', self.root / 'mxfp4', tensors, config),
                packed.write_folder(TINY / 'gpt_oss', self.root / 'twin', dense, None))

    def test_mxfp4(self):
        model, twin = self.mxfp4_models()
        self.assertEqual(self.kl(model, twin), 0)
        for options in ((), ('--format', 'dense'), ('--skip', 'experts'), ('--skip', r'experts\.2'),
                        ('--format', 'compressed-tensors', '--skip', 'down_proj')):
            with self.subTest(options=options):
                out = self.quantise(model, *options, ranks=3)
                other = self.quantise(twin, *options)
                for file in ('model.safetensors', 'config.json'):
                    self.assertEqual((out / file).read_bytes(), (other / file).read_bytes(), file)
                self.mpiquant(2, 'verify', out, '--source', model)


if __name__ == '__main__':
    unittest.main()
