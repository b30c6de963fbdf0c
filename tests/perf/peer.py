# SPDX-License-Identifier: Apache-2.0
# What PyTorch and transformers reach on this GPU with the shapes of inputs/bench: training steps (bf16
# autocast weights with float32 masters in AdamW's state, clipped) and generate(). Prints a line each.
#   python3 tests/perf/peer.py 0.5b|1.5b train|compile|generate [tokens a step]
import sys, time
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "0.5b": dict(hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                 intermediate_size=4864),
    "1.5b": dict(hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
                 intermediate_size=8960),
}


def model_of(name):
    config = Qwen2Config(vocab_size=151936, max_position_embeddings=32768, tie_word_embeddings=True,
                         rope_theta=1e6, **SHAPES[name])
    config._attn_implementation = "sdpa"
    torch.manual_seed(1)
    return Qwen2ForCausalLM(config).to("cuda", torch.bfloat16)


def train(name, tokens, compiled):
    model = model_of(name)
    model.config.use_cache = False
    masters = [p.detach().float().clone().requires_grad_(True) for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, 151936, (tokens // 4096, 4096), device="cuda")

    def step():
        run(input_ids=ids, labels=ids).loss.backward()
        for master, p in zip(masters, model.parameters()):
            master.grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, model.parameters()):
                p.copy_(master)
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        began = time.time()
        step()
        torch.cuda.synchronize()
        times.append(time.time() - began)
    best = min(times)
    print(f"peer {name} {'compile' if compiled else 'eager'} {tokens} tokens: {tokens / best:.0f} tok/s, "
          f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


def generate(name):
    model = model_of(name).eval()
    ids = torch.randint(0, 151936, (256, 128), device="cuda")
    options = dict(max_new_tokens=256, min_new_tokens=256, do_sample=True, temperature=1.0, top_k=0,
                   attention_mask=torch.ones_like(ids), pad_token_id=0)
    with torch.inference_mode():
        model.generate(ids, **{**options, "max_new_tokens": 8, "min_new_tokens": 8})
        torch.cuda.synchronize()
        began = time.time()
        model.generate(ids, **options)
        torch.cuda.synchronize()
    print(f"peer {name} generate 256 sequences: {256 * 256 / (time.time() - began):.0f} tok/s", flush=True)


if __name__ == "__main__":
    name, what = sys.argv[1], sys.argv[2]
    if what == "generate":
        generate(name)
    else:
        train(name, int(sys.argv[3]) if len(sys.argv) > 3 else 16384, what == "compile")
