// SPDX-License-Identifier: Apache-2.0
// What the table of cases does not show: the exponential, NaN, batch company, errors.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../../src/tensor/cpu_math.hpp"
#include "gradus/base/error.hpp"
#include "op_case.hpp"

namespace gradus::test {

namespace {

struct Fixture {
    std::unique_ptr<Device> device = make_test_device();
    Arena arena{device.get()};
    std::unique_ptr<Ops> ops = make_test_ops(kLimits, arena);
    Lcg random{11};

    Tensor floats(Shape shape) {
        auto t = arena.take("test", DType::f32, shape);
        for (float& x : t.floats()) x = static_cast<float>(random.normal());
        return t;
    }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_details)

BOOST_AUTO_TEST_CASE(exponential) {
    double worst = 0;
    for (double x = -86.59; x < 88.72; x += 0.000173) {
        const auto f = static_cast<float>(x);
        const double e = std::exp(static_cast<double>(f));
        worst = std::max(worst, std::abs(cpu::exp_f32(f) - e) / e);
    }
    BOOST_TEST(worst < 2e-7);
    BOOST_TEST(cpu::exp_f32(0.0F) == 1.0F);
    constexpr float kInf = std::numeric_limits<float>::infinity();
    BOOST_TEST(cpu::exp_f32(-kInf) == 0.0F);
    BOOST_TEST(cpu::exp_f32(-1e30F) == 0.0F);
    BOOST_TEST(cpu::exp_f32(-87.5F) < 1.2e-38F);
    BOOST_TEST(cpu::exp_f32(kInf) == kInf);
    BOOST_TEST(cpu::exp_f32(89.0F) == kInf);
    BOOST_TEST(cpu::exp_f32(1e30F) == kInf);
    BOOST_TEST(std::isnan(cpu::exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

BOOST_FIXTURE_TEST_CASE(nan_stays_nan, Fixture) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    auto x = floats({3, 40});
    auto y = floats({3, 40});
    auto out = floats({3, 40});
    auto row = floats({3});
    auto sums = floats({3, 3});
    x.f32()[40 + 33] = nan;
    ops->swiglu(out, x, y);
    BOOST_TEST(std::isnan(out.f32()[73]));
    BOOST_TEST(std::isfinite(out.f32()[72]));
    ops->rms_norm(out, row, x, y.rows(0, 1).as({40}), 1e-5F);
    BOOST_TEST(std::isnan(out.f32()[40]));
    BOOST_TEST(std::isfinite(out.f32()[0]));
    const Ints targets({1, 2, 3});
    ops->head_max(row, x, 1);
    ops->head_sums(sums, x, row, targets.tensor(), 0, 1);
    auto entropy = floats({3});
    ops->head_finish(row, entropy, sums);
    BOOST_TEST(std::isnan(row.f32()[1]));
    BOOST_TEST(std::isfinite(row.f32()[0]));
    auto total = floats({1});
    ops->sum_squares(total, x);
    BOOST_TEST(std::isnan(total.f32()[0]));

    const Packed packed({3});
    auto q = x.as({3, 1, 40});
    auto lse = floats({3, 1});
    ops->attention(out, lse, q, y, y, packed.packing(), {1, 1, 40, 0.1F});
    BOOST_TEST(std::isfinite(out.f32()[0]));
    BOOST_TEST(std::isnan(out.f32()[40]));
    BOOST_TEST(std::isfinite(out.f32()[80]));
}

BOOST_FIXTURE_TEST_CASE(impossible_tokens_have_no_gradient, Fixture) {
    auto z = floats({1, 20});
    z.f32()[7] = -std::numeric_limits<float>::infinity();
    auto max = floats({1}), sums = floats({1, 3}), lp = floats({1}), h = floats({1});
    const Ints targets({3});
    ops->head_max(max, z, 1);
    ops->head_sums(sums, z, max, targets.tensor(), 0, 1);
    ops->head_finish(lp, h, sums);
    BOOST_TEST(std::isfinite(h.f32()[0]));
    ops->head_backward(z, z, max, sums, targets.tensor(), lp, h, 0, 1);
    BOOST_TEST(z.f32()[7] == 0.0F);
    for (float g : z.floats()) BOOST_TEST(std::isfinite(g));
}

BOOST_FIXTURE_TEST_CASE(rows_without_target, Fixture) {
    auto z = floats({2, 20});
    auto max = floats({2}), sums = floats({2, 3}), dlp = floats({2}), dh = floats({2});
    ops->fill(dh, 0);
    const Ints targets({-1, 4});
    ops->head_max(max, z, 1);
    ops->head_sums(sums, z, max, targets.tensor(), 0, 1);
    BOOST_TEST(sums.f32()[2] == 0.0F);
    ops->head_backward(z, z, max, sums, targets.tensor(), dlp, dh, 0, 1);
    for (float g : z.rows(0, 1).floats()) BOOST_TEST(g == 0.0F);
    BOOST_TEST(z.f32()[24] != 0.0F);
}

// Bit for bit: what the sampler saw does not depend on who else was in the batch.
BOOST_FIXTURE_TEST_CASE(decode_rows_do_not_depend_on_company, Fixture) {
    const std::int64_t rows = 7, nh = 6, nkv = 2, d = 32, page = 16, pages = 40;
    const PagedCache cache{floats({pages, page, nkv, d}), floats({pages, page, nkv, d}), page};
    std::vector<std::int32_t> table, length;
    for (std::int64_t i = 0; i < rows * 5; ++i) {
        table.push_back(static_cast<std::int32_t>(random.below(pages)));
    }
    for (std::int64_t i = 0; i < rows; ++i) {
        length.push_back(static_cast<std::int32_t>(1 + random.below(80)));
    }
    const AttentionShape shape{nh, nkv, d, 0.2F};
    auto q = floats({rows, nh, d});
    auto together = floats({rows, nh, d});
    auto alone = floats({1, nh, d});
    const Ints all_pages(table, {rows, 5}), lengths(length);
    ops->attention_decode(together, q, cache, all_pages.tensor(), lengths.tensor(), shape);
    for (std::int64_t r = 0; r < rows; ++r) {
        ops->attention_decode(alone, q.rows(r, 1), cache, all_pages.tensor().rows(r, 1),
                              lengths.tensor().rows(r, 1), shape);
        BOOST_TEST(std::memcmp(alone.data(), together.rows(r, 1).data(),
                               static_cast<std::size_t>(alone.bytes())) == 0);
    }
}

BOOST_FIXTURE_TEST_CASE(pages_are_copied, Fixture) {
    const PagedCache cache{floats({4, 3, 2, 8}), floats({4, 3, 2, 8}), 3};
    const float key = cache.keys.rows(2, 1).f32()[17];
    const float value = cache.values.rows(0, 1).f32()[5];
    ops->kv_copy_pages(cache, Ints({2, 0, 3}).tensor(), Ints({1, 3, 3}).tensor());
    BOOST_TEST(cache.keys.rows(1, 1).f32()[17] == key);
    BOOST_TEST(cache.values.rows(3, 1).f32()[5] == value);
    auto k = floats({3, 2, 8}), v = floats({3, 2, 8});
    const float before = cache.keys.f32()[0];
    ops->kv_store(cache, k, v, Ints({7, -1, 4}).tensor());
    BOOST_TEST(cache.keys.f32()[0] == before);
    BOOST_TEST(cache.keys.rows(2, 1).f32()[16] == k.f32()[0]);    // page 2, row 1
    BOOST_TEST(cache.values.rows(1, 1).f32()[16] == v.f32()[32]);  // page 1, row 1
}

BOOST_FIXTURE_TEST_CASE(pages_without_values_are_copied, Fixture) {
    const PagedCache cache{floats({4, 3, 1, 8}), Tensor(), 3};
    const float key = cache.keys.rows(2, 1).f32()[17];
    ops->kv_copy_pages(cache, Ints({2, 0}).tensor(), Ints({1, 3}).tensor());
    BOOST_TEST(cache.keys.rows(1, 1).f32()[17] == key);
    auto k = floats({3, 1, 8});
    const float before = cache.keys.f32()[0];
    ops->kv_store(cache, k, Tensor(), Ints({7, -1, 4}).tensor());
    BOOST_TEST(cache.keys.f32()[0] == before);
    BOOST_TEST(cache.keys.rows(2, 1).f32()[8] == k.f32()[0]);   // page 2, row 1
    BOOST_TEST(cache.keys.rows(1, 1).f32()[8] == k.f32()[16]);  // page 1, row 1
}

BOOST_FIXTURE_TEST_CASE(wrong_shapes_are_errors, Fixture) {
    auto a = floats({3, 4}), b = floats({5, 6}), c = floats({3, 6});
    BOOST_CHECK_THROW(ops->gemm(c, a, Transpose::no, b, Transpose::no, 1, 0), InternalError);
    if (on_cuda()) return;  // what follows a GPU does not look at
    const Packed packed({kLimits.max_length + 1});
    auto q = floats({packed.tokens, 1, 8}), lse = floats({packed.tokens, 1});
    BOOST_CHECK_THROW(ops->attention(q, lse, q, q, q, packed.packing(), {1, 1, 8, 1}),
                      InternalError);
    const Ints far({9});
    BOOST_CHECK_THROW(ops->gather_rows(c, a, far.tensor()), InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus::test
