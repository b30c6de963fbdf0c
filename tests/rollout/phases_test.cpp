// SPDX-License-Identifier: Apache-2.0
// Training and generation over the same memory: neither finds there what it needs of the other, nor of
// itself the time before.
#include <boost/test/unit_test.hpp>

#include <algorithm>

#include "gradus/base/error.hpp"
#include "small_engine.hpp"

namespace gradus {
namespace {

using test::one_rank;

constexpr std::int64_t kTokens = 48, kSlots = 5;

struct Kind {
    ModelConfig config;
    Recompute recompute;
};

/// A model that trains and generates, and the weights of a second one that are there only when used.
struct Both {
    enum class Memory { planned, shared, apart };

    Both(const Kind& kind, Memory memory, std::int64_t block = 0)
        : device(test::make_test_device()),
          arena(memory == Memory::planned ? nullptr : device.get()),
          shares(share(memory, block)),
          ops(test::make_test_ops({.max_tokens = kTokens,
                                   .max_length = kTokens,
                                   .max_head_dim = 12,  // of a latent row, the widest here
                                   .max_heads = kind.config.heads,
                                   .max_width = kind.config.hidden,
                                   .max_decode = kSlots},
                                  arena, test::Waiting::never)),
          parameters(kind.config, one_rank(), arena, true, "policy"),
          reference(kind.config, one_rank(), arena, false, "reference", false, DType::f32,
                    Phase::reference),
          model(kind.config, one_rank(), *ops, arena,
                {.max_tokens = kTokens,
                 .max_length = kTokens,
                 .recompute = kind.recompute,
                 .max_decode = kSlots,
                 .head_chunk = 7}),
          optimizer(parameters, one_rank(), *ops, arena, {}),
          trainer(model, parameters, optimizer, one_rank(), *ops, arena, profile,
                  {.micro_tokens = kTokens, .balance_coef = kind.config.moe.experts > 0 ? 0.01 : 0.0}),
          tokenizer(27),
          engine(model, tokenizer, one_rank(), *ops, arena, profile,
                 {.slots = kSlots, .max_length = kTokens, .page_size = 4, .prefill_tokens = kTokens}) {
        if (memory == Memory::planned) return;
        parameters.initialize(*ops, 17, 0.3);
        ops->synchronize();
    }
    bool share(Memory memory, std::int64_t block) {
        if (memory != Memory::apart) arena.share_between_phases(block);
        return memory != Memory::apart;
    }
    /// NaN in float32 and in bfloat16, and no index of anything.
    void poison() {
        if (!shares) return;
        ops->synchronize();
        std::fill_n(arena.shared_block().i32(), arena.shared_block().elements(), 0x7fc07fc0);
    }
    /// All that comes out of some turns of training, generation and the reference.
    std::vector<float> run() {
        std::vector<float> out;
        for (std::uint64_t turn = 0; turn < 3; ++turn) {
            poison();
            const auto generated = engine.generate(
                parameters, test::usual_requests(),
                {.max_new_tokens = 20, .end_tokens = tokenizer.eos_ids(), .seed = turn}, {});
            for (const Generated& g : generated) {
                out.insert(out.end(), g.tokens.begin(), g.tokens.end());
                out.insert(out.end(), g.log_probs.begin(), g.log_probs.end());
            }
            poison();
            std::vector<Sequence> batch = test::tiny_batch(12, turn);
            reference.copy_from(parameters, *ops);
            const auto lp = trainer.log_probs(reference, batch, 1.2);
            for (const auto& row : lp) out.insert(out.end(), row.begin(), row.end());
            test::make_policy_batch(batch, lp);
            poison();
            const auto result = trainer.policy_step(batch, {.kl_coef = 0.1, .entropy_coef = 0.01}, 1.2, 1e-2);
            out.insert(out.end(), {static_cast<float>(result.loss), static_cast<float>(result.grad_norm),
                                   static_cast<float>(result.router.balance_loss)});
        }
        ops->synchronize();
        for (const float x : parameters.flat_values().floats()) out.push_back(x);
        return out;
    }

    std::unique_ptr<Device> device;
    Arena arena;
    bool shares;
    std::unique_ptr<Ops> ops;
    ParameterSet parameters, reference;
    Transformer model;
    AdamW optimizer;
    Profile profile;
    Trainer trainer;
    test::Letters tokenizer;
    Engine engine;
};

std::vector<Kind> kinds() {
    ModelConfig experts = test::tiny_experts();
    experts.mtp_layers = 0;
    std::vector<Kind> all;
    for (const ModelConfig& config : {test::tiny_config(), experts})
        for (const Recompute what : {Recompute::none, Recompute::attention, Recompute::block})
            all.push_back({config, what});
    return all;
}

BOOST_AUTO_TEST_SUITE(phases)

BOOST_AUTO_TEST_CASE(give_the_same_bits_over_the_same_poisoned_memory_as_apart) {
    for (const Kind& kind : kinds()) {
        const Both plan(kind, Both::Memory::planned);
        Both shared(kind, Both::Memory::shared, plan.arena.largest_phase()), apart(kind, Both::Memory::apart);
        BOOST_TEST(plan.arena.largest_phase() > 0);
        BOOST_TEST(shared.arena.shared_block().bytes() == plan.arena.largest_phase());
        BOOST_TEST(shared.arena.bytes() == plan.arena.bytes());
        BOOST_TEST(shared.arena.table() == plan.arena.table());
        BOOST_TEST(shared.arena.bytes() < apart.arena.bytes());
        const std::vector<float> a = shared.run(), b = apart.run();
        BOOST_TEST(std::all_of(b.begin(), b.end(), [](float x) { return std::isfinite(x); }));
        BOOST_TEST((a == b));
    }
}

BOOST_AUTO_TEST_CASE(do_not_fit_into_less_than_planned) {
    const Kind kind = kinds().front();
    const Both plan(kind, Both::Memory::planned);
    BOOST_CHECK_THROW(Both(kind, Both::Memory::shared, plan.arena.largest_phase() - 256), InternalError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace gradus
