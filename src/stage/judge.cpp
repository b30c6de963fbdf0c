// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/judge.hpp"

#include <cmath>

#include "gradus/base/error.hpp"
#include "gradus/reward/reward.hpp"

namespace gradus {
namespace {

constexpr const char* kJudge =
    "You compare a student's final answer with the reference answer to a question.\n\n"
    "Question:\n{question}\n\nReference answer:\n{reference}\n\nStudent's final "
    "answer:\n{answer}\n\n"
    "Do both say the same? Reply with one word: {yes} or {no}.";
constexpr const char* kRewrite =
    "Rewrite the solution below so that a person can read it with ease: one language, short "
    "paragraphs, every step that is "
    "needed and no more, the final answer at its end as it is. Do not change what it says.\n\n"
    "Question:\n{question}\n\nSolution:\n{response}";

/// The deck's template, a file, or the one above. Throws DeckError where it lacks one of `needed`.
std::string template_of(const Deck& deck, const char* key, const char* otherwise,
                        const std::vector<std::string>& needed) {
    const std::string& path = deck.text(key);
    const std::string text = path.empty() ? otherwise : read_file(path);
    for (const std::string& name : needed)
        require<DeckError>(text.find("{" + name + "}") != std::string::npos,
                           "{}: the template {} has no {{{}}}", deck.origin(key), path, name);
    return text;
}

/// Rank 0's, on every rank.
std::string shared_template(Run& run, const char* key, const char* otherwise,
                            const std::vector<std::string>& needed) {
    return run.grid.world().broadcast(
        run.on_root<DeckError>([&] { return template_of(run.deck, key, otherwise, needed); }));
}

}  // namespace

Judge::Judge(Run& run)
    : run_(run),
      template_(shared_template(run, "judge.template", kJudge, {"answer", "reference"})),
      model_(run, "judge") {}

std::optional<std::vector<double>> Judge::verdicts(const std::vector<RolloutRow>& rows) {
    const Deck& deck = run_.deck;
    const std::string &yes = deck.text("judge.yes"), &no = deck.text("judge.no"),
                      &of = deck.text("judge.of");
    std::vector<Ask> asks;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const RolloutRow& row = rows[i];
        const double rule = row.rewards[0];
        if (row.reference.empty() || (of == "unscorable" && !std::isnan(rule)) ||
            (of == "wrong" && rule == 1))
            continue;
        const std::string part = final_part(row.response_text),
                          extracted = extract_answer(row.response_text);
        places.push_back(i);
        asks.push_back({row.group, row.sample,
                        fill_template(template_, {{"question", row.prompt_text},
                                                  {"reference", row.reference},
                                                  {"answer", extracted.empty() ? part : extracted},
                                                  {"response", part},
                                                  {"yes", yes},
                                                  {"no", no}})});
    }
    const bool by_chance = deck.text("judge.by") == "probability";
    const auto answer = [&](PhaseModel& model, const std::vector<Ask>& some) {
        std::vector<Json> all;
        if (by_chance)
            for (const double p : model.chances(some, yes, no))
                all.push_back(std::isnan(p) ? Json() : Json(p));
        else
            for (std::string& reply : model.replies(some, Stream::judge))
                all.push_back(std::move(reply));
        return all;
    };
    const auto replies =
        inquire(run_, model_, asks,
                {.file = "judge.jsonl",
                 .about = fmt::format("{}\n{} {} {}", template_, deck.text("judge.by"), yes, no),
                 .answer = answer});
    if (!replies) return std::nullopt;
    std::vector<double> verdicts(rows.size(), kUnscorable);
    std::int64_t right = 0, none = 0;
    for (std::size_t i = 0; i < places.size(); ++i) {
        const Json& reply = (*replies)[i];
        double& verdict = verdicts[places[i]];
        if (by_chance)
            verdict = reply.is_null()                                         ? kUnscorable
                      : reply.get<double>() >= deck.number("judge.threshold") ? 1.0
                                                                              : 0.0;
        else
            verdict = verdict_in(reply.get<std::string>(), yes, no);
        right += verdict == 1;
        none += std::isnan(verdict);
    }
    run_.log.info("judge: asked about {} of {} samples: {} right, {} wrong, {} without a verdict",
                  places.size(), rows.size(), right, std::ssize(places) - right - none, none);
    return verdicts;
}

Rewriter::Rewriter(Run& run)
    : run_(run),
      template_(shared_template(run, "rewrite.template", kRewrite, {"response"})),
      model_(run, "rewrite") {}

std::optional<std::vector<std::string>> Rewriter::texts(const std::vector<RolloutRow>& rows,
                                                        const std::vector<std::size_t>& chosen) {
    std::vector<Ask> asks;
    for (const std::size_t i : chosen) {
        const RolloutRow& row = rows[i];
        asks.push_back({row.group, row.sample,
                        fill_template(template_, {{"question", row.prompt_text},
                                                  {"response", row.response_text},
                                                  {"reasoning", reasoning_part(row.response_text)},
                                                  {"answer", final_part(row.response_text)},
                                                  {"reference", row.reference}})});
    }
    const auto replies =
        inquire(run_, model_, asks,
                {.file = "rewrite.jsonl",
                 .about = template_,
                 .answer = [&](PhaseModel& model, const std::vector<Ask>& some) {
                     std::vector<Json> all;
                     for (std::string& reply : model.replies(some, Stream::rewrite, true))
                         all.push_back(std::move(reply));
                     return all;
                 }});
    if (!replies) return std::nullopt;
    std::vector<std::string> texts;
    for (const Json& reply : *replies) texts.push_back(reply.get<std::string>());
    return texts;
}

}  // namespace gradus
