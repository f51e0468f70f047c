"""The command line as users meet it: help, version, settings files, a wrong launcher, and runs on the
edge of what the calibration data can carry."""
import json
import os
import re
import unittest

import harness

OPTIONS = {
    'quantize': ('calib', 'output', 'bits', 'widths', 'group-size', 'lm-head', 'protect', 'zero-points', 'positive-scales', 'format', 'damp', 'shrinkage', 'scale-columns', 'on-failure',
                 'preset', 'alpha', 'refine', 'couple-rows', 'scale-search', 'column-order', 'samples', 'moe-calibration', 'expert-coverage', 'layers', 'skip', 'override', 'max-shard-size', 'unit-tokens', 'distribute-above',
                 'mmap', 'threads', 'config', 'help'),
    'eval': ('tokens', 'reference', 'precision', 'samples', 'by-position', 'per-document', 'unit-tokens', 'threads', 'json',
             'config', 'help'),
    'verify': ('source', 'threads', 'config', 'help'),
    'inspect': ('arch', 'json', 'help'),
}


class Texts(unittest.TestCase):
    def test_help(self):
        done = harness.run(1, '--help')
        self.assertEqual(done.returncode, 0, done.stderr)
        for command in OPTIONS:
            self.assertIn(f'\n  {command} ', done.stdout)

    def test_help_of_commands(self):
        guide = (harness.ROOT / 'docs' / 'user-guide.md').read_text(encoding='utf-8')
        for command, options in OPTIONS.items():
            with self.subTest(command=command):
                done = harness.run(1, command, '--help')
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stderr, '')
                listed = re.findall(r'^  --([a-z-]+)', done.stdout, re.M)
                self.assertEqual(sorted(listed), sorted(options))
                self.assertEqual([o for o in options if f'--{o}' not in guide], [])
                self.assertLessEqual(max(map(len, done.stdout.splitlines())), 80)

    def test_help_is_printed_once(self):
        done = harness.run(3, 'quantize', '--help')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count('usage:'), 1)

    def test_version(self):
        done = harness.run(1, '--version')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r'^mpiquant \d+\.\d+\.\d+\n')
        self.assertRegex(done.stdout, r'(?i)mpi .*\d')
        self.assertRegex(done.stdout, r'(?i)blas')
        self.assertRegex(done.stdout, r'(?i)avx|sse')

    def test_no_command_and_unknown_command(self):
        self.assertEqual(harness.run(1).returncode, 2)
        done = harness.run(1, 'quantise')
        self.assertEqual(done.returncode, 2)
        self.assertIn('quantise', done.stderr)

    def test_srun_without_pmi(self):
        done = harness.run(1, 'verify', harness.DEMO, env={'SLURM_STEP_NUM_TASKS': '4'})
        self.assertEqual(done.returncode, 2)
        self.assertIn('--mpi=pmix', done.stderr)
        self.assertIn('4 tasks', done.stderr)
        # Of one task, and under mpirun inside an allocation, nothing is wrong.
        for ranks, tasks in ((1, '1'), (2, '4')):
            done = harness.run(ranks, '--version', env={'SLURM_STEP_NUM_TASKS': tasks})
            self.assertEqual(done.returncode, 0, done.stderr)


class Runs(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sha = harness.tokenizer_sha256(harness.DEMO)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(4, 64), 4096, cls.sha)

    def quantise(self, *options, ranks=1):
        return harness.run(ranks, 'quantize', harness.DEMO, *options)

    def test_settings_file(self):
        settings = {'calib': str(self.calib), 'bits': 3, 'group_size': 64, 'layers': '0:1', 'skip': ['o_proj', 'k_proj'],
                    'override': 'down_proj=bits:8,group:32', 'damp': 0.02}
        path = self.root / 'settings.json'
        path.write_text(json.dumps(settings))
        done = self.quantise('--config', path, '--output', self.root / 'file')
        self.assertEqual(done.returncode, 0, done.stderr)
        options = ('--calib', self.calib, '--bits', 3, '--group-size', 64, '--layers', '0:1', '--skip', 'o_proj',
                   '--skip', 'k_proj', '--override', 'down_proj=bits:8,group:32', '--damp', 0.02)
        done = self.quantise(*options, '--output', self.root / 'line')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(harness.files_hash(self.root / 'file'), harness.files_hash(self.root / 'line'))
        # The command line wins.
        done = self.quantise('--config', path, '--bits', 4, '--output', self.root / 'both', ranks=2)
        self.assertEqual(done.returncode, 0, done.stderr)
        config = json.loads((self.root / 'both' / 'quantize_config.json').read_text())
        self.assertEqual((config['bits'], config['group_size']), (4, 64))

    def test_bad_settings_file(self):
        path = self.root / 'bad.json'
        for text, code, words in (('{"bist": 4}', 2, ('bist', 'bits', 'bad.json')),
                                  ('{"bits": "four"}', 2, ('bits',)), ('{"bits": ', 3, ('bad.json',))):
            path.write_text(text)
            for ranks in (1, 3):
                done = self.quantise('--config', path, '--calib', self.calib, '--output', self.root / 'none', ranks=ranks)
                self.assertEqual(done.returncode, code, done.stderr)
                for word in words:
                    self.assertIn(word, done.stderr)
        self.assertFalse(os.path.exists(self.root / 'none'))

    def test_thin_calibration(self):
        """Eight tokens for 256 and 768 columns: a result, finite, reported and warned about."""
        calib = harness.write_calib(self.root / 'thin.h5', [harness.demo_samples(1, 8)[0]], 4096, self.sha)
        out = self.root / 'thin'
        done = self.quantise('--calib', calib, '--output', out, ranks=3)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r'warning: .*8 tokens for 768 columns')
        self.assertIn('rank-deficient', done.stderr)
        report = json.loads((out / 'mq_report.json').read_text())
        self.assertTrue(any('8 tokens' in text for text in report['warnings']), report['warnings'])
        for layer in report['layers']:
            self.assertTrue(layer['rank_deficient'])
            self.assertLessEqual(layer['rank_bound'], 8)
            self.assertEqual(layer['method'], 'ldlq')
            self.assertTrue(0 <= layer['relative_error'] < 1, layer)
            self.assertTrue(0 <= layer['relative_loss'] < 1, layer)
        done = harness.run(2, 'verify', out, '--source', harness.DEMO)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = harness.run(1, 'eval', out, '--tokens', self.calib, '--json')
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(1 < json.loads(done.stdout)['perplexity'] < 1e6)


if __name__ == '__main__':
    unittest.main()
