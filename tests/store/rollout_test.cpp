// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <cmath>
#include <limits>
#include <set>

#include "child_process.hpp"
#include "gradus/store/rollout_table.hpp"
#include "gradus/store/show.hpp"
#include "store_fixture.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kNames = {"accuracy", "format"};

/// Row `i` of `step`: accuracy i, format -i, the third unscorable.
RolloutRow row(std::int64_t step, int i) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    RolloutRow r;
    r.step = step;
    r.prompt = 100 + i / 2;
    r.prompt_id = fmt::format("problem-{}", 100 + i / 2);
    r.group = (std::int64_t{1} << 40) + i / 2;
    r.sample = i % 2;
    r.prompt_tokens = {1, 2, 3};
    for (int t = 0; t <= i; ++t) {
        r.tokens.push_back(1000 * i + t);
        r.log_probs.push_back(-0.125f * static_cast<float>(t));
    }
    r.finish = static_cast<FinishReason>(i % 3);
    r.rewards = {i == 2 ? nan : i, static_cast<double>(-i)};
    r.reward = i == 2 ? nan : 0.1 * i;
    r.advantage = i - 1.5;
    r.prompt_text = fmt::format("What is {} + 1?\n", i);
    r.response_text = fmt::format("<think>\xe2\x88\x91 {}</think>\n<answer>{}</answer>", i, i + 1);
    r.reference = fmt::format("{}", i + 1);
    return r;
}

std::vector<RolloutRow> rows_of(std::int64_t step, int first, int count) {
    std::vector<RolloutRow> rows;
    for (int i = first; i < first + count; ++i) rows.push_back(row(step, i));
    return rows;
}

bool same(const RolloutRow& a, const RolloutRow& b) {
    auto equal = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
    bool rewards = a.rewards.size() == b.rewards.size();
    for (std::size_t i = 0; rewards && i < a.rewards.size(); ++i)
        rewards = equal(a.rewards[i], b.rewards[i]);
    return rewards && equal(a.reward, b.reward) && equal(a.advantage, b.advantage) &&
           a.step == b.step && a.prompt == b.prompt && a.prompt_id == b.prompt_id &&
           a.group == b.group && a.sample == b.sample && a.prompt_tokens == b.prompt_tokens &&
           a.tokens == b.tokens && a.log_probs == b.log_probs && a.finish == b.finish &&
           a.prompt_text == b.prompt_text && a.response_text == b.response_text &&
           a.reference == b.reference;
}

/// A run with steps 3 and 4, step 4 in two files.
struct RunWithRollouts {
    RunWithRollouts() {
        write_rollouts(rollout_path(folder.path, 3, 0, 0), kNames, rows_of(3, 0, 2));
        write_rollouts(rollout_path(folder.path, 4, 1, 0), kNames, rows_of(4, 4, 4));
        write_rollouts(rollout_path(folder.path, 4, 0, 0), kNames, rows_of(4, 0, 4));
    }
    /// What show_run prints.
    std::string shown(const ShowOptions& options) const {
        const std::string path = folder / "shown";
        in_child([&]() -> std::string {
            if (std::freopen(path.c_str(), "w", stdout) == nullptr) return "";
            show_run(folder.path, options);
            return "";
        });
        return read_file(path);
    }
    std::string error(const ShowOptions& options) const {
        return message_of<DataError>([&] { show_run(folder.path, options); });
    }
    Folder folder;
};

/// The answers of the responses in `text`, in its order: "2 1 ".
std::string answers(const std::string& text) {
    std::string out;
    for (std::size_t at = 0; (at = text.find("<answer>", at)) != std::string::npos;) {
        at += 8;
        out += text.substr(at, text.find('<', at) - at) + " ";
    }
    return out;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(rollout_tables)

BOOST_AUTO_TEST_CASE(rows_come_back) {
    const Folder folder;
    std::vector<RolloutRow> rows = rows_of(7, 0, 9);
    rows[1].tokens.clear();  // empty values among the ragged ones
    rows[1].log_probs.clear();
    rows[8].response_text.clear();
    rows[3].response_text = std::string("a\0b\xff\xfe\0", 6);  // bytes that are no text
    const std::string path = rollout_path(folder.path, 7, 12, 3);
    BOOST_TEST(path == folder / "rollouts/step0000007.rank00012.part003.h5");
    write_rollouts(path, kNames, rows);
    const RolloutFile file = read_rollouts(path);
    BOOST_TEST((file.reward_names == kNames));
    BOOST_REQUIRE(file.rows.size() == rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i)
        BOOST_TEST(same(file.rows[i], rows[i]), "row " << i);
    BOOST_TEST(!fs::exists(path + ".tmp"));
}

BOOST_AUTO_TEST_CASE(no_rows_and_no_rewards) {
    const Folder folder;
    write_rollouts(folder / "a.h5", kNames, {});
    BOOST_TEST(read_rollouts(folder / "a.h5").rows.empty());
    BOOST_TEST((read_rollouts(folder / "a.h5").reward_names == kNames));
    RolloutRow r = row(1, 1);
    r.rewards.clear();
    write_rollouts(folder / "b.h5", {}, {r});
    BOOST_TEST(same(read_rollouts(folder / "b.h5").rows.at(0), r));
    BOOST_CHECK_THROW(write_rollouts(folder / "c.h5", kNames, {r}), DataError);
}

BOOST_AUTO_TEST_CASE(equal_rows_give_equal_bytes) {
    const Folder folder;
    write_rollouts(folder / "a.h5", kNames, rows_of(1, 0, 5));
    usleep(1100000);
    write_rollouts(folder / "b.h5", kNames, rows_of(1, 0, 5));
    BOOST_TEST((read_file(folder / "a.h5") == read_file(folder / "b.h5")));
}

BOOST_AUTO_TEST_CASE(h5dump_reads_them) {
    if (!have_h5dump()) {
        BOOST_TEST_MESSAGE("skipped: h5dump is not installed");
        return;
    }
    const Folder folder;
    const std::string path = folder / "a.h5";
    write_rollouts(path, kNames, rows_of(1, 0, 3));
    auto dump = [&](const std::string& what) {
        return run_command("h5dump -w 200 -d " + what + " " + path);
    };
    BOOST_TEST(contains(dump("/tokens/values"), "0, 1000, 1001, 2000, 2001, 2002"));
    BOOST_TEST(contains(dump("/tokens/offsets"), "0, 1, 3, 6"));
    BOOST_TEST(contains(dump("/finish"), "\"eos\\000\\000\\000\", \"stop\\000\\000\", \"length\""));
    BOOST_TEST(contains(dump("/reward_names"), "accuracy"));
    BOOST_TEST(contains(dump("/rewards"), "( 3, 2 )"));
    BOOST_TEST(contains(dump("/advantage"), "-1.5, -0.5, 0.5"));
    BOOST_TEST(contains(dump("/response_text/text"), "<answer>2</answer>"));
}

BOOST_AUTO_TEST_CASE(errors_name_the_file) {
    const Folder folder;
    BOOST_TEST(
        contains(message_of<DataError>([&] { read_rollouts(folder / "none.h5"); }), "none.h5"));
    write_file_atomically(folder / "text.h5", "not HDF5");
    BOOST_TEST(
        contains(message_of<DataError>([&] { read_rollouts(folder / "text.h5"); }), "text.h5"));
    const std::string path = folder / "a.h5";
    write_rollouts(path, kNames, rows_of(1, 0, 50));
    fs::resize_file(path, fs::file_size(path) / 2);
    BOOST_TEST(contains(message_of<DataError>([&] { read_rollouts(path); }), "a.h5"));
    const ChildResult full = in_child([&] {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit small = {5000, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &small);
        return message_of<DataError>(
            [&] { write_rollouts(folder / "b.h5", kNames, rows_of(1, 0, 50)); });
    });
    BOOST_TEST(full.status == 0);
    BOOST_TEST(contains(full.text, "b.h5"), full.text);
    BOOST_TEST(contains(full.text, "File too large"), full.text);
    BOOST_TEST(!fs::exists(folder / "b.h5.tmp"));
    BOOST_TEST(!fs::exists(folder / "b.h5"));
}

BOOST_AUTO_TEST_CASE(later_steps_are_cut) {
    const RunWithRollouts run;
    write_file_atomically(run.folder / "rollouts/notes.txt", "not ours");
    fs::copy_file(rollout_path(run.folder.path, 3, 0, 0),
                  rollout_path(run.folder.path, 3, 0, 0) + ".tmp");
    auto names = [&] {
        std::set<std::string> all;
        for (const auto& entry : fs::directory_iterator(run.folder / "rollouts"))
            all.insert(entry.path().filename().string());
        return all;
    };
    cut_rollouts(run.folder.path, 5);
    BOOST_TEST(names().size() == 4u);  // the unfinished one is gone
    cut_rollouts(run.folder.path, 4);
    BOOST_TEST((names() == std::set<std::string>{"notes.txt", "step0000003.rank00000.part000.h5"}));
    cut_rollouts(run.folder / "no such run", 0);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(show)

BOOST_AUTO_TEST_CASE(all_of_the_newest_step_in_order) {
    const RunWithRollouts run;
    const std::string text = run.shown({.pick = "all"});
    BOOST_TEST(answers(text) == "1 2 3 4 5 6 7 8 ");
    BOOST_TEST(
        contains(text,
                 "step 4 prompt problem-101 group 1099511627777 sample 1 finish eos length 4 "
                 "accuracy 3 format -3 reward 0.3 advantage 1.5\n"),
        text);
    BOOST_TEST(contains(text, "What is 3 + 1?\n"));
    BOOST_TEST(contains(text, "<think>\xe2\x88\x91 3</think>\n<answer>4</answer>"));
    BOOST_TEST(contains(text, "reference\n4\n"));
    BOOST_TEST(contains(text, "accuracy nan"));
    BOOST_TEST(answers(run.shown({.step = 3, .pick = "all"})) == "1 2 ");
}

BOOST_AUTO_TEST_CASE(best_and_worst) {
    const RunWithRollouts run;
    BOOST_TEST(answers(run.shown({.pick = "best", .count = 3})) == "8 7 6 ");
    // The unscorable one comes last both ways.
    BOOST_TEST(answers(run.shown({.pick = "worst", .count = 3})) == "1 2 4 ");
    BOOST_TEST(answers(run.shown({.pick = "best", .count = 99})) == "8 7 6 5 4 2 1 3 ");
    BOOST_TEST(answers(run.shown({.pick = "best", .reward = "format", .count = 2})) == "1 2 ");
    BOOST_TEST(answers(run.shown({.pick = "worst", .reward = "format", .count = 1})) == "8 ");
}

BOOST_AUTO_TEST_CASE(random_is_a_function_of_the_seed) {
    const RunWithRollouts run;
    const std::string first = answers(run.shown({.count = 4, .seed = 1}));
    BOOST_TEST(first.size() == 8u);
    BOOST_TEST(first == answers(run.shown({.count = 4, .seed = 1})));
    int different = 0;
    for (std::uint64_t seed = 2; seed < 6; ++seed)
        different += answers(run.shown({.count = 4, .seed = seed})) != first;
    BOOST_TEST(different > 0);
}

BOOST_AUTO_TEST_CASE(errors_say_what_there_is) {
    const RunWithRollouts run;
    BOOST_TEST(contains(run.error({.step = 5}), "step 5; it has those of 3, 4"),
               run.error({.step = 5}));
    BOOST_TEST(contains(run.error({.pick = "best", .reward = "beauty"}), "accuracy, format"));
    BOOST_TEST(contains(run.error({.pick = "worts"}), "random, best, worst, all"));
    const Folder empty;
    BOOST_TEST(contains(message_of<DataError>([&] { show_run(empty.path, {}); }), "no rollouts"));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
