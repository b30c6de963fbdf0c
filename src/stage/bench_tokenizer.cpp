// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "gradus/base/error.hpp"
#include "gradus/reward/problems.hpp"
#include "gradus/stage/rows.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kProblems = 4000;

/// The texts to measure on: rows of JSONL files, whole other files, or generated problems.
std::vector<std::string> texts_of(const Deck& deck) {
    std::vector<std::string> texts;
    const RowReader reader(deck);
    for (const std::string& file : deck.list("bench.text")) {
        if (file.ends_with(".txt")) {
            texts.push_back(read_file(file));
            continue;
        }
        for_each_json_line(file, [&](const Json& json, std::int64_t) {
            const TrainingRow row = reader.training(json);
            if (row.messages.empty()) texts.push_back(row.text);
            for (const ChatMessage& message : row.messages) texts.push_back(message.content);
        });
    }
    if (!texts.empty()) return texts;
    for (std::int64_t i = 0; i < kProblems; ++i) {
        const Problem problem = make_problem({}, i);
        texts.push_back(problem.prompt + "\n" + make_document_response(problem, {}, 1, i));
    }
    return texts;
}

}  // namespace

void bench_tokenizer(Run& run, std::int64_t runs, Json& result) {
    const std::vector<std::string> texts = texts_of(run.deck);
    double bytes = 0, encoding = 1e300, decoding = 1e300;
    for (const std::string& text : texts) bytes += static_cast<double>(text.size());
    std::vector<std::vector<TokenId>> ids(texts.size());
    std::vector<std::string> back(texts.size());
    for (std::int64_t i = 0; i < runs; ++i) {
        const double began = now_seconds();
        for (std::size_t t = 0; t < texts.size(); ++t)
            ids[t] = run.tokenizer->encode(texts[t], false);
        const double encoded = now_seconds();
        for (std::size_t t = 0; t < texts.size(); ++t) back[t] = run.tokenizer->decode(ids[t]);
        encoding = std::min(encoding, encoded - began);
        decoding = std::min(decoding, now_seconds() - encoded);
        run.watchdog.alive();
    }
    double tokens = 0;
    std::size_t same = 0;
    for (std::size_t t = 0; t < texts.size(); ++t) {
        tokens += static_cast<double>(ids[t].size());
        same += back[t] == texts[t] ? 1 : 0;
    }
    result["tokenizer"] = {{"identity", run.tokenizer->identity()},
                           {"bytes", bytes},
                           {"tokens", tokens},
                           {"bytes_per_token", bytes / tokens},
                           {"encode_bytes_per_s", bytes / encoding},
                           {"decode_bytes_per_s", bytes / decoding},
                           {"texts", texts.size()},
                           {"texts_that_come_back", same}};
    run.log.info(
        "tokenizer   encodes {:.1f} MB/s, decodes {:.1f} MB/s on one core; {:.2f} bytes a token; "
        "{} of {} "
        "texts come back byte for byte",
        bytes / encoding / 1e6, bytes / decoding / 1e6, bytes / tokens, same, texts.size());
}

}  // namespace gradus
