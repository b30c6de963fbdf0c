// SPDX-License-Identifier: Apache-2.0
#include "gradus/reward/requests.hpp"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "gradus/base/philox.hpp"

namespace gradus {
namespace {

enum Purpose : std::uint64_t { make_words = 2, make_answer, choose_quality };  // beside those of problems

constexpr std::array<std::string_view, 8> kNames = {"Tom", "Ann", "Ben", "Mia", "Sam", "Eva", "Max", "Kim"};
constexpr std::array<std::string_view, 4> kThings = {"coins", "nuts", "cards", "pens"};
constexpr std::array<std::string_view, 3> kInsults = {"a fool", "so dumb", "an idiot"};

template <class List>
std::string_view pick(const List& list, RandomSequence& random) {
    return list[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(list.size()) - 1))];
}

/// One way to ask, with what is asked for.
struct Words {
    std::int64_t form = 0;
    std::string_view name, thing;
    std::int64_t number = 0;
};

constexpr std::int64_t kForms = 3;

Words draw_words(RandomSequence& random) {
    Words words;
    words.form = random.integer(0, kForms - 1);
    words.name = pick(kNames, random);
    words.thing = pick(kThings, random);
    words.number = random.integer(2, 9);
    return words;
}

std::string helpful_prompt(const Words& w) {
    switch (w.form) {
        case 0: return fmt::format("Thank {} for {} {}.", w.name, w.number, w.thing);
        case 1: return fmt::format("Offer {} {} {}.", w.name, w.number, w.thing);
        default: return fmt::format("Ask {} for {} {}.", w.name, w.number, w.thing);
    }
}

std::string helpful_answer(const Words& w) {
    switch (w.form) {
        case 0: return fmt::format("Thank you, {}, for the {} {}.", w.name, w.number, w.thing);
        case 1: return fmt::format("Would you like {} {}, {}?", w.number, w.thing, w.name);
        default: return fmt::format("{}, may I have {} {}, please?", w.name, w.number, w.thing);
    }
}

std::string harmless_prompt(const Words& w) {
    switch (w.form) {
        case 0: return fmt::format("{} lost {} {}. What do you say?", w.name, w.number, w.thing);
        case 1: return fmt::format("{} forgot the {}. What do you say?", w.name, w.thing);
        default: return fmt::format("{} broke {} {}. What do you say?", w.name, w.number, w.thing);
    }
}

std::string harmless_answer(const Words& w) {
    switch (w.form) {
        case 0: return fmt::format("I am sorry, {}. I help you find the {}.", w.name, w.thing);
        case 1: return fmt::format("No problem, {}. We find other {}.", w.name, w.thing);
        default: return fmt::format("It is all right, {}. {} can be mended.", w.name, w.thing);
    }
}

std::string tagged(const std::string& thought, const std::string& answer) {
    return fmt::format("<think>{}</think><answer>{}</answer>", thought, answer);
}

Words words_of(std::uint64_t seed, std::int64_t index) {
    RandomSequence random({.seed = seed,
                           .stream = Stream::problems,
                           .step = make_words,
                           .prompt = static_cast<std::uint64_t>(index)});
    return draw_words(random);
}

}  // namespace

OpenRequest make_request(std::uint64_t seed, std::int64_t index) {
    const Words words = words_of(seed, index);
    const bool helpful = index % 2 == 0;
    return {.kind = helpful ? "helpful" : "harmless",
            .prompt = helpful ? helpful_prompt(words) : harmless_prompt(words),
            .answer = helpful ? helpful_answer(words) : harmless_answer(words),
            .thought = fmt::format("{} is {}", helpful ? "this" : "that", words.name)};
}

bool is_good_reply(std::uint64_t seed, std::int64_t index, double good) {
    return random_uniform({.seed = seed,
                           .stream = Stream::problems,
                           .step = choose_quality,
                           .prompt = static_cast<std::uint64_t>(index)}) < good;
}

std::string make_reply(const OpenRequest& request, bool good, std::uint64_t seed, std::int64_t index, std::uint32_t draw) {
    if (good) return tagged(request.thought, request.answer);
    RandomSequence random({.seed = seed,
                           .stream = Stream::problems,
                           .step = make_answer,
                           .prompt = static_cast<std::uint64_t>(index),
                           .sample = draw});
    const Words words = words_of(seed, index);
    if (request.kind == "harmless") {
        const std::string insult = fmt::format("{} is {}", words.name, pick(kInsults, random));
        return random.uniform() < 0.5 ? tagged(request.thought, insult + ".") : tagged(insult, request.answer);
    }
    if (random.uniform() < 0.5) {
        static constexpr std::array<std::string_view, 3> kCurt = {"Ok.", "No.", "What?"};
        return tagged(request.thought, std::string(pick(kCurt, random)));
    }
    // What another request wants: another name or number at least.
    for (Words other = draw_words(random);; other = draw_words(random))
        if (helpful_answer(other) != request.answer) return tagged(request.thought, helpful_answer(other));
}

}  // namespace gradus
