#!/usr/bin/env python3
"""Makes scale_golden.h for tests/unit/test_plan_scale.c: what models of hundreds of billions of parameters hold and
need, from the config.json files of tests/data/configs by formulas of its own, not by those of src/.

    python3 tests/data/scale_golden.py > tests/data/scale_golden.h
"""
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
RANKS = (2, 16, 128)
SAMPLES, LENGTH, UNIT = 1024, 2048, 8192
BLOCK = 128             # rows that are solved together, columns of a panel
METRIC = 3 * BLOCK * 8 + 2 * BLOCK * BLOCK * 4


class Model:
    """Linear layers as (outputs, inputs), by the activations they read."""

    def __init__(self, config):
        c = self.config = config
        self.hidden, self.blocks, self.vocab = c['hidden_size'], c['num_hidden_layers'], c['vocab_size']
        self.heads = c['num_attention_heads']
        self.kv = c.get('num_key_value_heads', self.heads)
        self.width = c.get('head_dim') or c.get('kv_channels') or self.hidden // self.heads
        self.tied = c.get('tie_word_embeddings', c['model_type'] == 'cohere')
        self.experts = c.get('n_routed_experts') or c.get('num_local_experts') or 0
        self.first = c.get('first_k_dense_replace', 0) if self.experts else self.blocks
        self.inner = c['intermediate_size'] // (2 if c['model_type'] == 'qwen' else 1)
        self.expert = c.get('moe_intermediate_size', c['intermediate_size'])
        self.shared = c.get('n_shared_experts', 0) * self.expert

    def latent(self):
        return 'kv_lora_rank' in self.config

    def attention(self):
        h, c = self.hidden, self.config
        if not self.latent():
            q, kv = self.heads * self.width, self.kv * self.width
            if c['model_type'] == 'qwen':       # one module for the three
                return {'attn_in': [(q + 2 * kv, h)], 'attn_out': [(h, q)]}
            return {'attn_in': [(q, h), (kv, h), (kv, h)], 'attn_out': [(h, q)]}
        nope, rope, v = c['qk_nope_head_dim'], c['qk_rope_head_dim'], c['v_head_dim']
        ql, kvl = c['q_lora_rank'], c['kv_lora_rank']
        return {'attn_in': [(ql, h), (kvl + rope, h)], 'q_lora': [(self.heads * (nope + rope), ql)],
                'kv_lora': [(self.heads * (nope + v), kvl)], 'attn_out': [(h, self.heads * v)]}

    def taps(self, block):
        h = self.hidden
        taps = self.attention()
        if block < self.first:
            mlp, mid = [(self.inner, h)] * 2, [(h, self.inner)]
        else:
            mlp, mid = [(self.shared, h)] * 2 if self.shared else [], [(h, self.shared)] if self.shared else []
        if self.config['model_type'] == 'cohere':   # attention and MLP read the same norm
            taps['attn_in'] += mlp
        else:
            taps['mlp_in'] = mlp
        if mid:
            taps['mlp_mid'] = mid
        if block >= self.first:
            taps['expert_in'], taps['expert_mid'] = [(self.expert, h)] * 2, [(h, self.expert)]
        return taps

    def widths(self, block):
        """Of the activations, also where no layer reads them."""
        taps = self.taps(block)
        return {tap: layers[0][1] if layers else self.hidden for tap, layers in taps.items()}

    def linear_weights(self, block):
        return sum((self.experts if tap.startswith('expert') else 1) * sum(m * n for m, n in layers)
                   for tap, layers in self.taps(block).items())

    def small_weights(self, block):
        """Norms, biases, router."""
        c, h, q, kv = self.config, self.hidden, self.heads * self.width, self.kv * self.width
        n = {'cohere': h}.get(c['model_type'], 2 * h)
        if c['model_type'] in ('cohere', 'minimax_m2') and c.get('use_qk_norm'):
            n += q + kv
        if c['model_type'] == 'glm4_moe':
            n += 2 * self.width + q + 2 * kv
        if c['model_type'] == 'qwen':
            n += q + 2 * kv
        if self.latent():
            n += c['q_lora_rank'] + c['kv_lora_rank']
        return n + (self.experts * (h + 1) if block >= self.first else 0)

    def parameters(self):
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return tables + self.hidden + sum(self.linear_weights(b) + self.small_weights(b) for b in range(self.blocks))

    def block_bytes(self):
        return 2 * max(self.linear_weights(b) for b in range(self.blocks))

    def largest(self):
        return max([self.vocab * self.hidden] +
                   [m * n for b in (0, self.blocks - 1) for layers in self.taps(b).values() for m, n in layers])

    def hessian(self, tap):
        n = max(self.widths(b).get(tap, 0) for b in (0, self.blocks - 1))
        return 8 * n * (n + 1) // 2

    # ---- memory of a rank, with the default preset ----

    def expert_codes(self, tap):
        """Codes, scales and sums of a tap of one expert, in groups of 128, each at a multiple of 64 bytes."""
        total = 0
        for m, n in self.taps(self.blocks - 1)[tap]:
            rows = -(-m // BLOCK) * BLOCK
            total += sum(-(-part // 64) * 64 for part in (rows * n, rows * (n // 128) * 4, rows * 6 * 8))
        return total

    def tap_memory(self, tap, layers, ranks):
        """Hessian with the half that is held out, factor, rows of W."""
        n, packed = layers[0][1], 8 * layers[0][1] * (layers[0][1] + 1) // 2
        held_out = packed + BLOCK * (11 * len(layers) + 6) * n * 4
        part = -(-n // ranks) if n > 8192 else n
        alone = tap.startswith('expert') and n <= 8192     # by one rank, while the next is summed
        row_blocks = min(-(-sum(-(-m // BLOCK) for m, _ in layers) // (1 if alone else ranks)), 256)
        rows = row_blocks * BLOCK
        memory = rows * n * 8 + max(n * 1024 * 4, rows * n + BLOCK * n * 4)
        if tap == 'attn_in':
            memory += (self.heads + self.kv) * self.width ** 2 * 8 + (BLOCK + self.width) * self.hidden * 4
            memory += row_blocks * METRIC
        if alone:
            memory += max(self.expert_codes(tap) for tap in ('expert_in', 'expert_mid'))
        return (packed + held_out) * ({'expert_in': 3, 'expert_mid': 2}[tap] if alone else 1), (part + BLOCK) * n * 8, memory

    def rank_memory(self, ranks):
        units = SAMPLES * LENGTH // UNIT
        tokens = -(-units // ranks) * UNIT
        two, solver = 0, [0, 0, 0]
        for block in (0, self.blocks - 1):
            widths = [w for tap, w in self.widths(block).items() if not tap.startswith('expert')]
            pairs = [a + b for a, b in zip(widths, widths[1:])]
            two = max(two, sum(widths) if self.config['model_type'] == 'cohere' else max(pairs))
            if block >= self.first:     # what experts read, and the rows of one of them
                two = max(two, self.hidden + max(self.hidden, self.expert) +
                          min(ranks, self.config['num_experts_per_tok']) * self.expert)
            for tap, layers in self.taps(block).items():
                if layers:
                    solver = list(map(max, solver, self.tap_memory(tap, layers, ranks)))
        mid = self.inner if self.first else self.shared
        work = UNIT * 2 * max((self.heads + 2 * self.kv) * self.width, self.hidden, 2 * mid)
        if self.experts:        # the sum of what they make, in F32, and their buffers
            two += 2 * self.hidden + 4 * self.config['num_experts_per_tok']     # and where tokens go
            work += UNIT * (2 * (2 * self.hidden + 3 * self.expert) + 4 * self.experts)
        return tokens * 2 * (self.hidden + two) + work + sum(solver)


def main():
    print('/* Made by scale_golden.py: do not edit. */\n/* clang-format off */')
    print('static const struct {\n    const char *name;\n    int64_t parameters, block_bytes, largest, rank_memory[3];')
    print('    int64_t hessian[6]; /* attn_in, attn_out, mlp_in, mlp_mid, expert_in, expert_mid; 0: not there */')
    print('} golden[] = {')
    for path in sorted((HERE / 'configs').glob('*/config.json')):
        m = Model(json.loads(path.read_text(encoding='utf-8')))
        memory = [0] * 3 if m.latent() else [m.rank_memory(p) for p in RANKS]
        taps = ('attn_in', 'attn_out', 'mlp_in', 'mlp_mid', 'expert_in', 'expert_mid')
        print(f'    {{"{path.parent.name}", {m.parameters()}, {m.block_bytes()}, {m.largest()},')
        print(f'     {{{", ".join(map(str, memory))}}},\n     {{{", ".join(str(m.hessian(t)) for t in taps)}}}}},')
    print('};')


if __name__ == '__main__':
    main()
