"""Models with routed experts: the tokens that each is calibrated on, whichever rank has them, and what the report
says of it."""
import json
import unittest

import harness
import numpy as np

MODEL = harness.ROOT / 'tests' / 'data' / 'tiny' / 'mixtral'
ROUTER = 'model.layers.{}.block_sparse_moe.gate.weight'
SPLIT = 48          # tokens below it go to experts 0 and 1, the others to 2 and 3
LENGTH = 40
OPTIONS = ('--bits', 3, '--group-size', 16, '--unit-tokens', LENGTH)


class Experts(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.count = 0
        cls.split = cls.split_model()

    @classmethod
    def split_model(cls):
        """A model whose routers send tokens to one half of the experts or to the other."""
        model = harness.copy_model(MODEL, cls.root / 'split')

        def embedding(e):
            e[:SPLIT, 0] = 30
            e[SPLIT:, 0] = -30
            return e

        def router(w):
            w[:, 0] = [9, 9, -9, -9]
            return w

        def norm(w):
            w[0] = 1
            return w
        harness.edit(model, 'model.embed_tokens.weight', embedding)
        for block in range(2):
            harness.edit(model, ROUTER.format(block), router)
            harness.edit(model, f'model.layers.{block}.post_attention_layernorm.weight', norm)
        return model

    def calib(self, halves):
        """A sample of tokens of the lower (0) or upper (1) half of the vocabulary for each entry; each is a unit."""
        Experts.count += 1
        generator = np.random.default_rng(Experts.count)
        samples = [generator.integers(3 if half == 0 else SPLIT, SPLIT if half == 0 else 96, LENGTH).tolist()
                   for half in halves]
        return harness.write_calib(self.root / f'calib{Experts.count}.h5', samples, 96)

    def quantise(self, ranks, model, calib, *options):
        Experts.count += 1
        out = self.root / f'out{Experts.count}'
        done = harness.run(ranks, 'quantize', model, '--calib', calib, '--output', out, *OPTIONS, *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out, json.loads((out / 'mq_report.json').read_text())

    def experts(self, report):
        """(block, expert, part): the layer's entry in the report."""
        return {(layer['block'], layer['expert'], layer['name'][-2:]): layer for layer in report['layers']
                if 'expert' in layer}

    def test_disjoint_experts_and_idle_ranks(self):
        calib = self.calib([0, 1, 0, 1, 0])
        for options in (('--preset', 'fast'), ('--preset', 'best')):
            out, report = self.quantise(1, self.split, calib, *options)
            layers = self.experts(report)
            self.assertEqual(len(layers), 2 * 4 * 3)
            for (_, expert, _), layer in layers.items():
                self.assertEqual(layer['routed_tokens'], (3 if expert < 2 else 2) * LENGTH)
                self.assertEqual(layer['tokens'], layer['routed_tokens'])
            for ranks in (2, 3, 4):     # of two, one may have the lower half alone
                other, _ = self.quantise(ranks, self.split, calib, *options)
                self.assertEqual(harness.files_hash(out), harness.files_hash(other))
        single = self.calib([1])        # one unit: all ranks but one have nothing
        self.assertEqual(*(harness.files_hash(self.quantise(ranks, self.split, single)[0]) for ranks in (1, 3)))

    def test_experts_without_tokens_take_all(self):
        _, report = self.quantise(2, self.split, self.calib([1, 1, 1]))
        for (_, expert, _), layer in self.experts(report).items():
            self.assertEqual(layer['routed_tokens'], 0 if expert < 2 else 3 * LENGTH)
            self.assertEqual(layer['tokens'], 3 * LENGTH)
            self.assertEqual(layer['method'], 'ldlq')
        self.assertTrue(any('2 of 4 experts saw fewer than 0.5 tokens' in text for text in report['warnings']))

    def test_coverage(self):
        calib = self.calib([0, 1, 1, 0])
        _, report = self.quantise(1, MODEL, calib)
        routed = {key: layer['routed_tokens'] for key, layer in self.experts(report).items()}
        for block in range(2):
            self.assertEqual(sum(n for key, n in routed.items() if key[0] == block and key[2] == 'w1'),
                             2 * 4 * LENGTH)
        columns = 32
        middle = sorted(routed.values())[len(routed) // 2] / columns
        _, report = self.quantise(1, MODEL, calib, '--expert-coverage', middle)
        for key, layer in self.experts(report).items():
            few = routed[key] < middle * columns if key[2] == 'w1' and key[0] == 0 else None
            if few is not None:
                self.assertEqual(layer['tokens'], 4 * LENGTH if few else routed[key])

    def test_all_tokens(self):
        calib = self.calib([0, 1, 1, 0])
        for preset in ('default', 'best'):
            everyone, report = self.quantise(1, MODEL, calib, '--moe-calibration', 'all', '--preset', preset)
            for layer in self.experts(report).values():
                self.assertEqual(layer['tokens'], 4 * LENGTH)
            three, _ = self.quantise(3, MODEL, calib, '--moe-calibration', 'all', '--preset', preset)
            thin, _ = self.quantise(2, MODEL, calib, '--expert-coverage', 1e6, '--preset', preset)
            self.assertEqual(harness.files_hash(everyone), harness.files_hash(three))
            self.assertEqual(harness.files_hash(everyone), harness.files_hash(thin))

    def test_budget(self):
        calib = self.calib([0, 1, 1, 0, 1])
        outs = [self.quantise(ranks, MODEL, calib, '--bits', 3.5) for ranks in (1, 3)]
        self.assertEqual(*(harness.files_hash(out) for out, _ in outs))
        report = outs[0][1]
        self.assertLessEqual(report['budget']['average_bits'], 3.5)
        for block in range(2):
            self.assertEqual(len({layer['bits'] for key, layer in self.experts(report).items() if key[0] == block}), 1)

    def test_spoilt_sample(self):
        """A token that goes to expert 1 and overflows between its up and down: the sample counts where all experts
        read, and not where the downs of that one and those after it do, for any number of ranks."""
        model = harness.copy_model(MODEL, self.root / 'fragile')

        def huge(w):
            w[3] = 0
            w[3, 0] = 3e37
            return w

        def router(w):
            w[:, 0] = [0, 9, 0, 0]
            return w
        for part in '13':
            harness.edit(model, f'model.layers.0.block_sparse_moe.experts.1.w{part}.weight', huge)
        harness.edit(model, ROUTER.format(0), router)

        def embedding(e):
            e[:, 0] = 0
            e[95, 0] = 40
            return e
        harness.edit(model, 'model.embed_tokens.weight', embedding)
        harness.edit(model, 'model.layers.0.self_attn.o_proj.weight', lambda w: np.concatenate([0 * w[:1], w[1:]]))
        good = [[(5 * i + 7 * j) % 90 for j in range(LENGTH)] for i in range(4)]
        bad = good[:2] + [good[2][:10] + [95] + good[2][11:]] + good[3:]
        calib = harness.write_calib(self.root / 'bad.h5', bad, 96)
        kept = ('--skip', r'layers\.0\..*experts\.1\.w[13]')
        done = harness.run(2, 'quantize', model, '--calib', calib, '--output', self.root / 'stopped', *OPTIONS, *kept)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertIn('expert_mid of expert 1', done.stderr)
        self.assertIn('sample 2 (from 0), token 10', done.stderr)
        outs = [self.quantise(ranks, model, calib, '--on-failure', 'rtn', *kept) for ranks in (1, 3)]
        self.assertEqual(*(harness.files_hash(out) for out, _ in outs))
        for _, report in outs:
            for key, layer in self.experts(report).items():
                gone = key[0] == 1 or (key[1] >= 1 and key[2] == 'w2')
                self.assertEqual(layer['samples_left_out'], int(gone), key)
                if key[0] == 1:
                    self.assertLessEqual(layer['routed_tokens'], 3 * LENGTH)

    def random_model(self, name, sizes, mlps):
        """A block of Qwen3, dense or with experts; mlps: the width of each MLP by its name."""
        hidden, heads, dim, vocab = 512, 8, 64, 96
        config = {'hidden_size': hidden, 'num_hidden_layers': 1, 'num_attention_heads': heads, 'head_dim': dim,
                  'num_key_value_heads': heads, 'vocab_size': vocab, 'rms_norm_eps': 1e-6, 'rope_theta': 10000.0,
                  'tie_word_embeddings': True, 'max_position_embeddings': 4096, **sizes}
        layer = 'model.layers.0.'
        shapes = {'model.embed_tokens.weight': (vocab, hidden), 'model.norm.weight': (hidden,),
                  layer + 'input_layernorm.weight': (hidden,), layer + 'post_attention_layernorm.weight': (hidden,),
                  layer + 'self_attn.q_norm.weight': (dim,), layer + 'self_attn.k_norm.weight': (dim,)}
        shapes.update({layer + f'self_attn.{x}_proj.weight': (hidden, hidden) for x in 'qkvo'})
        for mlp, width in mlps.items():
            shapes.update({layer + mlp + '.gate_proj.weight': (width, hidden),
                           layer + mlp + '.up_proj.weight': (width, hidden),
                           layer + mlp + '.down_proj.weight': (hidden, width)})
        if len(mlps) > 1:
            shapes[layer + 'mlp.gate.weight'] = (len(mlps), hidden)
        generator = np.random.default_rng(1)
        tensors = {key: (generator.standard_normal(shape) / np.sqrt(shape[-1]) if len(shape) > 1 else
                         np.ones(shape)).astype(np.float32) for key, shape in shapes.items()}
        folder = self.root / name
        folder.mkdir()
        harness.save_file(tensors, folder / 'model.safetensors')
        (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
        return folder

    def test_memory(self):
        """64 experts, 8 for a token, take at most twice the memory of a rank that a dense MLP as wide as 8 takes."""
        dense = self.random_model('dense', {'model_type': 'qwen3', 'intermediate_size': 1024}, {'mlp': 1024})
        routed = self.random_model('routed', {
            'model_type': 'qwen3_moe', 'intermediate_size': 1024, 'moe_intermediate_size': 128, 'num_experts': 64,
            'num_experts_per_tok': 8}, {f'mlp.experts.{e}': 128 for e in range(64)})
        generator = np.random.default_rng(2)
        calib = harness.write_calib(self.root / 'memory.h5', generator.integers(3, 96, (32, 512)).tolist(), 96)
        for options in (('fast', 0), ('fast', 0.75), ('default', 0)):     # one stream, two, and sums by halves
            peak = {}
            for model in (dense, routed):
                out = self.root / f'{model.name}-{options[0]}-{options[1]}'
                done = harness.run(2, 'quantize', model, '--calib', calib, '--output', out, '--preset', options[0],
                                   '--alpha', options[1], '--refine', 0)
                self.assertEqual(done.returncode, 0, done.stderr)
                peak[model.name] = json.loads((out / 'mq_report.json').read_text())['memory']['peak_of_a_rank']
            self.assertLess(peak['routed'], 2 * peak['dense'], (options, peak))


if __name__ == '__main__':
    unittest.main()
