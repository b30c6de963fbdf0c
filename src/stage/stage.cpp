// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/stage.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "gradus/base/error.hpp"
#include "gradus/stage/policy_text.hpp"
#include "gradus/stage/reward_models.hpp"
#include "gradus/stage/stack.hpp"
#include "gradus/stage/scoring.hpp"
#include "rl_options.hpp"
#include "stages.hpp"

namespace gradus {

void check_keys(const Deck& deck) {
    std::string wrong;
    auto want = [&](bool good, const std::string& what) {
        if (!good) wrong += "\n  " + what;
    };
    const std::string& stage = deck.stage();
    if (stage == "rl" || stage == "score")
        want(!deck.names("reward").empty(),
             fmt::format("stage = {} needs a reward: set reward.NAME.kind, for example "
                         "reward.accuracy.kind = accuracy",
                         stage));
    if (stage == "score")
        for (const std::string& name : deck.names("reward"))
            want(deck.text("reward." + name + ".kind") != "model",
                 fmt::format("{}: kind = model scores what stage = rl samples; stage = score has rules only",
                             deck.origin("reward." + name + ".kind")));
    if (stage == "rl") {
        auto whole = [&](const char* key) { return deck.integer(key); };
        for (const std::string& what : check_rl_keys(deck)) want(false, what);
        want(whole("train.steps") > 0, "stage = rl needs train.steps (policy updates in all)");
        want(deck.number("rollout.top_p") == 1 && whole("rollout.top_k") == 0,
             "stage = rl samples from the whole distribution that it trains: leave rollout.top_p = 1 and "
             "rollout.top_k = 0");
        for (double level : deck.schedule("rollout.temperature").levels())
            want(level > 0, fmt::format("{}: stage = rl needs a rollout.temperature > 0",
                                        deck.origin("rollout.temperature")));
        want(whole("train.micro_tokens") >= whole("train.max_length"),
             fmt::format("{}: train.micro_tokens = {} does not hold a sequence of train.max_length = {}",
                         deck.origin("train.micro_tokens"), whole("train.micro_tokens"),
                         whole("train.max_length")));
        want(whole("eval.every") == 0 || !deck.list("data.eval_path").empty(),
             fmt::format("{}: eval.every needs data.eval_path", deck.origin("eval.every")));
    }
    if (stage == "reward_model") {
        want(deck.list("data.eval_path").empty() || deck.number("data.eval_share") == 0,
             fmt::format("{}: rows to measure on come from data.eval_path or from data.eval_share: leave one out",
                         deck.origin("data.eval_share")));
        want(deck.integer("eval.every") == 0 || !deck.list("data.eval_path").empty() || deck.number("data.eval_share") > 0,
             fmt::format("{}: eval.every needs rows to measure on: data.eval_share or data.eval_path",
                         deck.origin("eval.every")));
        for (const char* key : {"reward_model.margin", "reward_model.center_coef"})
            want(deck.text("reward_model.kind") == "pairwise" || deck.number(key) == 0,
                 fmt::format("{}: {} is of pairs; leave it out with reward_model.kind = pointwise", deck.origin(key), key));
    }
    if (stage == "pretrain" || stage == "sft" || stage == "reward_model")
        want((deck.number("train.epochs") > 0) != (deck.integer("train.steps") > 0),
             fmt::format("set exactly one of train.steps (= {}) and train.epochs (= {})",
                         deck.integer("train.steps"), deck.number("train.epochs")));
    if (stage == "sample" || stage == "evaluate" || stage == "export")
        want(!deck.text("model.from").empty(),
             fmt::format("stage = {} needs model.from: a run directory or a checkpoint", stage));
    if (stage == "sample") {
        const bool rows = deck.integer("sample.mix_rows") > 0, share = deck.number("sample.mix_share") > 0;
        want(!(rows && share), fmt::format("{}: set sample.mix_rows or sample.mix_share, not both", deck.origin("sample.mix_share")));
        want(!(rows || share) || !deck.list("sample.mix").empty(),
             fmt::format("{}: {} needs sample.mix, the files to mix in", deck.origin(rows ? "sample.mix_rows" : "sample.mix_share"),
                         rows ? "sample.mix_rows" : "sample.mix_share"));
        for (const std::string prefix : {"judge", "rewrite"}) {
            const std::int64_t reply = deck.integer(prefix + ".max_new_tokens"), length = deck.integer(prefix + ".max_length");
            const bool generates = !deck.text(prefix + ".from").empty() && (prefix != "judge" || deck.text("judge.by") == "verdict");
            want(!generates || reply < length,
                 fmt::format("{0}: {1}.max_new_tokens = {2} leaves no room for a prompt in {1}.max_length = {3}",
                             deck.origin(prefix + ".max_new_tokens"), prefix, reply, length));
        }
    }
    if (stage == "evaluate" && deck.is_set("eval.k"))
        for (const std::string& k : deck.list("eval.k"))
            want(std::stoll(k) <= deck.integer("eval.n"),
                 fmt::format("{}: eval.k has {}, more than eval.n = {} samples", deck.origin("eval.k"), k,
                             deck.integer("eval.n")));
    if (stage == "rl" || stage == "sample" || stage == "evaluate")
        want(deck.integer("rollout.max_new_tokens") < deck.integer("train.max_length"),
             fmt::format("{}: rollout.max_new_tokens = {} leaves no room for a prompt in train.max_length = {}",
                         deck.origin("rollout.max_new_tokens"), deck.integer("rollout.max_new_tokens"),
                         deck.integer("train.max_length")));
    if (stage == "problems")
        want(deck.integer("problems.min_terms") <= deck.integer("problems.max_terms"),
             fmt::format("{}: problems.min_terms = {} is more than problems.max_terms = {}",
                         deck.origin("problems.min_terms"), deck.integer("problems.min_terms"),
                         deck.integer("problems.max_terms")));
    if (stage == "tokenizer") {
        const std::vector<std::string> special = deck.list("tokenizer.special");
        const auto least = 256 + static_cast<std::int64_t>(special.size());
        want(deck.integer("tokenizer.vocab_size") >= least,
             fmt::format("{}: tokenizer.vocab_size = {} does not hold 256 bytes and {} special tokens",
                         deck.origin("tokenizer.vocab_size"), deck.integer("tokenizer.vocab_size"), special.size()));
        for (const char* key : {"tokenizer.bos", "tokenizer.eos"})
            want(deck.text(key).empty() || std::find(special.begin(), special.end(), deck.text(key)) != special.end(),
                 fmt::format("{}: {} = {} is not one of tokenizer.special", deck.origin(key), key, deck.text(key)));
    }
    if (stage == "tokenizer" || stage == "pretrain" || stage == "sft" || stage == "rl" || stage == "sample" ||
        stage == "evaluate" || stage == "reward_model")
        want(deck.integer("data.shard") < deck.integer("data.num_shards"),
             fmt::format("{}: data.shard = {} is not one of data.num_shards = {} parts, which count from 0",
                         deck.origin("data.shard"), deck.integer("data.shard"),
                         deck.integer("data.num_shards")));
    require<DeckError>(wrong.empty(), "the deck's keys do not fit together:{}", wrong);
}

namespace {

ExitCode dispatch(Run& run, const std::string& stage) {
    if (stage == "pretrain" || stage == "sft") return run_supervised(run);
    if (stage == "reward_model") return run_reward_model(run);
    if (stage == "rl") return run_rl(run);
    if (stage == "sample") return run_sample(run);
    if (stage == "evaluate") return run_evaluate(run);
    if (stage == "score") return run_score(run);
    if (stage == "problems") return run_problems(run);
    if (stage == "tokenizer") return run_tokenizer(run);
    if (stage == "bench") return run_bench(run);
    if (stage == "import") return run_import(run);
    if (stage == "export") return run_export(run);
    throw DeckError(fmt::format("stage = {}: this build has no such stage", stage));
}

}  // namespace

ExitCode run_stage(const Deck& deck, MpiSession& session, const Sandbox& sandbox, Watchdog& watchdog, std::string& phase) {
    phase = "start";
    Run run(deck, session, sandbox, watchdog);
    try {
        if (deck.flag("run.self_test")) run_self_test(run);
        return dispatch(run, deck.stage());
    } catch (...) {
        if (!run.profile.failed().empty()) phase = run.profile.failed();
        throw;
    }
}

namespace {

/// Rows of each data file that a plan looks at.
constexpr std::int64_t kPreviewRows = 100;

std::vector<std::string> inputs(const Deck& deck) {
    const std::string& stage = deck.stage();
    if (stage == "score") return {deck.text("score.input")};
    if (stage == "problems" || stage == "import" || stage == "export") return {};
    if (stage == "bench") return deck.list("bench.text");
    std::vector<std::string> files = deck.list("data.path");
    if (stage == "rl" || stage == "reward_model")
        for (const std::string& file : deck.list("data.eval_path")) files.push_back(file);
    if (stage == "sample")
        for (const char* key : {"sample.decontaminate", "sample.mix"})
            for (const std::string& file : deck.list(key)) files.push_back(file);
    return files;
}

void check_inputs(const Deck& deck, Plan& plan) {
    for (const std::string& path : inputs(deck)) {
        const bool there = access(path.c_str(), R_OK) == 0;
        plan.complete = plan.complete && there;
        plan.text += fmt::format("input {}: {}\n", path, there ? "found" : std::strerror(errno));
    }
}

ModelConfig planned_model(const Deck& deck, const Tokenizer& tokenizer, Plan& plan) {
    std::unique_ptr<CheckpointReader> reader;
    auto note = [&](const std::string& text) { plan.text += "note: " + text + "\n"; };
    const std::string& from = deck.text("model.from");
    if (!from.empty() && find_checkpoint(from, note).empty()) {
        plan.complete = false;
        note(fmt::format("model.from = {}: no checkpoint there yet; the plan is for the shape that the "
                         "model. keys give", from));
        return model_of_stage(deck, model_from_keys(deck, tokenizer));
    }
    if (!from.empty()) plan.text += fmt::format("weights from {}\n", from);
    return resolve_model(deck, tokenizer, reader, note);
}

std::vector<RewardModelNeed> planned_reward_models(const Deck& deck, const ModelConfig& policy, Plan& plan) {
    const auto note = [&](const std::string& text) { plan.text += "note: " + text + "\n"; };
    const std::vector<RewardModelSource> sources =
        resolve_reward_models(deck, policy, note, [&](const std::string& text) {
            plan.complete = false;
            note(text);
        });
    for (const RewardModelSource& source : sources)
        if (source.reader)
            plan.text += fmt::format("reward {} from {}: {} parameters, tokenizer {}, chat template {}\n", source.name,
                                     source.reader->directory(), format_count(static_cast<double>(source.config.parameters())),
                                     source.tokenizer->identity(), source.chat->name());
    return needs_of(deck, sources);
}

/// FLOPs of a training step, the critic's with the policy's and the forward passes of reward models, and what a rank sends in it: gradients and
/// parameters over the data ranks (reduce and gather, (d - 1) / d of them each way), two sums of activations a block and pass
/// over the tensor ranks.
std::string plan_step(const Deck& deck, const ModelConfig& config, const Grid& grid, double tokens,
                      const std::vector<RewardModelNeed>& reward_models = {}) {
    const bool critic = stack_needs(deck).critic;
    const double context = static_cast<double>(deck.integer("train.max_length")) / 2;
    double flops = 3 * config.forward_flops(context) * tokens;
    if (critic) flops += 3 * config.with_scalar_head().forward_flops(context) * tokens;
    const double d = grid.data_size(), t = grid.tensor_size();
    double parameters = 4 * static_cast<double>(config.parameters()) / t;
    if (critic) parameters += 4 * static_cast<double>(config.with_scalar_head().parameters()) / t;
    for (const RewardModelNeed& model : reward_models) flops += model.config.forward_flops(context) * tokens;
    const double activations = (critic ? 2 : 1) * 4 * tokens / d * static_cast<double>(config.hidden) *
                               (4.0 * static_cast<double>(config.layers) + 2);
    const double steps = static_cast<double>(deck.integer("train.steps"));
    std::string text = fmt::format(
        "a step of {} tokens: {:.3g} FLOPs, {:.3g} a rank; a rank sends {} over data ranks, {} over "
        "tensor ranks\n",
        format_count(tokens), flops, flops / d / t, format_bytes(2 * parameters * (d - 1) / d),
        format_bytes(2 * activations * (t - 1) / t));
    if (steps > 0) text += fmt::format("{} steps: {:.3g} FLOPs\n", steps, steps * flops);
    return text;
}

}  // namespace

Plan plan_stage(const Deck& deck, int ranks) {
    check_keys(deck);
    const std::string& stage = deck.stage();
    const auto tensor = static_cast<int>(deck.integer("grid.tensor"));
    require<DeckError>(ranks > 0 && ranks % tensor == 0,
                       "{} ranks do not divide into columns of grid.tensor = {}", ranks, tensor);
    Plan plan;
    plan.text = fmt::format("stage {} on {} ranks: {} data x {} tensor\n", stage, ranks,
                            ranks / tensor, tensor);
    check_inputs(deck, plan);
    const bool modelless_bench = stage == "bench" && !bench_wants(deck, "train") &&
                                 !bench_wants(deck, "generate") && !bench_wants(deck, "checkpoint");
    if (stage == "problems" || stage == "tokenizer" || stage == "score" || modelless_bench) {
        plan.text += "needs no model\n";
        return plan;
    }
    const TokenizerFiles files = find_tokenizer(deck);
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(files);
    const ChatTemplate chat = make_chat_template(deck, files, *tokenizer);
    for (const std::string& line : describe_policy_text(deck, files, *tokenizer, chat))
        plan.text += line + "\n";
    if (stage == "import" || stage == "export") {
        if (stage == "import")
            plan_import(deck, files, *tokenizer, plan);
        else
            plan_export(deck, plan);
        return plan;
    }
    if (stage != "bench") plan.text += preview_data(deck, chat, *tokenizer, kPreviewRows, plan.complete);
    const ModelConfig config = planned_model(deck, *tokenizer, plan);
    if (stack_needs(deck).critic && !deck.text("critic.from").empty()) {
        const CriticSource critic =
            resolve_critic(deck, *tokenizer, config, [&](const std::string& text) { plan.text += "note: " + text + "\n"; });
        plan.text += fmt::format("critic from {} of {}\n", critic.group, critic.reader->directory());
    }
    const Grid grid =
        Grid::planned(ranks / tensor, tensor, static_cast<int>(deck.integer("grid.expert")));
    Arena arena(nullptr), pinned(nullptr);
    const RunMemory memory{arena, deck.text("run.device") == "cuda" ? pinned : arena};
    Profile profile;
    StackNeeds needs = stack_needs(deck);
    needs.reward_models = planned_reward_models(deck, config, plan);
    const Stack stack(deck, config, grid, *tokenizer, memory, profile, needs);
    plan.text += fmt::format("{} parameters\n", format_count(static_cast<double>(config.parameters())));
    if (stage == "pretrain" || stage == "sft")
        plan.text += plan_step(deck, config, grid,
                               static_cast<double>(deck.integer("train.tokens_per_step")));
    if (stage == "reward_model")
        plan.text += "at most, if every response takes all its length, " +
                     plan_step(deck, config, grid,
                               static_cast<double>(deck.integer("reward_model.batch") *
                                                   (deck.text("reward_model.kind") == "pairwise" ? 2 : 1) *
                                                   deck.integer("train.max_length")));
    if (stage == "rl")
        plan.text += "at most, if every response takes all its length, " +
                     plan_step(deck, config, grid,
                               static_cast<double>(deck.integer("rl.prompts") *
                                                   deck.integer("rl.group") /
                                                   deck.integer("rl.updates") *
                                                   deck.integer("train.max_length")),
                               needs.reward_models);
    plan.text += fmt::format("memory of a rank:\n{}", memory_table(memory));
    return plan;
}

}  // namespace gradus
