// SPDX-License-Identifier: Apache-2.0
// stage = tokenizer: learns a byte-level BPE from the texts of JSONL files and leaves a
// tokenizer.json.
#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/stage/data.hpp"
#include "gradus/text/bpe_trainer.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

BpeTrainerOptions trainer_options(const Deck& deck) {
    return {.vocab_size = static_cast<std::int32_t>(deck.integer("tokenizer.vocab_size")),
            .pattern = deck.text("tokenizer.pattern"),
            .special = deck.list("tokenizer.special"),
            .bos = deck.text("tokenizer.bos"),
            .min_frequency = deck.integer("tokenizer.min_frequency")};
}

/// What tokenizer.json has no place for, as transformers reads it.
std::string config_json(const Deck& deck) {
    Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                   {"clean_up_tokenization_spaces", false}};
    const std::string bos = deck.text("tokenizer.bos"), eos = deck.text("tokenizer.eos");
    config["add_bos_token"] = !bos.empty();
    if (!bos.empty()) config["bos_token"] = bos;
    if (!eos.empty()) config["eos_token"] = eos;
    return config.dump(2) + "\n";
}

/// The work of rank 0, within Run::on_root().
class Learner {
  public:
    explicit Learner(Run& run) : run_(run), trainer_(trainer_options(run.deck)) {}

    void read() {
        const Profile::Region region(run_.profile, "data.read");
        DataReport report;
        read_texts(run_.deck, report, [&](const std::string& text) {
            trainer_.add(text);
            bytes_ += text.size();
            run_.beat();
        });
        log_data(run_, report);
        run_.log.info("{} bytes of text, {} different words, {} lines skipped",
                      format_count(static_cast<double>(bytes_)),
                      format_count(static_cast<double>(trainer_.words())), report.skipped);
    }

    void learn() {
        const Profile::Region region(run_.profile, "tokenizer.learn");
        const std::int64_t every =
            std::max<std::int64_t>(1, run_.deck.integer("tokenizer.vocab_size") / 8);
        std::int64_t next = every;
        trainer_.train([&](std::int64_t merges, std::int64_t frequency) {
            run_.beat();
            if (merges < next) return;
            next = merges + every;
            run_.log.info("{:>8} merges; the last pair occurs {} times", merges, frequency);
        });
    }

    void write(const std::filesystem::path& folder) {
        std::error_code failed;
        std::filesystem::create_directories(folder, failed);
        require<DataError>(!failed, "cannot make the folder {}: {}", folder.string(),
                           failed.message());
        // Last what says that the stage is done.
        write_file_atomically(folder / "tokenizer_config.json", config_json(run_.deck));
        write_file_atomically(folder / "tokenizer.json", trainer_.json());
        const std::int64_t wanted = run_.deck.integer("tokenizer.vocab_size");
        if (trainer_.vocab_size() < wanted)
            run_.log.warn(
                "{} tokens, not tokenizer.vocab_size = {}: no other pair occurs "
                "tokenizer.min_frequency = {} times",
                trainer_.vocab_size(), wanted, run_.deck.integer("tokenizer.min_frequency"));
        run_.log.info("{} tokens in {}", trainer_.vocab_size(),
                      (folder / "tokenizer.json").string());
    }

    double bytes() const { return static_cast<double>(bytes_); }

  private:
    Run& run_;
    BpeTrainer trainer_;
    std::size_t bytes_ = 0;
};

}  // namespace

ExitCode run_tokenizer(Run& run) {
    const std::string& asked = run.deck.text("tokenizer.output");
    const std::filesystem::path folder = std::filesystem::absolute(asked.empty() ? run.dir : asked);
    if (run.finished_before(folder / "tokenizer.json")) return ExitCode::done;
    run.begin();
    Json result;
    run.on_root([&] {
        Learner learner(run);
        learner.read();
        learner.learn();
        learner.write(folder);
        result["bytes"] = learner.bytes();
    });
    run.finish(1, 0, result);
    return ExitCode::done;
}

}  // namespace gradus
