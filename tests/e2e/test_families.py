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
import qwen1_reference  # noqa: E402

TINY = harness.ROOT / 'tests' / 'data' / 'tiny'
OPTIONS = ('--preset', 'best', '--bits', 3, '--group-size', 16, '--unit-tokens', 70)


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

    def check_forms(self, name, forms, modules):
        """Blocks whose layers are not the usual seven."""
        model = TINY / name
        for form, bits in forms.items():
            with self.subTest(form=form, model=name):
                outs = [self.root / f'{name}-{form}-{ranks}' for ranks in (1, 3)]
                for ranks, out in zip((1, 3), outs):
                    self.mpiquant(ranks, 'quantize', model, '--calib', self.calib, '--output', out, '--format', form,
                                  '--group-size', 32, '--bits', bits)
                self.assertEqual(*map(harness.files_hash, outs))
                self.mpiquant(2, 'verify', outs[0], '--source', model)
                self.mpiquant(1, 'eval', outs[0], '--reference', model, '--tokens', self.calib)
                report = json.loads((outs[0] / 'mq_report.json').read_text(encoding='utf-8'))
                self.assertEqual({layer['name'].split('.', 3)[3] for layer in report['layers']}, set(modules))

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

    def test_forms(self):
        forms = {'gptq': 3.5, 'compressed-tensors': 4, 'dense': 8}
        self.check_forms('phi3', {**forms, 'exl2': 4},
                         ('self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj'))
        self.check_forms('starcoder2', forms, [f'self_attn.{name}_proj' for name in 'qkvo'] + ['mlp.c_fc', 'mlp.c_proj'])

    def test_forms_qwen1(self):
        self.check_forms('qwen1', {'gptq': 3.5, 'compressed-tensors': 4, 'exl2': 4},
                         ('attn.c_attn', 'attn.c_proj', 'mlp.w1', 'mlp.w2', 'mlp.c_proj'))

    def test_forms_gates(self):
        self.check_forms('qwen3_5', {'gptq': 3.5, 'dense': 8},
                         [f'self_attn.{name}_proj' for name in 'qkvo'] +
                         [f'mlp.{name}_proj' for name in ('gate', 'up', 'down')])

    def test_forms_delta(self):
        mlps = [f'{mlp}.{name}_proj' for mlp in ['mlp', 'mlp.shared_expert'] + [f'mlp.experts.{e}' for e in range(3)]
                for name in ('gate', 'up', 'down')]
        attention = [f'self_attn.{name}_proj' for name in 'qkvo']
        self.check_forms('qwen3_5_delta', {'gptq': 3.5, 'compressed-tensors': 4, 'dense': 8}, attention + mlps[:3] +
                         [f'linear_attn.{name}' for name in ('in_proj_qkv', 'in_proj_z', 'out_proj')])
        self.check_forms('qwen3_next', {'gptq': 3.5, 'compressed-tensors': 4}, attention + mlps +
                         ['linear_attn.in_proj_qkvz', 'linear_attn.out_proj'])
        config = json.loads((self.root / 'qwen3_next-gptq-1' / 'config.json').read_text(encoding='utf-8'))
        settings = config['quantization_config']
        listed = {name for names in settings['modules_in_block_to_quantize'] for name in names}
        self.assertEqual(listed, {*attention, *mlps, 'linear_attn.in_proj_qkvz', 'linear_attn.out_proj'})
        rules = {rule for rule in settings['dynamic'] if rule.startswith('-')}
        self.assertIn(r'-:^model\.layers\.\d+\.linear_attn\.in_proj_ba$', rules)

    def qwen1_loss(self, folder, samples):
        """Sum over each sample of the loss of its tokens, by the forward pass in NumPy."""
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        tensors, sums = gptq_reference.read_tensors(folder), []
        for sample in samples:
            logits = qwen1_reference.forward(config, tensors, sample)[1][:-1]
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            sums.append(-log_p[np.arange(len(sample) - 1), sample[1:]].sum())
        return sums

    def test_qwen1_numpy(self):
        """The first Qwen, which transformers does not have, as it is and quantised: samples on both sides of its
        seq_length of 32 and of each doubling, by 1 and 3 ranks."""
        lengths = (2, 31, 32, 33, 63, 64, 65, 128, 129, 257)
        samples = [[(5 * i + 11 * j * j + j) % 90 for j in range(n)] for i, n in enumerate(lengths)]
        tokens = harness.write_calib(self.root / 'long.h5', samples, 96)
        model, dense = TINY / 'qwen1', self.root / 'qwen1-dense'
        self.mpiquant(2, 'quantize', model, '--calib', self.calib, '--output', dense, '--format', 'dense', '--bits', 4,
                      '--group-size', 32)
        losses = [self.qwen1_loss(folder, samples) for folder in (model, dense)]
        self.assertGreater(abs(sum(losses[0]) - sum(losses[1])), 0.01)
        for folder, loss in zip((model, dense), losses):
            for ranks in (1, 3):
                result = self.mpiquant(ranks, 'eval', folder, '--tokens', tokens, '--precision', 'f32', '--json',
                                       '--per-document')
                np.testing.assert_allclose(json.loads(result)['per_document']['nll_sum'], loss, rtol=2e-6)

    def test_latent_forms(self):
        names = ('q_a_proj', 'q_b_proj', 'kv_a_proj_with_mqa', 'kv_b_proj', 'o_proj')
        mlps = ['mlp', 'mlp.shared_experts'] + [f'mlp.experts.{e}' for e in range(4)]
        self.check_forms('deepseek_v3', {'gptq': 3.5, 'compressed-tensors': 4}, [f'self_attn.{name}' for name in names] +
                         [f'{mlp}.{name}_proj' for mlp in mlps for name in ('gate', 'up', 'down')])


# One test for each, so that they run side by side.
for config_file in sorted(TINY.glob('*/config.json')):
    setattr(Families, f'test_{config_file.parent.name}', lambda self, model=config_file.parent: self.check(model))


if __name__ == '__main__':
    unittest.main()
