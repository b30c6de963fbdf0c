// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <set>
#include <vector>

#include "gradus/base/philox.hpp"

namespace gradus {

// Known answers of Random123 (Salmon et al. 2011), kat_vectors, philox4x32 with 10 rounds.
BOOST_AUTO_TEST_CASE(philox_known_answers) {
    BOOST_TEST((philox4x32({0, 0, 0, 0}, {0, 0}) ==
                PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    constexpr std::uint32_t kOnes = 0xffffffff;
    BOOST_TEST((philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
                PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    BOOST_TEST((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                           {0xa4093822, 0x299f31d0}) ==
                PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

BOOST_AUTO_TEST_CASE(every_field_of_the_address_counts) {
    const RandomAddress base{.seed = 7, .stream = Stream::eval, .step = 3, .prompt = 4, .sample = 5,
                             .position = 6};
    std::set<PhiloxBlock> blocks{random_bits(base)};
    RandomAddress a = base;
    a.seed ^= std::uint64_t{1} << 40;
    blocks.insert(random_bits(a));
    a = base, a.stream = Stream::init;
    blocks.insert(random_bits(a));
    a = base, a.step += std::uint64_t{1} << 35;
    blocks.insert(random_bits(a));
    a = base, a.prompt += std::uint64_t{1} << 35;
    blocks.insert(random_bits(a));
    a = base, a.sample++;
    blocks.insert(random_bits(a));
    a = base, a.position++;
    blocks.insert(random_bits(a));
    BOOST_TEST(blocks.size() == 7u);
}

BOOST_AUTO_TEST_CASE(uniform_and_normal_moments) {
    const int n = 200000;
    double sum = 0, normal_sum = 0, normal_squares = 0;
    for (int i = 0; i < n; ++i) {
        const RandomAddress address{.seed = 1, .stream = Stream::test,
                                    .position = static_cast<std::uint32_t>(i)};
        const double u = random_uniform(address);
        BOOST_REQUIRE(u >= 0);
        BOOST_REQUIRE(u < 1);
        sum += u;
        for (double z : random_normal(address)) {
            normal_sum += z;
            normal_squares += z * z;
        }
    }
    BOOST_TEST(std::abs(sum / n - 0.5) < 4 * 0.2887 / std::sqrt(n));
    BOOST_TEST(std::abs(normal_sum / (2 * n)) < 4 / std::sqrt(2.0 * n));
    BOOST_TEST(std::abs(normal_squares / (2 * n) - 1) < 4 * std::sqrt(2.0 / (2 * n)));
}

BOOST_AUTO_TEST_CASE(permutation_is_one_and_depends_on_its_address) {
    std::vector<std::int64_t> a(1000), b(1000), again(1000);
    random_permutation(1, Stream::shuffle, 0, 1000, a.data());
    random_permutation(1, Stream::shuffle, 1, 1000, b.data());
    random_permutation(1, Stream::shuffle, 0, 1000, again.data());
    BOOST_TEST((a == again));
    BOOST_TEST((a != b));
    BOOST_TEST(std::set<std::int64_t>(a.begin(), a.end()).size() == 1000u);
    BOOST_TEST(*std::max_element(a.begin(), a.end()) == 999);
}

}  // namespace gradus
