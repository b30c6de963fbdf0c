// SPDX-License-Identifier: Apache-2.0
// Rates of the device by itself: ceilings, operations, attention, collectives. Each call is repeated
// without waiting, so that what is measured is the device and not the way to it.
#include "bench.hpp"

#include <functional>
#include <vector>

#include "gradus/base/error.hpp"

namespace gradus {
namespace {

/// Seconds of one of `body`'s calls, the best of `runs` times ten.
double seconds_of(Ops& ops, std::int64_t runs, const std::function<void()>& body) {
    constexpr int kCalls = 10;
    body();
    ops.synchronize();
    return best_seconds(runs, [&] {
               for (int i = 0; i < kCalls; ++i) body();
               ops.synchronize();
           }) /
           kCalls;
}

/// The products of a training step by shape.
struct Product {
    std::int64_t m, n, k, count;
};

std::vector<Product> step_products(const ModelConfig& c, std::int64_t tokens, int tensor) {
    const std::int64_t q = c.heads * c.head_dim / tensor, kv = c.kv_heads * c.head_dim / tensor,
                       i = c.intermediate / tensor, v = c.vocab_size / tensor;
    // Forward, gradient by input, gradient by weight: the same FLOPs in three shapes.
    std::vector<Product> products;
    auto add = [&](std::int64_t out, std::int64_t in, std::int64_t count) {
        products.push_back({tokens, out, in, count});
        products.push_back({tokens, in, out, count});
        products.push_back({out, in, tokens, count});
    };
    add(q, c.hidden, c.layers);
    add(kv, c.hidden, 2 * c.layers);
    add(c.hidden, q, c.layers);
    add(i, c.hidden, 2 * c.layers);
    add(c.hidden, i, c.layers);
    add(v, c.hidden, 1);
    return products;
}

double flops(const std::vector<Product>& products) {
    double sum = 0;
    for (const Product& p : products)
        sum += 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k) *
               static_cast<double>(p.count);
    return sum;
}

void fill_random(Ops& ops, const Tensor& x, std::uint64_t number) {
    ops.fill_normal(x, {.seed = 1,
                        .tensor = number,
                        .rows = x.dim(0),
                        .global_rows = x.dim(0),
                        .global_columns = x.shape().row_elements()});
}

double product_rate(Ops& ops, Device& device, DType dtype, const std::vector<Product>& products,
                    std::int64_t runs) {
    Arena arena(&device);
    std::int64_t largest = 0;
    for (const Product& p : products) largest = std::max({largest, p.m * p.n, p.m * p.k, p.k * p.n});
    const Tensor a = arena.take("bench", dtype, {largest, 1}), b = arena.take("bench", dtype, {largest, 1});
    const Tensor c = arena.take("bench", dtype, {largest, 1});
    fill_random(ops, a, 1);
    fill_random(ops, b, 2);
    const double seconds = best_seconds(runs + 1, [&] {
        for (const Product& p : products)
            for (std::int64_t i = 0; i < p.count; ++i)
                ops.gemm(c.as({p.m, p.n}), a.as({p.m, p.k}), Transpose::no, b.as({p.n, p.k}),
                         Transpose::yes, 1, 0);
        ops.synchronize();
    });
    return flops(products) / seconds;
}

/// Dense bfloat16 FLOP/s by the makers' datasheets (H100 SXM and H200: 989e12, NVIDIA 2023).
double datasheet_of(const std::string& device) {
    const auto is = [&](const char* name) { return device.starts_with(name); };
    return is("NVIDIA H100 80GB HBM3") || is("NVIDIA H200") ? 989e12 : 0;
}

}  // namespace

Ceilings measure_ceilings(Run& run, Stack& stack, std::int64_t runs, Json& result) {
    Ceilings top;
    Ops& ops = *stack.ops;
    if (run.gpu) {
        constexpr std::int64_t kSide = 8192;
        top.product_name = "an 8192-cubed product's";
        top.product = product_rate(ops, run.device(), stack.model->dtype(), {{kSide, kSide, kSide, 5}}, runs);
        top.datasheet = datasheet_of(run.device().name());
    } else {
        top.product_name = "sgemm's";
        top.product = product_rate(
            ops, run.device(), DType::f32,
            step_products(stack.config, run.deck.integer("bench.tokens"), run.grid.tensor_size()), runs);
    }
    Arena arena(&run.device());
    const std::int64_t floats = run.gpu ? std::int64_t{1} << 28 : std::int64_t{1} << 22;
    const Tensor from = arena.take("bench", DType::f32, {floats}), to = arena.take("bench", DType::f32, {floats});
    top.copy = 8.0 * static_cast<double>(floats) / seconds_of(ops, runs, [&] { ops.copy(to, from); });
    result["ceilings"] = {{"product_flops_per_s", top.product},
                          {"copy_bytes_per_s", top.copy},
                          {"datasheet_flops_per_s", top.datasheet}};
    run.log.info("ceilings    {} {:.4g} FLOP/s, copy {}/s", top.product_name, top.product, format_bytes(top.copy));
    return top;
}

void bench_operations(Run& run, Stack& stack, Json& result) {
    Ops& ops = *stack.ops;
    const ModelConfig& c = stack.config;
    const DType type = stack.model->dtype();
    const std::int64_t t = run.deck.integer("bench.tokens"), h = c.hidden,
                       i = c.intermediate / run.grid.tensor_size();
    const std::int64_t d = c.head_dim, nq = c.heads / run.grid.tensor_size(),
                       nkv = c.kv_heads / run.grid.tensor_size();
    Arena arena(&run.device());
    const auto take = [&](Shape shape, DType dtype) {
        const Tensor x = arena.take("bench", dtype, shape);
        if (dtype != DType::i32)
            fill_random(ops, x.as({x.dim(0), x.shape().row_elements()}), static_cast<std::uint64_t>(arena.bytes()));
        return x;
    };
    const Tensor x = take({t, h}, type), y = take({t, h}, type), z = take({t, h}, type);
    const Tensor inv = take({t, 1}, DType::f32).as({t}), weight = take({h, 1}, type).as({h});
    const Tensor d_weight = take({h, 1}, DType::f32).as({h});
    const Tensor gate_up = take({t, 2 * i}, type), product = take({t, i}, type), d_product = take({t, i}, type);
    const Tensor packed = take({t, (nq + 2 * nkv) * d}, type);
    const Tensor q = take({t, nq, d}, type), k = take({t, nkv, d}, type), v = take({t, nkv, d}, type);
    const Tensor bias = take({(nq + 2 * nkv) * d, 1}, type).as({(nq + 2 * nkv) * d});
    const Tensor d_bias = take({(nq + 2 * nkv) * d, 1}, DType::f32).as({(nq + 2 * nkv) * d});
    const Tensor frequencies = take({d / 2, 1}, DType::f32).as({d / 2});
    const Tensor positions = take({t}, DType::i32), tokens = take({t}, DType::i32);
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(t));
    for (std::int64_t n = 0; n < t; ++n) numbers[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(n * 7919 % c.vocab_size);
    ops.upload(tokens, numbers.data());
    for (std::int64_t n = 0; n < t; ++n) numbers[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(n % 4096);
    ops.upload(positions, numbers.data());
    const Tensor table = take({c.vocab_size, h}, type), d_table = take({c.vocab_size, h}, DType::f32);
    const std::int64_t n = std::int64_t{1} << 26;
    const Tensor master = take({n, 1}, DType::f32), grad = take({n, 1}, DType::f32);
    const Tensor m = take({n, 1}, DType::f32), v2 = take({n, 1}, DType::f32), half = take({n, 1}, type);
    const Tensor norm = take({1, 1}, DType::f32).as({1});
    const std::int64_t rows = std::min<std::int64_t>(t, 1024);
    const Tensor logits = take({rows, c.vocab_size}, DType::f32), d_logits = take({rows, c.vocab_size}, type);
    const Tensor row_max = take({rows, 1}, DType::f32).as({rows}), sums = take({rows, 3}, DType::f32);
    const Tensor d_lp = take({rows, 1}, DType::f32).as({rows}), d_h = take({rows, 1}, DType::f32).as({rows});
    ops.fill(v2, 1);
    const RotaryForm form;
    const double a = static_cast<double>(size_of(type));
    const auto count = [](const Tensor& s) { return static_cast<double>(s.elements()); };
    const bool separate = type != DType::f32;
    struct Case {
        const char* name;
        double bytes;
        std::function<void()> body;
    };
    const std::vector<Case> cases = {
        {"add_rms_norm", 4 * a * count(x), [&] { ops.add_rms_norm(z, inv, y, x, y, weight, 1e-6f); }},
        {"rms_norm_backward", 4 * a * count(x),
         [&] { ops.rms_norm_backward(z, d_weight, y, x, weight, inv, true); }},
        {"split_heads", 2 * a * count(packed),
         [&] { ops.split_heads(q, k, v, packed, bias, positions, frequencies, form); }},
        {"merge_heads", 2 * a * count(packed),
         [&] { ops.merge_heads(packed, q, k, v, positions, frequencies, form); }},
        {"add_bias_backward", a * count(packed), [&] { ops.add_bias_backward(d_bias, packed); }},
        {"swiglu", 3 * a * count(product), [&] { ops.swiglu(product, gate_up, {}); }},
        {"swiglu_backward", 6 * a * count(product),
         [&] { ops.swiglu_backward(gate_up, {}, product, d_product, gate_up, {}); }},
        {"embedding", 2 * a * count(x), [&] { ops.embedding(x, table, tokens, 0); }},
        {"embedding_backward", (a + 8) * count(x), [&] { ops.embedding_backward(d_table, x, tokens, 0); }},
        {"head_statistics", 4 * count(logits),
         [&] { ops.head_statistics(row_max, sums, logits, tokens.as({rows}), 1); }},
        {"head_backward", (4 + a) * count(logits),
         [&] {
             ops.head_backward(separate ? d_logits : logits, logits, row_max, sums, tokens.as({rows}), d_lp, d_h, 0, 1);
         }},
        {"sum_squares", 4 * count(grad), [&] { ops.sum_squares(norm, grad); }},
        {"adamw", (separate ? 34.0 : 32.0) * count(master),
         [&] {
             ops.adamw(master, separate ? half : Tensor{}, grad, m, v2,
                       {.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f});
         }},
    };
    const double copy = result["ceilings"]["copy_bytes_per_s"];
    run.log.info("operation              microseconds        GB/s   of a copy");
    for (const Case& one : cases) {
        const double seconds = seconds_of(ops, run.deck.integer("bench.steps"), one.body);
        const double rate = one.bytes / seconds;
        result["operations"][one.name] = {
            {"seconds", seconds}, {"bytes", one.bytes}, {"bytes_per_s", rate}, {"share_of_copy", rate / copy}};
        run.log.info("{:<20} {:>14.1f} {:>11.0f} {:>9.1f} %", one.name, 1e6 * seconds, 1e-9 * rate, 100 * rate / copy);
        run.watchdog.alive();
    }
}

void bench_attention(Run& run, Stack& stack, Json& result) {
    Ops& ops = *stack.ops;
    const ModelConfig& c = stack.config;
    const DType type = stack.model->dtype();
    const std::int64_t t = run.deck.integer("bench.tokens");
    const AttentionShape shape{.heads = c.heads / run.grid.tensor_size(),
                               .kv_heads = c.is_latent() ? c.heads / run.grid.tensor_size()
                                                         : c.kv_heads / run.grid.tensor_size(),
                               .head_dim = c.head_dim,
                               .scale = 0.1f,
                               .value_dim = c.value_dim()};
    Arena arena(&run.device());
    std::uint64_t number = 0;
    const auto take = [&](std::int64_t heads, std::int64_t width) {
        const Tensor x = arena.take("bench", type, {t, heads, width});
        fill_random(ops, x.as({t, heads * width}), ++number);
        return x;
    };
    const std::int64_t d = shape.head_dim, dv = shape.width_of_value();
    const Tensor q = take(shape.heads, d), k = take(shape.kv_heads, d), v = take(shape.kv_heads, dv);
    const Tensor out = take(shape.heads, dv), d_out = take(shape.heads, dv);
    const Tensor d_q = take(shape.heads, d), d_k = take(shape.kv_heads, d), d_v = take(shape.kv_heads, dv);
    const Tensor lse = arena.take("bench", DType::f32, {t, shape.heads});
    const Tensor starts = arena.take("bench", DType::i32, {t + 1}), positions = arena.take("bench", DType::i32, {t});
    run.log.info("attention, causal      length     forward  backward  TFLOP/s");
    for (std::int64_t length = 512; length <= std::min(t, c.max_positions); length *= 2) {
        std::vector<std::int32_t> begins;
        for (std::int64_t at = 0; at + length <= t; at += length) begins.push_back(static_cast<std::int32_t>(at));
        const auto sequences = static_cast<std::int64_t>(begins.size());
        begins.push_back(static_cast<std::int32_t>(sequences * length));
        ops.upload(starts.as({sequences + 1}), begins.data());
        const std::int64_t rows = sequences * length;
        const Packing packing{.starts = starts.as({sequences + 1}),
                              .positions = positions.as({rows}),
                              .sequences = sequences,
                              .max_length = length};
        const auto of = [rows](const Tensor& x) { return x.rows(0, rows); };
        const double work = static_cast<double>(sequences * length * length * shape.heads * (d + dv));
        const double forward = seconds_of(ops, run.deck.integer("bench.steps"), [&] {
            ops.attention(of(out), of(lse), of(q), of(k), of(v), packing, shape);
        });
        const double backward = seconds_of(ops, run.deck.integer("bench.steps"), [&] {
            ops.attention_backward(of(d_q), of(d_k), of(d_v), of(d_out), of(q), of(k), of(v), of(out),
                                   of(lse), packing, shape);
        });
        result["attention"].push_back({{"length", length},
                                       {"forward_flops_per_s", work / forward},
                                       {"backward_flops_per_s", 2.5 * work / backward}});
        run.log.info("{:>8} x {:>6} x {:>4} {:>6} {:>11.3g} {:>9.3g}", sequences, shape.heads, d, length,
                     1e-12 * work / forward, 2.5e-12 * work / backward);
        run.watchdog.alive();
    }
}

void bench_collectives(Run& run, Stack& stack, Json& result) {
    Communicator& group = run.grid.data();
    const auto n = static_cast<double>(group.size());
    if (group.size() == 1) {
        run.log.info("collectives  one data rank: nothing to exchange");
        return;
    }
    Ops& ops = *stack.ops;
    Arena arena(&run.device());
    run.log.info("collective            bytes    bus GB/s");
    for (std::int64_t bytes = 1 << 20; bytes <= (1 << 30); bytes *= 8) {
        const std::int64_t floats = bytes / 4 / group.size() * group.size();
        const Tensor x = arena.take("bench", DType::f32, {floats});
        std::vector<std::int64_t> offsets;
        for (std::int64_t r = 0; r <= group.size(); ++r) offsets.push_back(r * (floats / group.size()) * 4);
        const auto report = [&](const char* name, double factor, const std::function<void()>& body) {
            group.barrier();
            const double rate = static_cast<double>(bytes) * factor / seconds_of(ops, 3, body);
            result["collectives"][name].push_back({{"bytes", bytes}, {"busbw", rate}});
            run.log.info("{:<14} {:>12} {:>11.1f}", name, bytes, 1e-9 * rate);
        };
        report("all_reduce", 2 * (n - 1) / n, [&] { ops.all_reduce(group, x, Reduce::sum); });
        const std::vector blocks = {BlockedTensor{x, offsets}};
        report("reduce_scatter", (n - 1) / n, [&] {
            ops.start_block_sums(group, blocks);
            ops.finish_sums();
        });
        report("all_gather", (n - 1) / n, [&] { ops.all_gather_blocks(group, blocks); });
        run.watchdog.alive();
    }
}

}  // namespace gradus
