// SPDX-License-Identifier: Apache-2.0
#include "matrices.hpp"

#include <algorithm>

#include "identity.hpp"

namespace gradus {
namespace {

using Kind = Expression::Kind;

constexpr std::size_t kMostTerms = 4000;

bool has_matrix(const Expression& e) {
    return e.kind == Kind::matrix || std::any_of(e.children.begin(), e.children.end(), has_matrix);
}

std::size_t terms(const Expression& e) {
    std::size_t count = 1;
    for (const Expression& child : e.children) count += terms(child);
    return count;
}

Expression operation(Kind kind, std::vector<Expression> children) {
    Expression e{.kind = kind};
    e.children = std::move(children);
    if (const auto value = exact_value(e)) {
        Expression number;
        number.number = *value;
        return number;
    }
    return e;
}

std::size_t width(const Expression& matrix) { return matrix.children[0].children.size(); }

/// A matrix whose cell (r, c) is `cell(r, c)`; nothing where it becomes too large.
template <class Cell>
std::optional<Expression> matrix_of(std::size_t rows, std::size_t columns, Cell cell) {
    Expression all{.kind = Kind::matrix};
    std::size_t count = 0;
    for (std::size_t r = 0; r < rows; ++r) {
        Expression& row = all.children.emplace_back(Expression{.kind = Kind::list});
        for (std::size_t c = 0; c < columns; ++c) {
            count += terms(row.children.emplace_back(cell(r, c)));
            if (count > kMostTerms || !Budget::take(1)) return {};
        }
    }
    return all;
}

std::optional<Expression> sum_of(const Expression& a, const Expression& b) {
    if (a.children.size() != b.children.size() || width(a) != width(b)) return {};
    return matrix_of(a.children.size(), width(a), [&](std::size_t r, std::size_t c) {
        return operation(Kind::sum, {a.children[r].children[c], b.children[r].children[c]});
    });
}

std::optional<Expression> product_of(const Expression& a, const Expression& b) {
    if (width(a) != b.children.size()) return {};
    return matrix_of(a.children.size(), width(b), [&](std::size_t r, std::size_t c) {
        std::vector<Expression> products;
        for (std::size_t k = 0; k < width(a); ++k)
            products.push_back(operation(Kind::product, {a.children[r].children[k], b.children[k].children[c]}));
        return operation(Kind::sum, std::move(products));
    });
}

std::optional<Expression> multiple_of(const Expression& matrix, Kind kind, const Expression& scalar) {
    return matrix_of(matrix.children.size(), width(matrix), [&](std::size_t r, std::size_t c) {
        return operation(kind, {matrix.children[r].children[c], scalar});
    });
}

}  // namespace

std::optional<Expression> worked_out_matrix(const Expression& e) {
    if (e.kind == Kind::matrix) return e.text.empty() ? std::optional(e) : std::nullopt;  // a determinant is a number
    if (e.kind == Kind::quotient && !has_matrix(e.children[1])) {
        const auto above = worked_out_matrix(e.children[0]);
        return above ? multiple_of(*above, Kind::quotient, e.children[1]) : std::nullopt;
    }
    if ((e.kind != Kind::sum && e.kind != Kind::product) || !has_matrix(e)) return {};
    std::optional<Expression> result;
    Expression scalars{.kind = Kind::product};
    for (const Expression& child : e.children) {
        if (e.kind == Kind::product && !has_matrix(child)) {
            scalars.children.push_back(child);
            continue;
        }
        const auto next = worked_out_matrix(child);
        if (!next) return {};
        result = !result ? next : e.kind == Kind::sum ? sum_of(*result, *next) : product_of(*result, *next);
        if (!result) return {};
    }
    return scalars.children.empty() ? result : multiple_of(*result, Kind::product, scalars);
}

}  // namespace gradus
