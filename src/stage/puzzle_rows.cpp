// SPDX-License-Identifier: Apache-2.0
#include "puzzle_rows.hpp"

#include <fmt/ranges.h>

#include "gradus/base/error.hpp"
#include "gradus/reward/puzzles.hpp"

namespace gradus {
namespace {

Json finished(const Json& row, const std::string& prompt, const Puzzle& puzzle) {
    Json out = row;
    // What the row holds of the answer, and other projects' renderings of the prompt, are no part of the question.
    for (const char* name : {"solution", "answer", "messages", "question", "problem"}) out.erase(name);
    out["prompt"] = prompt;
    out["reference"] = to_reference(puzzle);
    return out;
}

Json countdown(const Json& row) {
    const Puzzle puzzle = {.numbers = row["nums"].get<std::vector<std::int64_t>>(), .target = row["target"].get<std::int64_t>()};
    require<DataError>(!puzzle.numbers.empty(), "field \"nums\" is empty");
    return finished(row,
                    fmt::format("Use the numbers {}, each exactly once, with + - * / and parentheses to make {}. Give the "
                                "expression as your answer, for example (1 + 2) * 3.",
                                fmt::join(puzzle.numbers, ", "), puzzle.target),
                    puzzle);
}

Json knights(const Json& row) {
    Puzzle puzzle = {.names = row["names"].get<std::vector<std::string>>(), .knights = row["solution"].get<std::vector<bool>>()};
    require<DataError>(!puzzle.names.empty() && puzzle.names.size() == puzzle.knights.size(),
                       "fields \"names\" and \"solution\" are not of one length");
    if (row.contains("knight_knave")) {
        puzzle.knight = row["knight_knave"].value("knight", puzzle.knight);
        puzzle.knave = row["knight_knave"].value("knave", puzzle.knave);
    }
    return finished(row,
                    fmt::format("{}\n\nSay of each in your answer what they are, as in: {} is a {}, {} is a {}.",
                                row["quiz"].get<std::string>(), puzzle.names.front(), puzzle.knight, puzzle.names.back(),
                                puzzle.knave),
                    puzzle);
}

}  // namespace

Json as_puzzle_row(const Json& row) {
    try {
        if (row.contains("nums") && row.contains("target")) return countdown(row);
        if (row.contains("quiz") && row.contains("names") && row.contains("solution")) return knights(row);
    } catch (const Json::exception& e) {
        throw DataError(fmt::format("a field of a puzzle is of another type than it should be: {}", e.what()));
    }
    return row;
}

}  // namespace gradus
