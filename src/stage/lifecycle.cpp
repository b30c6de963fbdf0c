// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/lifecycle.hpp"

#include <filesystem>

#include "gradus/base/error.hpp"
#include "gradus/stage/carried.hpp"
#include "gradus/stage/scoring.hpp"

namespace gradus {

namespace {

/// The stack's models from the run's own checkpoint.
void restore(const Run& run, Stack& stack, const CheckpointReader& own) {
    load_parameters(*stack.policy, own, "weights", *stack.ops);
    stack.optimizer->load_masters(own);
    stack.optimizer->load(own, own.state()["optimizer_steps"].get<std::int64_t>());
    const auto want = [&](bool there, const char* key, const char* what, const char* instead) {
        require<DeckError>(there, "{}: {} = {} wants {}, but {} holds none: that run went without. {}, or begin "
                                  "another run.dir with model.from = {}",
                           run.deck.origin(key), key, run.deck.text(key), what, own.directory(), instead,
                           own.directory());
    };
    if (stack.reference) {
        want(own.has("reference/model.norm.weight"), "loss.kl_coef", "a reference", "Set loss.kl_coef = 0");
        load_parameters(*stack.reference, own, "reference", *stack.ops);
    }
    if (stack.critic) {
        want(own.has(fmt::format("critic/weights/{}", kScalarHead)), "loss.advantage", "a critic",
             "Set another loss.advantage");
        load_parameters(*stack.critic->parameters, own, "critic/weights", *stack.ops);
        stack.critic->optimizer->load_masters(own, "critic/weights");
        stack.critic->optimizer->load(own, own.state()["critic_steps"].get<std::int64_t>());
    }
}

/// The critic of a fresh start: of the model that critic.from names, else of the policy's first weights; its
/// head, where that model has none, is zero.
void start_critic(Run& run, Stack& stack, const StartPoint& start) {
    Critic& critic = *stack.critic;
    const CheckpointReader* reader = start.critic.reader ? start.critic.reader.get() : start.from.get();
    if (reader == nullptr) {
        critic.parameters->initialize(*stack.ops, static_cast<std::uint64_t>(run.deck.integer("run.seed")),
                                      run.deck.number("model.init_std"));
        critic.optimizer->masters_from_parameters();
        return;
    }
    const std::string& group = start.critic.group;
    load_parameters(*critic.parameters, *reader, group, *stack.ops, true);
    critic.optimizer->load_masters(*reader, group, true);
    run.log.info("critic from {} of {}{}", group, reader->directory(),
                 reader->has(fmt::format("{}/{}", group, kScalarHead)) ? "" : ", its head zero");
}

}  // namespace

StartPoint find_start(Run& run) {
    StartPoint start;
    auto note = [&](const std::string& text) { run.log.warn("{}", text); };
    const std::string& restart = run.deck.text("restart");
    std::string own;
    bool elsewhere = false;
    if (run.is_root() && restart != "none") {
        own = find_checkpoint(run.dir, note);
        if (own.empty() && restart != "latest") {
            own = find_checkpoint(restart, note);
            elsewhere = true;
            require<CheckpointError>(!own.empty(), "restart = {}: there is no checkpoint", restart);
        }
        // Scripts and later stages read it.
        if (!own.empty() && !elsewhere) repair_latest(run.dir, own);
    }
    // Rank 0 looks: file systems show new files to different nodes at different times.
    own = run.grid.world().broadcast(own);
    if (run.is_root() && elsewhere) carry_hugging_face(restart, run.dir);
    if (own.empty()) {
        start.config = resolve_model(run.deck, *run.tokenizer, start.from, note);
        if (stack_needs(run.deck).critic)
            start.critic = resolve_critic(run.deck, *run.tokenizer, start.config, note);
        return start;
    }
    const std::string& verify = run.deck.text("run.restart_verify");
    start.own = std::make_unique<CheckpointReader>(
        own, verify == "none" ? Verify::none : verify == "full" ? Verify::full : Verify::touched);
    const Json& state = start.own->state();
    require<CheckpointError>(state.contains("stage") && state["stage"] == run.deck.stage(),
                             "{} was written by another stage than `{}`: choose another run.dir, or "
                             "restart = none",
                             own, run.deck.stage());
    require_same_tokenizer(state, *run.tokenizer, own);
    start.config = ModelConfig::from_json(state["model"]);
    if (run.deck.text("model.from").empty()) {
        std::unique_ptr<CheckpointReader> unused;
        ModelConfig asked = resolve_model(run.deck, *run.tokenizer, unused, note);
        // Another grid may pad the vocabulary otherwise.
        if (run.deck.text("model.vocab_size") == "auto") asked.vocab_size = start.config.vocab_size;
        require<CheckpointError>(asked == start.config,
                                 "{} is of another model than this deck describes:\n  checkpoint "
                                 "{}\n  deck       {}\ncorrect the model. keys or use another run.dir",
                                 own, start.config.to_json().dump(), asked.to_json().dump());
    }
    require_same_model(run.deck, *run.tokenizer, start.config, own);
    const std::string changed = changed_keys(start.own->deck(), run.deck);
    if (!changed.empty()) run.log.warn("keys changed since {}:{}", own, changed);
    start.step = start.own->step();
    start.finished = state.value("finished", false);
    require<DeckError>(!start.finished || !elsewhere,
                       "restart = {}: that run has reached its end; to train on from its weights, set "
                       "model.from instead",
                       restart);
    return start;
}

namespace {

/// Reads the run's own checkpoint. Returns what is wrong with it, the same on all ranks; "": nothing.
std::string read_own(Run& run, Stack& stack, const CheckpointReader& own) {
    std::string problem;
    try {
        restore(run, stack, own);
        // What the stage itself reads later: columns.
        for (const CheckpointReader::TensorInfo& tensor : own.tensors()) {
            if (tensor.name.rfind("rollout/", 0) != 0) continue;
            std::vector<char> bytes(static_cast<std::size_t>(tensor.global.elements() * size_of(tensor.dtype)));
            own.read(tensor.name, {{0}, tensor.global}, bytes.data());
        }
    } catch (const CheckpointError& e) {
        problem = e.what();
    }
    for (const std::string& of_rank : run.grid.world().all_gather(problem))
        if (!of_rank.empty()) return of_rank;
    return "";
}

/// After `problem` in the newest checkpoint: the start from the one before, where there is one.
StartPoint fall_back(Run& run, const StartPoint& start, const std::string& problem) {
    const std::string damaged = start.own->directory();
    std::string before;
    // Of another run nothing is renamed.
    if (run.is_root() && std::filesystem::path(damaged).parent_path() == run.dir)
        before = set_aside(damaged, [](const std::string&) {});
    before = run.grid.world().broadcast(before);
    require<CheckpointError>(!before.empty(), "{}; there is no whole checkpoint before it: to begin anew, use another "
                                              "run.dir or restart = none",
                             problem);
    run.log.warn("{}; it is {}.damaged now, and the run goes on from {}", problem, damaged, before);
    return find_start(run);
}

}  // namespace

void load_start(Run& run, Stack& stack, StartPoint& start) {
    const Profile::Region region(run.profile, "checkpoint.read");
    if (start.own) {
        for (std::string problem; !(problem = read_own(run, stack, *start.own)).empty();)
            start = fall_back(run, start, problem);
        run.log.info("restarted from {} at step {}", start.own->directory(), start.step);
        return;
    }
    if (start.from) {
        const bool new_head = stack.config.scalar_head;
        load_parameters(*stack.policy, *start.from, "weights", *stack.ops, new_head);
        if (stack.optimizer) stack.optimizer->load_masters(*start.from, "weights", new_head);
        run.log.info("weights from {}", start.from->directory());
    } else {
        stack.policy->initialize(*stack.ops, static_cast<std::uint64_t>(run.deck.integer("run.seed")),
                                 run.deck.number("model.init_std"));
        if (stack.optimizer) stack.optimizer->masters_from_parameters();
        run.log.info("weights initialised from seed {}", run.deck.integer("run.seed"));
    }
    if (stack.reference) stack.renew_reference();
    if (stack.critic) start_critic(run, stack, start);
    if (run.is_root() && run.deck.stage() != "bench") {
        carry_hugging_face(run.deck.text("model.from"), run.dir);
        keep_tokenizer(run.deck, run.tokenizer_files, *run.tokenizer);
        if (!start.from && !run.deck.text("model.config").empty())
            carry_config(run.deck.text("model.config"), run.dir);
    }
}

Lifecycle::Lifecycle(Run& run, Stack& stack, std::int64_t total_steps)
    : run_(run),
      stack_(stack),
      total_(total_steps),
      every_(run.deck.integer("ckpt.every")),
      log_every_(run.deck.integer("run.log_every")),
      started_(now_seconds()) {
    const std::string& time = run.deck.text("ckpt.every_time");
    every_time_ = time.empty() || time == "none" ? 0 : run.deck.number("ckpt.every_time");
    last_saved_at_ = started_;
    // Until a checkpoint has been timed: at the rate of a slow shared file system.
    constexpr double kSlowBytesPerSecond = 100e6;
    run_.stop.observe_checkpoint(static_cast<double>(stack.checkpoint_bytes) / kSlowBytesPerSecond);
    run_.log.info("memory of this rank:\n{}", memory_table(run_.memory()));
    run_.log.info("{} parameters", format_count(static_cast<double>(stack.config.parameters())));
}

void Lifecycle::begin_step() {
    step_began_ = now_seconds();
    run_.watchdog.alive();
    const Profile::Region region(run_.profile, "control");
    run_.stop.begin_step();
}

bool Lifecycle::end_step(std::int64_t step) {
    const Profile::Region region(run_.profile, "control");
    tolerate([&] { stack_.checkpoints->poll(); });
    run_.stop.observe_checkpoint(stack_.checkpoints->total_seconds());
    run_.stop.observe_step(now_seconds() - step_began_);
    const StopRequest request = run_.stop.end_step();
    asked_ = run_.stop.take_checkpoint_request();
    if (asked_) run_.log.info("checkpoint_now: a checkpoint after step {} of {}", step, total_);
    if (request == StopRequest::none || step >= total_) return false;
    run_.log.info("stopping after step {} of {}: {}", step, total_, run_.stop.reason());
    return stopping_ = true;
}

bool Lifecycle::stop_now(std::int64_t step) {
    run_.log.info("stopping after step {} of {}, in the middle of a rollout: {}", step, total_, run_.stop.reason());
    stopping_ = true;
    return due(step);
}

bool Lifecycle::due(std::int64_t step) {
    if (step == last_saved_step_) return false;
    if (stopping_ || asked_ || (every_ > 0 && step % every_ == 0)) return true;
    if (every_time_ <= 0) return false;
    // Clocks differ: rank 0's counts.
    const double age = run_.is_root() ? now_seconds() - last_saved_at_ : 0;
    return run_.grid.world().max(age) >= every_time_;
}

void Lifecycle::save(std::int64_t step, Json state, const std::vector<Slab>& extra, bool finished) {
    Profile::Region region(run_.profile, "checkpoint.write");
    state["stage"] = run_.deck.stage();
    state["model"] = stack_.config.to_json();
    state["tokenizer"] = run_.tokenizer->identity();
    state["optimizer_steps"] = stack_.optimizer->steps();
    if (stack_.critic) state["critic_steps"] = stack_.critic->optimizer->steps();
    state["finished"] = finished;
    stack_.ops->synchronize();
    // Another algorithm for a product gives other bits: where two runs differ, this tells why.
    if (const std::string choices = stack_.ops->report(); !choices.empty()) {
        state["products"] = choices;
        if (finished) run_.log.info("products:\n{}", choices);
    }
    std::vector<Slab> slabs = stack_.model_slabs(run_.grid);
    slabs.insert(slabs.end(), extra.begin(), extra.end());
    // What is in flight is older than this one: whether it succeeds does not decide about the run.
    tolerate([&] { finish(); });
    last_saved_step_ = step;
    const auto write = [&] { stack_.checkpoints->write(step, slabs, state, run_.deck.resolved()); };
    if (finished || stopping_) {
        if (not_stored_ > 0) run_.log.warn("{} checkpoints of this run could not be stored", not_stored_);
        write();
        finish();
    } else {
        tolerate(write);
    }
    run_.stop.observe_checkpoint(stack_.checkpoints->total_seconds());
    last_saved_at_ = now_seconds();
    run_.watchdog.alive();
}

void Lifecycle::report(std::int64_t step, const std::string& line) {
    if (first_step_ < 0) first_step_ = step - 1;
    const double elapsed = now_seconds() - started_;
    const double left = elapsed / static_cast<double>(step - first_step_) *
                        static_cast<double>(total_ - step);
    const std::string text = fmt::format("step {:>5}/{} {}", step, total_, line);
    if (log_every_ > 0 && (step % log_every_ == 0 || step == total_)) run_.log.info("{}", text);
    run_.log.progress(fmt::format("{} | {} left", text, format_duration(left)));
}

}  // namespace gradus
