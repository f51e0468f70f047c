"""Bad input: the right exit code, a message that names the culprit, and nothing under a final name,
at one and at three ranks."""
import json
import os
import shutil
import unittest

import harness
import numpy as np

OK, USAGE, BAD_INPUT, IO, NUMERIC = 0, 2, 3, 4, 5


class BadInput(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.sha = harness.tokenizer_sha256(harness.DEMO)
        cls.samples = harness.demo_samples(4, 64)
        cls.calib = harness.write_calib(cls.root / 'calib.h5', cls.samples, 4096, cls.sha)
        cls.count = 0

    def refuse(self, code, words, *, model=harness.DEMO, calib=None, output=None, options=(), ranks=(1, 3)):
        for n in ranks:
            BadInput.count += 1
            out = output or self.root / f'out{BadInput.count}'
            done = harness.run(n, 'quantize', model, '--calib', calib or self.calib, '--output', out,
                               *options)
            self.assertEqual(done.returncode, code, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
            # Nothing that a reader would take for a checkpoint.
            if output is None and out.exists():
                names = {p.name for p in out.iterdir()}
                self.assertFalse({n for n in names if n.endswith('.safetensors') or n.endswith('index.json')}, names)

    def damaged(self, name):
        return harness.copy_model(harness.DEMO, self.root / name)

    # ---- the model ----

    def test_no_folder(self):
        self.refuse(IO, ['nowhere'], model=self.root / 'nowhere')

    def test_unknown_model_type(self):
        model = self.damaged('type')
        config = json.loads((model / 'config.json').read_text())
        config['model_type'] = 'mystery'
        (model / 'config.json').write_text(json.dumps(config))
        self.refuse(BAD_INPUT, ['mystery', 'llama'], model=model)

    def test_config_is_not_json(self):
        model = self.damaged('json')
        (model / 'config.json').write_text('{"model_type": ')
        self.refuse(BAD_INPUT, ['config.json', 'line 1'], model=model)

    def test_truncated_header(self):
        model = self.damaged('short')
        data = (model / 'model.safetensors').read_bytes()
        (model / 'model.safetensors').write_bytes(data[:100])
        self.refuse(BAD_INPUT, ['model.safetensors'], model=model)

    def test_truncated_data(self):
        model = self.damaged('cut')
        data = (model / 'model.safetensors').read_bytes()
        (model / 'model.safetensors').write_bytes(data[:-10])
        self.refuse(BAD_INPUT, ['model.safetensors'], model=model)

    def test_missing_shard(self):
        model = self.damaged('shard')
        header, data, start = harness.bf16_raw(model / 'model.safetensors')
        names = [n for n in header if n != '__metadata__']
        (model / 'model.safetensors').rename(model / 'model-00001-of-00002.safetensors')
        weight_map = {n: f'model-0000{1 + (i % 2)}-of-00002.safetensors' for i, n in enumerate(names)}
        (model / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
        self.refuse(BAD_INPUT, ['model-00002-of-00002.safetensors'], model=model)

    def rewrite_header(self, model, change):
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, 'little') + text + bytes(data[start:]))

    def test_tensor_missing(self):
        model = self.damaged('missing')
        name = 'model.layers.1.mlp.up_proj.weight'

        def change(header):
            header['another.name'] = header.pop(name)
        self.rewrite_header(model, change)
        self.refuse(BAD_INPUT, [name], model=model)

    def test_wrong_shape(self):
        model = self.damaged('shape')
        name = 'model.layers.0.self_attn.k_proj.weight'

        def change(header):
            header[name]['shape'] = header[name]['shape'][::-1]
        self.rewrite_header(model, change)
        self.refuse(BAD_INPUT, [name], model=model)

    def test_nan_in_a_weight(self):
        model = self.damaged('nan')
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        name = 'model.layers.1.mlp.down_proj.weight'
        at = start + header[name]['data_offsets'][0] + 2 * 5
        data[at:at + 2] = b'\xc0\x7f'
        path.write_bytes(data)
        self.refuse(NUMERIC, [name], model=model)

    def scaled(self, name, tensor, factor):
        """A copy of the model in which one tensor is multiplied."""
        return self.scale(self.damaged(name), tensor, factor)

    def scale(self, model, tensor, factor):
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        begin, end = (start + offset for offset in header[tensor]['data_offsets'])
        values = (np.frombuffer(data[begin:end], '<u2').astype('<u4') << 16).view('<f4') * np.float32(factor)
        data[begin:end] = (values.view('<u4') >> 16).astype('<u2').tobytes()
        path.write_bytes(data)
        return model

    def test_activations_too_large_for_the_hessian(self):
        model = self.scaled('large', 'model.layers.1.post_attention_layernorm.weight', 1e30)
        self.refuse(NUMERIC, ['block 1', 'mlp_in', 'column'], model=model)

    def test_activations_that_overflow(self):
        # Block 0 is only passed through; its outputs overflow where block 1 reads them.
        model = self.scaled('overflow', 'model.layers.0.mlp.up_proj.weight', 1e38)
        model = self.scale(model, 'model.layers.0.mlp.down_proj.weight', 1e38)
        self.refuse(NUMERIC, ['block 1', 'attn_in'], model=model, options=('--layers', '1:2'))

    def test_weights_too_large_for_scales(self):
        """F16 scales end at 65504: the result is useless, and says so."""
        model = self.scaled('huge', 'model.layers.0.mlp.up_proj.weight', 1e30)
        done = harness.run(2, 'quantize', model, '--calib', self.calib, '--output', self.root / 'huge-out',
                           '--layers', '0:1')
        self.assertRegex(done.stderr, r'warning: model\.layers\.0\.mlp\.up_proj: .*F16')

    # ---- config.json against the weights, and what it cannot mean ----

    def configured(self, name, model=harness.DEMO, **keys):
        """A copy of the model with keys of config.json set."""
        target = harness.copy_model(model, self.root / name)
        config = json.loads((target / 'config.json').read_text(encoding='utf-8'))
        (target / 'config.json').write_text(json.dumps({**config, **keys}), encoding='utf-8')
        return target

    def test_config_contradicts_the_weights(self):
        layers = json.loads((harness.DEMO / 'config.json').read_text(encoding='utf-8'))['num_hidden_layers']
        for key, value, words in (
                ('vocab_size', 4097, ['embed_tokens', '[4097, ', '[4096, ']),
                ('intermediate_size', 640, ['mlp.', '640']),
                ('num_key_value_heads', 1, ['k_proj']),
                ('head_dim', 16, ['q_proj']),
                ('num_hidden_layers', layers + 1, [f'model.layers.{layers}.', 'missing']),
                ('num_hidden_layers', layers - 1, [f'model.layers.{layers - 1}.', 'is none that'])):
            with self.subTest(key, value=value):
                self.refuse(BAD_INPUT, words, model=self.configured(f'{key}-{value}', **{key: value}), ranks=(2,))

    def test_a_bias_that_config_denies(self):
        model = self.damaged('bias')
        harness.add_tensor(model, 'model.layers.0.self_attn.q_proj.bias', 'model.norm.weight', lambda x: x)
        self.refuse(BAD_INPUT, ['q_proj.bias', 'is none that'], model=model, ranks=(2,))

    def test_unknown_rope_type(self):
        model = self.configured('rope', rope_parameters={'rope_type': 'spiral', 'rope_theta': 1e4})
        self.refuse(BAD_INPUT, ['"spiral"', 'yarn', 'config.json'], model=model, ranks=(2,))

    def warnings(self, model, calib, *options):
        """What a run warns of, which its report repeats."""
        BadInput.count += 1
        out = self.root / f'warned{BadInput.count}'
        done = harness.run(2, 'quantize', model, '--calib', calib, '--output', out, '--preset', 'fast', *options)
        self.assertEqual(done.returncode, OK, done.stderr)
        warnings = json.loads((out / 'mq_report.json').read_text(encoding='utf-8'))['warnings']
        for text in warnings:
            self.assertIn(text, done.stderr)
        return warnings

    def test_samples_longer_than_the_model_was_made_for(self):
        model = self.configured('positions', max_position_embeddings=63)
        found = [w for w in self.warnings(model, self.calib, '--layers', '0:1') if 'max_position_embeddings' in w]
        self.assertEqual(len(found), 1)
        for text in ('64 tokens', '63 positions', '(default)', '--length'):
            self.assertIn(text, found[0])
        model = self.configured('dynamic', max_position_embeddings=63,
                                rope_parameters={'rope_type': 'dynamic', 'factor': 2.0, 'rope_theta': 1e4})
        self.refuse(BAD_INPUT, ['dynamic', '63', '64'], model=model, ranks=(2,))

    def test_a_head_beside_a_tied_embedding(self):
        tiny = harness.ROOT / 'tests' / 'data' / 'tiny' / 'llama3'       # tied
        calib = harness.write_calib(self.root / 'tiny.h5', [[(7 * i + 3 * j) % 96 for j in range(40)] for i in range(8)], 96)
        options = ('--group-size', 32)
        embed, head = 'model.embed_tokens.weight', 'lm_head.weight'
        same, other = (harness.copy_model(tiny, self.root / name) for name in ('tied-same', 'tied-other'))
        harness.add_tensor(same, head, embed, lambda x: x)
        harness.add_tensor(other, head, embed, lambda x: np.concatenate([x[:-1], -x[-1:]]))
        self.assertEqual([w for w in self.warnings(same, calib, *options) if 'tie_word_embeddings' in w], [])
        found = [w for w in self.warnings(other, calib, *options) if 'tie_word_embeddings' in w]
        self.assertEqual(len(found), 1)
        self.assertIn(head, found[0])
        done = harness.run(2, 'eval', other, '--tokens', calib)
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertIn('tie_word_embeddings', done.stderr)
        harness.edit(other, head, lambda x: np.full_like(x, np.nan))
        self.refuse(NUMERIC, [head], model=other, calib=calib, options=options, ranks=(2,))

    # ---- the token file ----

    def test_token_outside_the_vocabulary(self):
        calib = harness.write_calib(self.root / 'token.h5', [[1, 2, 3], [4, 4096, 5]], 4096, self.sha)
        self.refuse(BAD_INPUT, ['4096', 'token.h5'], calib=calib)

    def test_empty_calibration(self):
        calib = harness.write_calib(self.root / 'empty.h5', [], 4096, self.sha)
        self.refuse(BAD_INPUT, ['empty.h5'], calib=calib)

    def test_another_tokenizer(self):
        calib = harness.write_calib(self.root / 'other.h5', self.samples, 4096, '0' * 64)
        self.refuse(BAD_INPUT, ['tokenizer'], calib=calib)

    def test_not_hdf5(self):
        path = self.root / 'text.h5'
        path.write_text('not HDF5')
        self.refuse(BAD_INPUT, ['text.h5'], calib=path)

    def test_no_calibration_file(self):
        self.refuse(IO, ['gone.h5'], calib=self.root / 'gone.h5')

    def test_unknown_tokenizer_is_a_warning(self):
        calib = harness.write_calib(self.root / 'unknown.h5', self.samples, 4096, '')
        done = harness.run(1, 'quantize', harness.DEMO, '--calib', calib, '--output', self.root / 'unknown',
                           '--layers', '0:1')
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertIn('warning', done.stderr)

    # ---- settings ----

    def test_group_size(self):
        self.refuse(USAGE, ['100', '128', '64'], options=('--group-size', 100))

    def test_bits(self):
        self.refuse(USAGE, ['5'], options=('--bits', 5))

    def test_unknown_option_names_the_nearest(self):
        self.refuse(USAGE, ['--bist', '--bits'], options=('--bist', 4))

    def test_effort_out_of_range(self):
        for option, value in (('--alpha', -0.5), ('--alpha', 'nan'), ('--refine', -1), ('--couple-rows', 2),
                              ('--shrinkage', 1), ('--shrinkage', -0.1)):
            with self.subTest(option, value=value):
                self.refuse(USAGE, [option], options=(option, value))

    def test_nothing_held_out_to_measure_alpha_on(self):
        self.refuse(USAGE, ['--alpha auto', '--damp auto'], options=('--alpha', 'auto', '--damp', 0.05))

    def test_bad_pattern(self):
        self.refuse(USAGE, ['q_proj('], options=('--skip', 'q_proj('))
        self.refuse(USAGE, ['nothing_like_this'], options=('--skip', 'nothing_like_this'))

    def test_layers_outside(self):
        self.refuse(USAGE, ['--layers'], options=('--layers', '3:99'))

    # ---- the output ----

    def test_output_is_someone_elses(self):
        out = self.root / 'theirs'
        out.mkdir()
        (out / 'precious.txt').write_text('keep me')
        self.refuse(USAGE, ['theirs'], output=out)
        self.assertEqual([p.name for p in out.iterdir()], ['precious.txt'])

    def test_an_empty_run_file_is_no_claim(self):
        """It says that somebody looked, not that the folder is ours."""
        out = self.root / 'looked-at'
        out.mkdir()
        for name in ('model.safetensors', 'model-00001-of-00002.safetensors', '.mpiquant-run.json'):
            (out / name).write_text('' if name.startswith('.') else 'keep me')
        self.refuse(USAGE, ['looked-at'], output=out)
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         ['model-00001-of-00002.safetensors', 'model.safetensors'])

    def test_output_below_a_file(self):
        path = self.root / 'file'
        path.write_text('')
        self.refuse(IO, ['file'], output=path / 'out')

    @unittest.skipIf(os.geteuid() == 0, 'root may write anywhere')
    def test_unwritable_output(self):
        path = self.root / 'locked'
        path.mkdir(mode=0o500)
        self.refuse(IO, ['locked'], output=path / 'out')

    def test_finished_output(self):
        out = self.root / 'finished'
        options = ('--layers', '0:1')
        first = harness.run(2, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, *options)
        self.assertEqual(first.returncode, OK, first.stderr)
        before = harness.files_hash(out)
        again = harness.run(1, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, *options)
        self.assertEqual(again.returncode, OK, again.stderr)
        self.assertIn('finished', again.stderr)
        self.refuse(USAGE, ['bits', 'finished'], output=out, options=(*options, '--bits', 3))
        self.assertEqual(harness.files_hash(out), before)

    def test_finished_output_of_other_weights(self):
        """The same shapes, another model: not the run that is there."""
        out, model = self.root / 'weights', self.damaged('weights-model')
        options = ('--layers', '0:1')
        first = harness.run(1, 'quantize', model, '--calib', self.calib, '--output', out, *options)
        self.assertEqual(first.returncode, OK, first.stderr)
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        begin, end = header['model.layers.3.mlp.up_proj.weight']['data_offsets']
        data[start + begin:start + end] = bytes(b ^ 1 for b in data[start + begin:start + end])
        path.write_bytes(data)
        self.refuse(USAGE, ['model_tensors'], model=model, output=out, options=options)

    def test_finished_output_of_a_longer_list(self):
        """Settings are compared to their end."""
        out = self.root / 'long'
        skips = [s for i in range(30) for s in ('--skip', f'layers.[1-7].mlp.(up|down|gate)_proj|nothing{i}')]
        first = harness.run(1, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, '--layers', '0:1', *skips)
        self.assertEqual(first.returncode, OK, first.stderr)
        self.refuse(USAGE, ['skip'], output=out, options=('--layers', '0:1', *skips, '--skip', 'layers.7'))

    def test_samples_of_one_token_cannot_be_evaluated(self):
        calib = harness.write_calib(self.root / 'single.h5', [[1], [2]], 4096, self.sha)
        done = harness.run(2, 'eval', harness.DEMO, '--tokens', calib)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertIn('nothing to predict', done.stderr)

    def test_nan_in_a_copied_tensor(self):
        model = self.damaged('nan-copy')
        path = model / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        at = start + header['model.layers.7.mlp.down_proj.weight']['data_offsets'][0] + 2 * 700
        data[at:at + 2] = b'\x80\x7f'
        path.write_bytes(data)
        self.refuse(NUMERIC, ['model.layers.7.mlp.down_proj.weight'], model=model, options=('--layers', '0:1'))

    def test_unfinished_output_is_started_afresh(self):
        out = self.root / 'unfinished'
        out.mkdir()
        (out / '.mpiquant-run.json').write_text('{}')
        (out / 'model.safetensors.part').write_text('left by a killed run')
        (out / 'chat_template.jinja').write_text('of another model')
        done = harness.run(2, 'quantize', harness.DEMO, '--calib', self.calib, '--output', out, '--layers', '0:1')
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertEqual([p.name for p in out.iterdir() if '.part' in p.name or p.name.startswith('.')], [])
        self.assertFalse((out / 'chat_template.jinja').exists())


class Verify(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(6, 64), 4096,
                                    harness.tokenizer_sha256(harness.DEMO))
        cls.good = cls.root / 'good'
        done = harness.run(2, 'quantize', harness.DEMO, '--calib', calib, '--output', cls.good)
        assert done.returncode == OK, done.stderr

    def verify(self, folder, *options, ranks=2):
        return harness.run(ranks, 'verify', folder, *options)

    def test_good(self):
        for ranks in (1, 2, 4):
            done = self.verify(self.good, '--source', harness.DEMO, ranks=ranks)
            self.assertEqual(done.returncode, OK, done.stderr)

    def test_one_flipped_bit(self):
        bad = harness.copy_model(self.good, self.root / 'flipped')
        path = bad / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        begin, end = header['model.layers.2.mlp.up_proj.qweight']['data_offsets']
        data[start + (begin + end) // 2] ^= 4
        path.write_bytes(data)
        done = self.verify(bad)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertIn('model.layers.2.mlp.up_proj.qweight', done.stderr)

    def test_another_source(self):
        other = harness.copy_model(harness.DEMO, self.root / 'other')
        path = other / 'model.safetensors'
        header, data, start = harness.bf16_raw(path)
        begin, end = header['model.layers.0.mlp.up_proj.weight']['data_offsets']
        data[start + begin:start + begin + 2000:2] = bytes(1000)
        data[start + begin + 1:start + begin + 2001:2] = b'\x40' * 1000
        path.write_bytes(data)
        done = self.verify(self.good, '--source', other)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertIn('up_proj', done.stderr)

    def test_zero_points(self):
        """A report that denies them, and a config that has the reader add one to each."""
        good, option = self.root / 'zeros', ('--layers', '0:1', '--zero-points')
        done = harness.run(2, 'quantize', harness.DEMO, '--calib', self.root / 'calib.h5', '--output', good, *option)
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertEqual(self.verify(good, '--source', harness.DEMO, '--threads', 2).returncode, OK)
        for name, find, replace in (('mq_report.json', '"zero_points": true', '"zero_points": false'),
                                    ('config.json', '"gptq_v2"', '"gptq"')):
            bad = harness.copy_model(good, self.root / f'zeros-{name}')
            text = (bad / name).read_text(encoding='utf-8')
            self.assertIn(find, text)
            (bad / name).write_text(text.replace(find, replace), encoding='utf-8')
            done = self.verify(bad, '--source', harness.DEMO)
            self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
            self.assertIn('_proj', done.stderr)

    def test_truncated(self):
        bad = harness.copy_model(self.good, self.root / 'truncated')
        data = (bad / 'model.safetensors').read_bytes()
        (bad / 'model.safetensors').write_bytes(data[:-1])
        self.assertEqual(self.verify(bad).returncode, BAD_INPUT)

    def test_unfinished(self):
        bad = harness.copy_model(self.good, self.root / 'unfinished')
        (bad / '.mpiquant-run.json').write_text('{}')
        self.assertEqual(self.verify(bad).returncode, BAD_INPUT)

    def named(self, name):
        """A safetensors file with a tensor of that name."""
        text = json.dumps({name: {'dtype': 'U8', 'shape': [1], 'data_offsets': [0, 1]}}).encode()
        path = self.root / 'named.safetensors'
        path.write_bytes(len(text).to_bytes(8, 'little') + text + b'x')
        return path

    def test_inspect(self):
        done = harness.run(1, 'inspect', self.good, '--json')
        self.assertEqual(done.returncode, OK, done.stderr)
        names = {t['name'] for t in json.loads(done.stdout)['tensors']}
        self.assertIn('model.layers.0.self_attn.q_proj.qweight', names)
        done = harness.run(1, 'inspect', self.named('\x1b[31m\u009bx'))
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertTrue(done.stdout.startswith('?[31m??x '), done.stdout)
        broken = self.root / 'broken.safetensors'
        shutil.copy(self.good / 'model.safetensors', broken)
        with open(broken, 'ab') as f:
            f.write(b'x')
        self.assertEqual(harness.run(1, 'inspect', broken).returncode, BAD_INPUT)


class Experts(harness.InScratch):
    """Faults in models with experts, found before any work."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tiny = harness.ROOT / 'tests' / 'data' / 'tiny'
        samples = [[(7 * i + 13 * j) % 90 for j in range(60)] for i in range(4)]
        cls.calib = harness.write_calib(cls.root / 'calib.h5', samples, 96)

    def refused(self, model, text, ranks=2):
        out = self.root / f'out-{model.name}'
        done = harness.run(ranks, 'quantize', model, '--calib', self.calib, '--output', out, '--group-size', 32)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertIn(text, done.stderr)
        self.assertFalse(out.exists())

    def rename(self, model, old, new):
        """Of the same length, so that no offset moves."""
        path = model / 'model.safetensors'
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))

    def test_missing(self):
        for name, tensor in (('qwen3_moe', 'model.layers.1.mlp.experts.3.up_proj.weight'),
                             ('gpt_oss', 'model.layers.0.mlp.experts.down_proj_bias'),
                             ('granitemoe', 'model.layers.1.block_sparse_moe.output_linear.weight')):
            model = harness.copy_model(self.tiny / name, self.root / f'missing-{name}')
            self.rename(model, tensor, tensor.replace('layers', 'lairs0'))
            self.refused(model, f'the tensor {tensor} is missing')

    def test_count(self):
        for name, count, tensor in (('mixtral', 5, 'block_sparse_moe.gate.weight'),
                                    ('granitemoe', 3, 'router.layer.weight')):
            model = harness.copy_model(self.tiny / name, self.root / f'count-{name}')
            text = (model / 'config.json').read_text(encoding='utf-8')
            text = text.replace('"num_local_experts": 4', f'"num_local_experts": {count}')
            (model / 'config.json').write_text(text, encoding='utf-8')
            self.refused(model, tensor)

    def test_scale(self):
        """NaN in a scale of the last expert of a source that is packed in 4 bits."""
        model = self.root / 'packed'
        done = harness.run(2, 'quantize', self.tiny / 'qwen3_moe', '--calib', self.calib, '--output', model,
                           '--group-size', 32, '--format', 'compressed-tensors', '--preset', 'fast')
        self.assertEqual(done.returncode, OK, done.stderr)
        header, data, start = harness.bf16_raw(model / 'model.safetensors')
        module = 'model.layers.1.mlp.experts.5.down_proj'
        end = header[module + '.weight_scale']['data_offsets'][1]
        data[start + end - 2:start + end] = b'\xc0\x7f'
        (model / 'model.safetensors').write_bytes(data)
        self.refused(model, module)



if __name__ == '__main__':
    unittest.main()
