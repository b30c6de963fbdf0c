// SPDX-License-Identifier: Apache-2.0
#include "gradus/optim/adamw.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "gradus/base/error.hpp"
#include "gradus/store/read_floats.hpp"
#include "gradus/tensor/convert.hpp"

namespace gradus {
namespace {

/// `shape` with its first dimension set to `rows`.
Shape with_rows(const Shape& shape, std::int64_t rows) {
    std::array<std::int64_t, 4> dims{rows};
    for (int i = 1; i < shape.rank(); ++i) dims[static_cast<std::size_t>(i)] = shape[i];
    return make_shape(shape.rank(), dims.data());
}

/// The ranks that hold the same part of a parameter.
Communicator& holders(const Parameter& parameter, const Grid& grid) {
    return parameter.expert ? grid.expert_data() : grid.data();
}

std::int64_t local_rows(const Parameter& parameter) { return parameter.box.count[0]; }

/// The rows that this rank owns.
OwnedRows my_rows(const Parameter& parameter, const Grid& grid) {
    const Communicator& group = holders(parameter, grid);
    return owned_rows(local_rows(parameter), group.rank(), group.size());
}

/// Rows of the local box as a box of the whole tensor.
Box global_box(const Parameter& parameter, OwnedRows rows) {
    const Box& local = parameter.box;
    return {.offset = with_rows(local.offset, local.offset[0] + rows.begin),
            .count = with_rows(local.count, rows.end - rows.begin)};
}

Tensor piece_of(const Tensor& tensor, OwnedRows rows) {
    return tensor.rows(rows.begin, rows.end - rows.begin);
}

/// Whether this rank writes its part: of a replicated tensor only the first tensor rank does.
bool writes(const Parameter& parameter, const Grid& grid) {
    return parameter.split_dim >= 0 || grid.tensor_rank() == 0;
}

Slab slab_of(const Parameter& parameter, OwnedRows rows, const std::string& group,
             const Tensor& data, const Ops& ops) {
    return {.tensor = group + "/" + parameter.name,
            .dtype = data.dtype(),
            .global = parameter.global,
            .box = global_box(parameter, rows),
            .data = data.data(),
            .on_device = !ops.on_host()};
}

/// Checks that the tensor is there and has the parameter's shape.
void check_stored(const CheckpointReader& reader, const std::string& name,
                  const Parameter& parameter) {
    require<CheckpointError>(reader.has(name), "{} holds no tensor {}", reader.directory(), name);
    const auto info = reader.info(name);
    require<CheckpointError>(info.global == parameter.global && info.dtype == DType::f32,
                             "{}: {} is {} {}, the model needs f32 {}", reader.directory(), name,
                             name_of(info.dtype), info.global.text(), parameter.global.text());
}

/// Whether `parameter` is a scalar head that the checkpoint lacks and `new_head` allows to.
bool is_new(const CheckpointReader& reader, const std::string& group, const Parameter& parameter, bool new_head) {
    return new_head && parameter.name == kScalarHead && !reader.has(group + "/" + parameter.name);
}

/// The rows of a parameter's value or gradient by owner.
BlockedTensor owned_blocks(const Parameter& parameter, Tensor x, const Communicator& group) {
    const std::int64_t rows = local_rows(parameter);
    const std::int64_t row_bytes = x.bytes() / std::max<std::int64_t>(rows, 1);
    BlockedTensor blocks{.x = x};
    for (int r = 0; r < group.size(); ++r)
        blocks.offsets.push_back(owned_rows(rows, r, group.size()).begin * row_bytes);
    blocks.offsets.push_back(rows * row_bytes);
    return blocks;
}

}  // namespace

OwnedRows owned_rows(std::int64_t rows, int data_rank, int data_size) {
    return {.begin = rows * data_rank / data_size, .end = rows * (data_rank + 1) / data_size};
}

AdamW::AdamW(ParameterSet& parameters, const Grid& grid, Ops& ops, Arena& arena,
             AdamWOptions options, Arena* offload)
    : parameters_(parameters),
      grid_(grid),
      ops_(ops),
      options_(options),
      offloaded_(offload != nullptr) {
    Arena& state = offloaded_ ? *offload : arena;
    const auto& all = parameters_.all();
    for (const Parameter& p : all) {
        if (!p.trained) continue;
        const Communicator& group = holders(p, grid);
        (p.expert ? owned_experts_ : owned_dense_).push_back(owned_blocks(p, p.value, group));
        gradients_[p.block()][p.expert ? 1 : 0].push_back(owned_blocks(p, p.grad, group));
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        const OwnedRows rows = my_rows(all[i], grid);
        if (rows.begin == rows.end) continue;
        Piece& piece = pieces_.emplace_back();
        piece.parameter = i;
        piece.rows = rows;
        if (!all[i].trained) continue;
        const Shape shape = with_rows(all[i].box.count, rows.end - rows.begin);
        piece.m = state.take(named("adam.m", "."), DType::f32, shape);
        piece.v = state.take(named("adam.v", "."), DType::f32, shape);
        if (has_master(all[i]))
            piece.master = state.take(named("adam.master", "."), DType::f32, shape);
    }
    norm_scratch_ =
        arena.take(named("adam.norm", "."), DType::f32, {static_cast<std::int64_t>(all.size())});
}

std::string AdamW::named(std::string_view what, std::string_view separator) const {
    return options_.label.empty() ? std::string(what) : fmt::format("{}{}{}", options_.label, separator, what);
}

void AdamW::start_sums(std::int64_t block) {
    const auto found = gradients_.find(block);
    if (found == gradients_.end()) return;
    const auto& [dense, experts] = found->second;
    if (!dense.empty()) ops_.start_block_sums(grid_.data(), dense);
    if (!experts.empty()) ops_.start_block_sums(grid_.expert_data(), experts);
}

double AdamW::step(double lr, bool summed) {
    if (!summed)
        for (const auto& [block, gradients] : gradients_) start_sums(block);
    ops_.finish_sums();
    const double norm = gradient_norm();
    const double clip = options_.clip;
    // As torch.nn.utils.clip_grad_norm_.
    const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
    ++steps_;
    for (const Piece& piece : pieces_) {
        const Parameter& parameter = parameters_.all()[piece.parameter];
        if (!parameter.trained) continue;
        const Tensor value = piece_of(parameter.value, piece.rows);
        ops_.adamw(piece.master ? piece.master : value, piece.master ? value : Tensor{},
                   piece_of(parameter.grad, piece.rows), piece.m, piece.v,
                   {.lr = static_cast<float>(lr),
                    .beta1 = static_cast<float>(options_.beta1),
                    .beta2 = static_cast<float>(options_.beta2),
                    .eps = static_cast<float>(options_.eps),
                    .weight_decay =
                        parameter.decay ? static_cast<float>(options_.weight_decay) : 0.0f,
                    .grad_scale = static_cast<float>(scale),
                    .step = steps_});
    }
    // Gradients of owned rows are zero now; this rank's part of the others' is not.
    if (grid_.data_size() > 1) {
        ops_.fill(parameters_.flat_grads(), 0);
        // Every rank holds all rows of its local box again.
        ops_.all_gather_blocks(grid_.data(), owned_dense_);
        if (!owned_experts_.empty()) ops_.all_gather_blocks(grid_.expert_data(), owned_experts_);
    }
    return norm;
}

double AdamW::gradient_norm() {
    const auto& all = parameters_.all();
    ops_.fill(norm_scratch_, 0);
    for (const Piece& piece : pieces_) {
        const Parameter& p = all[piece.parameter];
        if (p.trained)
            ops_.sum_squares(norm_scratch_.rows(static_cast<std::int64_t>(piece.parameter), 1),
                             piece_of(p.grad, piece.rows));
    }
    std::vector<float> found(all.size());
    ops_.download(found.data(), norm_scratch_);
    std::vector<double> squares(found.begin(), found.end());
    // A replicated parameter counts once; a bad copy of it must still be seen by all.
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (!writes(all[i], grid_) && std::isfinite(squares[i])) squares[i] = 0;
    }
    // Every row has one owner among the data ranks, also an expert's.
    grid_.tensor().all_reduce(std::span(squares), Reduce::sum);
    grid_.data().all_reduce(std::span(squares), Reduce::sum);
    double sum = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        require<NumericError>(std::isfinite(squares[i]),
                              "the gradient of {} is not finite (optimiser step {}); these "
                              "parameters are as before the step. Lower {}, or look at the batch",
                              named(all[i].name, " "), steps_ + 1,
                              options_.label.empty() ? std::string("train.lr") : fmt::format("{}.lr", options_.label));
        sum += squares[i];
    }
    return std::sqrt(sum);
}

std::vector<Slab> AdamW::slabs() const {
    std::vector<Slab> slabs;
    for (const Piece& piece : pieces_) {
        const Parameter& parameter = parameters_.all()[piece.parameter];
        if (!writes(parameter, grid_)) continue;
        const auto state = [&](const char* group, const Tensor& data) {
            slabs.push_back(slab_of(parameter, piece.rows, named(group, "/"), data, ops_));
            if (offloaded_) slabs.back().on_device = false;
        };
        if (has_master(parameter))
            state("weights", piece.master);
        else
            slabs.push_back(slab_of(parameter, piece.rows, named("weights", "/"),
                                    piece_of(parameter.value, piece.rows), ops_));
        if (!parameter.trained) continue;
        state("adam_m", piece.m);
        state("adam_v", piece.v);
    }
    return slabs;
}

void AdamW::load(const CheckpointReader& reader, std::int64_t steps) {
    // All tensors first: a missing one must not be found on some ranks only.
    for (const Parameter& parameter : parameters_.all()) {
        if (!parameter.trained) continue;
        check_stored(reader, named("adam_m/", "/") + parameter.name, parameter);
        check_stored(reader, named("adam_v/", "/") + parameter.name, parameter);
    }
    for (const Piece& piece : pieces_) {
        const Parameter& parameter = parameters_.all()[piece.parameter];
        if (!parameter.trained) continue;
        const Box box = global_box(parameter, piece.rows);
        std::vector<float> values(static_cast<std::size_t>(box.elements()));
        const auto restore = [&](const char* group, Tensor to) {
            reader.read(named(group, "/") + parameter.name, box, values.data());
            ops_.upload(to, values.data());
        };
        restore("adam_m/", piece.m);
        restore("adam_v/", piece.v);
    }
    steps_ = steps;
}

void AdamW::load_masters(const CheckpointReader& reader, const std::string& group, bool new_head) {
    for (const Piece& piece : pieces_) {
        if (!piece.master) continue;
        const Parameter& parameter = parameters_.all()[piece.parameter];
        std::vector<float> values(static_cast<std::size_t>(piece.master.elements()));
        if (!is_new(reader, group, parameter, new_head))
            read_floats(reader, group + "/" + parameter.name, global_box(parameter, piece.rows),
                        values.data());
        ops_.upload(piece.master, values.data());
    }
}

void AdamW::masters_from_parameters() {
    for (const Piece& piece : pieces_)
        if (piece.master)
            ops_.copy(piece.master, piece_of(parameters_.all()[piece.parameter].value, piece.rows));
}

void load_parameters(ParameterSet& parameters, const CheckpointReader& reader,
                     const std::string& group, Ops& ops, bool new_head) {
    for (const Parameter& parameter : parameters.all()) {
        if (!is_new(reader, group, parameter, new_head))
            check_floats(reader, group + "/" + parameter.name, parameter.global);
    }
    for (const Parameter& parameter : parameters.all()) {
        std::vector<float> values(static_cast<std::size_t>(parameter.box.elements()));
        if (!is_new(reader, group, parameter, new_head))
            read_floats(reader, group + "/" + parameter.name, parameter.box, values.data());
        if (parameter.value.dtype() == DType::bf16) {
            std::vector<std::uint16_t> rounded(values.size());
            from_f32(DType::bf16, values.data(), rounded.data(), parameter.box.elements());
            ops.upload(parameter.value, rounded.data());
        } else {
            ops.upload(parameter.value, values.data());
        }
    }
}

std::vector<Slab> parameter_slabs(const ParameterSet& parameters, const Grid& grid,
                                  const std::string& group, const Ops& ops) {
    std::vector<Slab> slabs;
    for (const Parameter& parameter : parameters.all()) {
        const OwnedRows rows = my_rows(parameter, grid);
        if (rows.begin == rows.end || !writes(parameter, grid)) continue;
        slabs.push_back(slab_of(parameter, rows, group, piece_of(parameter.value, rows), ops));
    }
    return slabs;
}

}  // namespace gradus
