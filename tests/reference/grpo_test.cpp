// SPDX-License-Identifier: Apache-2.0
// Loss, gradient, metrics and advantages of TRL's and verl's own code (GRADUS_REFERENCE/grpo).
// Every case whose options exist here runs; the others are counted by what they would need.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <fmt/format.h>
#include <map>

#include "gradus/base/json_lines.hpp"
#include "gradus/train/loss.hpp"

namespace gradus {
namespace {

using Doubles = std::vector<double>;

/// What was run and what was not, by reason.
struct Tally {
    int ran = 0;
    std::map<std::string, int> skipped;

    void print(const std::string& name) const {
        fmt::print("reference grpo/{}: {} cases\n", name, ran);
        for (const auto& [reason, n] : skipped) {
            fmt::print("reference grpo/{}: {} skipped: {} is not built yet\n", name, n, reason);
        }
    }
};

Json load(const std::string& root, const std::string& name) {
    return Json::parse(read_file(root + "/grpo/" + name + ".json"));
}

bool near(double value, double wanted, double tolerance) {
    return std::abs(value - wanted) <= tolerance * std::max(std::abs(wanted), 1e-3);
}

/// Row `i` of a padded array, cut to the sequence's length.
Doubles row_of(const Json& rows, std::size_t i, std::size_t n) {
    const auto row = rows.at(i).get<Doubles>();
    return {row.begin(), row.begin() + static_cast<std::ptrdiff_t>(n)};
}

struct Rows {
    std::vector<Doubles> log_prob, entropy, old_log_prob, ref_log_prob, advantage;
    double tokens = 0;
};

struct Result {
    std::vector<Doubles> d_log_prob;
    std::vector<PolicyLossSums> each;
    PolicyLossSums all;
};

Result evaluate(const PolicyLossOptions& options, const LossNormalizer& normalizer,
                const Rows& rows) {
    Result result;
    for (std::size_t i = 0; i < rows.log_prob.size(); ++i) {
        const std::size_t n = rows.log_prob[i].size();
        const Doubles entropy = rows.entropy.empty() ? Doubles(n) : rows.entropy[i];
        const Doubles ref = rows.ref_log_prob.empty() ? Doubles() : rows.ref_log_prob[i];
        Doubles d_entropy(n);
        result.d_log_prob.emplace_back(n);
        PolicyLossSums sums;
        policy_loss<double>(options, normalizer, rows.log_prob[i], entropy, rows.old_log_prob[i],
                            ref, rows.advantage[i], result.d_log_prob[i], d_entropy, sums);
        result.each.push_back(sums);
        result.all.loss += sums.loss;
        result.all.kl += sums.kl;
        result.all.entropy += sums.entropy;
        result.all.clipped_low += sums.clipped_low;
        result.all.clipped_high += sums.clipped_high;
        result.all.tokens += sums.tokens;
    }
    return result;
}

/// Gradients agree on every token; beyond a sequence's end the reference's are zero.
void check_gradient(const Result& result, const Json& wanted, const std::string& name,
                    const Doubles& factor) {
    for (std::size_t i = 0; i < result.d_log_prob.size(); ++i) {
        const auto row = wanted.at(i).get<Doubles>();
        for (std::size_t t = 0; t < row.size(); ++t) {
            const Doubles& mine = result.d_log_prob[i];
            const double value = t < mine.size() ? mine[t] * factor[i] : 0.0;
            BOOST_TEST(near(value, row[t], 1e-9), name << " token " << i << ", " << t << ": "
                                                       << value << ", reference " << row[t]);
        }
    }
}

std::string case_name(std::size_t number, const Json& config) {
    return fmt::format("case {} {}", number, config.dump());
}

// TRL

/// What a case of TRL asks for that no option here covers; "" where all is covered.
std::string trl_missing(const Json& config) {
    const std::string type = config["loss_type"];
    if (type != "grpo" && type != "bnpo" && type != "dapo") return "loss type " + type;
    if (config["level"] != "token") return "the ratio of whole sequences (GSPO)";
    if (!config["delta"].is_null()) return "two-sided clipping (delta)";
    if (config["bias_kl"].get<bool>()) return "the KL weighted by the ratio";
    if (!config["opm"].is_null()) return "the off-policy mask";
    if (config["tis"].get<bool>()) return "the sampler's importance ratio";
    if (config["hent"] != 1.0) return "the mask of low entropy";
    return "";
}

LossNormalizer trl_normalizer(const Json& item, double tokens) {
    const Json& config = item["config"];
    const double accumulated = config["gas"];
    const bool global = config["loss_type"] == "dapo";
    return {.tokens = global ? item["num_items_in_batch"].get<double>() : tokens * accumulated,
            .sequences = static_cast<double>(item["lengths"].size()) * accumulated};
}

void check_trl_metrics(const Result& result, const Json& metrics, const std::string& name) {
    const PolicyLossSums& all = result.all;
    double low_min = INFINITY, high_max = -INFINITY;
    for (const PolicyLossSums& s : result.each) {
        low_min = std::min(low_min, s.clipped_low / s.tokens);
        high_max = std::max(high_max, s.clipped_high / s.tokens);
    }
    const std::map<std::string, double> mine = {
        {"entropy", all.entropy / all.tokens},
        {"kl", all.kl / all.tokens},
        {"clip_ratio/low_mean", all.clipped_low / all.tokens},
        {"clip_ratio/high_mean", all.clipped_high / all.tokens},
        {"clip_ratio/region_mean", (all.clipped_low + all.clipped_high) / all.tokens},
        {"clip_ratio/low_min", low_min},
        {"clip_ratio/high_max", high_max}};
    for (const auto& [key, wanted] : metrics.items()) {
        BOOST_REQUIRE_MESSAGE(mine.count(key) == 1, name << ": unknown metric " << key);
        BOOST_TEST(near(mine.at(key), wanted.get<double>(), 1e-10),
                   name << " " << key << ": " << mine.at(key) << ", reference "
                        << wanted.get<double>());
    }
}

void run_trl(const Json& item, const std::string& name) {
    const Json& config = item["config"];
    Rows rows;
    const auto lengths = item["lengths"].get<std::vector<std::size_t>>();
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::size_t n = lengths[i];
        rows.tokens += static_cast<double>(n);
        rows.log_prob.push_back(row_of(item["logp"], i, n));
        rows.entropy.push_back(row_of(item["entropy"], i, n));
        rows.old_log_prob.push_back(row_of(item["old_logp"], i, n));
        rows.advantage.emplace_back(n, item["advantages"][i].get<double>());
        if (config["beta"] != 0.0) rows.ref_log_prob.push_back(row_of(item["ref_logp"], i, n));
    }
    const PolicyLossOptions options{.clip_low = config["lo"],
                                    .clip_high = config["hi"],
                                    .kl_coef = config["beta"],
                                    .aggregation = config["loss_type"] == "grpo"
                                                       ? Aggregation::sequence_mean
                                                       : Aggregation::token_mean};
    const Result result = evaluate(options, trl_normalizer(item, rows.tokens), rows);
    const double wanted = item["loss"];
    BOOST_TEST(near(result.all.loss, wanted, 1e-10),
               name << ": loss " << result.all.loss << ", reference " << wanted);
    check_gradient(result, item["grad_logp"], name, Doubles(lengths.size(), 1.0));
    check_trl_metrics(result, item["metrics"], name);
}

// verl

/// verl adds 1e-8 to the counts of tokens that it takes means over (but for the whole batch's).
double verl_mean_factor(double n) { return n / (n + 1e-8); }

std::string verl_missing(const Json& item) {
    const std::string mode = item["mode"];
    if (mode != "token-mean" && mode != "seq-mean-token-mean") return "aggregation " + mode;
    if (item["metrics"]["actor/pg_clipfrac_lower"] != 0.0) return "the dual clip where it acts";
    return "";
}

Rows verl_rows(const Json& item) {
    Rows rows;
    const auto lengths = item["lengths"].get<std::vector<std::size_t>>();
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::size_t n = lengths[i];
        rows.tokens += static_cast<double>(n);
        rows.log_prob.push_back(row_of(item["logp"], i, n));
        if (item.contains("old_logp")) {
            rows.old_log_prob.push_back(row_of(item["old_logp"], i, n));
            rows.advantage.push_back(row_of(item["advantages"], i, n));
        }
        if (item.contains("ref_logp")) rows.ref_log_prob.push_back(row_of(item["ref_logp"], i, n));
    }
    return rows;
}

void run_verl_loss(const Json& item, const std::string& name) {
    const Rows rows = verl_rows(item);
    const bool by_token = item["mode"] == "token-mean";
    const PolicyLossOptions options{
        .clip_low = item["clip_low"],
        .clip_high = item["clip_high"],
        .aggregation = by_token ? Aggregation::token_mean : Aggregation::sequence_mean};
    const Result result = evaluate(
        options,
        {.tokens = rows.tokens, .sequences = static_cast<double>(rows.log_prob.size())}, rows);
    Doubles factor;
    double loss = 0;
    for (const PolicyLossSums& sums : result.each) {
        factor.push_back(by_token ? 1.0 : verl_mean_factor(sums.tokens));
        loss += sums.loss * factor.back();
    }
    const double wanted = item["loss"];
    BOOST_TEST(near(loss, wanted, 1e-10), name << ": loss " << loss << ", reference " << wanted);
    check_gradient(result, item["grad_logp"], name, factor);
    const double clipped = (result.all.clipped_low + result.all.clipped_high) / rows.tokens *
                           verl_mean_factor(rows.tokens);
    BOOST_TEST(near(clipped, item["metrics"]["actor/pg_clipfrac"].get<double>(), 1e-10), name);
}

void run_verl_advantages(const Json& item, const std::string& name) {
    const auto group = item["group"].get<std::vector<int>>();
    const auto rewards = item["rewards"].get<Doubles>();
    const GroupStd std = item["estimator"] == "grpo" ? GroupStd::sample : GroupStd::none;
    for (std::size_t first = 0; first < group.size();) {
        std::size_t end = first;
        while (end < group.size() && group[end] == group[first]) ++end;
        const Doubles part(rewards.begin() + static_cast<std::ptrdiff_t>(first),
                           rewards.begin() + static_cast<std::ptrdiff_t>(end));
        const Doubles mine = group_advantages(part, std, 1e-6);
        for (std::size_t i = first; i < end; ++i) {
            const double wanted = item["advantages"][i][0];
            BOOST_TEST(near(mine[i - first], wanted, 1e-10),
                       name << " sample " << i << ": " << mine[i - first] << ", reference "
                            << wanted);
        }
        first = end;
    }
}

/// The KL term alone: no advantage, weight one a token.
void run_verl_kl(const Json& item, const std::string& name) {
    Rows rows = verl_rows(item);
    for (const Doubles& x : rows.log_prob) rows.advantage.emplace_back(x.size(), 0.0);
    rows.old_log_prob = rows.log_prob;
    const PolicyLossOptions options{.kl_coef = 1, .aggregation = Aggregation::token_mean};
    const Result result = evaluate(options, {.tokens = 1, .sequences = 1}, rows);
    check_gradient(result, item["grad_logp"], name, Doubles(rows.log_prob.size(), 1.0));
    for (std::size_t i = 0; i < rows.log_prob.size(); ++i) {
        double wanted = 0;
        for (const double x : row_of(item["value"], i, rows.log_prob[i].size())) wanted += x;
        BOOST_TEST(near(result.each[i].kl, wanted, 1e-10), name << " sequence " << i);
        BOOST_TEST(near(result.each[i].loss, wanted, 1e-10), name << " sequence " << i);
    }
}

/// Calls `run` on every case that misses nothing.
template <class Missing, class Run>
void each_case(const Json& cases, Tally& tally, const Missing& missing, const Run& run) {
    std::size_t number = 0;
    for (const Json& item : cases) {
        const std::string reason = missing(item);
        if (reason.empty()) {
            run(item, number);
            ++tally.ran;
        } else {
            ++tally.skipped[reason];
        }
        ++number;
    }
}

const char* reference_root() {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) fmt::print("skipped: GRADUS_REFERENCE is not set\n");
    return root;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(grpo)

BOOST_AUTO_TEST_CASE(trl) {
    const char* root = reference_root();
    if (root == nullptr) return;
    Tally tally;
    each_case(
        load(root, "trl")["cases"], tally, [](const Json& c) { return trl_missing(c["config"]); },
        [](const Json& c, std::size_t i) { run_trl(c, case_name(i, c["config"])); });
    tally.print("trl");
    BOOST_TEST(tally.ran > 0);
}

BOOST_AUTO_TEST_CASE(verl) {
    const char* root = reference_root();
    if (root == nullptr) return;
    const Json file = load(root, "verl");
    Tally loss, advantage, kl;
    each_case(file["policy_loss"], loss, verl_missing, [](const Json& c, std::size_t i) {
        run_verl_loss(c, case_name(i, c["mode"]));
    });
    auto estimator = [](auto... names) {
        return [=](const Json& c) {
            const std::string name = c["estimator"];
            return ((name == names) || ...) ? std::string() : "estimator " + name;
        };
    };
    each_case(file["advantage"], advantage, estimator("grpo", "grpo_no_std"),
              [](const Json& c, std::size_t i) {
                  run_verl_advantages(c, case_name(i, c["estimator"]));
              });
    each_case(file["kl"], kl, estimator("k3"), [](const Json& c, std::size_t i) {
        run_verl_kl(c, case_name(i, c["estimator"]));
    });
    loss.print("verl policy_loss");
    advantage.print("verl advantage");
    kl.print("verl kl");
    BOOST_TEST(loss.ran > 0);
    BOOST_TEST(advantage.ran > 0);
    BOOST_TEST(kl.ran > 0);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
