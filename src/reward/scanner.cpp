// SPDX-License-Identifier: Apache-2.0
#include "scanner.hpp"

#include <array>
#include <string>
#include <utility>

namespace gradus {

char Scanner::relation_sign() {
    const char c = peek();
    if (c == '=') {
        ++at_;
        if (at_ < text_.size() && text_[at_] == '=') ++at_;
        return '=';
    }
    if (c == '<' || c == '>') {
        ++at_;
        const bool equal = take('=');
        return c == '<' ? (equal ? 'l' : '<') : (equal ? 'g' : '>');
    }
    if (c == '!' && at_ + 1 < text_.size() && text_[at_ + 1] == '=') {
        at_ += 2;
        return 'n';
    }
    static constexpr std::array<std::pair<std::string_view, char>, 14> kSigns = {
        {{"le", 'l'}, {"leq", 'l'}, {"leqslant", 'l'}, {"ge", 'g'}, {"geq", 'g'}, {"geqslant", 'g'}, {"lt", '<'},
         {"gt", '>'}, {"ne", 'n'}, {"neq", 'n'}, {"in", 'i'}, {"approx", '~'}, {"equiv", '='}, {"colon", ':'}}};
    for (const auto& [name, sign] : kSigns)
        if (take_command(name)) return sign;
    if (c == ':') {
        ++at_;
        return ':';
    }
    return '\0';
}

std::optional<Rational> Scanner::numeral(bool groups) {
    using boost::multiprecision::cpp_int;
    constexpr std::size_t kMostDigits = 400;
    const auto digit = [&](std::size_t at) { return at < text_.size() && is_digit(text_[at]); };
    std::string whole, part;
    bool repeats_from_point = false;
    while (digit(at_)) whole += text_[at_++];
    // Groups of three digits; none after a zero: 0,111 is not 111.
    if (groups && !whole.empty() && whole.size() <= 3 && whole[0] != '0')
        for (const char separator : {',', ' '})
            while (digit(at_ + 1) && text_[at_] == separator && digit(at_ + 2) && digit(at_ + 3) && !digit(at_ + 4)) {
                whole += text_.substr(at_ + 1, 3);
                at_ += 4;
            }
    if (digit(at_ + 1) && text_[at_] == '.') {
        ++at_;
        while (digit(at_)) part += text_[at_++];
    } else if (text_.substr(at_).starts_with(".\\overline{")) {
        ++at_;
        repeats_from_point = true;
    } else if (at_ < text_.size() && text_[at_] == '.' && (at_ + 1 == text_.size() || text_[at_ + 1] == ' ')) {
        ++at_;  // a full stop
    }
    if (whole.size() + part.size() > kMostDigits || whole.size() + part.size() == 0) return {};
    cpp_int digits = 0, scale = 1;
    for (const char c : whole + part) digits = digits * 10 + (c - '0');
    for (std::size_t i = 0; i < part.size(); ++i) scale *= 10;
    Rational value(digits, scale);
    if ((!part.empty() || repeats_from_point) && take_command("overline")) {
        cpp_int again = 0, nines = 1;
        if (!take('{')) return {};
        while (digit(at_) && nines < cpp_int(1) << 400) {
            again = again * 10 + (text_[at_++] - '0');
            nines *= 10;
        }
        if (!take('}') || nines == 1) return {};
        value += Rational(again, (nines - 1) * scale);
    }
    return value;
}

}  // namespace gradus
