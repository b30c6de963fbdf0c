// SPDX-License-Identifier: Apache-2.0
#include "gradus/stage/stack.hpp"

#include <algorithm>
#include <numeric>

#include "folder.hpp"
#include "gradus/base/error.hpp"
#include "gradus/deck/parameters.hpp"
#include "gradus/stage/reward_models.hpp"

namespace gradus {
namespace {

bool on_gpu(const Deck& deck) { return deck.text("run.device") == "cuda"; }

/// Rows of logits at once: on a CPU at most 1024 and 64 MiB; a GPU wants products of thousands of rows,
/// at most 2.5 GiB.
std::int64_t head_rows(const Deck& deck, const ModelConfig& config) {
    const std::int64_t rows = on_gpu(deck) ? 4096 : 1024;
    const std::int64_t bytes = on_gpu(deck) ? std::int64_t{2560} << 20 : std::int64_t{64} << 20;
    return std::clamp<std::int64_t>(bytes / 4 * deck.integer("grid.tensor") / config.vocab_size, 1, rows);
}

DType model_dtype(const Deck& deck) {
    const std::string& name = deck.text("model.dtype");
    if (name == "auto") return on_gpu(deck) ? DType::bf16 : DType::f32;
    require<DeckError>(name == "f32" || on_gpu(deck),
                       "{}: model.dtype = {}: a CPU computes in f32 only; leave the key out, or set "
                       "run.device = cuda",
                       deck.origin("model.dtype"), name);
    return name == "f32" ? DType::f32 : DType::bf16;
}

Recompute recompute_of(const Deck& deck) {
    const std::string& what = deck.text("model.recompute");
    return what == "block"       ? Recompute::block
           : what == "attention" ? Recompute::attention
                                 : Recompute::none;
}

bool offloads(const Deck& deck) {
    if (!deck.flag("optim.offload")) return false;
    require<DeckError>(on_gpu(deck), "{}: optim.offload: on a CPU there is nowhere to move the state to; leave "
                                     "the key out, or set run.device = cuda",
                       deck.origin("optim.offload"));
    return true;
}

/// Of queries, keys and rotation; absorbed latent attention attends to whole latent rows.
std::int64_t widest_head(const ModelConfig& config) {
    const std::int64_t latent =
        config.is_latent() ? config.latent.kv_rank + config.latent.rope_dim : std::int64_t{0};
    return std::max({config.head_dim, config.rope_dim(), latent});
}

std::unique_ptr<Ops> make_ops(const Deck& deck, const ModelConfig& config, const Grid& grid,
                              const Transformer::Limits& limits, const RunMemory& memory,
                              const std::vector<RewardModelNeed>& reward_models) {
    OpsLimits bounds{.max_tokens = std::max(limits.max_tokens, limits.max_decode),
                     .max_length = limits.max_length,
                     .max_head_dim = widest_head(config),
                     .max_heads = config.heads / grid.tensor_size(),
                     .max_width = config.hidden,
                     .max_decode = limits.max_decode};
    for (const RewardModelNeed& model : reward_models) {
        bounds.max_length = std::max(bounds.max_length, std::min(model.config.max_positions, limits.max_tokens));
        bounds.max_head_dim = std::max(bounds.max_head_dim, widest_head(model.config));
        bounds.max_heads = std::max(bounds.max_heads, model.config.heads / grid.tensor_size());
        bounds.max_width = std::max(bounds.max_width, model.config.hidden);
    }
    if (!on_gpu(deck)) return make_cpu_ops(bounds, memory.device);
    return make_cuda_ops(bounds, memory.device, memory.gpu,
                         {.deterministic = deck.flag("run.deterministic"),
                          .timeout = deck.number("run.timeout"),
                          .overlap = deck.flag("grid.overlap")});
}

/// Training and generation take turns: the activations that one needs for its backward passes and the
/// other's key/value cache lie over one another, and under both the reference model where it is offloaded.
/// What they share is laid out so that neither leaves anything there for the other:
/// - of training, what lives from a forward pass that keeps its activations to the end of its backward pass
///   (Phase::training in src/model and the trainer). Passes that keep nothing (prefill, decode, log-probs)
///   go through the first slots and the first stream, which are not shared;
/// - of generation, the cache, which each call of Engine::generate fills anew and reads only what it wrote;
/// - of the reference and of reward models, all their weights, brought for each use (bring).
bool phases_share(const StackNeeds& needs) { return needs.train && needs.generate; }

bool offloads_reference(const Deck& deck, const StackNeeds& needs) {
    if (!needs.reference || !deck.flag("rl.reference_offload")) return false;
    require<DeckError>(on_gpu(deck), "{}: rl.reference_offload: on a CPU there is nowhere to move the model to; "
                                     "leave the key out, or set run.device = cuda",
                       deck.origin("rl.reference_offload"));
    return true;
}

void check_reward_offload(const Deck& deck, const StackNeeds& needs) {
    for (const RewardModelNeed& model : needs.reward_models) {
        const std::string key = fmt::format("reward.{}.offload", model.name);
        require<DeckError>(!model.offload || on_gpu(deck), "{}: {}: on a CPU there is nowhere to move the model to; "
                                                           "leave the key out, or set run.device = cuda",
                           deck.origin(key), key);
    }
}

/// Bytes that the phases share: what the same constructors take on paper.
std::int64_t planned_share(const Deck& deck, const ModelConfig& config, const Grid& grid,
                           const Tokenizer& tokenizer, const StackNeeds& needs) {
    Arena device(nullptr), host(nullptr);
    Profile profile;
    const Stack plan(deck, config, grid, tokenizer, {device, on_gpu(deck) ? host : device}, profile, needs);
    return device.largest_phase();
}

/// Whether the deck trains the module of multi-token prediction.
bool trains_mtp(const Deck& deck, const StackNeeds& needs) {
    return needs.train && (deck.stage() == "pretrain" || deck.stage() == "sft") &&
           deck.number("loss.mtp_coef") > 0;
}

AdamWOptions optimizer_options(const Deck& deck, std::string_view label) {
    return {.beta1 = deck.number("optim.beta1"),
            .beta2 = deck.number("optim.beta2"),
            .eps = deck.number("optim.eps"),
            .weight_decay = deck.number("optim.weight_decay"),
            .clip = deck.number("optim.clip"),
            .label = label};
}

/// Weights of the losses beside the main one.
Trainer::Limits trainer_limits(const Deck& deck, const ModelConfig& config, const StackNeeds& needs,
                               std::int64_t micro_tokens) {
    Trainer::Limits limits{.micro_tokens = micro_tokens};
    if (trains_mtp(deck, needs)) {
        limits.mtp_coef = deck.number("loss.mtp_coef");
        require<DeckError>(config.mtp_layers > 0,
                           "{}: the model has no module of multi-token prediction; leave loss.mtp_coef out",
                           deck.origin("loss.mtp_coef"));
    }
    if (deck.stage() == "bench") return limits;
    limits.balance_coef = deck.number("loss.balance_coef");
    limits.router_bias_rate = deck.number("optim.router_bias_rate");
    require<DeckError>(limits.balance_coef == 0 || config.moe.experts > 0,
                       "{}: the model has no experts to balance; leave loss.balance_coef out",
                       deck.origin("loss.balance_coef"));
    require<DeckError>(limits.router_bias_rate == 0 || config.moe.bias,
                       "{}: the model's routers have no correction bias; leave optim.router_bias_rate out",
                       deck.origin("optim.router_bias_rate"));
    return limits;
}

Transformer::Limits model_limits(const Deck& deck, const ModelConfig& config,
                                 const StackNeeds& needs) {
    const std::int64_t micro = deck.integer("train.micro_tokens");
    return {.max_tokens = micro,
            .max_length = std::min(config.max_positions, micro),
            .train = needs.train,
            .mtp = trains_mtp(deck, needs),
            .recompute = recompute_of(deck),
            .max_decode = needs.generate ? deck.integer("rollout.slots") : 0,
            .head_chunk = std::min(micro, head_rows(deck, config)),
            .dtype = model_dtype(deck)};
}

/// Pages of the key/value cache; 0: as many as rollout.slots sequences take.
std::int64_t cache_pages(const Deck& deck, const ModelConfig& config) {
    const std::int64_t tokens = deck.integer("rollout.cache_tokens");
    if (tokens == 0) return 0;
    const std::int64_t page_size = deck.integer("rollout.page_size");
    const std::int64_t length = generation_length(deck, config);
    const std::int64_t pages = (tokens - 1) / page_size + 1;
    // One page more: the last one of the prompt, which each sample copies.
    const std::int64_t fewest = (length - 1) / page_size + 2;
    require<DeckError>(pages >= fewest,
                       "{}: rollout.cache_tokens = {} is too small for one sequence of full length: {} tokens and "
                       "a page of its prompt's take {} (rollout.page_size = {}); give more or lower {}",
                       deck.origin("rollout.cache_tokens"), tokens, length, fewest * page_size, page_size,
                       deck.stage() == "bench" ? "rollout.max_new_tokens" : "train.max_length");
    return pages;
}

std::int64_t padded_vocabulary(std::int64_t tokens, std::int64_t tensor) {
    const std::int64_t multiple = std::lcm<std::int64_t>(8, tensor);
    return (tokens + multiple - 1) / multiple * multiple;
}

void require_room(std::int64_t vocab_size, const Tokenizer& tokenizer, const std::string& origin,
                  const char* what) {
    require<DeckError>(vocab_size >= tokenizer.vocab_size(),
                       "{}: {} = {}, but the tokenizer ({}) has {} tokens; leave the key out, or give at "
                       "least as many",
                       origin, what, vocab_size, tokenizer.identity(), tokenizer.vocab_size());
}

/// The shape in the file that `model.config` names; of the other keys only the size of the vocabulary
/// may be given beside it.
ModelConfig model_from_file(const Deck& deck, const Tokenizer& tokenizer) {
    const std::string& file = deck.text("model.config");
    const HuggingFaceConfig read = read_config_file(file, {});
    ModelConfig c = read.model;
    c.mtp_layers = read.announced_mtp_layers;
    const Json fields = c.to_json();
    for (const auto& [name, value] : fields.items()) {
        const std::string key = "model." + name;
        if (name == "vocab_size" || find_parameter(key) == nullptr || !deck.is_set(key)) continue;
        throw DeckError(fmt::format("{}: {} is set, but model.config = {} gives the model's shape; leave one "
                                    "of them out",
                                    deck.origin(key), key, file));
    }
    if (deck.text("model.vocab_size") != "auto") c.vocab_size = deck.integer("model.vocab_size");
    require_room(c.vocab_size, tokenizer, deck.origin("model.config"), "vocab_size");
    return c;
}

}  // namespace

ModelConfig model_from_keys(const Deck& deck, const Tokenizer& tokenizer) {
    if (!deck.text("model.config").empty()) return model_from_file(deck, tokenizer);
    ModelConfig c;
    const std::string& vocab = deck.text("model.vocab_size");
    c.vocab_size = vocab == "auto" ? padded_vocabulary(tokenizer.vocab_size(), deck.integer("grid.tensor"))
                                   : deck.integer("model.vocab_size");
    require_room(c.vocab_size, tokenizer, deck.origin("model.vocab_size"), "model.vocab_size");
    c.hidden = deck.integer("model.hidden");
    c.layers = deck.integer("model.layers");
    c.heads = deck.integer("model.heads");
    c.kv_heads = deck.integer("model.kv_heads");
    c.head_dim = deck.integer("model.head_dim");
    if (c.head_dim == 0) c.head_dim = c.hidden / c.heads;
    c.intermediate = deck.integer("model.intermediate");
    c.max_positions = deck.integer("model.max_positions");
    c.rope_theta = deck.number("model.rope_theta");
    c.norm_eps = deck.number("model.norm_eps");
    c.qkv_bias = deck.flag("model.qkv_bias");
    c.qk_norm = deck.flag("model.qk_norm");
    c.tied = deck.flag("model.tied");
    return c;
}

Stack::Stack(const Deck& deck, const ModelConfig& model_config, const Grid& grid,
             const Tokenizer& tokenizer, const RunMemory& memory, Profile& profile,
             const StackNeeds& needs)
    : config(model_config) {
    Arena& arena = memory.device;
    config.check(grid.tensor_size(), grid.expert_size());
    require<DeckError>(!needs.generate || deck.integer("train.max_length") <= config.max_positions,
                       "{}: train.max_length = {} is more than the model's max_positions = {}",
                       deck.origin("train.max_length"), deck.integer("train.max_length"),
                       config.max_positions);
    const Transformer::Limits limits = model_limits(deck, config, needs);
    check_reward_offload(deck, needs);
    ops = make_ops(deck, config, grid, limits, memory, needs.reward_models);
    if (phases_share(needs))
        arena.share_between_phases(
            arena.planned() ? 0 : planned_share(deck, config, grid, tokenizer, needs));
    policy = std::make_unique<ParameterSet>(config, grid, arena, needs.train, "policy", limits.mtp,
                                            limits.dtype);
    const bool away = offloads_reference(deck, needs);
    if (needs.reference)
        reference = std::make_unique<ParameterSet>(config, grid, away ? memory.host : arena, false,
                                                   "reference", limits.mtp, limits.dtype);
    if (away)
        brought_ = std::make_unique<ParameterSet>(config, grid, arena, false, "reference", limits.mtp,
                                                  limits.dtype, Phase::reference);
    model = std::make_unique<Transformer>(config, grid, *ops, arena, limits);
    if (needs.train) {
        optimizer = std::make_unique<AdamW>(*policy, grid, *ops, arena, optimizer_options(deck, ""),
                                            offloads(deck) ? &memory.host : nullptr);
        trainer = std::make_unique<Trainer>(*model, *policy, *optimizer, grid, *ops, arena, profile,
                                            trainer_limits(deck, config, needs, limits.max_tokens));
    }
    if (needs.critic) critic = make_critic(deck, grid, memory, profile, limits.max_tokens);
    if (!needs.reward_models.empty())
        reward_models = std::make_unique<RewardModels>(needs.reward_models, *model, limits, grid, *ops, memory);
    if (needs.generate)
        engine = std::make_unique<Engine>(*model, tokenizer, grid, *ops, arena, profile,
                                          Engine::Limits{.slots = deck.integer("rollout.slots"),
                                                         .max_length = generation_length(deck, config),
                                                         .page_size = deck.integer("rollout.page_size"),
                                                         .pages = cache_pages(deck, config),
                                                         .prefill_tokens = limits.max_tokens});
    if (needs.train) {
        std::int64_t bytes = needs.extra_checkpoint_bytes;
        for (const Slab& slab : model_slabs(grid)) bytes += slab.box.elements() * size_of(slab.dtype);
        checkpoint_bytes = bytes;
        CheckpointOptions options{.run_dir = deck.text("run.dir"),
                                  .keep = static_cast<int>(deck.integer("ckpt.keep")),
                                  .keep_every = deck.integer("ckpt.keep_every"),
                                  .background = deck.flag("ckpt.async"),
                                  .progress = [&profile] { profile.touch(); }};
        if (!ops->on_host())
            options.fetch = [this](void* to, const Slab& slab) {
                ops->download(to, Tensor(const_cast<void*>(slab.data), slab.dtype, slab.box.count));
            };
        checkpoints =
            std::make_unique<CheckpointWriter>(grid.world(), std::move(options), bytes, memory.host);
    }
}

std::unique_ptr<Critic> Stack::make_critic(const Deck& deck, const Grid& grid, const RunMemory& memory,
                                           Profile& profile, std::int64_t micro_tokens) {
    auto made = std::make_unique<Critic>();
    made->parameters = std::make_unique<ParameterSet>(config.with_scalar_head(), grid, memory.device, true, "critic", false,
                                                      model->dtype());
    made->optimizer = std::make_unique<AdamW>(*made->parameters, grid, *ops, memory.device,
                                              optimizer_options(deck, "critic"),
                                              offloads(deck) ? &memory.host : nullptr);
    made->trainer = std::make_unique<Trainer>(*model, *made->parameters, *made->optimizer, grid, *ops,
                                              memory.device, profile,
                                              Trainer::Limits{.micro_tokens = micro_tokens,
                                                              .balance_coef = deck.number("loss.balance_coef"),
                                                              .router_bias_rate = deck.number("optim.router_bias_rate"),
                                                              .name = "critic"});
    return made;
}

Stack::~Stack() = default;

void bring(const ParameterSet& from, ParameterSet& to, Ops& ops) {
    ops.synchronize();  // an upload to the copy of the host may still be on its way
    ops.upload(to.flat_values(), from.flat_values().data());
    ops.upload(to.flat_untrained(), from.flat_untrained().data());
}

const ParameterSet& Stack::bring_reference() {
    if (!brought_) return *reference;
    bring(*reference, *brought_, *ops);
    return *brought_;
}

void Stack::renew_reference(double mix) {
    const ParameterSet& old = mix < 1 ? bring_reference() : *reference;
    if (mix < 1)
        // mix p + (1 - mix) r, without memory for a third model.
        for (const auto& [r, p] : {std::pair(old.flat_values(), policy->flat_values()),
                                   std::pair(old.flat_untrained(), policy->flat_untrained())}) {
            ops->scale(r, static_cast<float>((1 - mix) / mix));
            ops->add(r, p);
            ops->scale(r, static_cast<float>(mix));
        }
    if (!brought_) {
        if (mix == 1) reference->copy_from(*policy, *ops);
        return;
    }
    const ParameterSet& from = mix < 1 ? old : *policy;
    ops->download(reference->flat_values().data(), from.flat_values());
    ops->download(reference->flat_untrained().data(), from.flat_untrained());
}

std::vector<Slab> Stack::reference_slabs(const Grid& grid) const {
    std::vector<Slab> slabs = parameter_slabs(*reference, grid, "reference", *ops);
    for (Slab& slab : slabs) slab.on_device = slab.on_device && !brought_;
    return slabs;
}

std::vector<Slab> Stack::model_slabs(const Grid& grid) const {
    std::vector<Slab> slabs = optimizer->slabs();
    const auto add = [&](std::vector<Slab> more) { slabs.insert(slabs.end(), more.begin(), more.end()); };
    if (reference) add(reference_slabs(grid));
    if (critic) add(critic->optimizer->slabs());
    return slabs;
}

std::string memory_table(const RunMemory& memory) {
    std::string text = memory.device.table();
    if (&memory.host != &memory.device && memory.host.bytes() > 0)
        text += "\nof the host:\n" + memory.host.table();
    return text;
}

void require_same_model(const Deck& deck, const Tokenizer& tokenizer, const ModelConfig& stored,
                        const std::string& directory) {
    Json asked = model_from_keys(deck, tokenizer).to_json(), have = stored.to_json();
    const bool by_file = !deck.text("model.config").empty();
    std::string differ;
    for (const Json& side : {asked, have})
        for (const auto& [name, value] : side.items()) {
            // A checkpoint may pad its vocabulary, lack the module of multi-token prediction, or be a reward model's.
            if (name == "vocab_size" || name == "mtp_layers" || name == "scalar_head" || asked[name] == have[name]) continue;
            const std::string key = "model." + name;
            const bool by_key = find_parameter(key) != nullptr && deck.is_set(key);
            if (!by_file && !by_key) continue;
            differ += fmt::format("\n  {}: {} = {}, the checkpoint has {}",
                                  deck.origin(by_file ? "model.config" : key), key, asked[name].dump(),
                                  have[name].dump());
            asked[name] = have[name];  // told once
        }
    require<CheckpointError>(differ.empty(),
                             "{} is of another model; leave these keys out or correct them, or use another run.dir:{}",
                             directory, differ);
}

void require_same_tokenizer(const Json& state, const Tokenizer& tokenizer,
                            const std::string& directory) {
    const std::string trained = state.value("tokenizer", ""), here = tokenizer.identity();
    const bool imported = state.value("stage", "") == "import";
    require<CheckpointError>(
        trained == here,
        "{} was {} with tokenizer {}, this run has {}; {}", directory,
        imported ? "imported" : "trained", trained, here,
        imported ? std::string("import it again with the policy.tokenizer that it is to have")
        : trained == "bytes-v1" ? std::string("set policy.tokenizer = bytes")
                              : "set policy.tokenizer to the tokenizer.json that it was trained with");
    const std::int64_t rows = state["model"].value("vocab_size", std::int64_t{0});
    require<CheckpointError>(tokenizer.vocab_size() <= rows,
                             "{}: the model's vocabulary has {} rows, the tokenizer {} has {} tokens: "
                             "this tokenizer is not the model's",
                             directory, rows, here, tokenizer.vocab_size());
}

ModelConfig model_of_stage(const Deck& deck, const ModelConfig& config) {
    return deck.stage() == "reward_model" ? config.with_scalar_head() : config;
}

ModelConfig resolve_model(const Deck& deck, const Tokenizer& tokenizer,
                          std::unique_ptr<CheckpointReader>& reader,
                          const std::function<void(const std::string&)>& note) {
    const ModelConfig keys = model_from_keys(deck, tokenizer);
    const std::string& from = deck.text("model.from");
    if (from.empty()) return model_of_stage(deck, keys);
    const std::string directory = find_checkpoint(from, note);
    require<CheckpointError>(!directory.empty(),
                             "model.from = {} ({}): there is no checkpoint; has that stage finished?",
                             from, deck.origin("model.from"));
    reader = std::make_unique<CheckpointReader>(directory);
    const Json& state = reader->state();
    require<CheckpointError>(state.contains("model") && state.contains("tokenizer"),
                             "{} holds no model", directory);
    const ModelConfig stored = ModelConfig::from_json(state["model"]);
    require<CheckpointError>(!stored.scalar_head || deck.stage() == "reward_model",
                             "model.from = {} ({}): {} holds a model that gives a number, not text (a reward model); "
                             "name a policy",
                             from, deck.origin("model.from"), directory);
    require_same_tokenizer(state, tokenizer, directory);
    require_same_model(deck, tokenizer, stored, directory);
    return model_of_stage(deck, stored);
}

CriticSource resolve_critic(const Deck& deck, const Tokenizer& tokenizer, const ModelConfig& config,
                            const std::function<void(const std::string&)>& note) {
    CriticSource source;
    const std::string& from = deck.text("critic.from");
    if (from.empty()) return source;
    const std::string directory = find_checkpoint(from, note);
    require<CheckpointError>(!directory.empty(),
                             "critic.from = {} ({}): there is no checkpoint; has that stage finished?", from,
                             deck.origin("critic.from"));
    source.reader = std::make_unique<CheckpointReader>(directory);
    const Json& state = source.reader->state();
    require<CheckpointError>(state.contains("model") && state.contains("tokenizer"), "{} holds no model", directory);
    require_same_tokenizer(state, tokenizer, directory);
    // A critic has neither the head nor the module of multi-token prediction.
    ModelConfig shape = ModelConfig::from_json(state["model"]);
    shape.scalar_head = config.scalar_head;
    shape.mtp_layers = config.mtp_layers;
    shape.tied = config.tied;
    require<CheckpointError>(shape == config,
                             "critic.from = {} ({}) is of another shape than the policy:\n  critic {}\n  policy "
                             "{}\nboth go through the same activations: choose a critic of the policy's shape",
                             from, deck.origin("critic.from"), shape.to_json().dump(), config.to_json().dump());
    if (source.reader->has(fmt::format("critic/weights/{}", kScalarHead))) source.group = "critic/weights";
    return source;
}

Json router_metrics(const ModelConfig& config, const Trainer::RouterResult& result) {
    if (config.moe.experts == 0) return Json::object();
    return {{"expert_load_max", result.load_max}, {"balance_loss", result.balance_loss}};
}

LearningRate resolve_learning_rate(const Deck& deck, std::int64_t total_steps) {
    return {.kind = parse_learning_rate_kind(deck.text("train.lr_schedule")),
            .peak = deck.number("train.lr"),
            .floor = deck.number("train.lr_min"),
            .warmup = deck.integer("train.warmup"),
            .total = total_steps};
}

GenerationOptions resolve_generation(const Deck& deck, const ChatTemplate& chat, std::int64_t step) {
    return {.sampling = {.temperature = deck.schedule("rollout.temperature").at(step),
                         .top_p = deck.number("rollout.top_p"),
                         .top_k = static_cast<int>(deck.integer("rollout.top_k"))},
            .max_new_tokens = deck.integer("rollout.max_new_tokens"),
            .stop = deck.list("rollout.stop"),
            .end_tokens = chat.end_tokens(),
            .seed = static_cast<std::uint64_t>(deck.integer("run.seed")),
            .stream = Stream::sample_token,
            .step = static_cast<std::uint64_t>(step)};
}

std::int64_t generation_length(const Deck& deck, const ModelConfig& config) {
    if (deck.stage() == "bench")
        return std::min(deck.integer("bench.prompt") + deck.integer("rollout.max_new_tokens"), config.max_positions);
    const std::int64_t planned = deck.integer("train.max_length");
    return planned > 0 ? std::min(planned, config.max_positions) : config.max_positions;
}

}  // namespace gradus
