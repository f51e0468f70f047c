"""A family from JSON alone, as docs/adding-a-model.md says: a model of another type, with other names for all its
tensors and all its keys, needs a descriptor and nothing else. It is the tiny Qwen3 in disguise, so what comes out must
be what comes out of that."""
import json
import shutil
import unittest

import harness

OK, BAD_INPUT = 0, 3
TINY = harness.ROOT / 'tests' / 'data' / 'tiny' / 'qwen3'

KEYS = {'num_hidden_layers': 'n_layer', 'hidden_size': 'n_embd', 'intermediate_size': 'ffn_width',
        'vocab_size': 'n_vocab', 'num_attention_heads': 'n_head', 'num_key_value_heads': 'n_head_kv',
        'head_dim': 'head_width', 'max_position_embeddings': 'n_ctx', 'rms_norm_eps': 'norm_epsilon',
        'hidden_act': 'act', 'rope_parameters': 'rotary', 'tie_word_embeddings': 'tied_head',
        'attention_bias': 'attn_bias'}
# In the order in which they are replaced.
NAMES = (('model.embed_tokens', 'decoder.wte'), ('model.norm', 'decoder.ln_f'), ('lm_head', 'decoder.unembed'),
         ('model.layers', 'decoder.h'), ('input_layernorm', 'ln_1'), ('post_attention_layernorm', 'ln_2'),
         ('self_attn.q_norm', 'attn.norm_q'), ('self_attn.k_norm', 'attn.norm_k'), ('self_attn.q_proj', 'attn.wq'),
         ('self_attn.k_proj', 'attn.wk'), ('self_attn.v_proj', 'attn.wv'), ('self_attn.o_proj', 'attn.wo'),
         ('mlp.gate_proj', 'ffn.w1'), ('mlp.up_proj', 'ffn.w3'), ('mlp.down_proj', 'ffn.w2'))
UNUSED = ('sliding_window', 'use_sliding_window', 'max_window_layers', 'layer_types')


def renamed(text):
    for old, new in NAMES:
        text = text.replace(old, new)
    return text


def disguised():
    """The model, under other names: config.json and the header of its weights."""
    config = json.loads((TINY / 'config.json').read_text(encoding='utf-8'))
    config = {KEYS.get(k, k): v for k, v in config.items() if k not in UNUSED}
    config['model_type'] = 'disguise'
    header, data, start = harness.bf16_raw(TINY / 'model.safetensors')
    text = renamed(json.dumps(header)).encode()
    return config, len(text).to_bytes(8, 'little') + text + bytes(data[start:])


def descriptor():
    """Qwen3's, with the new names, keys and type: what one would write."""
    old = json.loads((harness.ROOT / 'configs' / 'arch' / 'qwen3.json').read_text(encoding='utf-8'))
    sections = {k: old[k] for k in ('config', 'bias', 'rope', 'tensors')}
    text = renamed(json.dumps(sections))
    for key, name in KEYS.items():
        text = text.replace(f'"key": "{key}"', f'"key": "{name}"')
    return {'family': 'disguise', 'model_types': ['disguise'], **json.loads(text)}


class NewFamily(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.data = cls.root / 'model', cls.root / 'configs'
        cls.model.mkdir()
        config, weights = disguised()
        (cls.model / 'config.json').write_text(json.dumps(config), encoding='utf-8')
        (cls.model / 'model.safetensors').write_bytes(weights)
        shutil.copytree(harness.ROOT / 'configs', cls.data)
        samples = [[(7 * i + 13 * j) % 90 for j in range(60 - i)] for i in range(8)]
        cls.calib = harness.write_calib(cls.root / 'tiny.h5', samples, 96)

    def setUp(self):
        (self.data / 'arch' / 'disguise.json').unlink(missing_ok=True)

    def write(self, content):
        (self.data / 'arch' / 'disguise.json').write_text(json.dumps(content), encoding='utf-8')

    def mpiquant(self, code, *arguments, ranks=1):
        done = harness.run(ranks, *arguments, env={'MPIQUANT_DATA': str(self.data)})
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout

    def inspect(self, code):
        return json.loads(self.mpiquant(code, 'inspect', '--arch', '--json', self.model))

    def evaluate(self, folder):
        result = json.loads(self.mpiquant(OK, 'eval', folder, '--tokens', self.calib, '--json'))
        del result['seconds']
        return result

    def test_step_by_step(self):
        # No descriptor: nothing is known by its name.
        found = self.inspect(BAD_INPUT)
        self.assertFalse(found['known'])
        self.assertEqual(found['nearest'][0]['names_alike'], 0)
        # One copied from a family of the same kind: config.json first.
        first = descriptor()
        old = json.loads((harness.ROOT / 'configs' / 'arch' / 'qwen3.json').read_text(encoding='utf-8'))
        self.write({**old, 'family': 'disguise', 'model_types': ['disguise']})
        found = self.inspect(BAD_INPUT)
        self.assertTrue(found['known'])
        self.assertLessEqual({'n_embd', 'n_layer', 'rotary'}, set(found['unknown_keys']))
        self.assertTrue(any('hidden_size' in text for text in found['config']))
        # The keys are right, the tensors are not yet.
        self.write({**first, 'tensors': old['tensors']})
        found = self.inspect(BAD_INPUT)
        self.assertEqual((found['config'], found['unknown_keys']), ([], []))
        self.assertEqual(found['mapped'], [])
        header, _, _ = harness.bf16_raw(self.model / 'model.safetensors')
        header.pop('__metadata__', None)
        self.assertEqual(sorted(found['unmapped']), sorted(header))
        self.assertEqual(sorted(renamed(m['name']) for m in found['missing']), sorted(header))
        self.assertEqual({renamed(m['name']): m['shape'] for m in found['missing']},
                         {name: tensor['shape'] for name, tensor in header.items()})
        # All of it.
        self.write(first)
        self.assertTrue(self.inspect(OK)['quantisable'])

    def test_end_to_end(self):
        self.write(descriptor())
        options = ('--calib', self.calib, '--group-size', 32, '--unit-tokens', 70)
        outs = {}
        for name, model in (('old', TINY), ('new', self.model)):
            outs[name] = self.root / name
            self.mpiquant(OK, 'quantize', model, '--output', outs[name], *options, ranks=2)
            self.mpiquant(OK, 'verify', outs[name], '--source', model)
        old, new = (harness.bf16_raw(outs[name] / 'model.safetensors') for name in ('old', 'new'))
        for header in (old[0], new[0]):
            header.pop('__metadata__', None)
        self.assertEqual({renamed(name) for name in old[0]}, set(new[0]))
        for name, tensor in old[0].items():
            (a, b), (c, d) = tensor['data_offsets'], new[0][renamed(name)]['data_offsets']
            self.assertEqual(old[1][old[2] + a:old[2] + b], new[1][new[2] + c:new[2] + d], name)
        self.assertEqual(self.evaluate(outs['old']), self.evaluate(outs['new']))


if __name__ == '__main__':
    unittest.main()
