"""A head that is quantised too: its loss by NumPy, what is written, and the same bytes for any number of
ranks where its rows take several passes."""
import json
import pathlib
import sys
import unittest

import harness
import llama_numpy
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import gptq_reference  # noqa: E402
import untie  # noqa: E402

USAGE = 2


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))


class LmHead(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.root / 'model'
        cls.tensors = untie.untie(harness.DEMO, cls.model)
        cls.samples = harness.demo_samples(24, 128)
        cls.calib = cls.write_calib('calib', 4096)

    @classmethod
    def write_calib(cls, name, vocab):
        return harness.write_calib(cls.root / f'{name}.h5', cls.samples, vocab,
                                   harness.tokenizer_sha256(harness.DEMO))

    def quantise(self, name, *options, model=None, ranks=1, calib=None):
        out = self.root / name
        done = harness.run(ranks, 'quantize', model or self.model, '--calib', calib or self.calib, '--output', out,
                           '--lm-head', *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def evaluate(self, folder):
        done = harness.run(1, 'eval', folder, '--reference', self.model, '--tokens', self.calib, '--precision', 'f32',
                           '--json')
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def loss(self, dense):
        """Relative loss of the head on the inputs that it has after quantised blocks."""
        config = read_json(self.model / 'config.json')
        tensors = {k: v.astype(np.float64) for k, v in dense.items()}
        h = 0
        for sample in self.samples:
            *_, (_, x) = llama_numpy.additions((config, tensors), sample)
            y = llama_numpy.norm(x, tensors['model.norm.weight'], config['rms_norm_eps'])
            h = h + y.T @ y
        weight = self.tensors['lm_head.weight'].astype(np.float64)
        error = tensors['lm_head.weight'] - weight
        return ((error @ h) * error).sum() / ((weight @ h) * weight).sum()

    def test_what_is_written(self):
        for preset in ('default', 'best'):
            with self.subTest(preset=preset):
                out = self.quantise(preset, '--preset', preset, '--group-size', 64, ranks=2)
                report, config = read_json(out / 'mq_report.json'), read_json(out / 'config.json')
                self.assertIs(config['quantization_config']['lm_head'], True)
                self.assertEqual(config['quantization_config']['dynamic'], {})
                card = (out / 'README.md').read_text(encoding='utf-8')
                self.assertIn('lm_head is packed', card)
                self.assertNotIn('AutoModelForCausalLM', card)
                dense = gptq_reference.read_folder(out)
                head = report['layers'][-1]
                self.assertEqual((head['name'], head['n_out'], head['n_in'], head['bits']), ('lm_head', 4096, 256, 4))
                self.assertNotIn('block', head)
                self.assertLess(head['relative_loss'], 0.9 * head['rtn_loss'])
                loss = self.loss(dense)
                # The inputs are those of a forward in BF16.
                self.assertAlmostEqual(head['relative_loss'], loss, delta=0.02 * loss)
                self.assertEqual(harness.run(1, 'verify', out, '--source', self.model).returncode, 0)

    def test_eval_reads_it(self):
        out, dense = self.quantise('packed', '--bits', 3), self.root / 'dense'
        tensors = {k: np.ascontiguousarray(v, np.float32) for k, v in gptq_reference.read_folder(out).items()}
        dense.mkdir()
        for name in ('config.json', 'tokenizer.json'):
            (dense / name).write_bytes((self.model / name).read_bytes())
        harness.save_file(tensors, dense / 'model.safetensors')
        packed, plain = self.evaluate(out), self.evaluate(dense)
        self.assertGreater(packed['kl'], 0)
        self.assertEqual(packed['kl'], plain['kl'])
        self.assertEqual(packed['perplexity'], plain['perplexity'])

    def test_its_own_bits(self):
        out = self.quantise('mixed', '--bits', 3.5, '--override', 'lm_head=bits:8,group:32')
        config = read_json(out / 'config.json')['quantization_config']
        self.assertEqual(config['dynamic']['+:^lm_head$'], {'bits': 8, 'group_size': 32})
        layers = read_json(out / 'mq_report.json')['layers']
        self.assertEqual((layers[-1]['name'], layers[-1]['bits']), ('lm_head', 8))
        # The average is that of the blocks.
        weights = [layer['n_out'] * layer['n_in'] for layer in layers[:-1]]
        average = sum(n * layer['bits'] for n, layer in zip(weights, layers)) / sum(weights)
        self.assertLessEqual(average, 3.5)
        self.assertGreater(average, 3.4)

    def test_several_passes(self):
        """40,000 rows are more than one rank takes at a time; two of them need one pass."""
        model = self.root / 'wide'
        untie.untie(harness.DEMO, model, 40000)
        calib = self.write_calib('wide-calib', 40000)
        hashes = set()
        for ranks in (1, 2, 3):
            out = self.quantise(f'wide{ranks}', '--group-size', 64, '--preset', 'best', '--refine', 1, '--layers', '7:8',
                                model=model, ranks=ranks, calib=calib)
            hashes.add(harness.files_hash(out))
        self.assertEqual(len(hashes), 1)
        head = read_json(out / 'mq_report.json')['layers'][-1]
        self.assertEqual(head['n_out'], 40000)
        self.assertLess(head['relative_loss'], head['rtn_loss'])

    def test_refused(self):
        for words, model, options in ((('embedding', 'tie_word_embeddings'), harness.DEMO, ()),
                                      (('--layers', 'last block'), self.model, ('--layers', '0:2')),
                                      (('lm_head=bits:8',), self.model, ('--bits', 3.5))):
            done = harness.run(1, 'quantize', model, '--calib', self.calib, '--output', self.root / 'refused', '--lm-head',
                               *options)
            self.assertEqual(done.returncode, USAGE, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
            self.assertFalse((self.root / 'refused').exists())


if __name__ == '__main__':
    unittest.main()
