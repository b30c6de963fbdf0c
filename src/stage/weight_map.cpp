// SPDX-License-Identifier: Apache-2.0
#include "weight_map.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>

#include "gradus/base/error.hpp"
#include "gradus/model/parameters.hpp"
#include "gradus/store/read_floats.hpp"
#include "gradus/tensor/convert.hpp"

namespace gradus {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kScaleEnd = "_scale_inv";

/// What is wrong with a folder, all of it, in a message of bounded length.
class Problems {
  public:
    void add(const std::string& line) {
        constexpr int kShown = 40;
        if (++count_ <= kShown) text_ += "\n  " + line;
    }
    void raise(const std::string& where) const {
        if (count_ == 0) return;
        constexpr int kShown = 40;
        const std::string more =
            count_ > kShown ? fmt::format("\n  ... and {} more", count_ - kShown) : "";
        throw DataError(
            fmt::format("{}: the tensors do not fit the model that config.json describes:{}{}",
                        where, text_, more));
    }

  private:
    int count_ = 0;
    std::string text_;
};

/// "PREFIX.experts.3.gate_proj.weight" in its parts.
struct ExpertName {
    std::string stack;  ///< PREFIX.experts.gate_proj.weight
    std::int64_t expert = 0;
};

std::optional<ExpertName> expert_name(const std::string& name) {
    constexpr std::string_view kExperts = ".mlp.experts.";
    const std::size_t at = name.find(kExperts);
    if (at == std::string::npos) return std::nullopt;
    const char* const begin = name.data() + at + kExperts.size();
    ExpertName result;
    const auto [end, error] = std::from_chars(begin, name.data() + name.size(), result.expert);
    // Only as a number is written: "00" would be a second name of the same expert.
    if (error != std::errc{} || result.expert < 0 ||
        std::to_string(result.expert) != std::string(begin, end) || *end != '.')
        return std::nullopt;
    result.stack = name.substr(0, at + kExperts.size()) + std::string(end + 1);
    return result;
}

Shape stack_shape(const Shape& s) {
    return {s[1], s[2]};
}

class Mapper {
  public:
    Mapper(const ModelConfig& model, const std::vector<FolderFile>& files) : model_(model) {
        for (ParameterInfo& p : describe_parameters(model)) {
            order_.push_back(p.name);
            parameters_.emplace(p.name, std::move(p));
        }
        for (std::size_t f = 0; f < files.size(); ++f) {
            std::vector<SafetensorsEntry> entries = files[f].header.entries;
            std::stable_sort(entries.begin(), entries.end(),
                             [](const auto& a, const auto& b) { return a.begin < b.begin; });
            for (SafetensorsEntry& entry : entries) {
                dtypes_[entry.name] = entry.dtype;
                map_.weights.push_back({.entry = std::move(entry), .file = f});
            }
        }
    }

    WeightMap run(const std::string& where) {
        for (FolderWeight& weight : map_.weights) place(weight);
        find_missing();
        check_scales();
        problems_.raise(where);
        return std::move(map_);
    }

  private:
    void place(FolderWeight& weight) {
        const std::string& name = weight.entry.name;
        if (name.ends_with(".rotary_emb.inv_freq")) {
            weight.use = FolderWeight::Use::unused;
            return;
        }
        if (const std::string original = repeats(name); !original.empty()) {
            weight.use = FolderWeight::Use::copy;
            weight.original = original;
            if (!dtypes_.contains(original))
                return problems_.add(
                    fmt::format("{} repeats {}, which is missing", name, original));
            if (dtypes_[original] != weight.entry.dtype)
                return problems_.add(fmt::format("{} is {}, but {}, which it repeats, {}", name,
                                                 weight.entry.dtype, original, dtypes_[original]));
            return fill(weight, original, false, false);
        }
        if (name.ends_with(kScaleEnd)) {
            weight.use = FolderWeight::Use::scale;
            return locate(weight, name.substr(0, name.size() - std::string_view(kScaleEnd).size()),
                          true);
        }
        locate(weight, name, false);
    }

    /// The tensor that one of this name repeats; "" for one that stands for itself.
    std::string repeats(const std::string& name) const {
        if (model_.tied && name == kHead) return kEmbedding;
        if (model_.mtp_layers == 0) return "";
        const std::string mtp = fmt::format("model.layers.{}.", model_.layers);
        if (name == mtp + "embed_tokens.weight") return kEmbedding;
        if (name == mtp + "shared_head.head.weight") return model_.tied ? kEmbedding : kHead;
        return "";
    }

    void locate(FolderWeight& weight, const std::string& name, bool scale) {
        if (const auto found = parameters_.find(name); found != parameters_.end()) {
            if (scale && found->second.global.rank() == 1)
                return problems_.add(weight.entry.name + ": only matrices have block scales");
            return fill(weight, name, scale, true);
        }
        if (const auto expert = expert_name(name)) {
            const auto found = parameters_.find(expert->stack);
            if (found != parameters_.end() && expert->expert < found->second.global[0])
                return fill_expert(weight, found->second, expert->expert, scale);
        }
        // Transformers 5 may write all experts of a layer as two stacks.
        const auto replaced = [&](const char* from, const char* to) {
            return name.ends_with(from)
                       ? name.substr(0, name.size() - std::string_view(from).size()) + to
                       : "";
        };
        const std::string gate = replaced(".experts.gate_up_proj", ".experts.gate_proj.weight");
        if (!scale && parameters_.contains(gate)) return fill_gate_up(weight, parameters_.at(gate));
        const std::string down = replaced(".experts.down_proj", ".experts.down_proj.weight");
        if (!scale && parameters_.contains(down)) return fill(weight, down, false, true);
        problems_.add(fmt::format("{} {} {}: the model has no such parameter", weight.entry.name,
                                  weight.entry.dtype, weight.entry.shape.text()));
    }

    /// The type of a weight or scale; nothing, and a problem, where it is not one for it.
    std::optional<DType> type_of(const FolderWeight& weight, bool scale) {
        const auto dtype = float_dtype(weight.entry.dtype);
        if (dtype && (!scale || *dtype == DType::f32)) return dtype;
        problems_.add(fmt::format("{} is {}; {} are read as {}", weight.entry.name,
                                  weight.entry.dtype, scale ? "scales" : "weights",
                                  scale ? "F32" : "F32, BF16, F16 or F8_E4M3"));
        return std::nullopt;
    }

    bool has_shape(const FolderWeight& weight, const Shape& wanted) {
        if (weight.entry.shape == wanted) return true;
        problems_.add(fmt::format("{} is {}, the model needs {}", weight.entry.name,
                                  weight.entry.shape.text(), wanted.text()));
        return false;
    }

    /// The shape of a parameter's scales, or its own.
    static Shape shape_of(const Shape& s, bool scale) {
        if (!scale) return s;
        if (s.rank() == 2) return {scale_blocks(s[0]), scale_blocks(s[1])};
        if (s.rank() == 3) return {s[0], scale_blocks(s[1]), scale_blocks(s[2])};
        return {};
    }

    /// Notes that `elements` of a checkpoint's tensor are filled with numbers of this type.
    bool store(const FolderWeight& weight, const std::string& tensor, const Shape& global,
               DType dtype, std::int64_t elements) {
        const auto [place, fresh] = map_.stored.emplace(tensor, WeightMap::Stored{dtype, global});
        if (!fresh && place->second.dtype != dtype) {
            problems_.add(fmt::format("{} is {}, other experts of its layer are {}",
                                      weight.entry.name, weight.entry.dtype,
                                      name_of(place->second.dtype)));
            return false;
        }
        filled_[tensor] += elements;
        if (dtype == DType::f8_e4m3) map_.has_fp8 = true;
        return true;
    }

    /// A whole parameter. `counts`: it is this tensor that fills it.
    void fill(FolderWeight& weight, const std::string& name, bool scale, bool counts) {
        const Shape global = shape_of(parameters_.at(name).global, scale);
        const auto dtype = type_of(weight, scale);
        if (!dtype || !has_shape(weight, global)) return;
        const std::string tensor = (scale ? "scale_inv/" : "weights/") + name;
        if (counts && !store(weight, tensor, global, *dtype, global.elements())) return;
        Shape zero = global.rank() == 1   ? Shape{0}
                     : global.rank() == 2 ? Shape{0, 0}
                                          : Shape{0, 0, 0};
        weight.pieces.push_back({.tensor = tensor, .box = {zero, global}});
    }

    void fill_expert(FolderWeight& weight, const ParameterInfo& stack, std::int64_t expert,
                     bool scale) {
        const Shape global = shape_of(stack.global, scale);
        const auto dtype = type_of(weight, scale);
        if (!dtype || !has_shape(weight, stack_shape(global))) return;
        const std::string tensor = (scale ? "scale_inv/" : "weights/") + stack.name;
        if (!store(weight, tensor, global, *dtype, global.row_elements())) return;
        if (!scale) seen_[stack.name].push_back(expert);
        weight.pieces.push_back(
            {.tensor = tensor, .box = {{expert, 0, 0}, {1, global[1], global[2]}}});
    }

    /// [E, 2 I, H]: of each expert first the gate's rows, then up's.
    void fill_gate_up(FolderWeight& weight, const ParameterInfo& gate) {
        const Shape& g = gate.global;
        const auto dtype = type_of(weight, false);
        if (!dtype || !has_shape(weight, {g[0], 2 * g[1], g[2]})) return;
        std::string up = gate.name;
        up.replace(up.rfind("gate_proj"), 4, "up");
        const std::string tensors[2] = {"weights/" + gate.name, "weights/" + up};
        for (const std::string& tensor : tensors)
            if (!store(weight, tensor, g, *dtype, g.elements())) return;
        for (std::int64_t e = 0; e < g[0]; ++e)
            for (std::int64_t half = 0; half < 2; ++half)
                weight.pieces.push_back({.tensor = tensors[half],
                                         .box = {{e, 0, 0}, {1, g[1], g[2]}},
                                         .at = (2 * e + half) * g.row_elements()});
    }

    void find_missing() {
        for (const std::string& name : order_) {
            const Shape& global = parameters_.at(name).global;
            const std::int64_t filled = filled_["weights/" + name];
            if (filled == global.elements()) continue;
            std::string which;
            if (filled > global.elements()) {
                problems_.add(
                    fmt::format("{} is there twice, as a stack and expert by expert", name));
                continue;
            }
            auto& seen = seen_[name];
            std::sort(seen.begin(), seen.end());
            std::int64_t first = 0;
            while (first < std::ssize(seen) && seen[static_cast<std::size_t>(first)] == first)
                ++first;
            if (!seen.empty())
                which = fmt::format(" of expert {} (of {} experts {} are there)", first, global[0],
                                    seen.size());
            problems_.add(fmt::format("{} {}{} is missing", name, global.text(), which));
        }
    }

    void check_scales() {
        for (const auto& [tensor, stored] : map_.stored) {
            if (!tensor.starts_with("weights/")) continue;
            const std::string scales = scale_name(tensor),
                              name = tensor.substr(tensor.find('/') + 1);
            const bool fp8 = stored.dtype == DType::f8_e4m3;
            const std::int64_t there = filled_.contains(scales) ? filled_[scales] : 0;
            if (!fp8 && there > 0)
                problems_.add(fmt::format("{} is {}, yet there is {}{}", name,
                                          name_of(stored.dtype), name, kScaleEnd));
            if (fp8 && there != shape_of(stored.global, true).elements())
                problems_.add(fmt::format("{} is F8_E4M3 and lacks its scales, {}{} {}", name, name,
                                          kScaleEnd, shape_of(stored.global, true).text()));
        }
        for (const auto& [tensor, filled] : filled_)
            if (tensor.starts_with("scale_inv/") && filled > 0 &&
                !map_.stored.contains("weights/" + tensor.substr(tensor.find('/') + 1)))
                problems_.add(tensor + ": there are scales without weights");
    }

    const ModelConfig& model_;
    std::vector<std::string> order_;
    std::unordered_map<std::string, ParameterInfo> parameters_;
    std::unordered_map<std::string, std::string> dtypes_;
    std::map<std::string, std::int64_t> filled_;
    std::map<std::string, std::vector<std::int64_t>> seen_;
    WeightMap map_;
    Problems problems_;
};

/// The dimension along which a piece is cut: the first with more than one index.
int row_dim(const Box& box) {
    int dim = 0;
    while (dim + 1 < box.count.rank() && box.count[dim] == 1) ++dim;
    return dim;
}

Shape with(const Shape& s, int dim, std::int64_t value) {
    const auto at = [&](int i) { return i == dim ? value : s[i]; };
    if (s.rank() == 1) return {at(0)};
    if (s.rank() == 2) return {at(0), at(1)};
    return {at(0), at(1), at(2)};
}

}  // namespace

ModelConfig folder_model(const HuggingFaceConfig& config, const std::vector<FolderFile>& files) {
    ModelConfig model = config.model;
    if (config.announced_mtp_layers == 0) return model;
    const std::string begin = fmt::format("model.layers.{}.", model.layers);
    for (const FolderFile& file : files)
        for (const SafetensorsEntry& entry : file.header.entries)
            if (entry.name.starts_with(begin)) model.mtp_layers = config.announced_mtp_layers;
    return model;
}

WeightMap map_weights(const ModelConfig& model, const std::vector<FolderFile>& files,
                      const std::string& where) {
    return Mapper(model, files).run(where);
}

std::int64_t count_rows(const WeightPiece& piece) {
    return piece.box.count[row_dim(piece.box)];
}

WeightPiece piece_rows(const WeightPiece& piece, std::int64_t first, std::int64_t count) {
    const int dim = row_dim(piece.box);
    const std::int64_t width =
        piece.box.elements() / std::max<std::int64_t>(1, piece.box.count[dim]);
    return {.tensor = piece.tensor,
            .box = {with(piece.box.offset, dim, piece.box.offset[dim] + first),
                    with(piece.box.count, dim, count)},
            .at = piece.at + first * width};
}

WeightPiece share_of(const WeightPiece& piece, std::int64_t element, std::int64_t before,
                     std::int64_t total, int rank, int size) {
    const std::int64_t rows = count_rows(piece);
    const std::int64_t row_bytes =
        std::max<std::int64_t>(1, piece.box.elements() / std::max<std::int64_t>(1, rows) * element);
    // A row belongs to the rank in whose part its first byte lies. (Parts in double: a rounded
    // border is the same border on both of its sides.)
    const auto border = [&](int r) {
        const auto at = static_cast<std::int64_t>(static_cast<double>(total) * r / size) - before;
        return std::clamp<std::int64_t>((at + row_bytes - 1) / row_bytes, 0, rows);
    };
    const std::int64_t first = rank == 0 ? 0 : border(rank),
                       end = rank + 1 == size ? rows : border(rank + 1);
    return piece_rows(piece, first, end - first);
}

}  // namespace gradus
