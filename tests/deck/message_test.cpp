// SPDX-License-Identifier: Apache-2.0
// The exact words of errors: where, what is wrong, what is allowed, what was meant.
#include "deck_fixture.hpp"

using namespace gradus;

BOOST_AUTO_TEST_SUITE(messages)

BOOST_AUTO_TEST_CASE(unknown_keys) {
    BOOST_TEST(rl_error("train.step = 3") ==
               "a.in:4: there is no key train.step; did you mean train.steps?");
    // Neighbours that are swapped are one edit, not two.
    BOOST_TEST(rl_error("\n# more\ntrian.steps = 3") ==
               "a.in:6: there is no key trian.steps; did you mean train.steps?");
    BOOST_TEST(rl_error("Train.Steps = 3") ==
               "a.in:4: there is no key Train.Steps; did you mean train.steps?");
    BOOST_TEST(rl_error("train-steps = 3") ==
               "a.in:4: there is no key train-steps; did you mean train.steps?");
    BOOST_TEST(rl_error("rollout.max_tokens = 3") ==
               "a.in:4: there is no key rollout.max_tokens; did you mean rollout.max_new_tokens?");
    BOOST_TEST(rl_error("", {"grid.tesnor=2"}) ==
               "command line: there is no key grid.tesnor; did you mean grid.tensor?");
}

BOOST_AUTO_TEST_CASE(unknown_keys_of_a_wildcard_section) {
    const std::string kind = "reward.accuracy.kind = accuracy\n";
    BOOST_TEST(rl_error(kind + "reward.accuracy.wieght = 1") ==
               "a.in:5: there is no key reward.accuracy.wieght; "
               "did you mean reward.accuracy.weight?");
    BOOST_TEST(rl_error(kind + "rewards.accuracy.weight = 1") ==
               "a.in:5: there is no key rewards.accuracy.weight; "
               "did you mean reward.accuracy.weight?");
    // The name has no dots, and is not left out.
    BOOST_TEST(rl_error("reward.a.b.weight = 1").substr(0, 43) ==
               "a.in:4: there is no key reward.a.b.weight; ");
    BOOST_TEST(rl_error("reward.weight = 1") ==
               "a.in:4: there is no key reward.weight; did you mean reward.NAME.weight?");
}

BOOST_AUTO_TEST_CASE(unknown_keys_with_the_last_word_of_another) {
    BOOST_TEST(rl_error("lr = 1") == "a.in:4: there is no key lr; did you mean train.lr?");
    BOOST_TEST(rl_error("optimizer.lr = 1") ==
               "a.in:4: there is no key optimizer.lr; did you mean train.lr?");
    // Of train.steps and bench.steps the one that the stage uses.
    BOOST_TEST(rl_error("steps = 1") == "a.in:4: there is no key steps; did you mean train.steps?");
    BOOST_TEST(errors_of(required_keys("bench") + "steps = 1").at(0) ==
               "a.in:3: there is no key steps; did you mean bench.steps?");
}

BOOST_AUTO_TEST_CASE(keys_unlike_any) {
    BOOST_TEST(rl_error("train.learning_rate = 1") ==
               "a.in:4: there is no key train.learning_rate; "
               "gradus --help-deck train. lists what begins so");
    BOOST_TEST(rl_error("colour = red") ==
               "a.in:4: there is no key colour; gradus --help-deck lists all");
    const std::string endless(5000, 'x');
    BOOST_TEST(rl_error(endless + " = 1") == "a.in:4: there is no key " + endless.substr(0, 80) +
                                                 "...; gradus --help-deck lists all");
}

BOOST_AUTO_TEST_CASE(wrong_types) {
    BOOST_TEST(rl_error("train.steps = many") ==
               "a.in:4: train.steps = many: a whole number >= 0 (updates) is expected");
    BOOST_TEST(rl_error("train.steps = 1.5") ==
               "a.in:4: train.steps = 1.5: a whole number >= 0 (updates) is expected");
    BOOST_TEST(rl_error("train.steps = 10 20") ==
               "a.in:4: train.steps = 10 20: a whole number >= 0 (updates) is expected");
    BOOST_TEST(rl_error("train.steps =") ==
               "a.in:4: train.steps is empty: a whole number >= 0 (updates) is expected");
    BOOST_TEST(rl_error("train.lr = fast") == "a.in:4: train.lr = fast: a number >= 0 is expected");
    BOOST_TEST(rl_error("data.shuffle = ture") ==
               "a.in:4: data.shuffle = ture: true or false is expected; did you mean true?");
    BOOST_TEST(rl_error("run.timeout = soon") ==
               "a.in:4: run.timeout = soon: a time > 0 like 90s, 2h or 00:30:00 is expected");
    BOOST_TEST(rl_error("run.walltime = atuo") ==
               "a.in:4: run.walltime = atuo: none or auto or a time > 0 like 90s, 2h or 00:30:00 "
               "is expected; did you mean auto?");
    BOOST_TEST(rl_error("model.vocab_size = big") ==
               "a.in:4: model.vocab_size = big: auto or a whole number > 0 (tokens) is expected");
    BOOST_TEST(rl_error("", {"train.steps=many"}) ==
               "command line: train.steps = many: a whole number >= 0 (updates) is expected");
}

BOOST_AUTO_TEST_CASE(out_of_range) {
    BOOST_TEST(rl_error("train.steps = -1") ==
               "a.in:4: train.steps = -1: a whole number >= 0 (updates) is expected");
    BOOST_TEST(rl_error("rl.group = 0") ==
               "a.in:4: rl.group = 0: a whole number > 0 (samples) is expected");
    BOOST_TEST(rl_error("optim.beta1 = 1") ==
               "a.in:4: optim.beta1 = 1: a number in [0,1) is expected");
    BOOST_TEST(rl_error("rollout.top_p = 0") ==
               "a.in:4: rollout.top_p = 0: a number in (0,1] is expected");
    BOOST_TEST(rl_error("train.steps = 9223372036854775808") ==
               "a.in:4: train.steps = 9223372036854775808: a whole number >= 0 (updates) "
               "is expected");
    BOOST_TEST(rl_error("train.lr = 1e999") ==
               "a.in:4: train.lr = 1e999: a number >= 0 is expected");
    BOOST_TEST(rl_error("reward.a.kind = format\nloss.clip_low = 0:0.2 5:-1") ==
               "a.in:5: loss.clip_low = 0:0.2 5:-1: a number >= 0 or a schedule 0:NUMBER "
               "STEP:NUMBER ... with growing steps is expected");
}

BOOST_AUTO_TEST_CASE(bad_choices) {
    BOOST_TEST(rl_error("train.lr_schedule = cosinus") ==
               "a.in:4: train.lr_schedule = cosinus: one of constant | linear | cosine "
               "is expected; did you mean cosine?");
    BOOST_TEST(rl_error("train.lr_schedule = steep") ==
               "a.in:4: train.lr_schedule = steep: one of constant | linear | cosine is expected");
    BOOST_TEST(rl_error("train.lr_schedule = |") ==
               "a.in:4: train.lr_schedule = |: one of constant | linear | cosine is expected");
    BOOST_TEST(rl_error("reward.a.kind = acuracy") ==
               "a.in:4: reward.a.kind = acuracy: one of accuracy | cosine | code | format | tags | language | puzzle | "
               "repetition | steps | model is expected; did you mean accuracy?");
    BOOST_TEST(rl_error("run.device = gpu").substr(0, 25) == "a.in:4: run.device = gpu:");
}

BOOST_AUTO_TEST_CASE(lists) {
    BOOST_TEST(errors_of(required_keys("evaluate") + "eval.k = 1 four").at(0) ==
               "a.in:4: eval.k = 1 four: a list of whole numbers > 0 is expected");
    BOOST_TEST(errors_of(required_keys("evaluate") + "eval.k = 1 0").at(0) ==
               "a.in:4: eval.k = 1 0: a list of whole numbers > 0 is expected");
    BOOST_TEST(errors_of(required_keys("bench") + "bench.what = train sleep").at(0) ==
               "a.in:3: bench.what = train sleep: a list of train | generate | checkpoint | tokenizer | answers | code | attention | "
               "operations | collectives | control is expected");
    BOOST_TEST(rl_error("rollout.stop = a\\b") ==
               "a.in:4: rollout.stop = a\\b: in a list a backslash stands before a blank, n or a "
               "backslash only");
}

BOOST_AUTO_TEST_CASE(missing_keys_all_at_once) {
    const std::string run_dir =
        "a.in: run.dir is missing: a path is expected. "
        "Run directory: log, metrics, rollouts, checkpoints. Made where it is missing.";
    const std::string data =
        "a.in: data.path is missing: a list of words is expected. Files of rows, in this order: JSON lines, or one JSON array of objects.";
    check_lines(errors_of("stage = sft"), {data, run_dir});
    check_lines(errors_of("stage = rl\nreward.a.weight = 2\ntrain.steps = x"),
                {"a.in:3: train.steps = x: a whole number >= 0 (updates) is expected", data,
                 "a.in: reward.a.kind is missing: one of accuracy | cosine | code | format | tags | language | puzzle | "
                 "repetition | steps | model is expected. What the reward NAME measures: whether the answer is right; the same by "
                 "length; whether a program passes its tests; whether a puzzle is solved; the exact form; how many of its tags are "
                 "there once; the share of words in one language; repeated words; the equations of the reasoning; the score of a "
                 "trained reward model (stage rl). Stages sample and evaluate take `code` alone, which says how programs are run; "
                 "they judge every row by what it asks for.",
                 run_dir});
    check_lines(errors_of("stage = score"),
                {run_dir,
                 "a.in: score.input is missing: a path is expected. JSONL of responses with "
                 "references."});
}

BOOST_AUTO_TEST_CASE(required_keys_that_are_empty) {
    check_lines(errors_of("stage = sft\nrun.dir =\ndata.path = \" \""),
                {"a.in:2: run.dir is empty: a path is expected. Run directory: log, metrics, "
                 "rollouts, checkpoints. Made where it is missing.",
                 "a.in:3: data.path is empty: a list of words is expected. Files of rows, in this "
                 "order: JSON lines, or one JSON array of objects."});
}

BOOST_AUTO_TEST_CASE(keys_of_another_stage) {
    BOOST_TEST(rl_error("train.epochs = 2") ==
               "a.in:4: train.epochs is not used by stage = rl, only by: pretrain sft reward_model");
    BOOST_TEST(rl_error("", {"eval.k=4"}) ==
               "command line: eval.k is not used by stage = rl, only by: evaluate");
    check_lines(errors_of(required_keys("sft") + "reward.a.kind = format\nrl.group = 2"),
                {"a.in:4: reward.a.kind is not used by stage = sft, only by: rl score sample evaluate",
                 "a.in:5: rl.group is not used by stage = sft, only by: rl"});
}

BOOST_AUTO_TEST_CASE(the_stage) {
    const std::string stages =
        "one of import | problems | tokenizer | pretrain | sft | reward_model | rl | sample | evaluate | score | export | "
        "bench is expected";
    check_lines(errors_of("stage = evalaute\nrun.dir = a"),
                {"a.in:1: stage = evalaute: " + stages + "; did you mean evaluate?"});
    check_lines(errors_of("run.dir = a"),
                {"a.in: stage is missing: " + stages + ". What this run does."});
    check_lines(errors_of("stage =\nrun.dir = a"),
                {"a.in:1: stage is empty: " + stages + ". What this run does."});
    // Keys that are given are checked all the same.
    check_lines(errors_of("train.lr = x\nrl.gruop = 3"),
                {"a.in:1: train.lr = x: a number >= 0 is expected",
                 "a.in:2: there is no key rl.gruop; did you mean rl.group?",
                 "a.in: run.dir is missing: a path is expected. Run directory: log, metrics, "
                 "rollouts, checkpoints. Made where it is missing.",
                 "a.in: stage is missing: " + stages + ". What this run does."});
}

BOOST_AUTO_TEST_CASE(malformed_lines) {
    BOOST_TEST(rl_error("train.steps 3") ==
               "a.in:4: `train.steps 3` is not of the form key = value");
    BOOST_TEST(rl_error("= 3") ==
               "a.in:4: `` is no key: words of letters, digits, _ and - with "
               "dots between them stand before =");
    for (const char* key : {".a", "a.", "a..b", "train steps", "caf\xC3\xA9", "a[0]", "a*"})
        BOOST_TEST(rl_error(std::string(key) + " = 3") ==
                   "a.in:4: `" + std::string(key) +
                       "` is no key: words of letters, digits, _ and - with dots between them "
                       "stand before =");
    BOOST_TEST(rl_error("", {"train.steps"}) ==
               "command line: `train.steps` is not of the form key=value");
    BOOST_TEST(rl_error("", {"train steps=3"}) ==
               "command line: `train steps=3` is not of the form key=value");
    BOOST_TEST(rl_error("", {""}) == "command line: `` is not of the form key=value");
    BOOST_TEST(rl_error("", {"include=b.in"}) == "command line: include stands in decks only");
    BOOST_TEST(rl_error("include = # nothing") == "a.in:4: include names no file");
}

BOOST_AUTO_TEST_CASE(quotes_and_variables) {
    BOOST_TEST(rl_error("policy.system = \"Answer") == "a.in:4: a quote \" is not closed");
    BOOST_TEST(rl_error("policy.system = \"a\\\"") == "a.in:4: a quote \" is not closed");
    BOOST_TEST(rl_error("policy.system = $GRADUS_UNSET/x") ==
               "a.in:4: the environment variable GRADUS_UNSET is not set");
    BOOST_TEST(rl_error("policy.system = ${GRADUS_UNSET}") ==
               "a.in:4: the environment variable GRADUS_UNSET is not set");
    const std::string name =
        "after $ a name is expected, $NAME or ${NAME}; "
        "for the character write \"$\"";
    for (const char* value : {"$", "5$ each", "${}", "${HOME", "${A-b}", "$$"})
        BOOST_TEST(rl_error("policy.system = " + std::string(value)) == "a.in:4: " + name);
}

BOOST_AUTO_TEST_CASE(characters_that_no_deck_holds) {
    BOOST_TEST(rl_error("policy.system = a\x07") ==
               "a.in:4: the value of policy.system holds a control character");
    BOOST_TEST(rl_error(std::string("policy.system = a\0b", 19)) ==
               "a.in:4: the value of policy.system holds a control character");
    BOOST_TEST(rl_error("", {"policy.system=a\nb"}) ==
               "command line: the value of policy.system holds a control character");
    // Overlong, a surrogate, beyond U+10FFFF, cut short, a lone continuation byte (RFC 3629).
    for (const char* bytes : {"\xC0\xAF", "\xE0\x80\x80", "\xF0\x8F\xBF\xBF", "\xED\xA0\x80",
                              "\xF4\x90\x80\x80", "\xE2\x82", "\x80"})
        BOOST_TEST(rl_error("policy.system = a" + std::string(bytes)) ==
                   "a.in:4: the value of policy.system holds bytes that are no UTF-8");
    const Variable variable("GRADUS_TEST_LINES", "a\nb");
    BOOST_TEST(rl_error("policy.system = $GRADUS_TEST_LINES") ==
               "a.in:4: the value of policy.system holds a control character");
    // A message is printable whatever the deck holds.
    BOOST_TEST(rl_error("a\x1B[31m\xFFz") == "a.in:4: `a?[31m?z` is not of the form key = value");
}

BOOST_AUTO_TEST_CASE(what_cannot_be_read_is_not_missing) {
    check_lines(errors_of("stage = \"sft\nrun.dir: /runs/a\ndata.path = $GRADUS_UNSET/a.jsonl"),
                {"a.in:1: a quote \" is not closed",
                 "a.in:2: `run.dir: /runs/a` is not of the form key = value",
                 "a.in:3: the environment variable GRADUS_UNSET is not set"});
}

BOOST_AUTO_TEST_CASE(all_errors_in_order_of_place) {
    const DeckFolder folder;
    folder.write("b.in", "optim.betal = 0.9\ninclude = b.in\nrl.group = 0\n");
    const std::string deck =
        folder.write("a.in",
                     "stage = rl\n"
                     "train.lr_schedule = cosin\n"
                     "include = b.in\n"
                     "train.epochs = 2\n"
                     "train.steps = x  # later lines win over earlier ones, their place counts\n"
                     "policy.system = \"\n"
                     "include = c.in\n"
                     "a b = 2\n");
    const std::string b = folder / "b.in";
    check_lines(
        errors_when([&] {
            resolve_deck(deck, {"x", "optim.eps=0", "lr=2"});
        }),
        {deck + ":2: train.lr_schedule = cosin: one of constant | linear | cosine is expected; "
                "did you mean cosine?",
         b + ":1: there is no key optim.betal; did you mean optim.beta1?",
         b + ":2: " + b + " includes itself",
         b + ":3: rl.group = 0: a whole number > 0 (samples) is expected",
         deck + ":4: train.epochs is not used by stage = rl, only by: pretrain sft reward_model",
         deck + ":5: train.steps = x: a whole number >= 0 (updates) is expected",
         deck + ":6: a quote \" is not closed",
         deck + ":7: cannot read " + (folder / "c.in") + ": No such file or directory",
         deck + ":8: `a b` is no key: words of letters, digits, _ and - with dots between them "
                "stand before =",
         "command line: `x` is not of the form key=value",
         "command line: optim.eps = 0: a number > 0 is expected",
         "command line: there is no key lr; did you mean train.lr?"});
}

BOOST_AUTO_TEST_CASE(a_file_that_is_no_deck) {
    // A hundred lines are enough to see what it is.
    std::string text;
    for (int i = 0; i < 20000; ++i) text += "{\"prompt\": \"1 + 1 = ?\"}\nfield.of.rows = 3\n";
    const Words lines = lines_of([&] { resolve(text); });
    BOOST_REQUIRE(lines.size() == 102u);
    BOOST_TEST(lines[0] == "40002 errors in the deck:");
    BOOST_TEST(lines[1] ==
               "a.in:1: `{\"prompt\": \"1 + 1` is no key: words of letters, digits, _ "
               "and - with dots between them stand before =");
    BOOST_TEST(lines[101] == "... and 39902 more");
}

BOOST_AUTO_TEST_SUITE_END()
