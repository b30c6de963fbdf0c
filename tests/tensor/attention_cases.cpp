// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// softmax(scale q . k_j, j = 0 .. n - 1) v; q, out at `q_at`, token j's key at kv_at(j).
/// Returns the log-sum-exp.
template <class KvAt>
double attend(Doubles& out, const Arrays& x, std::int64_t q_at, std::int64_t n, std::int64_t d,
              double scale, KvAt kv_at) {
    auto p = zeros(n);
    double max = -1e300;
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = 0; i < d; ++i) at(p, j) += at(x[0], q_at + i) * at(x[1], kv_at(j) + i);
        at(p, j) *= scale;
        max = std::max(max, at(p, j));
    }
    double sum = 0;
    for (auto& e : p) sum += e = std::exp(e - max);
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = 0; i < d; ++i) {
            at(out, q_at + i) += at(p, j) / sum * at(x[2], kv_at(j) + i);
        }
    }
    return max + std::log(sum);
}

OpCase attention_case(const Packed& packed, std::int64_t nh, std::int64_t nkv, std::int64_t d,
                      double spread = 1) {
    const auto tokens = packed.tokens;
    const AttentionShape shape{nh, nkv, d, 1 / std::sqrt(static_cast<float>(d))};
    OpCase c;
    c.name = fmt::format("attention S {} T {} longest {} heads {}/{} D {} spread {}",
                         packed.lengths.size(), tokens, packed.longest, nh, nkv, d, spread);
    c.in = {Shape{tokens, nh, d}, Shape{tokens, nkv, d}, Shape{tokens, nkv, d}};
    c.out = {Shape{tokens, nh, d}, Shape{tokens, nh}};
    c.spread = spread;
    c.reference = [=](const Arrays& x) {
        auto out = zeros(tokens * nh * d);
        auto lse = zeros(tokens * nh);
        std::int64_t first = 0;
        for (auto length : packed.lengths) {
            for (std::int64_t t = 0; t < length; ++t) {
                for (std::int64_t h = 0; h < nh; ++h) {
                    const auto row = (first + t) * nh + h;
                    at(lse, row) = attend(out, x, row * d, t + 1, d, double{shape.scale}, [&](auto j) {
                        return ((first + j) * nkv + h * nkv / nh) * d;
                    });
                }
            }
            first += length;
        }
        return Arrays{out, lse};
    };
    c.forward = [=](Ops& ops, Data& x) {
        ops.attention(x.out[0], x.out[1], x.in[0], x.in[1], x.in[2], packed.packing(), shape);
    };
    c.backward = [=](Ops& ops, Data& x) {
        ops.attention_backward(x.d_in[0], x.d_in[1], x.d_in[2], x.d_out[0], x.in[0], x.in[1],
                               x.in[2], x.out[0], x.out[1], packed.packing(), shape);
    };
    for (auto n : packed.lengths) c.flops += 2.0 * static_cast<double>(n * n * nh * d);
    c.tolerance = 2e-5;
    c.rate_only = tokens > 600;
    return c;
}

/// Rows of `lengths` cached tokens, in pages dealt out in a shuffled order.
OpCase decode_case(std::vector<std::int32_t> rows, std::int64_t page, std::int64_t nh,
                   std::int64_t nkv, std::int64_t d) {
    const auto b = static_cast<std::int64_t>(rows.size());
    const std::int64_t longest = *std::max_element(rows.begin(), rows.end());
    const auto max_pages = (longest + page - 1) / page;
    const auto pages = b * max_pages + 1;
    std::vector<std::int32_t> table(static_cast<std::size_t>(b * max_pages));
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
    Lcg random(5);
    for (std::size_t i = table.size(); i > 1; --i) {
        std::swap(table[i - 1], table[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
    }
    std::vector<std::int32_t> slots;
    std::vector<std::int64_t> firsts;
    for (std::int64_t r = 0; r < b; ++r) {
        firsts.push_back(static_cast<std::int64_t>(slots.size()));
        for (std::int64_t t = 0; t < rows[static_cast<std::size_t>(r)]; ++t) {
            const auto p = table[static_cast<std::size_t>(r * max_pages + t / page)];
            slots.push_back(static_cast<std::int32_t>(p * page + t % page));
        }
    }
    const auto tokens = static_cast<std::int64_t>(slots.size());
    const Ints slot(slots), lengths(rows), page_table(table, Shape{b, max_pages});
    const AttentionShape shape{nh, nkv, d, 1 / std::sqrt(static_cast<float>(d))};
    auto memory = std::make_shared<std::vector<float>>(
        static_cast<std::size_t>(2 * pages * page * nkv * d), 1e30F);
    const Shape cache_shape{pages, page, nkv, d};
    const PagedCache cache{Tensor(memory->data(), DType::f32, cache_shape),
                           Tensor(memory->data() + memory->size() / 2, DType::f32, cache_shape),
                           page};
    OpCase c;
    c.name = fmt::format("decode B {} longest {} page {} heads {}/{} D {}", b, longest, page, nh,
                         nkv, d);
    c.in = {Shape{b, nh, d}, Shape{tokens, nkv, d}, Shape{tokens, nkv, d}};
    c.out = {Shape{b, nh, d}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(b * nh * d);
        for (std::int64_t r = 0; r < b; ++r) {
            for (std::int64_t h = 0; h < nh; ++h) {
                attend(out, x, (r * nh + h) * d, lengths[r], d, double{shape.scale}, [&](auto j) {
                    return ((firsts[static_cast<std::size_t>(r)] + j) * nkv + h * nkv / nh) * d;
                });
            }
        }
        return Arrays{out};
    };
    c.forward = [=, keep = memory](Ops& ops, Data& x) {
        ops.kv_store(cache, x.in[1], x.in[2], slot.tensor());
        ops.attention_decode(x.out[0], x.in[0], cache, page_table.tensor(), lengths.tensor(), shape);
    };
    c.bytes = 8.0 * static_cast<double>(tokens * nkv * d);
    c.flops = 4.0 * static_cast<double>(tokens * nh * d);
    c.rate_only = tokens > 3000;
    return c;
}

}  // namespace

std::vector<OpCase> attention_cases() {
    std::vector<OpCase> cases{
        attention_case(Packed({1}), 1, 1, 8),
        attention_case(Packed({1, 1, 1}), 4, 2, 32),
        attention_case(Packed({77}), 4, 4, 8),
        attention_case(Packed({80, 77}), 4, 2, 32),
        attention_case(Packed({1, 77, 5, 64, 65}), 6, 2, 8),
        attention_case(Packed({96, 97}), 2, 1, 64),
        attention_case(Packed({130, 1, 3, 192}), 3, 3, 32),
        attention_case(Packed({200}), 8, 1, 8),
        attention_case(Packed({77, 98}), 2, 2, 32, 6),
        attention_case(Packed({33}), 2, 2, 128),
    };
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(25, 80)), 4, 4, 32));
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(25, 80)), 4, 2, 32));
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(10, 200)), 4, 2, 32));
    cases.push_back(attention_case(Packed({1024, 1024}), 8, 4, 64));
    return cases;
}

std::vector<OpCase> decode_cases() {
    return {
        decode_case({1}, 16, 1, 1, 8),
        decode_case({1, 77, 16, 17}, 16, 4, 2, 32),
        decode_case({33, 5}, 1, 6, 2, 8),
        decode_case({77, 200, 1}, 7, 4, 4, 64),
        decode_case({130, 64, 65}, 128, 8, 1, 32),
        decode_case(std::vector<std::int32_t>(64, 100), 16, 4, 2, 32),
        decode_case(std::vector<std::int32_t>(32, 1000), 16, 8, 2, 64),
    };
}

}  // namespace gradus::test
