// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "op_case.hpp"

namespace gradus::test {

namespace {

/// Widths of a head: of queries and keys, of values.
struct Widths {
    std::int64_t key, value;
};

/// softmax(scale q . k_j, j = 0 .. n - 1) v; row `row` of q and out; token j's key and value are rows
/// kv_row(j) of x[1] and of x[2], where values are not the first numbers of the keys.
/// Returns the log-sum-exp.
template <class KvRow>
double attend(Doubles& out, const Arrays& x, std::int64_t row, std::int64_t n, Widths d,
              double scale, KvRow kv_row) {
    const bool in_keys = x.size() < 3;
    auto p = zeros(n);
    double max = -1e300;
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = 0; i < d.key; ++i) {
            at(p, j) += at(x[0], row * d.key + i) * at(x[1], kv_row(j) * d.key + i);
        }
        at(p, j) *= scale;
        max = std::max(max, at(p, j));
    }
    double sum = 0;
    for (auto& e : p) sum += e = std::exp(e - max);
    for (std::int64_t j = 0; j < n; ++j) {
        for (std::int64_t i = 0; i < d.value; ++i) {
            const double v = in_keys ? at(x[1], kv_row(j) * d.key + i) : at(x[2], kv_row(j) * d.value + i);
            at(out, row * d.value + i) += at(p, j) / sum * v;
        }
    }
    return max + std::log(sum);
}

/// `value`: width of a value, 0: as of a key.
OpCase attention_case(const Packed& packed, std::int64_t nh, std::int64_t nkv, std::int64_t d,
                      double spread = 1, std::int64_t value = 0) {
    const auto tokens = packed.tokens;
    const AttentionShape shape{nh, nkv, d, 1 / std::sqrt(static_cast<float>(d)), value};
    const Widths width{d, value > 0 ? value : d};
    OpCase c;
    c.name = fmt::format("attention S {} T {} longest {} heads {}/{} D {}/{} spread {}",
                         packed.lengths.size(), tokens, packed.longest, nh, nkv, d, width.value,
                         spread);
    c.in = {Shape{tokens, nh, d}, Shape{tokens, nkv, d}, Shape{tokens, nkv, width.value}};
    c.out = {Shape{tokens, nh, width.value}, Shape{tokens, nh}};
    c.spread = spread;
    c.reference = [=](const Arrays& x) {
        auto out = zeros(tokens * nh * width.value);
        auto lse = zeros(tokens * nh);
        std::int64_t first = 0;
        for (auto length : packed.lengths) {
            for (std::int64_t t = 0; t < length; ++t) {
                for (std::int64_t h = 0; h < nh; ++h) {
                    const auto row = (first + t) * nh + h;
                    at(lse, row) = attend(out, x, row, t + 1, width, double{shape.scale}, [&](auto j) {
                        return (first + j) * nkv + h * nkv / nh;
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
    for (auto n : packed.lengths) c.flops += static_cast<double>(n * n * nh * (d + width.value));
    c.tolerance = 2e-5;
    c.f32_out = {1};
    c.rate_only = tokens > 600;
    return c;
}

/// Pages of the cached tokens of rows, dealt out in a shuffled order.
struct DealtPages {
    DealtPages(const std::vector<std::int32_t>& rows, std::int64_t page)
        : max_pages((*std::max_element(rows.begin(), rows.end()) + page - 1) / page),
          pages(std::ssize(rows) * max_pages + 1) {
        std::vector<std::int32_t> order(rows.size() * static_cast<std::size_t>(max_pages));
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
        Lcg random(5);
        for (std::size_t i = order.size(); i > 1; --i) {
            std::swap(order[i - 1],
                      order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
        }
        std::vector<std::int32_t> slots;
        for (std::size_t r = 0; r < rows.size(); ++r) {
            firsts.push_back(std::ssize(slots));
            for (std::int64_t t = 0; t < rows[r]; ++t) {
                const auto entry = static_cast<std::int64_t>(r) * max_pages + t / page;
                const auto p = order[static_cast<std::size_t>(entry)];
                slots.push_back(static_cast<std::int32_t>(p * page + t % page));
            }
        }
        slot = Ints(slots);
        table = Ints(order, Shape{std::ssize(rows), max_pages});
    }
    std::int64_t max_pages, pages;
    std::vector<std::int64_t> firsts;  ///< token at which a row's begin
    Ints slot{{}}, table{{}};
};

/// Rows of `lengths` cached tokens. `value`: width of a value that is the first part of its key, and
/// the cache has no values; 0: values of their own, as wide as keys; < 0: of their own, -value wide.
OpCase decode_case(std::vector<std::int32_t> rows, std::int64_t page, std::int64_t nh,
                   std::int64_t nkv, std::int64_t d, std::int64_t value = 0) {
    const auto b = std::ssize(rows);
    const DealtPages dealt(rows, page);
    const auto tokens = dealt.slot.size();
    const Ints lengths(rows);
    const bool in_keys = value > 0;
    const Widths width{d, value == 0 ? d : std::abs(value)};
    const AttentionShape shape{nh, nkv, d, 1 / std::sqrt(static_cast<float>(d)), std::abs(value)};
    OwnMemory own;
    const auto memory_of = [&](std::int64_t w) {
        return own.take(test_dtype(), Shape{dealt.pages, page, nkv, w});
    };
    PagedCache cache{memory_of(width.key), memory_of(width.value), page};
    if (in_keys) cache.values = Tensor();
    OpCase c;
    c.name = fmt::format("decode B {} longest {} page {} heads {}/{} D {}/{}{}", b,
                         *std::max_element(rows.begin(), rows.end()), page, nh, nkv, d, width.value,
                         in_keys ? " in the keys" : "");
    c.in = {Shape{b, nh, d}, Shape{tokens, nkv, d}};
    if (!in_keys) c.in.push_back(Shape{tokens, nkv, width.value});
    c.out = {Shape{b, nh, width.value}};
    c.reference = [=](const Arrays& x) {
        auto out = zeros(b * nh * width.value);
        for (std::int64_t r = 0; r < b; ++r) {
            for (std::int64_t h = 0; h < nh; ++h) {
                attend(out, x, r * nh + h, lengths[r], width, double{shape.scale}, [&](auto j) {
                    return (dealt.firsts[static_cast<std::size_t>(r)] + j) * nkv + h * nkv / nh;
                });
            }
        }
        return Arrays{out};
    };
    c.forward = [=, keep = own, written = std::make_shared<bool>(false)](Ops& ops, Data& x) {
        if (!*written) {
            ops.synchronize();
            ops.fill(cache.keys, 1e30F);  // what is not stored must not be read
            if (!in_keys) ops.fill(cache.values, 1e30F);
            *written = true;
        }
        ops.kv_store(cache, x.in[1], in_keys ? Tensor() : x.in[2], dealt.slot.tensor());
        ops.attention_decode(x.out[0], x.in[0], cache, dealt.table.tensor(), lengths.tensor(), shape);
    };
    c.bytes = 4.0 * static_cast<double>(tokens * nkv * (d + (in_keys ? 0 : width.value)));
    c.flops = 2.0 * static_cast<double>(tokens * nh * (d + width.value));
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
        attention_case(Packed({1}), 1, 1, 3, 1, 1),
        attention_case(Packed({}), 2, 2, 8, 1, 4),
        attention_case(Packed({77, 1, 65}), 4, 4, 12, 1, 8),
        attention_case(Packed({66, 3}), 4, 2, 9, 1, 17),
        attention_case(Packed({40}), 6, 1, 24, 3, 16),
    };
    for (const std::int64_t d : {64, 128})
        cases.push_back(large(attention_case(Packed({700, 129, 64, 1}), 6, 1, d)));
    cases.push_back(large(attention_case(Packed({300, 1, 256}), 12, 2, 64)));
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(25, 80)), 4, 4, 32));
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(25, 80)), 4, 2, 32));
    cases.push_back(attention_case(Packed(std::vector<std::int64_t>(10, 200)), 4, 2, 32));
    cases.push_back(attention_case(Packed({1024, 1024}), 8, 4, 64));
    cases.push_back(attention_case(Packed({1024, 1024}), 4, 4, 96, 1, 64));
    return cases;
}

std::vector<OpCase> decode_cases() {
    return {
        decode_case({1}, 16, 1, 1, 8),
        decode_case({1, 77, 16, 17}, 16, 4, 2, 32),
        decode_case({33, 5}, 1, 6, 2, 8),
        decode_case({77, 200, 1}, 7, 4, 4, 64),
        decode_case({130, 64, 65}, 128, 8, 1, 32),
        decode_case({1}, 16, 1, 1, 3, 1),
        decode_case({1, 77, 16, 17}, 16, 4, 1, 40, 32),
        decode_case({33, 5}, 1, 6, 2, 11, 7),
        decode_case({70, 64, 65}, 128, 8, 1, 72, 64),
        decode_case({9, 20}, 4, 4, 2, 12, -8),
        large(decode_case({1000, 1, 513, 64}, 16, 12, 2, 128)),
        large(decode_case({1000, 1037}, 16, 6, 1, 64)),
        large(decode_case({1000, 300}, 16, 16, 1, 576, 512)),
        decode_case(std::vector<std::int32_t>(64, 100), 16, 4, 2, 32),
        decode_case(std::vector<std::int32_t>(32, 1000), 16, 8, 2, 64),
        decode_case(std::vector<std::int32_t>(32, 1000), 16, 16, 1, 576, 512),
    };
}

}  // namespace gradus::test
