// SPDX-License-Identifier: Apache-2.0
#include "words.hpp"

#include <unordered_set>

#include "characters.hpp"

namespace gradus {
namespace {

using Words = std::unordered_set<std::string_view>;

const Words& changing_words() {
    static const Words all = {
        // Connections to something else.
        "and", "or", "nor", "not", "no", "never", "neither", "cannot", "wrong", "incorrect", "false", "but", "except", "unless",
        "without", "to", "between", "below", "above", "under", "beyond", "beneath",
        // Operations.
        "minus", "negative", "plus", "times", "over", "divided", "multiplied", "added", "subtracted", "increased", "decreased",
        "reduced", "raised", "mod", "modulo", "choose", "base", "square", "squares", "squared", "cube", "cubes", "cubed", "root", "roots",
        "power", "powers", "inverse", "inverted", "reciprocal", "opposite", "negated", "conjugate", "complement", "factorial",
        "sqrt", "log", "ln", "lg", "exp", "sin", "cos", "tan", "cot", "sec", "csc", "sine", "cosine", "tangent", "logarithm",
        "pi", "infinity", "infinite", "undefined", "imaginary",
        // Multiples.
        "twice", "thrice", "double", "doubles", "doubled", "triple", "triples", "tripled", "quadruple", "quadrupled", "quintuple",
        "fold", "tens", "dozen", "dozens", "gross", "hundred", "hundreds", "thousand", "thousands", "million", "millions",
        "billion", "billions", "trillion", "trillions", "quadrillion", "quintillion", "zillion", "googol", "myriad", "lakh",
        "lakhs", "lac", "crore", "crores", "bn", "mn", "tn", "mil", "mln", "bln",
        // Parts.
        "half", "halves", "halved", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "sixth",
        "sixths", "seventh", "sevenths", "eighth", "eighths", "ninth", "ninths", "tenth", "tenths", "eleventh", "elevenths",
        "twelfth", "twelfths", "thirteenth", "thirteenths", "fourteenth", "fourteenths", "fifteenth", "fifteenths", "sixteenth",
        "sixteenths", "seventeenth", "seventeenths", "eighteenth", "eighteenths", "nineteenth", "nineteenths", "twentieth",
        "twentieths", "thirtieth", "thirtieths", "fortieth", "fortieths", "fiftieth", "fiftieths", "sixtieth", "sixtieths",
        "seventieth", "seventieths", "eightieth", "eightieths", "ninetieth", "ninetieths", "hundredth", "hundredths",
        "thousandth", "thousandths", "millionth", "millionths", "billionth", "billionths", "point", "zero", "permille",
        "promille", "ppm", "basis"};
    return all;
}

const Words& harmless_words() {
    static const Words all = {
        "the", "a", "an", "is", "are", "was", "were", "be", "been", "equals", "answer", "result", "value", "total", "sum", "so",
        "thus", "hence", "therefore", "then", "only", "exactly", "just", "about", "approximately", "around", "all", "it", "at",
        "for", "with", "has", "have", "had", "having", "make", "makes", "made", "earn", "earns", "earned", "cost", "costs", "spend",
        "spends", "spent", "pay", "pays", "paid", "need", "needs", "needed", "sell", "sells", "sold", "get", "gets", "got",
        "receive", "receives", "received", "buy", "buys", "bought", "take", "takes", "took", "use", "uses", "used", "eat", "eats",
        "ate", "drink", "drinks", "drank", "drive", "drives", "drove", "run", "runs", "ran", "walk", "walks", "walked", "read",
        "reads", "lose", "loses", "lost", "score", "scores", "scored", "weigh", "weighs", "weighed", "save", "saves", "saved",
        "keep", "keeps", "kept", "find", "finds", "found", "give", "gives", "gave", "leave", "leaves", "left", "contain",
        "contains", "contained", "hold", "holds", "held", "there", "remain", "remains", "area", "volume", "perimeter", "length",
        "width", "height", "distance", "speed", "age", "price", "profit", "probability", "number", "amount", "average", "charge",
        "charges", "charged", "collect", "collects", "collected", "work", "works", "worked", "travel", "travels", "traveled",
        "deliver", "delivers", "delivered", "climb", "climbs", "climbed", "pick", "picks", "picked", "up", "watch", "watches",
        "watched", "carry", "carries", "carried", "hike", "hikes", "hiked", "rained", "cut", "cuts", "averaged", "working", "each",
        "more", "additional", "extra", "another", "write", "writes", "wrote", "plant", "plants", "planted", "receiving", "owes", "owe", "owed", "owns", "own", "owned"};
    return all;
}

/// Of these a number may be one: a total of 5.
const Words& whole_of() {
    static const Words all = {"total", "sum", "value", "length", "width", "height", "average", "amount", "distance", "cost", "price",
                              "profit", "number", "speed", "area", "volume", "perimeter", "weight", "score", "probability", "age",
                              "answer", "balance", "maximum", "minimum"};
    return all;
}

bool is_unit_of_length(std::string_view word) {
    static const Words all = {"unit", "units", "feet", "foot", "ft", "inch", "inches", "in", "mile", "miles", "mi", "yard", "yards",
                              "yd", "meter", "meters", "metre", "metres", "m", "centimeter", "centimeters", "centimetres", "cm",
                              "kilometer", "kilometers", "kilometres", "km", "millimeter", "millimeters", "mm"};
    return all.contains(word);
}

}  // namespace

std::vector<std::string> words_in(std::string_view text) {
    std::vector<std::string> words;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (!is_letter(text[at])) continue;
        if (at == 0 || !is_letter(text[at - 1])) words.emplace_back();
        words.back() += text[at] >= 'A' && text[at] <= 'Z' ? static_cast<char>(text[at] - 'A' + 'a') : text[at];
    }
    return words;
}

bool changes_number(std::string_view word) {
    const std::vector<std::string> lower = words_in(word);
    return lower.size() == 1 && changing_words().contains(lower[0]);
}

bool has_changing_word(std::string_view text) {
    const std::vector<std::string> words = words_in(text);
    for (std::size_t i = 0; i < words.size(); ++i) {
        const bool of_unit = words[i] == "square" && i + 1 < words.size() && is_unit_of_length(words[i + 1]);
        const bool bound = i > 0 && words[i - 1] == "at" && (words[i] == "most" || words[i] == "least");
        if (bound || (!of_unit && changing_words().contains(words[i]))) return true;
    }
    return false;
}

bool may_precede_number(std::string_view text) {
    const std::vector<std::string> words = words_in(text);
    if (words.empty()) return true;
    if (has_changing_word(text)) return false;
    const std::string& last = words.back();
    if (last == "of") return words.size() > 1 && whole_of().contains(words[words.size() - 2]);
    return harmless_words().contains(last);
}

}  // namespace gradus
