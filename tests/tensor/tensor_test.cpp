// SPDX-License-Identifier: Apache-2.0
#include "gradus/tensor/tensor.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdint>

#include "gradus/base/error.hpp"
#include "gradus/tensor/arena.hpp"
#include "gradus/tensor/ops.hpp"

namespace gradus {

BOOST_AUTO_TEST_SUITE(tensors)

BOOST_AUTO_TEST_CASE(shapes) {
    const Shape s{3, 4, 5};
    BOOST_TEST(s.elements() == 60);
    BOOST_TEST(s.row_elements() == 20);
    BOOST_TEST(s.text() == "[3, 4, 5]");
    BOOST_TEST(Shape{}.elements() == 1);
    BOOST_TEST(Shape{}.text() == "[]");
    BOOST_TEST(Shape{7}.row_elements() == 1);
    BOOST_TEST((Shape{2, 3} == Shape{2, 3}));
    BOOST_TEST((Shape{2, 3} != Shape{2, 3, 1}));
    BOOST_CHECK_THROW((Shape{1, 2, 3, 4, 5}), InternalError);
    BOOST_CHECK_THROW((Shape{-1}), InternalError);
    BOOST_TEST(size_of(DType::f32) == 4);
    BOOST_TEST(size_of(DType::bf16) == 2);
    BOOST_TEST(name_of(DType::i32) == "i32");
}

BOOST_AUTO_TEST_CASE(views) {
    float data[24] = {};
    const Tensor t(data, DType::f32, {4, 3, 2});
    const auto part = t.rows(1, 2);
    BOOST_TEST(part.f32() == data + 6);
    BOOST_TEST((part.shape() == Shape{2, 3, 2}));
    BOOST_TEST(part.bytes() == 48);
    BOOST_TEST((t.as({5, 4}).shape() == Shape{5, 4}));
    BOOST_TEST(t.rows(4, 0).elements() == 0);
    BOOST_CHECK_THROW(t.rows(3, 2), InternalError);
    BOOST_CHECK_THROW(t.as({5, 5}), InternalError);
    BOOST_TEST(!Tensor(nullptr, DType::f32, {4}).rows(2, 1));
}

BOOST_AUTO_TEST_CASE(boxes) {
    const Box a{{0, 2}, {4, 4}};
    const Box b{{3, 0}, {5, 3}};
    const Box common{{3, 2}, {1, 1}};
    BOOST_TEST((intersect(a, b) == common));
    BOOST_TEST((intersect(b, a) == common));
    BOOST_TEST((intersect(a, a) == a));
    BOOST_TEST((intersect(a, Box{{0, 6}, {4, 1}}).count == Shape{0, 0}));
    BOOST_TEST((intersect(Box{{2}, {3}}, Box{{9}, {1}}).elements() == 0));
    BOOST_CHECK_THROW(intersect(a, Box{{1}, {1}}), InternalError);
}

BOOST_AUTO_TEST_CASE(arena_counts_what_it_gives) {
    auto device = make_cpu_device();
    Arena real(device.get());
    Arena planned(nullptr);
    BOOST_TEST(planned.planned());
    for (auto* arena : {&real, &planned}) {
        const auto a = arena->take("weights", DType::f32, {5});
        const auto b = arena->take("adam.m", DType::bf16, {100, 3});
        const auto c = arena->take("weights", DType::i32, {16});
        BOOST_TEST((b.shape() == Shape{100, 3}));
        BOOST_TEST(static_cast<bool>(a) == !arena->planned());
        if (arena->planned()) continue;
        for (const auto& t : {a, b, c}) {
            BOOST_TEST(reinterpret_cast<std::uintptr_t>(t.data()) % 64 == 0U);
        }
        for (float x : a.floats()) BOOST_TEST(x == 0.0F);
        for (int i = 0; i < 16; ++i) BOOST_TEST(c.i32()[i] == 0);
    }
    BOOST_TEST(real.bytes() == 64 + 640 + 64);
    BOOST_TEST(real.bytes() == planned.bytes());
    BOOST_TEST(real.table() == planned.table());
    BOOST_REQUIRE(real.rows().size() == 2U);
    BOOST_TEST(real.rows()[0].name == "weights");
    BOOST_TEST(real.rows()[0].bytes == 128);
    BOOST_TEST(real.rows()[0].pieces == 2);
    BOOST_TEST(real.table().find("adam.m") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(phases_lie_over_one_another) {
    auto device = make_cpu_device();
    Arena planned(nullptr), real(device.get());
    const auto take = [](Arena& arena) {
        return std::vector<Tensor>{arena.take("weights", DType::f32, {5}),
                                   arena.take("kept", DType::f32, {10}, Phase::training),
                                   arena.take("kept", DType::bf16, {300}, Phase::training),
                                   arena.take("cache", DType::f32, {100}, Phase::generation)};
    };
    planned.share_between_phases(0);
    for (const Tensor& x : take(planned)) BOOST_TEST(!x);
    BOOST_TEST(planned.largest_phase() == 256 + 768);
    real.share_between_phases(planned.largest_phase());
    const std::vector<Tensor> pieces = take(real);
    BOOST_TEST(real.bytes() == 64 + 256 + 768);
    BOOST_TEST(real.bytes() == planned.bytes());
    BOOST_TEST(real.table() == planned.table());
    BOOST_TEST(real.table().find("shared by phases") != std::string::npos);
    BOOST_TEST(real.rows()[2].bytes == 512);
    BOOST_TEST(pieces[1].data() == pieces[3].data());
    BOOST_TEST(pieces[1].data() == real.shared_block().data());
    BOOST_TEST(static_cast<char*>(pieces[2].data()) - static_cast<char*>(pieces[1].data()) == 256);
    for (const float x : pieces[3].floats()) BOOST_TEST(x == 0.0F);
    // The smaller phase has room; the largest none.
    BOOST_TEST(static_cast<bool>(real.take("cache", DType::f32, {128}, Phase::generation)));
    BOOST_CHECK_THROW(real.take("kept", DType::f32, {1}, Phase::training), InternalError);
    BOOST_CHECK_THROW(real.share_between_phases(256), InternalError);
}

BOOST_AUTO_TEST_CASE(phases_of_an_arena_that_does_not_share_lie_apart) {
    auto device = make_cpu_device();
    Arena arena(device.get());
    const Tensor a = arena.take("kept", DType::f32, {16}, Phase::training);
    const Tensor b = arena.take("cache", DType::f32, {16}, Phase::generation);
    BOOST_TEST(a.data() != b.data());
    BOOST_TEST(arena.bytes() == 128);
    BOOST_TEST(!arena.shared_block());
    BOOST_TEST(arena.table().find("shared") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(operations_of_a_plan_take_the_same_memory) {
    auto device = make_cpu_device();
    Arena real(device.get());
    Arena planned(nullptr);
    const OpsLimits limits{.max_tokens = 512, .max_length = 300, .max_head_dim = 64};
    const auto a = make_cpu_ops(limits, real);
    const auto b = make_cpu_ops(limits, planned);
    BOOST_TEST(real.bytes() > 0);
    BOOST_TEST(real.bytes() == planned.bytes());
}

BOOST_AUTO_TEST_CASE(too_much_memory_is_an_error_that_names_it) {
    auto device = make_cpu_device();
    Arena arena(device.get());
    try {
        arena.take("activations", DType::f32, {std::int64_t{1} << 50});
        BOOST_ERROR("4 PiB were given");
    } catch (const Error& error) {
        const std::string message = error.what();
        BOOST_TEST(message.find("4503599627370496") != std::string::npos);
        BOOST_TEST(message.find("activations") != std::string::npos);
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
