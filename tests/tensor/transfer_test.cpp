// SPDX-License-Identifier: Apache-2.0
// Between the host and the device's own memory, and work that is recorded.
#include <boost/test/unit_test.hpp>
#include <mpi.h>

#include <numeric>
#include <vector>

#include "op_case.hpp"

namespace gradus::test {
namespace {

struct Fixture {
    std::unique_ptr<Device> device = make_compute_device();
    Arena arena{device.get()};
    std::unique_ptr<Ops> ops = make_test_ops(kLimits, arena, Waiting::never);

    std::vector<float> values(Tensor x) {
        std::vector<float> out(static_cast<std::size_t>(x.elements()), -1);
        ops->download(out.data(), x);
        return out;
    }
};

std::vector<float> counting(std::int64_t n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    std::iota(x.begin(), x.end(), 0.0F);
    return x;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(transfers, Fixture)

BOOST_AUTO_TEST_CASE(what_goes_there_comes_back) {
    for (const std::int64_t n : {0, 1, 5, 1000, 3'000'001}) {  // the last in several pieces
        const Tensor x = arena.take("x", DType::f32, {n}), y = arena.take("y", DType::f32, {n});
        auto from = counting(n);
        ops->upload(x, from.data());
        std::fill(from.begin(), from.end(), -7.0F);  // it may be changed at once
        ops->copy(y, x);
        BOOST_TEST((values(y) == counting(n)));
    }
}

BOOST_AUTO_TEST_CASE(many_small_ones_in_order) {
    const Tensor x = arena.take("x", DType::f32, {3}), sum = arena.take("sum", DType::f32, {3});
    for (int i = 0; i < 2000; ++i) {
        const float from[3] = {1, 2, static_cast<float>(i % 5)};
        ops->upload(x, from);
        ops->add(sum, x);
    }
    BOOST_TEST(values(sum) == (std::vector<float>{2000, 4000, 4000}), boost::test_tools::per_element());
}

/// Over NCCL on a GPU: a group of one goes the same way as a larger one.
BOOST_AUTO_TEST_CASE(collectives_of_one_rank) {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized == 0) return;  // a CPU build of these tests starts without MPI
    const auto group = make_mpi_communicator(MPI_COMM_SELF, "alone");
    for (const DType type : {DType::f32, DType::bf16}) {
        if (type == DType::bf16 && ops->on_host()) continue;
        const Tensor x = arena.take("x", DType::f32, {1000}), y = arena.take("y", type, {1000});
        std::vector<float> small(1000);
        for (std::size_t i = 0; i < small.size(); ++i) small[i] = static_cast<float>(i % 100);
        ops->upload(x, small.data());
        ops->copy(y, x);
        for (const Reduce op : {Reduce::sum, Reduce::max, Reduce::min}) ops->all_reduce(*group, y, op);
        ops->start_sum(*group, y);
        if (type == DType::f32) ops->start_block_sums(*group, std::vector{BlockedTensor{y, {0, y.bytes()}}});
        ops->finish_sums();
        const std::int64_t bytes = y.bytes(), offsets[2] = {0, bytes};
        ops->all_gather_blocks(*group, std::vector{BlockedTensor{y, {0, bytes}}});
        const Tensor z = arena.take("z", type, {1000});
        ops->all_to_all(*group, y, offsets, z, offsets);
        ops->copy(x, z);
        BOOST_TEST((values(x) == small));
    }
}

BOOST_AUTO_TEST_CASE(a_recording_is_done_once_and_again) {
    const Tensor x = arena.take("x", DType::f32, {1000}), y = arena.take("y", DType::f32, {1000});
    const Tensor product = arena.take("product", DType::f32, {10, 10});
    ops->upload(x, counting(1000).data());
    ops->gemm(product, x.as({10, 100}), Transpose::no, x.as({10, 100}), Transpose::yes, 1, 0);
    const auto wanted = values(product);
    const auto recording = ops->record([&] {
        ops->add(y, x);
        ops->gemm(product, x.as({10, 100}), Transpose::no, x.as({10, 100}), Transpose::yes, 1, 0);
    });
    BOOST_TEST((values(y) == counting(1000)));
    // Of inputs it takes what they are at the replay.
    ops->upload(x, std::vector<float>(1000, 3.0F).data());
    recording->replay();
    recording->replay();
    auto expected = counting(1000);
    for (float& v : expected) v += 6;
    BOOST_TEST((values(y) == expected));
    BOOST_TEST((values(product) == std::vector<float>(100, 900.0F)));
    ops->upload(x, counting(1000).data());
    recording->replay();
    BOOST_TEST((values(product) == wanted));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus::test
