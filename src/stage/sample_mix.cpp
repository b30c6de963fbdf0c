// SPDX-License-Identifier: Apache-2.0
#include "sample_mix.hpp"

#include <cmath>
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/base/philox.hpp"
#include "gradus/stage/rows.hpp"

namespace gradus {
namespace {

enum Step : std::uint64_t { draw_rows, order_lines };

std::vector<std::int64_t> permutation(std::uint64_t seed, Step step, std::size_t n) {
    std::vector<std::int64_t> order(n);
    random_permutation(seed, Stream::shuffle, step, static_cast<std::int64_t>(n), order.data());
    return order;
}

GeneralRow general_row(const RowReader& reader, const Json& json, std::string id) {
    GeneralRow row{.id = std::move(id), .messages = reader.training(json).messages};
    require<DataError>(!row.messages.empty(), "it is text without a question and a response");
    row.prompt = user_text(row.messages);
    for (const ChatMessage& message : row.messages)
        if (message.role == "assistant") row.response += (row.response.empty() ? "" : "\n") + message.content;
    return row;
}

}  // namespace

Passages read_test_sets(const Deck& deck, const std::function<void()>& beat) {
    const RowReader reader;
    Passages tests(deck.integer("sample.decontaminate_ngram"));
    for (const std::string& file : deck.list("sample.decontaminate"))
        for_each_json_line(file, [&](const Json& row, std::int64_t line) {
            const std::string where = fmt::format("{}:{}", file, line);
            try {
                tests.add(reader.asked(row), where);
            } catch (const DataError& error) {
                throw DataError(fmt::format("{}: {} (sample.decontaminate)", where, error.what()));
            }
            beat();
        });
    return tests;
}

std::vector<GeneralRow> read_general(const Deck& deck, std::vector<std::string>& notes, const std::function<void()>& beat) {
    constexpr std::int64_t kBadLinesTold = 3;
    const RowReader reader;
    const bool skip = deck.text("data.bad_lines") == "skip";
    std::vector<GeneralRow> rows;
    for (const std::string& file : deck.list("sample.mix")) {
        std::int64_t bad = 0;
        const std::string name = std::filesystem::path(file).filename().string();
        for (JsonLinesReader lines(file); lines.next();) {
            beat();
            std::string problem = lines.problem();
            try {
                if (problem.empty()) rows.push_back(general_row(reader, lines.row(), fmt::format("{}:{}", name, lines.line())));
            } catch (const DataError& error) {
                problem = error.what();
            }
            if (problem.empty()) continue;
            const std::string told = fmt::format("{}:{}: {}", file, lines.line(), problem);
            require<DataError>(skip, "{} (sample.mix; data.bad_lines = skip passes over it)", told);
            if (bad++ < kBadLinesTold) notes.push_back("skipped " + told);
        }
        if (bad > 0) notes.push_back(fmt::format("{}: {} lines skipped", file, bad));
    }
    std::vector<GeneralRow> drawn;
    for (const std::int64_t i : permutation(static_cast<std::uint64_t>(deck.integer("run.seed")), draw_rows, rows.size()))
        drawn.push_back(std::move(rows[static_cast<std::size_t>(i)]));
    return drawn;
}

std::int64_t general_rows(const Deck& deck, std::int64_t reasoning) {
    if (const std::int64_t rows = deck.integer("sample.mix_rows"); rows > 0) return rows;
    const double share = deck.number("sample.mix_share");
    return share > 0 ? std::llround(static_cast<double>(reasoning) * share / (1 - share)) : -1;
}

std::string shuffled_lines(const std::vector<std::string>& lines, std::uint64_t seed) {
    std::string text;
    for (const std::int64_t i : permutation(seed, order_lines, lines.size())) text += lines[static_cast<std::size_t>(i)] + "\n";
    return text;
}

}  // namespace gradus
