// SPDX-License-Identifier: Apache-2.0
// Generated problems: arithmetic reasoning of graded difficulty in words and symbols, with worked
// solutions in R1's form. A pure function of (seed, number).
#pragma once

#include <cstdint>
#include <string>

namespace gradus {

struct Problem {
    std::string prompt;
    std::string answer;     ///< the reference: an integer
    std::string reasoning;  ///< worked steps, English, correct
    int level = 1;          ///< number of operations
};

struct ProblemOptions {
    std::uint64_t seed = 1;
    int min_terms = 3;  ///< operands a problem
    int max_terms = 5;
    double words = 0.3;  ///< share of problems told in words
};

/// Problem number `index` of the family.
Problem make_problem(const ProblemOptions& options, std::int64_t index);

/// How a document of the base text presents a problem.
struct DocumentOptions {
    double worked = 0.5;     ///< share with reasoning, the others answer at once
    double imperfect = 0.1;  ///< share of worked documents with an error or broken tags
    double mixed = 0.2;      ///< share of worked documents whose reasoning mixes in Chinese
};
/// The response part of base-text document `index` for `problem` (with tags, where it has them).
std::string make_document_response(const Problem& problem, const DocumentOptions& options,
                                   std::uint64_t seed, std::int64_t index);

}  // namespace gradus
