// SPDX-License-Identifier: Apache-2.0
// A scratch folder, a world of one rank, and checkpoints of known numbers.
#pragma once

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "gradus/base/error.hpp"
#include "gradus/base/json_lines.hpp"
#include "gradus/store/checkpoint.hpp"

namespace gradus {

/// In memory where there is such a place: these tests sync hundreds of times.
struct Folder {
    Folder() {
        const bool memory = access("/dev/shm", W_OK) == 0;
        const std::filesystem::path base =
            memory ? "/dev/shm" : std::filesystem::temp_directory_path();
        std::string name = (base / "gradus-store-XXXXXX").string();
        BOOST_REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string path;
    std::string operator/(const std::string& name) const { return path + "/" + name; }
};

/// A world of one rank, without MPI: for tests that fork.
class LoneRank final : public Communicator {
  public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    const std::string& name() const override { return name_; }
    void all_reduce(std::span<float>, Reduce) override {}
    void all_reduce(std::span<double>, Reduce) override {}
    void all_reduce(std::span<std::int64_t>, Reduce) override {}
    void reduce_scatter_blocks(std::span<float>, std::span<const std::int64_t>) override {}
    void broadcast(std::span<std::byte>, int) override {}
    void all_gather_blocks(std::span<std::byte>, std::span<const std::int64_t>) override {}
    void all_to_all(std::span<const std::byte> send, std::span<const std::int64_t>,
                    std::span<std::byte> recv, std::span<const std::int64_t>) override {
        std::copy(send.begin(), send.end(), recv.begin());
    }
    void barrier() override {}

  private:
    std::string name_ = "world";
};

/// Element i of tensor `salt`: every f32 below 2^24 is exact and different.
inline float value_at(std::int64_t i, std::int64_t salt) {
    return static_cast<float>((i * 7 + salt * 1000003) % 16777216);
}

inline std::vector<float> ramp(std::int64_t n, std::int64_t salt) {
    std::vector<float> values(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = value_at(i, salt);
    return values;
}

inline Slab whole(const std::string& name, const Shape& shape, const std::vector<float>& values) {
    Shape zero = shape;
    if (shape.rank() == 1) zero = {0};
    if (shape.rank() == 2) zero = {0, 0};
    if (shape.rank() == 3) zero = {0, 0, 0};
    if (shape.rank() == 4) zero = {0, 0, 0, 0};
    return {.tensor = name,
            .dtype = DType::f32,
            .global = shape,
            .box = {zero, shape},
            .data = values.data()};
}

/// Writes checkpoints from one rank.
struct Store {
    explicit Store(CheckpointOptions options, std::int64_t staging = 9 << 20)
        : arena(device.get()), writer(world, std::move(options), staging, arena) {}
    std::unique_ptr<Device> device = make_cpu_device();
    Arena arena;
    LoneRank world;
    CheckpointWriter writer;
};

/// Message of the Error of type E that `work` throws; "" if it throws none.
template <class E, class Work>
std::string message_of(Work&& work) {
    try {
        work();
    } catch (const E& error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

inline void flip_byte(const std::string& path, std::int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    BOOST_REQUIRE(file.good());
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 0x10));
    BOOST_REQUIRE(file.good());
}

/// Output of a shell command.
inline std::string run_command(const std::string& command) {
    std::FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    BOOST_REQUIRE(pipe != nullptr);
    std::string out;
    char buffer[4096];
    for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
    pclose(pipe);
    return out;
}
inline bool have_h5dump() {
    return std::system("command -v h5dump > /dev/null 2>&1") == 0;
}

}  // namespace gradus
