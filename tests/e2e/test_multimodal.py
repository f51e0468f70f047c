"""The language model of a model with a tower for images: with text, and with what it gets of images."""
import importlib.util
import json
import math
import pathlib
import re
import shutil
import struct
import sys
import unittest

import h5py
import harness
import numpy as np
import test_packed_sources as packed

sys.path.insert(0, str(harness.ROOT / 'tests' / 'unit'))

MODEL = harness.ROOT / 'tests' / 'data' / 'tiny' / 'qwen2_5_vl'
HIDDEN = 32
MIXTURES = ('glm4v_moe', 'qwen3_vl_moe')
with_transformers = unittest.skipUnless(importlib.util.find_spec('transformers'), 'needs torch and transformers')


def raw_tensors(folder):
    """Type, shape and bytes of every tensor of model.safetensors."""
    data = (folder / 'model.safetensors').read_bytes()
    n = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8:8 + n])
    return {name: (t['dtype'], t['shape'], data[8 + n + t['data_offsets'][0]:8 + n + t['data_offsets'][1]])
            for name, t in header.items() if name != '__metadata__'}


def add_rows(path, lengths, seed=1, tokens=True, positions=True):
    """Random rows, and three positions that differ, for a token file."""
    n = sum(lengths)
    rows = np.random.default_rng(seed).standard_normal((n, HIDDEN)).astype(np.float32)
    one = np.concatenate([np.arange(length) for length in lengths])
    with h5py.File(path, 'a') as f:
        f['inputs_embeds'] = (rows.view(np.uint32) >> 16).astype(np.uint16)
        if positions:
            f['position_ids'] = np.stack([one // k for k in (1, 2, 3)])
        if not tokens:
            del f['tokens']
    return path


class Multimodal(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.samples = [[(7 * i + 13 * j) % 90 for j in range(60 - i)] for i in range(8)]
        cls.lengths = [len(s) for s in cls.samples]
        cls.text = harness.write_calib(cls.root / 'text.h5', cls.samples, 96)
        cls.images = add_rows(harness.write_calib(cls.root / 'images.h5', cls.samples, 96), cls.lengths)
        cls.one = add_rows(harness.write_calib(cls.root / 'one.h5', cls.samples, 96), cls.lengths, positions=False)
        cls.rows = add_rows(harness.write_calib(cls.root / 'rows.h5', cls.samples, 96), cls.lengths, tokens=False)

    def mpiquant(self, ranks, *arguments, code=0):
        done = harness.run(ranks, *arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def quantise(self, calib, name, *options, ranks=1, model=MODEL, group_size=32):
        out = self.root / name
        self.mpiquant(ranks, 'quantize', model, '--calib', calib, '--output', out, '--bits', 4, '--group-size',
                      group_size, '--unit-tokens', 70, *options)
        return out

    def test_same_bytes(self):
        hashes = set()
        for calib in (self.text, self.images):
            for preset in ('fast', 'best'):
                one, three = (self.quantise(calib, f'{calib.stem}-{preset}-{ranks}', '--preset', preset, ranks=ranks)
                              for ranks in (1, 3))
                self.assertEqual(harness.files_hash(one), harness.files_hash(three))
                self.mpiquant(2, 'verify', one, '--source', MODEL)
                hashes.add(harness.files_hash(one))
        self.assertEqual(len(hashes), 4)
        # rows decide alone: tokens beside them are for eval
        bare = self.quantise(self.rows, 'bare', '--preset', 'best')
        for name, tensor in raw_tensors(self.root / 'images-best-1').items():
            self.assertEqual(tensor, raw_tensors(bare)[name])

    def check_rules(self, settings):
        """Readers are told not to look for packed modules in the tower, whatever they call it."""
        if settings is None:
            return
        rules = [re.sub('^(re|-):', '', rule) for rule in settings.get('ignore', settings.get('dynamic'))]
        for name, inside in (('visual.blocks.0.attn.qkv', True), ('model.visual.blocks.0.attn.qkv', True),
                             ('model.language_model.layers.0.mlp.up_proj', False)):
            self.assertEqual(any(re.match(rule, name) for rule in rules), inside, (rules, name))

    def test_tower_is_copied(self):
        source = raw_tensors(MODEL)
        towers = {name for name in source if name.startswith('visual.')}
        self.assertGreater(len(towers), 10)
        for form in ('gptq', 'compressed-tensors', 'dense'):
            out = self.quantise(self.text, f'tower-{form}', '--format', form)
            tensors = raw_tensors(out)
            self.assertEqual({name for name in tensors if name.startswith('visual.')}, towers)
            for name in towers:
                self.assertEqual(tensors[name], source[name])
            config = json.loads((out / 'config.json').read_text(encoding='utf-8'))
            self.check_rules(config.get('quantization_config'))
            self.assertEqual(config['vision_config'],
                             json.loads((MODEL / 'config.json').read_text(encoding='utf-8'))['vision_config'])

    def test_deepstack(self):
        model = MODEL.parent / 'qwen3_vl'
        plain = self.quantise(self.images, 'shallow', '--preset', 'best', model=model)
        path = pathlib.Path(shutil.copy(self.images, self.root / 'deep.h5'))
        with h5py.File(path, 'a') as f:
            f['deepstack_embeds_0'] = f['inputs_embeds'][()][::-1]
        one, three = (self.quantise(path, f'deep-{ranks}', '--preset', 'best', ranks=ranks, model=model)
                      for ranks in (1, 3))
        self.assertEqual(harness.files_hash(one), harness.files_hash(three))
        tensors = [raw_tensors(folder) for folder in (plain, one)]
        same = {name for name in tensors[0] if tensors[0][name] == tensors[1][name]}
        # what is added behind block 0 changes what is behind it only
        self.assertTrue(all(name in same for name in tensors[0] if '.layers.0.' in name))
        self.assertFalse(all(name in same for name in tensors[0] if '.layers.1.' in name))
        shown = json.loads(self.mpiquant(1, 'inspect', path, '--json'))
        self.assertEqual(shown['deepstack'], 1)
        message = self.mpiquant(2, 'quantize', MODEL, '--calib', path, '--group-size', 32, '--output',
                                self.root / 'no', code=3)
        self.assertIn('deepstack_embeds_0', message)

    def test_experts(self):
        """Rows and three positions are routed as tokens are; those of images to other experts."""
        for name, rows in ((MIXTURES[0], self.images), (MIXTURES[1], self.images), ('kimi_k25', self.one)):
            model, routes = MODEL.parent / name, []
            for calib in (self.text, rows):
                outs = [self.root / f'{name}-{calib.stem}-{ranks}' for ranks in (1, 3)]
                for ranks, out in zip((1, 3), outs):
                    self.mpiquant(ranks, 'quantize', model, '--calib', calib, '--output', out, '--bits', 4,
                                  '--group-size', 16, '--unit-tokens', 70)
                self.assertEqual(*map(harness.files_hash, outs))
                self.mpiquant(2, 'verify', outs[0], '--source', model)
                report = json.loads((outs[0] / 'mq_report.json').read_text(encoding='utf-8'))
                routes.append({layer['name']: layer['routed_tokens'] for layer in report['layers']
                               if '.experts.' in layer['name']})
            self.assertEqual(*(sum(tokens.values()) for tokens in routes))
            self.assertNotEqual(*routes)
            one, three = (self.mpiquant(ranks, 'eval', outs[0], '--tokens', rows, '--json')
                          for ranks in (1, 3))
            self.assertEqual(json.loads(one)['perplexity'], json.loads(three)['perplexity'])

    def test_stacks_either_way(self):
        """Published checkpoints have experts transposed, those that transformers 5 writes have not."""
        model = MODEL.parent / 'qwen3_vl_moe'
        tensors = raw_tensors(model)
        for name, (dtype, shape, data) in tensors.items():
            if '.experts.' in name:
                turned = np.frombuffer(data, np.uint16).reshape(shape).swapaxes(1, 2)
                tensors[name] = (dtype, list(turned.shape), turned.tobytes())
        turned = packed.write_folder(model, self.root / 'turned', {
            name: (dtype, np.frombuffer(data, np.uint8).view({'BF16': '<u2', 'F32': '<f4'}[dtype]).reshape(shape))
            for name, (dtype, shape, data) in tensors.items()}, None)
        for form in ('gptq', 'dense'):
            outs = [self.quantise(self.images, f'{form}-{source.name}-{ranks}', '--format', form, ranks=ranks,
                                  model=source, group_size=16)
                    for source, ranks in ((model, 1), (turned, 1), (turned, 3))]
            self.assertEqual(raw_tensors(outs[0]), raw_tensors(outs[1]))
            self.assertEqual(harness.files_hash(outs[1]), harness.files_hash(outs[2]))
            self.mpiquant(2, 'verify', outs[1], '--source', turned)
        kept = self.quantise(self.text, 'turned-kept', '--format', 'dense', '--skip', 'experts', model=turned)
        name = 'model.language_model.layers.1.mlp.experts.gate_up_proj'
        self.assertEqual(raw_tensors(kept)[name], raw_tensors(turned)[name])

    def test_experts_of_images(self):
        """Of ERNIE 4.5-VL: no text goes to them, so they are copied, and rows of images are refused."""
        model = MODEL.parent / 'ernie4_5_vl_moe'
        source = raw_tensors(model)
        images = {name for name in source if re.search(r'experts\.[4-7]\.|weight_1$|vision_model|resampler', name)}
        self.assertEqual(len(images), 4 * 3 + 1 + 30)
        for form in ('gptq', 'compressed-tensors', 'dense'):
            out = self.quantise(self.text, f'kinds-{form}', '--format', form, model=model)
            tensors = raw_tensors(out)
            self.assertEqual({name for name in images if tensors.get(name) == source[name]}, images)
            config = json.loads((out / 'config.json').read_text(encoding='utf-8'))
            report = json.loads((out / 'mq_report.json').read_text(encoding='utf-8'))
            self.assertTrue(any('4 experts of a block are for images' in text for text in report['warnings']))
            settings = config.get('quantization_config')
            if settings:
                rules = [re.sub('^(re|-):', '', rule) for rule in settings.get('ignore', settings.get('dynamic'))]
                for expert, left_out in ((3, False), (4, True), (7, True)):
                    name = f'model.layers.1.mlp.experts.{expert}.up_proj'
                    self.assertEqual(any(re.match(rule, name) for rule in rules), left_out, (rules, name))
        for command in (('quantize', model, '--calib'), ('eval', model, '--tokens')):
            more = ('--output', self.root / 'no', '--group-size', 32) if command[0] == 'quantize' else ()
            message = self.mpiquant(2, *command, self.one, *more, code=3)
            self.assertIn('go to experts of images', message)

    def test_unknown_tensor(self):
        model = harness.copy_model(MODEL, self.root / 'unknown')
        data = (model / 'model.safetensors').read_bytes().replace(b'"visual.merger.ln_q', b'"visuax.merger.ln_q')
        (model / 'model.safetensors').write_bytes(data)
        message = self.mpiquant(1, 'quantize', model, '--calib', self.text, '--output', self.root / 'no', code=3)
        self.assertIn('visuax.merger.ln_q', message)

    def test_inspect(self):
        shown = json.loads(self.mpiquant(1, 'inspect', self.images, '--json'))
        self.assertEqual((shown['hidden'], shown['positions'], shown['has_tokens']), (HIDDEN, 3, True))
        self.assertIn('no tokens, so not for eval', self.mpiquant(1, 'inspect', self.rows))
        self.assertNotIn('hidden', json.loads(self.mpiquant(1, 'inspect', self.text, '--json')))

    def test_eval(self):
        text, images = (json.loads(self.mpiquant(1, 'eval', MODEL, '--tokens', f, '--json'))
                        for f in (self.text, self.images))
        self.assertEqual(text['tokens'], images['tokens'])
        self.assertNotEqual(text['perplexity'], images['perplexity'])
        self.assertIn('no tokens', self.mpiquant(1, 'eval', MODEL, '--tokens', self.rows, code=3))
        with h5py.File(shutil.copy(self.images, self.root / 'fewer.h5'), 'a') as f:
            f['tokens'][10:20] = -1         # rows of an image: nothing to predict
        fewer = json.loads(self.mpiquant(2, 'eval', MODEL, '--tokens', self.root / 'fewer.h5', '--json'))
        self.assertEqual(fewer['tokens'], text['tokens'] - 10)

    def test_refusals(self):
        def refused(change, text, model=MODEL):
            path = pathlib.Path(shutil.copy(self.images, self.root / 'bad.h5'))
            with h5py.File(path, 'a') as f:
                change(f)
            message = self.mpiquant(2, 'quantize', model, '--calib', path, '--group-size', 32, '--output',
                                    self.root / 'no', code=3)
            self.assertIn('bad.h5', message)
            self.assertIn(text, message)

        def put(name, values):
            def change(f):
                del f[name]
                f[name] = values
            return change

        def set_value(name, at, value):
            def change(f):
                f[name][at] = value
            return change

        n = sum(self.lengths)
        refused(set_value('inputs_embeds', (60, 3), 0x7fc0), 'sample 1, position 0, column 3')
        refused(set_value('position_ids', (1, 61), -4), 'sample 1, token 1: position -4')
        refused(put('inputs_embeds', np.zeros((n, HIDDEN + 1), np.uint16)), "the model's hidden size is 32")
        refused(put('position_ids', np.zeros((n, 3), np.int64)), '(3, tokens) or (tokens)')
        # rope of this one has one position
        refused(lambda f: None, 'turns hunyuan_vl models by one', model=MODEL.parent / 'hunyuan_vl')

    def test_flat_config(self):
        """The published form of config.json, with the language model's settings at its top level."""
        model = harness.copy_model(MODEL, self.root / 'flat')
        shutil.move(model / 'config.v4.json', model / 'config.json')
        flat = raw_tensors(self.quantise(self.images, 'from-flat', model=model))
        self.assertEqual(flat, raw_tensors(self.quantise(self.images, 'from-nested')))

    def test_another_name(self):
        """transformers computes the same of a GLM-4.1V that is called glm46v."""
        model = harness.copy_model(MODEL.parent / 'glm4v', self.root / 'glm46v')
        config = json.loads((model / 'config.json').read_text(encoding='utf-8'))
        (model / 'config.json').write_text(json.dumps({**config, 'model_type': 'glm46v'}), encoding='utf-8')
        outs = [self.quantise(self.text, f'{source.name}-out', model=source)
                for source in (MODEL.parent / 'glm4v', model)]
        self.assertEqual(*map(raw_tensors, outs))

    # ---- against transformers

    def perplexity(self, folder, path):
        """What transformers computes of a token file with rows."""
        import torch
        import transformers
        model = transformers.AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32,
                                                                      attn_implementation='eager').eval()
        total, count = 0.0, 0
        with h5py.File(path) as f:
            for begin, end in zip(f['offsets'][:-1], f['offsets'][1:]):
                ids = torch.tensor(f['tokens'][begin:end]).long()
                inputs = {'input_ids': ids[None]}
                if 'inputs_embeds' in f:
                    bits = f['inputs_embeds'][begin:end].view(np.int16)
                    inputs = {'inputs_embeds': torch.tensor(bits).view(torch.bfloat16)[None].float(),
                              'position_ids': torch.tensor(f['position_ids'][:, begin:end]).long()[:, None]}
                call = model
                if 'deepstack_embeds_0' in f:       # the whole model takes images in their place
                    rows = torch.tensor(f['deepstack_embeds_0'][begin:end].view(np.int16)).view(torch.bfloat16).float()
                    mask = rows.any(dim=-1)
                    inputs |= {'visual_pos_masks': mask[None], 'deepstack_visual_embeds': [rows[mask]]}
                    call = model.model.language_model
                with torch.no_grad():
                    made = call(**inputs, use_cache=False)
                    logits = made.logits if call is model else model.lm_head(made.last_hidden_state)
                    scores = torch.log_softmax(logits[0].double(), -1)
                kept = ids[1:] >= 0
                total -= scores[:-1][kept].gather(1, ids[1:][kept][:, None]).sum().item()
                count += int(kept.sum())
        return math.exp(total / count), count

    def check_transformers(self, folder, path, within=1e-6):
        mine = json.loads(self.mpiquant(2, 'eval', folder, '--tokens', path, '--precision', 'f32', '--json'))
        theirs, count = self.perplexity(folder, path)
        self.assertEqual(mine['tokens'], count)
        self.assertLess(abs(mine['perplexity'] / theirs - 1), within)

    @with_transformers
    def test_transformers_reads_it(self):
        out = self.quantise(self.images, 'dense', '--format', 'dense')
        for path in (self.text, self.images):
            self.check_transformers(MODEL, path)
            self.check_transformers(out, path)

    @with_transformers
    def test_transformers_reads_experts(self):
        for name in (*MIXTURES, 'ernie4_5_vl_moe'):
            out = self.quantise(self.text, f'{name}-dense', '--format', 'dense', '--preset', 'fast',
                                model=MODEL.parent / name, group_size=16)
            for path in (self.text, self.images) if name in MIXTURES else (self.text,):
                self.check_transformers(MODEL.parent / name, path)
                self.check_transformers(out, path)

    @with_transformers
    def test_transformers_reads_packed(self):
        if not importlib.util.find_spec('compressed_tensors'):
            self.skipTest('needs compressed-tensors')
        # it rounds experts to BF16 as it stacks them
        for name, within in ((MODEL.name, 1e-6), ('glm4v_moe', 1e-5)):
            out = self.quantise(self.images, f'{name}-packed', '--format', 'compressed-tensors',
                                model=MODEL.parent / name)
            self.check_transformers(out, self.images, within)

    def check_companion(self, name):
        """Images through the tower and the tool, and on through the program."""
        import test_calib_multimodal as unit
        folder = self.root / f'companion-{name}'
        folder.mkdir()
        path = folder / 'calib.h5'
        self.assertEqual(unit.make_file(unit.load_tool(), folder, path, name=name)[0], 0)
        self.check_transformers(folder / 'model', path)
        one, three = (self.quantise(path, f'{name}-{ranks}', '--unit-tokens', 30, ranks=ranks,
                                    model=folder / 'model', group_size=16) for ranks in (1, 3))
        self.assertEqual(harness.files_hash(one), harness.files_hash(three))

    @with_transformers
    def test_companion(self):
        self.check_companion('qwen2_5_vl')

    @with_transformers
    def test_companion_deepstack(self):
        self.check_companion('qwen3_vl')

    @with_transformers
    def test_companion_experts(self):
        for name in MIXTURES:
            self.check_companion(name)


if __name__ == '__main__':
    unittest.main()
