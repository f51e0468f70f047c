"""The same output bytes for any number of ranks, threads and nodes, on the demo model."""
import json
import unittest

import harness


class SameBytes(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        samples = harness.demo_samples(20, 160)
        # Ragged on purpose, with samples of one token.
        samples = [s[:len(s) - 7 * (i % 5)] for i, s in enumerate(samples)] + [[5], [9, 9, 9]]
        cls.calib = harness.write_calib(cls.root / 'calib.h5', samples, 4096,
                                        harness.tokenizer_sha256(harness.DEMO))
        cls.hashes = {}

    def quantise(self, name, ranks, *options, env=None):
        out = self.root / name
        done = harness.run(ranks, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out,
                           '--unit-tokens', 700, *options, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        return harness.files_hash(out)

    def reference(self):
        if 'one' not in self.hashes:
            self.hashes['one'] = self.quantise('one', 1)
        return self.hashes['one']

    def test_ranks(self):
        for ranks in (2, 3, 4):
            with self.subTest(ranks=ranks):
                self.assertEqual(self.quantise(f'np{ranks}', ranks), self.reference())

    def test_threads(self):
        self.assertEqual(self.quantise('t2', 1, '--threads', 2), self.reference())
        self.assertEqual(self.quantise('np2t2', 2, '--threads', 2), self.reference())

    def test_mmap(self):
        self.assertEqual(self.quantise('mmap', 2, '--mmap'), self.reference())

    def test_every_rank_its_own_node(self):
        # Two blocks, and chunks that a loaded machine gets through: every one is a round of messages.
        env = {'MQ_RANKS_PER_NODE': '1', 'MQ_CHUNK_BYTES': '65536'}
        option = ('--layers', '0:2')
        self.assertEqual(self.quantise('nodes', 3, *option, env=env), self.quantise('no-nodes', 1, *option))

    def test_distributed_factorisation(self):
        hashes = {self.quantise(f'd{ranks}', ranks, '--distribute-above', 0) for ranks in (1, 2, 3, 4)}
        self.assertEqual(len(hashes), 1)

    def test_fewer_units_than_ranks(self):
        option = ('--unit-tokens', 2000)
        hashes = {self.quantise(f'u{ranks}', ranks, *option) for ranks in (1, 4)}
        self.assertEqual(len(hashes), 1)

    def test_more_ranks_than_heads(self):
        """Six heads of q and k: two ranks make no moment of one."""
        option = ('--layers', '0:1', '--group-size', 64)
        hashes = {self.quantise(f'h{ranks}', ranks, *option) for ranks in (1, 8)}
        self.assertEqual(len(hashes), 1)

    def test_every_width(self):
        for bits, group in ((2, 32), (3, 64), (8, -1)):
            with self.subTest(bits=bits):
                hashes = {self.quantise(f'b{bits}-{ranks}', ranks, '--bits', bits, '--group-size', group,
                                        '--layers', '0:2') for ranks in (1, 3)}
                self.assertEqual(len(hashes), 1)

    def test_zero_points(self):
        option = ('--zero-points', '--bits', 3, '--group-size', 64, '--layers', '0:2')
        hashes = {self.quantise(f'z{ranks}', ranks, *option) for ranks in (1, 2, 3)}
        env = {'MQ_RANKS_PER_NODE': '1', 'MQ_CHUNK_BYTES': '65536'}
        hashes.add(self.quantise('z-nodes', 3, *option, env=env))
        hashes.add(self.quantise('z-threads', 1, '--threads', 2, *option))
        self.assertEqual(len(hashes), 1)
        self.assertNotEqual(hashes.pop(), self.quantise('z-none', 1, *option[1:]))

    def test_best(self):
        """Two streams, cross sums and more rounds of refinement."""
        option = ('--preset', 'best', '--bits', 3, '--group-size', 64, '--layers', '0:2')
        hashes = {self.quantise(f'best{ranks}', ranks, *option) for ranks in (1, 2, 3)}
        hashes.add(self.quantise('best-threads', 1, '--threads', 2, *option))
        hashes.add(self.quantise('best-distributed', 2, '--distribute-above', 0, *option))
        env = {'MQ_RANKS_PER_NODE': '1', 'MQ_CHUNK_BYTES': '65536'}
        hashes.add(self.quantise('best-nodes', 3, *option, env=env))
        self.assertEqual(len(hashes), 1)
        others = {self.quantise(name, 1, '--preset', name, *option[2:]) for name in ('fast', 'default')}
        self.assertEqual(len(others | hashes), 3)

    def test_parallel_block(self):
        """Five layers read one tap, and what the MLP adds to the stream is made up for with it."""
        samples = [[(7 * i + 13 * j) % 90 for j in range(32 - i)] for i in range(8)]
        calib = harness.write_calib(self.root / 'tiny.h5', samples, 96)
        model = harness.ROOT / 'tests' / 'data' / 'tiny' / 'command_r'
        option = ('--preset', 'best', '--bits', 3, '--group-size', 32)
        hashes = set()
        for ranks, more in ((1, ()), (2, ()), (3, ()), (2, ('--distribute-above', 0))):
            out = self.root / f'parallel{len(more)}-{ranks}'
            done = harness.run(ranks, 'quantize', model, '--calib', calib, '--output', out, '--unit-tokens', 70,
                               *option, *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            hashes.add(harness.files_hash(out))
        self.assertEqual(len(hashes), 1)

    def test_auto_damping(self):
        """Half sums, candidates shared out among ranks, or factored by all of them."""
        option = ('--damp', 'auto', '--bits', 3, '--group-size', 64, '--layers', '0:2')
        env = {'MQ_RANKS_PER_NODE': '1', 'MQ_CHUNK_BYTES': '65536'}
        hashes = {self.quantise(f'auto{ranks}', ranks, *option) for ranks in (1, 2, 3, 4)}
        hashes.add(self.quantise('auto-threads', 1, '--threads', 2, *option))
        hashes.add(self.quantise('auto-nodes', 3, *option, env=env))
        self.assertEqual(len(hashes), 1)
        self.assertNotEqual(hashes.pop(), self.quantise('auto-none', 1, *option[2:], '--damp', 0.05))
        option += ('--distribute-above', 300, '--preset', 'best')
        hashes = {self.quantise(f'auto-wide{ranks}', ranks, *option) for ranks in (1, 3)}
        self.assertEqual(len(hashes), 1)

    def test_eval(self):
        self.reference()
        results = []
        for ranks, threads in ((1, 1), (2, 1), (3, 1), (1, 2)):
            done = harness.run(ranks, 'eval', self.root / 'one', '--tokens', self.calib,
                               '--reference', harness.DEMO, '--unit-tokens', 700, '--threads', threads, '--json')
            self.assertEqual(done.returncode, 0, done.stderr)
            result = json.loads(done.stdout)
            results.append({k: result[k] for k in ('perplexity', 'kl', 'top1', 'tokens')})
        self.assertEqual(results[1:], results[:1] * 3)


if __name__ == '__main__':
    unittest.main()
