"""`--protect`: what a family's descriptor names as sensitive gets 8 bits, in every format's own words for it."""
import json
import re
import unittest

import harness

OK, USAGE = 0, 2
TINY = harness.ROOT / 'tests' / 'data' / 'tiny'


class Protect(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(4, 64), 4096,
                                        harness.tokenizer_sha256(harness.DEMO))

    def quantise(self, name, *options, model=harness.DEMO, calib=None, code=OK):
        out = self.root / name
        done = harness.run(2, 'quantize', model, '--calib', calib or self.calib, '--output', out, '--preset', 'fast',
                           '--protect', *options)
        self.assertEqual(done.returncode, code, done.stderr)
        return out, done.stderr

    def bits(self, out):
        report = json.loads((out / 'mq_report.json').read_text(encoding='utf-8'))
        self.assertTrue(report['settings']['protect'])
        return {layer['name']: layer['bits'] for layer in report['layers']}

    def test_formats(self):
        last = json.loads((harness.DEMO / 'config.json').read_text(encoding='utf-8'))['num_hidden_layers'] - 1
        for form in ('gptq', 'compressed-tensors', 'gguf'):
            with self.subTest(form):
                out, _ = self.quantise(form, '--format', form, '--override', 'layers.1.*down=bits:4')
                for name, bits in self.bits(out).items():
                    sensitive = re.search(rf'\.(0|2|3|{last})\.mlp\.down_proj$', name)     # 1 is overridden
                    self.assertEqual(bits, 8 if sensitive else 4, name)
                source = () if form == 'gguf' else ('--source', harness.DEMO)
                done = harness.run(2, 'verify', out, *source)
                self.assertEqual(done.returncode, OK, done.stderr)

    def test_a_family_of_which_nothing_is_known(self):
        calib = harness.write_calib(self.root / 'tiny.h5', [[1, 2, 3]], 96)
        _, said = self.quantise('none', model=TINY / 'qwen3', calib=calib, code=USAGE)
        self.assertIn('configs/arch/qwen3.json', said)


if __name__ == '__main__':
    unittest.main()
