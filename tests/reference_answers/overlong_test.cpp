// SPDX-License-Identifier: Apache-2.0
// The soft overlong punishment against the assertions of TRL's and open-r1's tests (GRADUS_REFERENCE/rewards).
#include <fmt/format.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "gradus/base/json_lines.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

/// One number out of a result or an expectation that may be a list of one.
double only(const Json& value) {
    if (!value.is_array()) return value.get<double>();
    BOOST_REQUIRE_EQUAL(value.size(), 1u);
    return value[0].get<double>();
}

void check_row(const Json& row, const std::string& name) {
    const Json& limits = row["ctor"]["kwargs"];
    const Json& ids = row["kwargs"].contains("completion_ids") ? row["kwargs"]["completion_ids"] : row["args"].at(0);
    BOOST_REQUIRE_EQUAL(ids.size(), 1u);
    const std::string op = row["op"];
    BOOST_REQUIRE_MESSAGE(op == "==" || op == "~= places=4", name << ": unknown comparison " << op);
    const double value = overlong_punishment(std::ssize(ids[0]), limits["max_completion_len"].get<std::int64_t>(),
                                             limits["soft_punish_cache"].get<std::int64_t>());
    const double wanted = only(row["expected"]);
    BOOST_TEST((op == "==" ? value == wanted : std::abs(value - wanted) < 5e-5),
               name << ": " << value << ", reference " << wanted);
}

}  // namespace

BOOST_AUTO_TEST_CASE(soft_overlong_punishment_of_other_projects) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    int ran = 0;
    for (const auto& file : std::filesystem::directory_iterator(std::string(root) + "/rewards")) {
        if (file.path().extension() != ".jsonl") continue;
        for_each_json_line(file.path().string(), [&](const Json& row, std::int64_t line) {
            if (row["func"] != "get_soft_overlong_punishment()") return;
            ++ran;
            check_row(row, fmt::format("{}:{}", file.path().filename().string(), line));
        });
    }
    fmt::print("reference rewards, soft overlong punishment: {} cases\n", ran);
    BOOST_TEST(ran > 0);
}

}  // namespace gradus
