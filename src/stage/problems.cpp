// SPDX-License-Identifier: Apache-2.0
// stage = problems: generated problems with worked solutions, split by problem.
#include <set>

#include "gradus/base/error.hpp"
#include "gradus/reward/problems.hpp"
#include "gradus/reward/requests.hpp"
#include "gradus/reward/reward.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// The problems of one family that are not in `taken`, each prompt once.
class ProblemSource {
  public:
    ProblemSource(ProblemOptions options, std::set<std::string>& taken)
        : options_(options), taken_(taken) {}

    Problem next() {
        for (int tries = 0; tries < 100000; ++tries) {
            Problem problem = make_problem(options_, index_++);
            if (taken_.insert(problem.prompt).second) return problem;
        }
        throw DeckError(
            "there are not enough distinct problems: raise problems.max_terms or ask "
            "for fewer (problems.count, problems.eval_count, problems.documents)");
    }

  private:
    ProblemOptions options_;
    std::set<std::string>& taken_;
    std::int64_t index_ = 0;
};

Json prompt_row(const char* split, std::int64_t i, const Problem& problem) {
    return {{"id", fmt::format("{}-{}", split, i)},
            {"prompt", problem.prompt},
            {"reference", problem.answer},
            {"kind", "math"},
            {"level", problem.level}};
}

/// Four files of requests and of replies to them. Prompts repeat, as their words are few; which
/// replies are good is drawn.
void write_requests(Run& run, std::uint64_t seed) {
    const std::int64_t count = run.deck.integer("problems.requests");
    const double share = run.deck.number("problems.good");
    std::string prompts, replies, helpful, harmless;
    for (std::int64_t i = 0; i < count; ++i) {
        const OpenRequest request = make_request(seed, i);
        const bool good = is_good_reply(seed, i, share);
        const auto line = [](std::string& file, const Json& row) { file += row.dump() + "\n"; };
        run.beat();
        line(prompts, {{"id", fmt::format("request-{}", i)},
                       {"prompt", request.prompt},
                       {"reference", request.answer},
                       {"kind", request.kind}});
        line(replies,
             {{"prompt", request.prompt}, {"response", make_reply(request, good, seed, i)}});
        if (request.kind == "helpful")
            line(helpful, {{"prompt", request.prompt},
                           {"chosen", final_part(make_reply(request, true, seed, i))},
                           {"rejected", final_part(make_reply(request, false, seed, i, 1))}});
        else
            line(harmless, {{"prompt", request.prompt},
                            {"response", make_reply(request, i % 4 == 1, seed, i, 1)},
                            {"safe", i % 4 == 1}});
    }
    write_file_atomically(run.path("requests.jsonl"), prompts);
    write_file_atomically(run.path("replies.jsonl"), replies);
    write_file_atomically(run.path("helpful.jsonl"), helpful);
    write_file_atomically(run.path("harmless.jsonl"), harmless);
    run.log.info("{} requests", count);
}

/// One set of prompts over all splits: no problem is in two of them.
void write_problems(Run& run) {
    const Deck& deck = run.deck;
    const auto seed = static_cast<std::uint64_t>(deck.integer("run.seed"));
    const ProblemOptions options{.seed = seed,
                                 .min_terms = static_cast<int>(deck.integer("problems.min_terms")),
                                 .max_terms = static_cast<int>(deck.integer("problems.max_terms")),
                                 .words = deck.number("problems.words")};
    const DocumentOptions documents{.worked = deck.number("problems.worked"),
                                    .imperfect = deck.number("problems.imperfect"),
                                    .mixed = deck.number("problems.mixed")};
    std::set<std::string> taken;
    ProblemSource source(options, taken);
    std::string eval, train, direct, base;
    for (std::int64_t i = 0; i < deck.integer("problems.eval_count"); ++i)
        eval += prompt_row("eval", i, source.next()).dump() + "\n";
    for (std::int64_t i = 0; i < deck.integer("problems.count"); ++i) {
        const Problem problem = source.next();
        train += prompt_row("train", i, problem).dump() + "\n";
        direct += Json{{"prompt", problem.prompt},
                       {"response", "<answer>" + problem.answer + "</answer>"}}
                      .dump() +
                  "\n";
        run.beat();
    }
    for (std::int64_t i = 0; i < deck.integer("problems.documents"); ++i) {
        const Problem problem = source.next();
        base += Json{{"prompt", problem.prompt},
                     {"response", make_document_response(problem, documents, seed, i)}}
                    .dump() +
                "\n";
        run.beat();
    }
    write_file_atomically(run.path("eval.jsonl"), eval);
    write_file_atomically(run.path("train.jsonl"), train);
    write_file_atomically(run.path("direct.jsonl"), direct);
    write_file_atomically(run.path("base.jsonl"), base);
    if (deck.integer("problems.requests") > 0) write_requests(run, seed);
    run.log.info("{} problems, {} of them for evaluation, {} in the base text; no prompt twice",
                 taken.size(), deck.integer("problems.eval_count"),
                 deck.integer("problems.documents"));
}

}  // namespace

ExitCode run_problems(Run& run) {
    if (run.finished_before("summary.json")) return ExitCode::done;
    run.begin();
    run.on_root([&] { write_problems(run); });
    run.finish(1, 0, {});
    return ExitCode::done;
}

}  // namespace gradus
