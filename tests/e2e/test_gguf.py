"""--format gguf, read by the `gguf` package of llama.cpp's own project, on the demo model."""
import json
import sys
import unittest

import harness
import numpy as np
from gguf import GGUFReader, dequantize

sys.path.insert(0, str(harness.ROOT / 'tests' / 'parity'))
import gptq_reference  # noqa: E402

OK, USAGE, INPUT = 0, 2, 3
OPTIONS = ('--preset', 'fast', '--layers', '0:1')
MIXED = ('--override', 'down_proj=bits:8', '--override', 'gate_proj=group:128')
N_HEADS, N_KV_HEADS, N_BLOCKS = 4, 2, 8
LINEARS = {'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
           'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
           'mlp.down_proj': 'ffn_down'}
NORMS = {'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm'}


def read_json(path):
    return json.loads(path.read_text(encoding='utf-8'))


def to_bf16(x):
    """To the nearest BF16, ties to even, as float32."""
    u = np.ascontiguousarray(x, '<f4').view('<u4').astype(np.uint64)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16 << 16).astype('<u4').view('<f4')


def name_of(name):
    """llama.cpp's name of a tensor of the source."""
    outer = {'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight'}
    if name in outer:
        return outer[name]
    _, _, block, rest = name.split('.', 3)
    module, suffix = rest.rsplit('.', 1)
    return f'blk.{block}.{(LINEARS | NORMS)[module]}.{suffix}'


def turned(name, w):
    """Rows of q and k as llama.cpp's conversion turns them."""
    heads = N_HEADS if 'q_proj' in name else N_KV_HEADS if 'k_proj' in name else 0
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape) if heads else w


def field(number, data):
    """A field of a protocol buffer that holds bytes."""
    length, out = len(data), bytes([number << 3 | 2])
    while length > 127:
        out += bytes([length & 127 | 128])
        length >>= 7
    return out + bytes([length]) + data


class Gguf(harness.InScratch):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # For any tokenizer: some tests edit it.
        cls.calib = harness.write_calib(cls.root / 'calib.h5', harness.demo_samples(2, 64), 4096)
        cls.source = gptq_reference.read_tensors(harness.DEMO)
        cls.made = {}

    def quantise(self, *options, model=harness.DEMO, form='gguf', ranks=1, code=OK):
        """The folder of these options, made once; the message when it is refused."""
        key = options, model, form, ranks
        if key not in self.made:
            out = self.root / f'out{len(self.made)}'
            done = harness.run(ranks, 'quantize', model, '--calib', self.calib, '--output', out, '--format', form,
                               *OPTIONS, *options)
            self.assertEqual(done.returncode, code, done.stderr)
            self.made[key] = out if code == OK else done.stderr
        return self.made[key]

    def read(self, out):
        """Metadata; types and weights of all tensors."""
        reader = GGUFReader(out / 'model.gguf')
        self.assertTrue(all(t.data_offset % 32 == 0 for t in reader.tensors))
        fields = {k: f.contents() for k, f in reader.fields.items()}
        return fields, {t.name: (t.tensor_type.name, dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]))
                        for t in reader.tensors}

    def test_weights_are_those_of_dense(self):
        """Exact: a weight of GGUF is d times a whole number, which dense rounds to BF16; larger groups
        repeat their d."""
        _, tensors = self.read(self.quantise(*MIXED))
        dense = gptq_reference.read_tensors(self.quantise('--group-size', 32, *MIXED, form='dense'))
        self.assertEqual(set(tensors), {name_of(name) for name in dense})
        for name, w in dense.items():
            kind, found = tensors[name_of(name)]
            quantised = 'proj' in name and '.layers.0.' in name
            self.assertEqual(kind, 'Q8_0' if quantised and 'down' in name else 'Q4_0' if quantised
                             else 'F32' if 'norm' in name else 'BF16')
            np.testing.assert_array_equal(to_bf16(found), turned(name, w), name)

    def test_zero_points_are_exact(self):
        """m is minus a whole number of scales, so the weights are those that the codes were chosen for."""
        out = self.quantise('--zero-points')
        reader = GGUFReader(out / 'model.gguf')
        blocks = {t.name: t.data.reshape(-1, 20) for t in reader.tensors if t.tensor_type.name == 'Q4_1'}
        self.assertEqual(len(blocks), len(LINEARS))
        for name, block in blocks.items():
            d, m = np.ascontiguousarray(block[:, :4]).view('<f2').astype(np.float64).T
            zeros = np.rint(-m / d)
            self.assertTrue(((d > 0) & (zeros >= 0) & (zeros <= 15)).all(), name)
            np.testing.assert_array_equal(-d * zeros, m, name)
            self.assertGreater(len(np.unique(zeros)), 2, name)
        _, tensors = self.read(out)
        for layer in read_json(out / 'mq_report.json')['layers']:
            name = f'{layer["name"]}.weight'
            w = turned(name, self.source[name]).astype(np.float64)
            error = ((tensors[name_of(name)][1] - w) ** 2).sum() / (w ** 2).sum()
            self.assertAlmostEqual(error / layer['relative_error'], 1, delta=1e-4)

    def test_metadata(self):
        fields, _ = self.read(self.quantise(*MIXED))
        config, tokenizer = read_json(harness.DEMO / 'config.json'), read_json(harness.DEMO / 'tokenizer.json')
        expected = {'general.architecture': 'llama', 'general.name': 'demo', 'general.file_type': 2,
                    'llama.block_count': config['num_hidden_layers'], 'llama.context_length': 512,
                    'llama.embedding_length': config['hidden_size'],
                    'llama.feed_forward_length': config['intermediate_size'],
                    'llama.attention.head_count': N_HEADS, 'llama.attention.head_count_kv': N_KV_HEADS,
                    'llama.attention.layer_norm_rms_epsilon': float(np.float32(config['rms_norm_eps'])),
                    'llama.rope.dimension_count': config['head_dim'], 'llama.rope.freq_base': config['rope_theta'],
                    'llama.vocab_size': config['vocab_size'], 'tokenizer.ggml.model': 'gpt2',
                    'tokenizer.ggml.pre': 'gpt-2', 'tokenizer.ggml.bos_token_id': 0,
                    'tokenizer.ggml.eos_token_id': 0, 'tokenizer.ggml.add_bos_token': False}
        self.assertEqual({k: fields.get(k) for k in expected}, expected)
        vocab = tokenizer['model']['vocab']
        self.assertEqual(fields['tokenizer.ggml.tokens'], sorted(vocab, key=vocab.get))
        self.assertEqual(fields['tokenizer.ggml.merges'], [' '.join(pair) for pair in tokenizer['model']['merges']])
        self.assertEqual(fields['tokenizer.ggml.token_type'], [3] + [1] * (len(vocab) - 1))

    def test_the_card_says_how_to_load_it(self):
        card = (self.quantise(*MIXED) / 'README.md').read_text(encoding='utf-8')
        self.assertIn('library_name: gguf', card)
        self.assertIn('llama-cli -m PATH/model.gguf', card)
        self.assertIn('| group size | 32 |', card)
        self.assertNotIn('transformers', card)

    def test_kept_layers_of_a_packed_source(self):
        packed = self.quantise('--group-size', 32, '--layers', '0:2', form='gptq')
        meant = gptq_reference.read_folder(packed)
        _, tensors = self.read(self.quantise('--layers', '1:2', model=packed))
        for name, w in meant.items():
            if '.layers.1.' in name and 'proj' in name:
                self.assertEqual(tensors[name_of(name)][0], 'Q4_0')
            elif name.endswith('.weight'):
                np.testing.assert_array_equal(tensors[name_of(name)][1], turned(name, to_bf16(w)), name)

    def test_the_unused_head_of_a_tied_model_is_left_out(self):
        model = harness.copy_model(harness.DEMO, self.root / 'head')
        header, data, start = harness.bf16_raw(model / 'model.safetensors')
        embedding = header['model.embed_tokens.weight']
        begin, end = embedding['data_offsets']
        at = len(data) - start
        header['lm_head.weight'] = {**embedding, 'data_offsets': [at, at + end - begin]}
        text = json.dumps(header).encode()
        (model / 'model.safetensors').write_bytes(
            len(text).to_bytes(8, 'little') + text + data[start:] + data[start + begin:start + end])
        _, tensors = self.read(self.quantise(model=model))
        self.assertEqual(len(tensors), len(self.source))
        self.assertNotIn('output.weight', tensors)

    def test_the_same_bytes_for_any_number_of_ranks(self):
        hashes = {harness.files_hash(self.quantise(*MIXED, ranks=n)) for n in (1, 2, 3)}
        self.assertEqual(len(hashes), 1)

    def test_what_it_cannot_hold(self):
        for options, said in ((('--bits', 3), r'q_proj of 3 bits: its blocks have 4 or 8 bits .*; --format gptq has'),
                              (('--bits', 3.5), '--widths 4,8'),
                              (('--bits', 8, '--zero-points'), 'blocks of 8 bits have no zero points'),
                              (('--group-size', 16), 'groups of 16 are not a multiple of its blocks of 32')):
            self.assertRegex(self.quantise(*options, code=USAGE), said)

    def edited(self, name, change):
        """The demo model with another tokenizer.json."""
        model = harness.copy_model(harness.DEMO, self.root / name)
        tokenizer = read_json(model / 'tokenizer.json')
        change(tokenizer)
        (model / 'tokenizer.json').write_text(json.dumps(tokenizer), encoding='utf-8')
        return model

    def test_tokenizers_that_have_no_form(self):
        cases = {'pre': (lambda t: t['pre_tokenizer'].update(add_prefix_space=True), 'pre_tokenizer.*not.*known here'),
                 'spm': (lambda t: t['model'].update(byte_fallback=True), 'SentencePiece.*tokenizer.model is not'),
                 'unigram': (lambda t: t['model'].update(type='Unigram'), 'not BPE'),
                 'lower': (lambda t: t.update(normalizer={'type': 'Lowercase'}), 'normalizer'),
                 'empty': (lambda t: t.clear(), 'missing or empty')}
        for name, (change, said) in cases.items():
            text = self.quantise(model=self.edited(name, change), code=USAGE).replace('\n', ' ')
            self.assertRegex(text, said)
            self.assertRegex(text, '--format dense|save_pretrained')
        model = self.edited('ids', lambda t: t['model']['vocab'].update(zzz=4096))
        self.assertRegex(self.quantise(model=model, code=INPUT), 'zzz.*outside the model.s vocabulary of 4096')

    def test_pieces_of_a_sentencepiece_model(self):
        """Scores, types and the space before texts are those of tokenizer.model."""
        model = self.edited('pieces', lambda t: t['model'].update(byte_fallback=True))
        vocab = read_json(model / 'tokenizer.json')['model']['vocab']
        texts = sorted(vocab, key=vocab.get)
        scores = [np.float32(-i) for i in range(len(texts))]
        types = [3 if i == 0 else 6 if i < 257 else 1 for i in range(len(texts))]
        pieces = [field(1, text.encode()) + b'\x15' + score.tobytes() + bytes([0x18, kind])
                  for text, score, kind in zip(texts, scores, types)]
        (model / 'tokenizer.model').write_bytes(
            b''.join(field(1, piece) for piece in pieces) + field(2, b'\x18\x02') + field(3, b'\x18\x00\x20\x00'))
        fields, _ = self.read(self.quantise(model=model))
        self.assertEqual(fields['tokenizer.ggml.model'], 'llama')
        self.assertEqual(fields['tokenizer.ggml.tokens'], texts)
        self.assertEqual(fields['tokenizer.ggml.scores'], [float(score) for score in scores])
        self.assertEqual(fields['tokenizer.ggml.token_type'], types)
        self.assertFalse(fields['tokenizer.ggml.add_space_prefix'])

    def test_verify_and_eval(self):
        out = self.quantise(*MIXED)
        done = harness.run(2, 'verify', out)
        self.assertEqual(done.returncode, OK, done.stderr)
        self.assertIn(f'{len(LINEARS)} packed layers', done.stdout)
        done = harness.run(1, 'verify', out, '--source', harness.DEMO)
        self.assertEqual(done.returncode, USAGE)
        self.assertIn('leave out --source', done.stderr)
        done = harness.run(1, 'eval', out, '--tokens', self.calib)
        self.assertEqual(done.returncode, INPUT)
        self.assertRegex(done.stderr, 'for llama.cpp: evaluate it there, or write --format dense')

    def test_inspect(self):
        out = self.quantise(*MIXED)
        for path in (out, out / 'model.gguf'):
            done = harness.run(2, 'inspect', path, '--json')
            self.assertEqual(done.returncode, OK, done.stderr)
            tensors = {t['name']: t for t in json.loads(done.stdout)['tensors']}
            self.assertEqual({name: t['dtype'] for name, t in tensors.items()},
                             {t.name: t.tensor_type.name for t in GGUFReader(out / 'model.gguf').tensors})
            done = harness.run(1, 'inspect', path)
            self.assertEqual(done.stdout.count('\n'), len(tensors) + 1)
        cut = self.root / 'cut.gguf'
        cut.write_bytes((out / 'model.gguf').read_bytes()[:-1])
        self.assertEqual(harness.run(1, 'inspect', cut).returncode, INPUT)

    def test_damage_is_found(self):
        out = harness.copy_model(self.quantise(*MIXED), self.root / 'damaged')
        whole = (out / 'model.gguf').read_bytes()
        at = next(t for t in GGUFReader(out / 'model.gguf').tensors if t.name == 'blk.0.ffn_up.weight').data_offset + 7
        for data, said in ((whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], 'ffn_up.weight has checksum'),
                           (whole[:-32], 'truncated')):
            (out / 'model.gguf').write_bytes(data)
            done = harness.run(1, 'verify', out)
            self.assertEqual(done.returncode, INPUT)
            self.assertIn(said, done.stderr)


if __name__ == '__main__':
    unittest.main()
