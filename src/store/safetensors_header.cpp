// SPDX-License-Identifier: Apache-2.0
// The header, read event by event: a file of strangers gets no tree of values in memory, and what
// is not of the one allowed form ends the reading where it stands.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/store/safetensors.hpp"
#include "json_text.hpp"

namespace gradus {
namespace {

constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kMaxHeader = 100'000'000;  // the format's own limit

constexpr std::array<std::pair<std::string_view, std::int64_t>, 15> kSizes = {{{"BOOL", 1},
                                                                               {"U8", 1},
                                                                               {"I8", 1},
                                                                               {"F8_E5M2", 1},
                                                                               {"F8_E4M3", 1},
                                                                               {"I16", 2},
                                                                               {"U16", 2},
                                                                               {"F16", 2},
                                                                               {"BF16", 2},
                                                                               {"I32", 4},
                                                                               {"U32", 4},
                                                                               {"F32", 4},
                                                                               {"F64", 8},
                                                                               {"I64", 8},
                                                                               {"U64", 8}}};

constexpr std::array<std::pair<DType, std::string_view>, 4> kFloats = {
    {{DType::f32, "F32"}, {DType::bf16, "BF16"}, {DType::f16, "F16"}, {DType::f8_e4m3, "F8_E4M3"}}};

/// Takes the parser's events. Where one does not fit, `problem` says why and the parser stops.
class HeaderReader final : public nlohmann::json_sax<Json> {
  public:
    explicit HeaderReader(SafetensorsHeader& header) : header_(header) {}
    std::string problem;

    bool null() override { return value("null"); }
    bool boolean(bool) override { return value("a truth value"); }
    bool number_float(number_float_t, const string_t& text) override { return value(text); }
    bool binary(binary_t&) override { return value("binary data"); }
    bool number_integer(number_integer_t v) override { return value(std::to_string(v)); }
    bool number_unsigned(number_unsigned_t v) override {
        if (place_ != Place::shape && place_ != Place::offsets) return value(std::to_string(v));
        if (v > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
            return fail(fmt::format("the number {} is too large", v));
        if (count_ >= (place_ == Place::shape ? 4u : 2u))
            return fail(place_ == Place::shape ? "a shape of more than four dimensions"
                                               : "more than two data_offsets");
        numbers_[count_++] = static_cast<std::int64_t>(v);
        return true;
    }
    bool string(string_t& text) override {
        if (place_ == Place::metadata) {
            header_.metadata[key_] = text;
            return true;
        }
        if (place_ != Place::tensor || key_ != "dtype") return value("a text");
        current_.dtype = text;
        key_.clear();
        return true;
    }
    bool start_object(std::size_t) override {
        if (place_ == Place::start) return enter(Place::top);
        if (place_ != Place::top) return value("an object");
        seen_.clear();
        if (current_.name == "__metadata__") return enter(Place::metadata);
        return enter(Place::tensor);
    }
    bool key(string_t& text) override {
        if (place_ == Place::top) {
            if (!names_.insert(text).second)
                return fail("the name " + json_text(text) + " stands there twice");
            current_ = {.name = text};
            return true;
        }
        key_ = text;
        if (!seen_.insert(text).second)
            return fail("the key " + json_text(text) + " stands there twice");
        if (place_ == Place::tensor && text != "dtype" && text != "shape" && text != "data_offsets")
            return fail("there is an unknown key " + json_text(text));
        return true;
    }
    bool start_array(std::size_t) override {
        count_ = 0;
        if (place_ == Place::tensor && key_ == "shape") return enter(Place::shape);
        if (place_ == Place::tensor && key_ == "data_offsets") return enter(Place::offsets);
        return value("a list");
    }
    bool end_array() override {
        key_.clear();
        if (place_ == Place::shape) {
            current_.shape = make_shape(static_cast<int>(count_), numbers_.data());
        } else {
            if (count_ != 2) return fail("data_offsets are not two numbers");
            current_.begin = numbers_[0];
            current_.end = numbers_[1];
        }
        return enter(Place::tensor);
    }
    bool end_object() override {
        if (place_ == Place::top) return enter(Place::end);
        if (place_ == Place::tensor) {
            if (seen_.size() != 3) return fail("one of dtype, shape and data_offsets is missing");
            header_.entries.push_back(std::move(current_));
        }
        current_ = {};
        return enter(Place::top);
    }
    bool parse_error(std::size_t at, const std::string&, const Json::exception& error) override {
        return fail(fmt::format("it is not JSON (byte {}): {}", at, error.what()));
    }

  private:
    enum class Place { start, top, metadata, tensor, shape, offsets, end };

    bool enter(Place place) {
        place_ = place;
        return true;
    }
    bool fail(const std::string& what) {
        problem = current_.name.empty() ? what : "tensor " + json_text(current_.name) + ": " + what;
        return false;
    }
    /// A value where none of its kind belongs.
    bool value(const std::string& what) {
        switch (place_) {
            case Place::start:
                return fail("it is not an object");
            case Place::metadata:
                return fail("__metadata__ holds " + what + " where a text belongs");
            case Place::tensor:
                return fail(key_ + " is " + what);
            case Place::shape:
                return fail("the shape has " + what);
            case Place::offsets:
                return fail("data_offsets have " + what);
            case Place::top:
            case Place::end:
                break;
        }
        return fail("there is " + what + " where the description of a tensor belongs");
    }
    SafetensorsHeader& header_;
    Place place_ = Place::start;
    SafetensorsEntry current_;
    std::string key_;
    std::set<std::string> names_, seen_;
    std::array<std::int64_t, 4> numbers_{};
    std::size_t count_ = 0;
};

/// Bytes that type and shape make; nothing where that is no number of 63 bits.
std::optional<std::int64_t> bytes_of(const SafetensorsEntry& entry) {
    std::int64_t bytes = safetensors_size(entry.dtype);
    bool zero = false;
    for (int i = 0; i < entry.shape.rank(); ++i) zero = zero || entry.shape[i] == 0;
    if (zero) return 0;
    for (int i = 0; i < entry.shape.rank(); ++i)
        if (__builtin_mul_overflow(bytes, entry.shape[i], &bytes)) return std::nullopt;
    return bytes;
}

void check_entry(const std::string& file, const SafetensorsEntry& entry, std::int64_t data_bytes) {
    const auto fits = [&](bool good, const std::string& what) {
        require<DataError>(good, "{}: tensor {}: {}", file, json_text(entry.name), what);
    };
    fits(safetensors_size(entry.dtype) > 0, "unknown dtype " + json_text(entry.dtype));
    fits(entry.begin <= entry.end,
         fmt::format("it ends at byte {} before it begins at {}", entry.end, entry.begin));
    const auto bytes = bytes_of(entry);
    fits(bytes.has_value(), "the shape has more elements than can be counted");
    fits(entry.bytes() == *bytes,
         fmt::format("{} {} takes {} bytes, its data_offsets hold {}", entry.dtype,
                     entry.shape.text(), *bytes, entry.bytes()));
    fits(entry.end <= data_bytes,
         fmt::format("it ends at byte {} of the data, but the file holds {}: it is cut off",
                     entry.end, data_bytes));
}

/// Every byte of the data belongs to one tensor.
void check_tiling(const std::string& file, const SafetensorsHeader& header) {
    std::vector<const SafetensorsEntry*> order;
    for (const SafetensorsEntry& entry : header.entries) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
        return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    std::int64_t at = 0;
    const SafetensorsEntry* before = nullptr;
    for (const SafetensorsEntry* entry : order) {
        require<DataError>(entry->begin >= at, "{}: tensors {} and {} overlap", file,
                           before == nullptr ? "" : json_text(before->name),
                           json_text(entry->name));
        require<DataError>(entry->begin == at, "{}: {} bytes before tensor {} belong to no tensor",
                           file, entry->begin - at, json_text(entry->name));
        at = entry->end;
        before = entry;
    }
    require<DataError>(at == header.data_bytes, "{}: {} bytes after the last tensor belong to none",
                       file, header.data_bytes - at);
}

}  // namespace

std::optional<DType> float_dtype(std::string_view dtype) {
    for (const auto& [type, name] : kFloats)
        if (name == dtype) return type;
    return std::nullopt;
}

std::string safetensors_dtype(DType dtype) {
    for (const auto& [type, name] : kFloats)
        if (type == dtype) return std::string(name);
    throw InternalError(fmt::format("{} is not written to safetensors files", name_of(dtype)));
}

std::int64_t safetensors_size(std::string_view dtype) {
    for (const auto& [name, size] : kSizes)
        if (name == dtype) return size;
    return 0;
}

SafetensorsHeader parse_safetensors(const std::string& file, std::span<const std::byte> head,
                                    std::int64_t file_bytes) {
    require<DataError>(
        file_bytes >= kLengthBytes && std::ssize(head) >= kLengthBytes,
        "{}: it has {} bytes; a safetensors file begins with 8 bytes that tell the header's "
        "length",
        file, file_bytes);
    std::uint64_t length = 0;
    for (int i = 0; i < kLengthBytes; ++i)
        length |= std::to_integer<std::uint64_t>(head[static_cast<std::size_t>(i)]) << (8 * i);
    require<DataError>(
        length <= static_cast<std::uint64_t>(kMaxHeader),
        "{}: its header claims {} bytes, more than the {} that the format allows; is this a "
        "safetensors file?",
        file, length, kMaxHeader);
    const auto n = static_cast<std::int64_t>(length);
    require<DataError>(n <= file_bytes - kLengthBytes && n <= std::ssize(head) - kLengthBytes,
                       "{}: its header claims {} bytes, but the file has {}: it is cut off", file,
                       n, file_bytes);
    SafetensorsHeader header;
    header.data_bytes = file_bytes - kLengthBytes - n;
    header.text.assign(reinterpret_cast<const char*>(head.data()) + kLengthBytes,
                       static_cast<std::size_t>(n));
    HeaderReader reader(header);
    const bool whole = Json::sax_parse(header.text, &reader);
    require<DataError>(whole, "{}: header: {}", file, reader.problem);
    for (const SafetensorsEntry& entry : header.entries)
        check_entry(file, entry, header.data_bytes);
    check_tiling(file, header);
    return header;
}

}  // namespace gradus
