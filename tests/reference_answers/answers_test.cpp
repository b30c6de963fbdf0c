// SPDX-License-Identifier: Apache-2.0
// Answers of other projects' suites (GRADUS_REFERENCE/answers): the rows whose gold answer is a
// plain number, which is what the accuracy reward by number covers.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>

#include <regex>

#include "gradus/base/json_lines.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

bool is_plain_number(const std::string& text) {
    static const std::regex pattern(R"(\s*[-+]?(\d+|[1-9]\d{0,2}(,\d{3})+)(\.\d+)?\s*)");
    return std::regex_match(text, pattern);
}

/// Whether a completion marks its answer and the answer is a plain number: anything else is found by
/// guesses that differ from project to project.
bool marks_plain_number(const std::string& text) {
    static const std::regex boxed(R"(\\boxed\{([^{}]*)\})"), tagged(R"(<answer>([^<>]*)</answer>)");
    std::smatch found;
    return (std::regex_search(text, found, tagged) || std::regex_search(text, found, boxed)) &&
           is_plain_number(found[1]);
}

}  // namespace

BOOST_AUTO_TEST_CASE(numbers_of_other_projects_suites) {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) {
        fmt::print("skipped: GRADUS_REFERENCE is not set\n");
        return;
    }
    const auto reward = make_accuracy_reward();
    int ran = 0, other = 0;
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(root) + "/answers"))
        if (entry.path().extension() == ".jsonl") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files)
        for_each_json_line(file, [&](const Json& row, std::int64_t line) {
            const auto gold = row["gold"].get<std::string>(), pred = row["pred"].get<std::string>();
            const bool bare = row["mode"] == "answer";
            // SkyThought accepts numbers within a tolerance and percentages for shares, by design.
            const bool tolerant = file.filename().string().rfind("skythought", 0) == 0;
            if (tolerant || !is_plain_number(gold) ||
                !(bare ? is_plain_number(pred) : marks_plain_number(pred))) {
                ++other;
                return;
            }
            ++ran;
            const double score = reward->score(
                {.response = bare ? "<think>x</think><answer>" + pred + "</answer>" : pred,
                 .reference = gold});
            BOOST_TEST((score == 1) == row["expected"].get<bool>(),
                       file.filename().string() << ":" << line << ": gold " << gold << ", pred "
                                                << pred << ", score " << score);
        });
    fmt::print("reference answers: {} cases, {} of other kinds not covered\n", ran, other);
    BOOST_TEST(ran > 0);
}

}  // namespace gradus
