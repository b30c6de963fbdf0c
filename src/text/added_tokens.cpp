// SPDX-License-Identifier: Apache-2.0
#include "added_tokens.hpp"

#include <algorithm>

#include "utf8.hpp"

namespace gradus {

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens,
                                   const std::vector<std::string>& patterns)
    : tokens_(tokens), nodes_(1) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        std::size_t node = 0;
        for (const char c : patterns[i]) {
            const auto byte = static_cast<unsigned char>(c);
            auto& next = nodes_[node].next;
            const auto it = std::find_if(next.begin(), next.end(),
                                         [&](const auto& n) { return n.first == byte; });
            if (it != next.end()) {
                node = static_cast<std::size_t>(it->second);
                continue;
            }
            next.emplace_back(byte, static_cast<std::int32_t>(nodes_.size()));
            node = nodes_.size();
            nodes_.emplace_back();
        }
        if (nodes_[node].token < 0) nodes_[node].token = static_cast<std::int32_t>(i);
    }
    first_.fill(-1);
    for (const auto& [byte, node] : nodes_[0].next) first_[byte] = node;
}

std::pair<std::int32_t, std::size_t> AddedTokenFinder::longest(std::string_view text) const {
    std::pair<std::int32_t, std::size_t> found = {-1, 0};
    std::int32_t node = first_[static_cast<unsigned char>(text[0])];
    for (std::size_t i = 1; node >= 0; ++i) {
        const Node& here = nodes_[static_cast<std::size_t>(node)];
        if (here.token >= 0) found = {here.token, i};
        node = -1;
        if (i == text.size()) break;
        const auto byte = static_cast<unsigned char>(text[i]);
        for (const auto& [b, n] : here.next)
            if (b == byte) node = n;
    }
    return found;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::split(std::string_view text,
                                                            bool parse_special) const {
    std::vector<Part> parts;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
        if (first_[static_cast<unsigned char>(text[at])] < 0) {
            ++at;
            continue;
        }
        const auto [index, bytes] = longest(text.substr(at));
        if (index < 0) {
            ++at;
            continue;
        }
        const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
        std::size_t begin = at, end = at + bytes;
        at = end;
        if (token.special && !parse_special) continue;
        if (token.single_word) {
            if (begin > 0 && is_word_character(last_code_point(text.substr(0, begin)).value))
                continue;
            if (end < text.size() && is_word_character(code_point(text.substr(end)).value))
                continue;
        }
        while (token.lstrip && begin > done) {
            const CodePoint c = last_code_point(text.substr(done, begin - done));
            if (!is_white_space(c.value)) break;
            begin -= c.bytes;
        }
        while (token.rstrip && end < text.size()) {
            const CodePoint c = code_point(text.substr(end));
            if (!is_white_space(c.value)) break;
            end += c.bytes;
        }
        if (done < begin) parts.push_back({-1, text.substr(done, begin - done)});
        parts.push_back({token.id, text.substr(begin, end - begin)});
        done = at = end;
    }
    if (done < text.size()) parts.push_back({-1, text.substr(done)});
    return parts;
}

}  // namespace gradus
