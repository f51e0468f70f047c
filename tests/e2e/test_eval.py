"""The figures of `mpiquant eval` against a forward pass and statistics in NumPy, on the demo model and
a copy of it with noise on its weights."""
import json
import unittest

import harness
import llama_numpy
import numpy as np

LENGTHS = (200, 2, 1, 77, 5, 130, 64)
STUDENT = {0: np.nan, 1: 12.706204736174694, 2: 4.3026527297494619, 3: 3.1824463052837078,
           4: 2.7764451051977934, 5: 2.5705818356363146}
NAMES = ('perplexity', 'reference_perplexity', 'log_perplexity_difference', 'kl', 'top1')


def noisy_model(folder):
    """The demo model in float32 with weights a few per cent off."""
    config, tensors = llama_numpy.load(harness.DEMO)
    generator = np.random.default_rng(3)
    folder.mkdir()
    for path in harness.DEMO.glob('*.json'):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / 'config.json').write_text(json.dumps({**config, 'torch_dtype': 'float32', 'dtype': 'float32'}))
    tensors = {name: (w * (1 + 0.1 * generator.normal(size=w.shape))).astype(np.float32) for name, w in tensors.items()}
    harness.save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    return folder


def token_scores(model, reference, sample):
    """(n - 1, 4): nll, reference nll, kl, same top token of each predicted token."""
    sample = np.asarray(sample)
    p, r = (llama_numpy.log_probabilities(m, sample)[:-1] for m in (model, reference))
    at = np.arange(len(sample) - 1), sample[1:]
    return np.stack([-p[at], -r[at], (np.exp(r) * (r - p)).sum(-1), p.argmax(-1) == r.argmax(-1)], -1)


def interval(y, m):
    """value, low, high of sum y / sum m: every document left out in turn."""
    y, m = y[m > 0], m[m > 0]
    k = len(m)
    if k == 0:
        return [np.nan] * 3
    value = y.sum() / m.sum()
    if k == 1:
        return [value, np.nan, np.nan]
    without = np.array([np.delete(y, i).sum() / np.delete(m, i).sum() for i in range(k)])
    half = STUDENT[k - 1] * np.sqrt((k - 1) / k * ((without - value) ** 2).sum())
    return [value, value - half, value + half]


def figures(y, m):
    """name -> value, low, high; y (documents, 4) sums as in token_scores, m (documents) tokens."""
    return {'perplexity': np.exp(interval(y[:, 0], m)),
            'reference_perplexity': np.exp(interval(y[:, 1], m)),
            'log_perplexity_difference': interval(y[:, 0] - y[:, 1], m),
            'kl': np.maximum(interval(y[:, 2], m), 0),
            'top1': np.clip(interval(y[:, 3], m), 0, 1)}


def listed(result, name):
    """value, low, high of a JSON object, null as NaN."""
    ends = result[f'{name}_interval'] or [None, None]
    return np.array([result[name], *ends], float)


class Evaluation(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = noisy_model(cls.root / 'noisy')
        text = harness.demo_samples(len(LENGTHS), max(LENGTHS), 'heldout.jsonl')
        cls.samples = [sample[:n] for sample, n in zip(text, LENGTHS)]
        cls.tokens = cls.write('tokens', cls.samples)

    @classmethod
    def write(cls, name, samples):
        return harness.write_calib(cls.root / f'{name}.h5', samples, 4096, harness.tokenizer_sha256(harness.DEMO))

    def text(self, tokens, *options, ranks=1, reference=True):
        options += ('--reference', harness.DEMO) if reference else ()
        done = harness.run(ranks, 'eval', self.model, '--tokens', tokens, '--precision', 'f32', *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def json(self, *arguments, **more):
        return json.loads(self.text(*arguments, '--json', **more))

    def expect(self, result, expected, rtol):
        for name in NAMES:
            np.testing.assert_allclose(listed(result, name), expected[name], rtol=rtol, err_msg=name)

    def test_against_numpy(self):
        model, reference = llama_numpy.load(self.model), llama_numpy.load(harness.DEMO)
        scores = [token_scores(model, reference, sample) for sample in self.samples]
        sums = np.array([s.sum(0) for s in scores])
        counts = np.array([len(s) for s in scores])
        # Far enough from the reference that the comparison says something.
        self.assertGreater(sums[:, 2].sum() / counts.sum(), 0.02)
        result = self.json(self.tokens, '--by-position', 5, '--per-document')
        self.assertEqual((result['tokens'], result['documents'], result['samples']), (sum(counts), 6, 7))
        columns = result['per_document']
        self.assertEqual(columns['tokens'], counts.tolist())
        for i, name in enumerate(('nll_sum', 'reference_nll_sum', 'kl_sum')):
            np.testing.assert_allclose(columns[name], sums[:, i], rtol=1e-4, atol=1e-6, err_msg=name)
        self.assertEqual(columns['top1_sum'], sums[:, 3].tolist())
        self.expect(result, figures(sums, counts), 1e-3)
        self.check_positions(result['by_position'], scores)

    def check_positions(self, bins, scores):
        edges = [1, 41, 81, 121, 161, 200]  # of 199 predicted positions
        self.assertEqual([(b['position_begin'], b['position_end']) for b in bins], list(zip(edges, edges[1:])))
        for b, begin, end in zip(bins, edges, edges[1:]):
            # Row p - 1 of the scores predicts position p.
            parts = [s[begin - 1:end - 1] for s in scores]
            counts = np.array([len(p) for p in parts])
            self.assertEqual((b['tokens'], b['documents']), (counts.sum(), (counts > 0).sum()))
            self.expect(b, figures(np.array([p.sum(0) for p in parts]), counts), 1e-3)
        self.assertEqual(sum(b['tokens'] for b in bins), sum(LENGTHS) - len(LENGTHS))

    def test_intervals_follow_from_the_documents(self):
        """To the last digits, where the forward passes agree to a few only."""
        result = self.json(self.tokens, '--per-document')
        columns = result['per_document']
        y = np.array([columns[k] for k in ('nll_sum', 'reference_nll_sum', 'kl_sum', 'top1_sum')], float).T
        self.expect(result, figures(y, np.array(columns['tokens'], float)), 1e-11)

    def test_same_bytes(self):
        options = ('--unit-tokens', 90, '--by-position', 7, '--per-document', '--json')

        def lines(ranks, *more):
            printed = self.text(self.tokens, *options, *more, ranks=ranks).splitlines()
            return [line for line in printed if '"seconds"' not in line]
        one = lines(1)
        self.assertGreater(len(one), 50)
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                self.assertEqual(lines(ranks), one)
        self.assertEqual(lines(1, '--threads', 2), one)

    def test_positions_change_nothing_else(self):
        plain, binned = self.json(self.tokens), self.json(self.tokens, '--by-position', 9)
        del binned['by_position'], binned['seconds'], plain['seconds']
        self.assertEqual(binned, plain)

    def test_one_document(self):
        # The sample of one token predicts nothing, and so is no second document.
        result = self.json(self.write('one', [self.samples[3], [7]]), '--by-position', 2)
        self.assertEqual((result['documents'], result['samples'], result['tokens']), (1, 2, 76))
        for part in (result, *result['by_position']):
            for name in NAMES:
                self.assertIsNotNone(part[name])
                self.assertIsNone(part[f'{name}_interval'])
        printed = self.text(self.root / 'one.h5')
        self.assertNotIn('[', printed)
        self.assertNotIn('nan', printed)

    def test_empty_bin(self):
        tokens = self.write('short', [s[:4] for s in self.samples if len(s) >= 4])
        bins = self.json(tokens, '--by-position', 5)['by_position']
        self.assertEqual([b['tokens'] for b in bins], [5, 5, 0, 5, 0])
        for b in bins:
            empty = b['tokens'] == 0
            self.assertEqual(b['position_begin'] == b['position_end'], empty)
            for name in NAMES:
                self.assertEqual((b[name] is None, b[f'{name}_interval'] is None), (empty, empty))
        table = self.text(tokens, '--by-position', 5).split('positions ')[1].splitlines()
        self.assertEqual([line.split()[:3:2] == ['none', '-'] for line in table[1:]], [False, False, True, False, True])

    def test_without_reference(self):
        result = self.json(self.tokens, '--per-document', '--by-position', 2, reference=False)
        self.assertEqual(set(result['per_document']), {'tokens', 'nll_sum'})
        self.assertIsNotNone(result['perplexity_interval'])
        self.assertEqual([k for k in (*result, *result['by_position'][0]) if 'kl' in k or 'reference' in k], [])

    def test_identical_models(self):
        """No difference anywhere: intervals of no width."""
        done = harness.run(1, 'eval', harness.DEMO, '--reference', harness.DEMO, '--tokens', self.tokens, '--json')
        result = json.loads(done.stdout)
        self.assertEqual((result['kl'], result['kl_interval']), (0, [0, 0]))
        self.assertEqual((result['top1'], result['top1_interval']), (1, [1, 1]))
        self.assertEqual(result['log_perplexity_difference_interval'], [0, 0])

    def test_bad_options(self):
        for options, word in ((('--per-document',), '--json'), (('--by-position', -1), '--by-position'),
                              (('--by-position', 10001), '10000')):
            done = harness.run(2, 'eval', self.model, '--tokens', self.tokens, *options)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(word, done.stderr)


if __name__ == '__main__':
    unittest.main()
