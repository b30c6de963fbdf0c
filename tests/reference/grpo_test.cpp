// SPDX-License-Identifier: Apache-2.0
// Loss, gradient, metrics, advantages, returns and KL estimates of TRL's and verl's own code, evaluated in
// float64 (GRADUS_REFERENCE/grpo). Every case runs; one that asks for what is not here fails by its name.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <map>
#include <optional>
#include <set>

#include "gradus/base/json_lines.hpp"
#include "gradus/train/advantage.hpp"
#include "gradus/train/loss.hpp"

namespace gradus {
namespace {

using Doubles = std::vector<double>;

bool near(double value, double wanted, double tolerance) {
    return std::abs(value - wanted) <= tolerance * std::max(std::abs(wanted), 1e-3);
}

/// Row `i` of a padded array, cut to `n` tokens.
Doubles row_of(const Json& rows, std::size_t i, std::size_t n) {
    const auto row = rows.at(i).get<Doubles>();
    return {row.begin(), row.begin() + static_cast<std::ptrdiff_t>(n)};
}

/// What nobody here knows the meaning of: a case with such a key fails.
void require_known(const Json& object, const std::set<std::string>& known, const std::string& name) {
    for (const auto& [key, value] : object.items())
        BOOST_REQUIRE_MESSAGE(known.count(key) == 1, name << ": unknown field `" << key << "` = " << value);
}

struct Rows {
    std::vector<Doubles> log_prob, entropy, old_log_prob, ref_log_prob, sampler_log_prob, advantage;
    double tokens = 0;

    Rows() = default;
    Rows(const Json& item, const std::vector<std::size_t>& lengths) {
        for (std::size_t i = 0; i < lengths.size(); ++i) {
            const std::size_t n = lengths[i];
            tokens += static_cast<double>(n);
            const auto read = [&](const char* field, std::vector<Doubles>& rows) {
                if (item.contains(field)) rows.push_back(row_of(item[field], i, n));
            };
            read("logp", log_prob);
            read("entropy", entropy);
            read("old_logp", old_log_prob);
            read("ref_logp", ref_log_prob);
            read("sampler_logp", sampler_log_prob);
        }
    }
};

struct Result {
    std::vector<Doubles> d_log_prob;
    std::vector<PolicyLossSums> each;
    PolicyLossSums all;
};

Result evaluate(const PolicyLossOptions& options, const LossNormalizer& normalizer, const Rows& rows) {
    Result result;
    for (std::size_t i = 0; i < rows.log_prob.size(); ++i) {
        const std::size_t n = rows.log_prob[i].size();
        const Doubles entropy = rows.entropy.empty() ? Doubles(n) : rows.entropy[i];
        const auto optional_row = [&](const std::vector<Doubles>& all) { return all.empty() ? Doubles() : all[i]; };
        const Doubles ref = optional_row(rows.ref_log_prob), sampler = optional_row(rows.sampler_log_prob);
        Doubles d_entropy(n);
        result.d_log_prob.emplace_back(n);
        PolicyLossSums sums;
        policy_loss<double>(options, normalizer,
                            {.log_prob = rows.log_prob[i],
                             .entropy = entropy,
                             .old_log_prob = rows.old_log_prob[i],
                             .advantage = rows.advantage[i],
                             .ref_log_prob = ref,
                             .sampler_log_prob = sampler},
                            result.d_log_prob[i], d_entropy, sums);
        result.each.push_back(sums);
        result.all.add(sums);
    }
    return result;
}

void check_value(double value, const Json& wanted, double tolerance, const std::string& name) {
    BOOST_TEST(near(value, wanted.get<double>(), tolerance),
               name << ": " << value << ", reference " << wanted.get<double>());
}

/// Gradients agree on every token; beyond a sequence's end the reference's are zero.
void check_gradient(const std::vector<Doubles>& mine, const Json& wanted, const std::string& name) {
    for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto row = wanted.at(i).get<Doubles>();
        for (std::size_t t = 0; t < row.size(); ++t)
            check_value(t < mine[i].size() ? mine[i][t] : 0.0, row[t], 1e-9,
                        fmt::format("{} gradient of token {}, {}", name, i, t));
    }
}

std::string case_name(const std::string& file, std::size_t number, const std::string& what) {
    return fmt::format("{} case {} {}", file, number, what);
}

// TRL

/// The options that TRL's fields stand for.
PolicyLossOptions trl_options(const Json& config, const std::string& name) {
    const std::string type = config["loss_type"], level = config["level"];
    PolicyLossOptions o{.clip_low = config["lo"], .clip_high = config["hi"], .kl_coef = config["beta"]};
    static const std::map<std::string, std::pair<Objective, Aggregation>> types = {
        {"grpo", {Objective::clip, Aggregation::sequence_mean}},
        {"bnpo", {Objective::clip, Aggregation::token_mean}},
        {"dr_grpo", {Objective::clip, Aggregation::constant}},
        {"dapo", {Objective::clip, Aggregation::token_mean}},
        {"cispo", {Objective::cispo, Aggregation::token_mean}},
        {"sapo", {Objective::sapo, Aggregation::sequence_mean}},
        {"luspo", {Objective::clip, Aggregation::sequence_sum}},
        {"vespo", {Objective::vespo, Aggregation::token_mean}}};
    BOOST_REQUIRE_MESSAGE(types.count(type) == 1, name << ": unknown loss type");
    BOOST_REQUIRE_MESSAGE(level == "token" || level == "sequence", name << ": unknown level of the ratio");
    std::tie(o.objective, o.aggregation) = types.at(type);
    o.ratio = level == "sequence" ? RatioLevel::sequence : RatioLevel::token;
    o.length = config["maxlen"];
    o.weight_gradient = true;
    o.sapo_negative = 1.05f;  // in float32 there
    if (type == "cispo") {  // an absolute upper bound, no lower one
        o.clip_low = 1;
        o.clip_high -= 1;
    }
    if (!config["delta"].is_null()) o.delta = config["delta"];
    if (config["bias_kl"].get<bool>()) o.kl_correction = KlCorrection::ratio;
    if (!config["opm"].is_null()) o.off_policy_limit = config["opm"];
    if (config["tis"].get<bool>()) {
        o.sampler_ratio = SamplerRatio::token_truncate;
        o.sampler_max = 3;
    }
    return o;
}

LossNormalizer trl_normalizer(const Json& item, double tokens) {
    const double accumulated = item["config"]["gas"];
    const std::string type = item["config"]["loss_type"];
    // bnpo counts the tokens of a micro-batch, the others those of the whole batch.
    return {.tokens = type == "bnpo" ? tokens * accumulated : item["num_items_in_batch"].get<double>(),
            .sequences = static_cast<double>(item["lengths"].size()) * accumulated};
}

/// TRL's luspo takes the mean over the padded width, padding included, of what stands there a token: a
/// token's own ratio and the KL term. (With the ratio of a sequence and without KL this is sequence_sum.)
Result trl_padded(const Json& item, PolicyLossOptions o, const std::vector<std::size_t>& lengths) {
    const auto width = item["logp"][0].size();
    Rows padded(item, std::vector<std::size_t>(lengths.size(), width));
    if (o.kl_coef == 0) padded.ref_log_prob.clear();
    const bool by_token = o.ratio == RatioLevel::token;
    for (std::size_t i = 0; i < lengths.size(); ++i)
        padded.advantage.emplace_back(width, by_token ? item["advantages"][i].get<double>() : 0.0);
    o.ratio = RatioLevel::token;
    o.aggregation = Aggregation::token_sum;
    Result result = evaluate(o, {}, padded);
    result.all.loss = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const double factor = static_cast<double>(lengths[i]) / static_cast<double>(lengths.size() * width);
        for (double& d : result.d_log_prob[i]) d *= factor;
        result.all.loss += factor * result.each[i].loss;
    }
    return result;
}

void check_trl_metrics(const Result& result, const Json& metrics, bool sequences, const std::string& name) {
    const PolicyLossSums& all = result.all;
    double low_min = INFINITY, high_max = -INFINITY, low = 0, high = 0;
    for (const PolicyLossSums& s : result.each) {
        low_min = std::min(low_min, s.clipped_low / s.tokens);
        high_max = std::max(high_max, s.clipped_high / s.tokens);
        low += s.clipped_low / s.tokens;
        high += s.clipped_high / s.tokens;
    }
    // With one ratio a sequence TRL's clip metrics are means over sequences, in float32.
    const double count = sequences ? all.sequences : all.tokens;
    if (!sequences) low = all.clipped_low, high = all.clipped_high;
    const std::map<std::string, double> mine = {{"entropy", all.entropy / all.tokens},
                                                {"kl", all.kl / all.tokens},
                                                {"clip_ratio/low_mean", low / count},
                                                {"clip_ratio/high_mean", high / count},
                                                {"clip_ratio/region_mean", (low + high) / count},
                                                {"clip_ratio/low_min", low_min},
                                                {"clip_ratio/high_max", high_max},
                                                {"cispo_clip_ratio", all.clipped_high / all.tokens},
                                                {"vespo/phi_seq_mean", all.sequence_weight / all.sequences}};
    for (const auto& [key, wanted] : metrics.items()) {
        BOOST_REQUIRE_MESSAGE(mine.count(key) == 1, name << ": unknown metric " << key);
        const bool single = sequences && key.starts_with("clip_ratio");
        check_value(mine.at(key), wanted, single ? 1e-6 : 1e-10, name + " " + key);
    }
}

void run_trl(const Json& item, const std::string& name) {
    require_known(item, {"config", "seed", "num_items_in_batch", "lengths", "logp", "old_logp", "ref_logp",
                         "sampler_logp", "advantages", "entropy", "loss", "grad_logp", "metrics"}, name);
    const Json& config = item["config"];
    require_known(config, {"loss_type", "level", "beta", "lo", "hi", "delta", "bias_kl", "maxlen", "gas", "opm",
                           "tis", "hent"}, name);
    const auto lengths = item["lengths"].get<std::vector<std::size_t>>();
    PolicyLossOptions o = trl_options(config, name);
    Rows rows(item, lengths);
    if (o.kl_coef == 0) rows.ref_log_prob.clear();
    for (std::size_t i = 0; i < lengths.size(); ++i)
        rows.advantage.emplace_back(lengths[i], item["advantages"][i].get<double>());
    Doubles entropies;
    for (const Doubles& row : rows.entropy) entropies.insert(entropies.end(), row.begin(), row.end());
    o.entropy_floor = entropy_floor(entropies, config["hent"]);
    Result result = evaluate(o, trl_normalizer(item, rows.tokens), rows);
    if (o.aggregation == Aggregation::sequence_sum && (o.ratio == RatioLevel::token || o.kl_coef != 0)) {
        PolicyLossOptions without_kl = o;
        without_kl.kl_coef = 0;
        Result policy = evaluate(without_kl, trl_normalizer(item, rows.tokens), rows);
        const Result padded = trl_padded(item, o, lengths);
        const bool by_token = o.ratio == RatioLevel::token;
        result.all.loss = padded.all.loss + (by_token ? 0.0 : policy.all.loss);
        for (std::size_t i = 0; i < lengths.size(); ++i) {
            result.d_log_prob[i] = padded.d_log_prob[i];
            for (std::size_t t = 0; !by_token && t < lengths[i]; ++t)
                result.d_log_prob[i][t] += policy.d_log_prob[i][t];
        }
    }
    check_value(result.all.loss, item["loss"], 1e-10, name + " loss");
    check_gradient(result.d_log_prob, item["grad_logp"], name);
    check_trl_metrics(result, item["metrics"], o.ratio == RatioLevel::sequence, name);
}

// verl

/// verl adds 1e-8 to the counts of tokens that it takes means over (but for the whole batch's).
double verl_mean_factor(double n) { return n / (n + 1e-8); }

void run_verl_loss(const Json& item, const std::string& name) {
    require_known(item, {"seed", "mode", "clip_low", "clip_high", "dual_clip", "lengths", "logp", "old_logp",
                         "advantages", "loss", "grad_logp", "metrics"}, name);
    const auto lengths = item["lengths"].get<std::vector<std::size_t>>();
    static const std::map<std::string, Aggregation> modes = {
        {"token-mean", Aggregation::token_mean},
        {"token-sum", Aggregation::token_sum},
        {"seq-mean-token-sum", Aggregation::sequence_sum},
        {"seq-mean-token-mean", Aggregation::sequence_mean},
        {"seq-mean-token-sum-norm", Aggregation::constant}};
    const std::string mode = item["mode"];
    BOOST_REQUIRE_MESSAGE(modes.count(mode) == 1, name << ": unknown aggregation");
    Rows rows(item, lengths);
    for (std::size_t i = 0; i < lengths.size(); ++i) rows.advantage.push_back(row_of(item["advantages"], i, lengths[i]));
    const PolicyLossOptions options{.clip_low = item["clip_low"],
                                    .clip_high = item["clip_high"],
                                    .dual_clip = item["dual_clip"],
                                    .ratio_clamp = 20,
                                    .aggregation = modes.at(mode),
                                    .length = static_cast<double>(item["logp"][0].size())};
    Result result = evaluate(options, {.tokens = rows.tokens, .sequences = static_cast<double>(lengths.size())}, rows);
    double loss = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const double factor =
            options.aggregation == Aggregation::sequence_mean ? verl_mean_factor(result.each[i].tokens) : 1.0;
        loss += result.each[i].loss * factor;
        for (double& d : result.d_log_prob[i]) d *= factor;
    }
    check_value(loss, item["loss"], 1e-10, name + " loss");
    check_gradient(result.d_log_prob, item["grad_logp"], name);
    const double mean = verl_mean_factor(rows.tokens) / rows.tokens;
    const std::map<std::string, double> mine = {
        {"actor/pg_clipfrac", (result.all.clipped_low + result.all.clipped_high) * mean},
        {"actor/pg_clipfrac_lower", result.all.dual_clipped * mean},
        {"actor/ppo_kl", -result.all.log_ratio * mean}};
    for (const auto& [key, wanted] : item["metrics"].items()) {
        BOOST_REQUIRE_MESSAGE(mine.count(key) == 1, name << ": unknown metric " << key);
        check_value(mine.at(key), wanted, 1e-10, name + " " + key);
    }
}

AdvantageOptions verl_advantage(const std::string& estimator, const Json& item, const std::string& name) {
    using Kind = AdvantageKind;
    AdvantageOptions o{.std = GroupStd::none, .eps = 1e-6, .lone_reward = true};
    if (item.contains("gamma")) o.gamma = item["gamma"];
    if (item.contains("lam")) o.lambda = item["lam"];
    if (estimator == "grpo") o.std = GroupStd::sample;
    if (estimator == "grpo" || estimator == "grpo_no_std") return o;
    if (estimator == "rloo") {
        o.kind = Kind::leave_one_out;
        return o;
    }
    o.whitening = Whitening::sample;
    if (estimator == "reinforce_plus_plus_baseline") return o;
    BOOST_REQUIRE_MESSAGE(estimator == "gae" || estimator == "reinforce_plus_plus", name << ": unknown estimator");
    o.kind = estimator == "gae" ? Kind::gae : Kind::reinforce;
    return o;
}

void check_tokens(const std::vector<Doubles>& mine, const Json& wanted, const std::string& name) {
    for (std::size_t i = 0; i < mine.size(); ++i)
        for (std::size_t t = 0; t < mine[i].size(); ++t)
            check_value(mine[i][t], wanted[i][t], 1e-10, fmt::format("{} token {}, {}", name, i, t));
}

void run_verl_advantages(const Json& item, const std::string& name) {
    require_known(item, {"seed", "group", "lengths", "rewards", "estimator", "advantages", "gamma", "lam", "values",
                         "returns"}, name);
    const AdvantageOptions o = verl_advantage(item["estimator"], item, name);
    std::vector<ScoredResponse> responses;
    for (std::size_t i = 0; i < item["group"].size(); ++i) {
        ScoredResponse& r = responses.emplace_back();
        r.group = item["group"][i];
        r.reward = item["rewards"][i];
        r.tokens = item["lengths"][i];
        if (!item.contains("values")) continue;
        r.values = row_of(item["values"], i, static_cast<std::size_t>(r.tokens));
    }
    std::vector<Doubles> advantages, returns;
    for (TokenAdvantages& a : token_advantages(o, responses)) {
        advantages.push_back(std::move(a.advantage));
        returns.push_back(std::move(a.returns));
    }
    check_tokens(advantages, item["advantages"], name);
    if (!item.contains("returns")) return;
    if (o.kind == AdvantageKind::reinforce) {  // its returns are the advantages before whitening
        AdvantageOptions plain = o;
        plain.whitening = Whitening::none;
        returns.clear();
        for (TokenAdvantages& a : token_advantages(plain, responses)) returns.push_back(std::move(a.advantage));
    }
    check_tokens(returns, item["returns"], name + " returns");
}

void run_verl_kl(const Json& item, const std::string& name) {
    require_known(item, {"seed", "estimator", "lengths", "logp", "ref_logp", "value", "grad_logp"}, name);
    std::string estimator = item["estimator"];
    KlOptions o{.clamp_log = 20, .clamp = 10};
    if ((o.k2_gradient = estimator.ends_with('+'))) estimator.pop_back();
    static const std::map<std::string, KlKind> kinds = {
        {"k1", KlKind::k1}, {"k2", KlKind::k2}, {"k3", KlKind::k3}, {"abs", KlKind::abs}};
    BOOST_REQUIRE_MESSAGE(kinds.count(estimator) == 1, name << ": unknown estimator");
    o.kind = kinds.at(estimator);
    const auto lengths = item["lengths"].get<std::vector<std::size_t>>();
    const Rows rows(item, lengths);
    for (std::size_t i = 0; i < lengths.size(); ++i)
        for (std::size_t t = 0; t < lengths[i]; ++t) {
            const KlTerm term = kl_term(o, rows.log_prob[i][t], rows.ref_log_prob[i][t]);
            check_value(term.value, item["value"][i][t], 1e-10, fmt::format("{} value {}, {}", name, i, t));
            check_value(term.slope, item["grad_logp"][i][t], 1e-9, fmt::format("{} slope {}, {}", name, i, t));
        }
}

std::optional<std::string> reference_folder() {
    const char* root = std::getenv("GRADUS_REFERENCE");
    if (root == nullptr) fmt::print("skipped: GRADUS_REFERENCE is not set\n");
    return root == nullptr ? std::nullopt : std::optional(std::string(root) + "/grpo");
}

template <class Run>
void run_all(const std::string& file, const Json& cases, const std::string& section, const Run& run) {
    std::size_t number = 0;
    for (const Json& item : cases) {
        const Json what = item.contains("config")      ? item["config"]
                          : item.contains("estimator") ? item["estimator"]
                                                       : item["mode"];
        run(item, case_name(file + " " + section, number++, what.dump()));
    }
    fmt::print("reference grpo/{} {}: {} cases\n", file, section, number);
    BOOST_TEST(number > 0u);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(grpo)

BOOST_AUTO_TEST_CASE(every_case_of_every_file) {
    const auto folder = reference_folder();
    if (!folder) return;
    for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
        if (entry.path().extension() != ".json") continue;
        const std::string file = entry.path().stem().string();
        const Json json = Json::parse(read_file(entry.path().string()));
        require_known(json, {"source", "cases", "advantage", "policy_loss", "kl"}, file);
        if (json.contains("cases")) run_all(file, json["cases"], "cases", run_trl);
        if (json.contains("policy_loss")) run_all(file, json["policy_loss"], "policy_loss", run_verl_loss);
        if (json.contains("advantage")) run_all(file, json["advantage"], "advantage", run_verl_advantages);
        if (json.contains("kl")) run_all(file, json["kl"], "kl", run_verl_kl);
    }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
