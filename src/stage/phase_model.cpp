// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/phase_model.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>
#include <utility>

#include "gradus/base/error.hpp"
#include "gradus/stage/loaded_model.hpp"
#include "gradus/text/script.hpp"
#include "gradus/train/packing.hpp"

namespace gradus {
namespace {

/// The run's deck with the model, tokenizer and limits of the keys PREFIX.
Deck deck_of(const Deck& deck, const std::string& prefix) {
    const auto key = [&](const char* part) { return prefix + "." + part; };
    // What is said of the policy's shape is not said of this one.
    std::string text, line;
    for (std::istringstream lines(deck.resolved()); std::getline(lines, line);)
        if (!line.starts_with("model.") || line.starts_with("model.dtype") ||
            line.starts_with("model.recompute"))
            text += line + "\n";
    const std::string length = std::to_string(deck.integer(key("max_length")));
    return resolve_deck_text(
        text, "deck.resolved",
        {"model.from=" + deck.text(key("from")), "policy.tokenizer=auto", "policy.template=auto",
         "train.max_length=" + length,
         "train.micro_tokens=" + std::to_string(std::max(deck.integer(key("max_length")),
                                                         deck.integer("train.micro_tokens"))),
         "rollout.max_new_tokens=" + std::to_string(deck.integer(key("max_new_tokens"))),
         "rollout.temperature=" + deck.values().at(key("temperature")), "rollout.top_p=1",
         "rollout.top_k=0", "rollout.cache_tokens=0", "rollout.stop="});
}

}  // namespace

struct PhaseModel::Impl {
    Impl(Run& r, const std::string& p)
        : run(r),
          prefix(p),
          deck(deck_of(r.deck, p)),
          files(share_tokenizer(deck, r.grid.world())),
          tokenizer(make_tokenizer(files)),
          chat(make_chat_template(deck, files, *tokenizer)),
          source(open_model(r, deck, *tokenizer)) {
        const auto key = [&](const char* part) { return fmt::format("{}.{}", prefix, part); };
        const std::int64_t length = deck.integer("train.max_length"),
                           positions = source.config.max_positions;
        require<DeckError>(length <= positions, "{}: {} = {}, but {} has {} positions",
                           r.deck.origin(key("max_length")), key("max_length"), length,
                           deck.text("model.from"), positions);
    }

    std::vector<TokenId> prompt_of(const Ask& ask) const {
        return chat.render_prompt({{"user", ask.prompt}});
    }
    Stack& stack() const { return *loaded->stack; }

    Run& run;
    std::string prefix;
    Deck deck;
    TokenizerFiles files;
    std::unique_ptr<Tokenizer> tokenizer;
    ChatTemplate chat;
    ModelSource source;
    bool first_turn = true;
    // Only while it is loaded.
    std::unique_ptr<LoadedModel> loaded;
    std::unique_ptr<MicroBatch> batch;
    Tensor log_prob, entropy;
};

PhaseModel::PhaseModel(Run& run, const std::string& prefix)
    : impl_(std::make_unique<Impl>(run, prefix)) {}
PhaseModel::~PhaseModel() = default;

bool PhaseModel::first_turn() {
    return std::exchange(impl_->first_turn, false);
}

const std::string& PhaseModel::prefix() const {
    return impl_->prefix;
}

std::string PhaseModel::description() const {
    std::string text = impl_->source.identity.at("index").get<std::string>();
    for (const char* key : {"train.max_length", "rollout.max_new_tokens", "rollout.temperature"})
        text += fmt::format("\n{} = {}", key, impl_->deck.values().at(key));
    return text;
}

void PhaseModel::load() {
    Impl& m = *impl_;
    if (m.loaded) return;
    m.loaded = std::make_unique<LoadedModel>(m.run, m.prefix, m.deck, *m.tokenizer, m.source);
    const auto micro = m.deck.integer("train.micro_tokens");
    m.batch = std::make_unique<MicroBatch>(micro, *m.stack().ops, m.loaded->arena);
    for (Tensor* x : {&m.log_prob, &m.entropy})
        *x = m.loaded->arena.take("batch.loss", DType::f32, {micro});
}

void PhaseModel::unload() {
    impl_->batch.reset();
    impl_->loaded.reset();
}

std::vector<std::string> PhaseModel::replies(const std::vector<Ask>& asks, Stream stream,
                                             bool whole) {
    Impl& m = *impl_;
    const Grid& grid = m.run.grid;
    GenerationOptions options = resolve_generation(m.deck, m.chat, 0);
    options.stream = stream;
    options.on_pass = [&] { m.run.watchdog.alive(); };
    const std::int64_t longest = m.deck.integer("train.max_length") - options.max_new_tokens;
    std::vector<Request> requests;
    std::vector<std::size_t> mine;
    for (std::size_t i = 0; i < asks.size(); ++i) {
        if (static_cast<int>(i % static_cast<std::size_t>(grid.data_size())) != grid.data_rank())
            continue;
        std::vector<TokenId> prompt = m.prompt_of(asks[i]);
        if (std::ssize(prompt) > longest) continue;
        mine.push_back(i);
        requests.push_back(
            {.prompt = asks[i].group, .tokens = std::move(prompt), .first_sample = asks[i].sample});
    }
    Json texts = Json::array();
    const std::vector<Generated> generated =
        m.stack().engine->generate(*m.stack().policy, requests, options, {});
    for (std::size_t i = 0; i < generated.size(); ++i)
        if (!whole || generated[i].finish != FinishReason::length)
            texts.push_back(
                Json::array({mine[i], to_valid_utf8(m.chat.response_text(generated[i].tokens))}));
    std::vector<std::string> all(asks.size());
    for (const std::string& part : grid.data().all_gather(texts.dump()))
        for (const Json& reply : Json::parse(part)) all[reply[0].get<std::size_t>()] = reply[1];
    return all;
}

std::vector<double> PhaseModel::chances(const std::vector<Ask>& asks, const std::string& yes,
                                        const std::string& no) {
    Impl& m = *impl_;
    const Grid& grid = m.run.grid;
    const std::int64_t longest = m.deck.integer("train.max_length");
    // Two sequences an ask, the prompt with either reply.
    std::vector<Sequence> batch;
    std::vector<std::int64_t> lengths;
    std::vector<std::size_t> begins;
    std::vector<bool> fits;
    for (const Ask& ask : asks) {
        const std::vector<TokenId> prompt = m.prompt_of(ask);
        bool both = true;
        for (const std::string* reply : {&yes, &no}) {
            Sequence s{.tokens = prompt};
            const std::vector<TokenId> tokens = m.chat.render_response(*reply);
            s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
            both = both && std::ssize(s.tokens) <= longest;
            if (!both) s.tokens.resize(2, prompt.front());
            begins.push_back(std::min(prompt.size(), s.tokens.size() - 1));
            lengths.push_back(std::ssize(s.tokens));
            s.weight.assign(s.tokens.size(), 1.0f);
            batch.push_back(std::move(s));
        }
        fits.push_back(both);
    }
    std::vector<double> sums(batch.size(), 0.0);
    std::vector<float> rows;
    const BatchPlan plan =
        plan_batch(lengths, m.deck.integer("train.micro_tokens"), grid.data_size());
    for (const auto& indices : plan.micro[static_cast<std::size_t>(grid.data_rank())]) {
        if (indices.empty() && !m.stack().model->passes_are_collective()) continue;
        std::vector<const Sequence*> members;
        for (const std::int64_t i : indices) members.push_back(&batch[static_cast<std::size_t>(i)]);
        m.batch->fill(members, true);
        const Tensor hidden = m.stack().model->forward(*m.stack().policy, m.batch->packed(), false);
        const std::int64_t n = m.batch->tokens();
        m.stack().model->head_log_probs(*m.stack().policy, hidden, m.batch->targets(), 1.0f,
                                        m.log_prob.as({n}), m.entropy.as({n}));
        rows.resize(static_cast<std::size_t>(n));
        m.stack().ops->download(rows.data(), m.log_prob.as({n}));
        for (std::size_t i = 0; i < members.size(); ++i) {
            const auto index = static_cast<std::size_t>(indices[i]);
            for (std::int64_t t = static_cast<std::int64_t>(begins[index]); t < lengths[index]; ++t)
                sums[index] +=
                    static_cast<double>(rows[static_cast<std::size_t>(m.batch->row(i, t))]);
        }
        m.run.watchdog.alive();
    }
    grid.data().all_reduce(std::span<double>(sums), Reduce::sum);
    std::vector<double> chances;
    for (std::size_t i = 0; i < asks.size(); ++i)
        chances.push_back(fits[i] ? 1 / (1 + std::exp(sums[2 * i + 1] - sums[2 * i]))
                                  : std::nan(""));
    return chances;
}

namespace {

/// Of the sample and of what is asked about it.
std::string address_of(const Ask& ask) {
    return fmt::format("{}.{}.{:016x}", ask.group, ask.sample,
                       XXH3_64bits(ask.prompt.data(), ask.prompt.size()));
}

/// What the file holds, by address; makes it where it is missing.
std::map<std::string, Json> read_replies(const std::string& path, const std::string& about) {
    std::map<std::string, Json> replies;
    if (!std::filesystem::exists(path)) {
        write_file_atomically(path, Json{{"about", about}}.dump() + "\n");
        return replies;
    }
    // A line that was being written when the run was killed goes.
    std::string text = read_file(path);
    text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);
    write_file_atomically(path, text);
    JsonLinesReader lines(path);
    while (lines.next()) {
        require<DataError>(lines.problem().empty(), "{}:{}: {}", path, lines.line(),
                           lines.problem());
        const Json& row = lines.row();
        if (row.contains("about")) {
            require<DataError>(row["about"] == about,
                               "{} holds replies of another model or to another template; remove "
                               "it, or choose another run.dir",
                               path);
            continue;
        }
        replies[row.at("at").get<std::string>()] = row.at("reply");
    }
    return replies;
}

}  // namespace

std::optional<std::vector<Json>> inquire(Run& run, PhaseModel& model, const std::vector<Ask>& asks,
                                         const Inquiry& inquiry) {
    const std::string path = run.path(inquiry.file),
                      about = model.description() + "\n" + inquiry.about;
    // `restart = none` asks anew, once: a second turn of the judge adds to what the first has made.
    const bool anew = run.deck.text("restart") == "none" && model.first_turn();
    Json told = run.from_root([&] {
        if (anew) std::filesystem::remove(path);
        return read_replies(path, about);
    });
    const auto known = [&](const Ask& ask) { return told.contains(address_of(ask)); };
    const auto answered = [&] { return std::count_if(asks.begin(), asks.end(), known); };
    std::unique_ptr<JsonLinesWriter> writer;
    // Of a part that is known in part all is asked again: replies to others are a prompt's company
    // in a batch, and another one may give other bits.
    const auto part = 4 * run.deck.integer("rollout.slots") * run.grid.data_size();
    for (std::int64_t at = 0; at < std::ssize(asks); at += part) {
        const std::vector<Ask> some(asks.begin() + at,
                                    asks.begin() + std::min(std::ssize(asks), at + part));
        if (std::all_of(some.begin(), some.end(), known)) continue;
        if (run.asked_to_stop()) {
            run.log.info("stopping with {} of {} replies of {}: {}", answered(), asks.size(),
                         model.prefix(), run.stop.reason());
            return std::nullopt;
        }
        const double began = now_seconds();
        model.load();
        const std::vector<Json> replies = inquiry.answer(model, some);
        for (std::size_t i = 0; i < some.size(); ++i) {
            if (known(some[i])) continue;
            told[address_of(some[i])] = replies[i];
            if (!run.is_root()) continue;
            if (!writer) writer = std::make_unique<JsonLinesWriter>(path);
            writer->write({{"at", address_of(some[i])}, {"reply", replies[i]}});
        }
        run.log.progress(fmt::format("{}: {} of {}", model.prefix(), answered(), asks.size()));
        run.stop.observe_step(now_seconds() - began);
        run.watchdog.alive();
    }
    model.unload();
    std::vector<Json> all;
    for (const Ask& ask : asks) all.push_back(told[address_of(ask)]);
    return all;
}

std::string fill_template(const std::string& text,
                          const std::vector<std::pair<std::string, std::string>>& values) {
    std::string filled;
    for (std::size_t at = 0; at < text.size();) {
        const auto value = std::find_if(values.begin(), values.end(), [&](const auto& v) {
            return text.compare(at, v.first.size() + 2, "{" + v.first + "}") == 0;
        });
        if (value == values.end()) {
            filled += text[at++];
            continue;
        }
        filled += value->second;
        at += value->first.size() + 2;
    }
    return filled;
}

}  // namespace gradus
