// SPDX-License-Identifier: Apache-2.0
// What run.self_test = true does before a stage begins: every rank multiplies, moves memory, reduces over each of its
// groups and writes a file, each with a known result, and says how long it took.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "gradus/base/bytes.hpp"
#include "gradus/base/error.hpp"
#include "stages.hpp"

namespace gradus {
namespace {

/// A rank is told as slow from this multiple of the median on, where it also costs a noticeable time.
constexpr double kSlow = 2, kNoticeable = 0.05;
/// Of this many tries the best counts: a moment's disturbance is no slow rank.
constexpr int kTries = 3;

/// What a step of the test found on this rank.
struct Finding {
    std::string problem;  ///< "": the result was right
    double seconds = 0;
};

/// +1 or -1, without a pattern.
float sign_of(std::int64_t i) {
    return (static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15u) >> 63 ? -1.0f : 1.0f;
}

class SelfTest {
  public:
    explicit SelfTest(Run& run)
        : run_(run),
          arena_(&run.device()),
          ops_(run.gpu ? make_cuda_ops({.max_tokens = 1, .max_length = 1}, arena_, run.gpu.get(),
                                       {.deterministic = run.deck.flag("run.deterministic"),
                                        .timeout = run.deck.number("run.timeout")})
                       : make_cpu_ops({.max_tokens = 1, .max_length = 1}, arena_)) {}

    /// Runs a step on all ranks at once, and tells the slow ranks; throws InternalError naming the broken ones.
    void step(const std::string& name, const std::function<std::string()>& once) {
        const Profile::Region region(run_.profile, "self_test." + name);
        Finding mine{.seconds = std::numeric_limits<double>::infinity()};
        for (int i = 0; i < kTries && mine.problem.empty(); ++i) {
            run_.grid.world().barrier();
            const double began = now_seconds();
            try {
                mine.problem = once();
            } catch (const Error& e) {
                mine.problem = e.what();
            }
            mine.seconds = std::min(mine.seconds, now_seconds() - began);
            // All go on, or none: a rank must not wait in vain at the next barrier.
            if (run_.grid.world().sum(std::int64_t{!mine.problem.empty()}) > 0) break;
        }
        judge(name, mine);
    }

    std::string product();
    std::string memory();
    std::string reduce(Communicator& group);
    std::string file() const;

  private:
    void judge(const std::string& name, const Finding& mine);

    Run& run_;
    Arena arena_;
    std::unique_ptr<Ops> ops_;
    Tensor a_, b_, c_, block_, sums_;
};

void SelfTest::judge(const std::string& name, const Finding& mine) {
    ByteWriter out;
    out.text(mine.problem);
    out.value(mine.seconds);
    out.text(run_.host);
    std::vector<double> seconds;
    std::vector<std::string> hosts;
    std::string broken;
    for (const std::string& bytes : run_.grid.world().all_gather(out.take())) {
        ByteReader in(bytes);
        std::string problem, host;
        double took = 0;
        in.text(problem);
        in.value(took);
        in.text(host);
        if (!problem.empty())
            broken += fmt::format("\n  rank {} host {}: {}: {}", seconds.size(), host, name, problem);
        seconds.push_back(took);
        hosts.push_back(host);
    }
    require(broken.empty(), "the self-test failed:{}\nleave these hosts out, or look after them", broken);
    std::vector<double> sorted = seconds;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    const double median = *middle, most = *std::max_element(seconds.begin(), seconds.end());
    run_.log.info("self-test: {:<22} median {:>9.3f} ms, slowest {:>9.3f} ms", name, 1e3 * median, 1e3 * most);
    for (std::size_t r = 0; r < seconds.size(); ++r)
        if (seconds[r] > kSlow * median && seconds[r] - median > kNoticeable)
            run_.log.warn("self-test: rank {} host {} is slow: {} took {:.3f} s, {:.1f} times the median", r, hosts[r],
                          name, seconds[r], seconds[r] / median);
}

/// a_i s_k times s_k b_j with signs s and small whole numbers a, b: each sum is n a_i b_j without rounding, in any order.
std::string SelfTest::product() {
    const std::int64_t n = run_.gpu ? 4096 : 512;
    const auto left = [](std::int64_t i) { return static_cast<float>(i % 5 - 2); };
    const auto right = [](std::int64_t j) { return static_cast<float>(j % 7 - 3); };
    std::vector<float> values(static_cast<std::size_t>(n * n));
    if (c_.data() == nullptr) {
        a_ = arena_.take("self-test", DType::f32, {n, n});
        b_ = arena_.take("self-test", DType::f32, {n, n});
        c_ = arena_.take("self-test", DType::f32, {n, n});
        for (std::int64_t i = 0; i < n * n; ++i) values[static_cast<std::size_t>(i)] = left(i / n) * sign_of(i % n);
        ops_->upload(a_, values.data());
        ops_->synchronize();
        for (std::int64_t i = 0; i < n * n; ++i) values[static_cast<std::size_t>(i)] = right(i % n) * sign_of(i / n);
        ops_->upload(b_, values.data());
        ops_->synchronize();
    }
    ops_->gemm(c_, a_, Transpose::no, b_, Transpose::no, 1, 0);
    ops_->download(values.data(), c_);
    ops_->synchronize();
    for (std::int64_t i = 0; i < n * n; ++i) {
        const float wanted = static_cast<float>(n) * left(i / n) * right(i % n), found = values[static_cast<std::size_t>(i)];
        if (found != wanted)
            return fmt::format("element ({}, {}) of a product is {} instead of {}", i / n, i % n, found, wanted);
    }
    return "";
}

/// A block of the device's memory is written and read back.
std::string SelfTest::memory() {
    const std::int64_t n = std::int64_t{1} << (run_.gpu ? 27 : 22);  // 512 MiB, 16 MiB
    if (block_.data() == nullptr) block_ = arena_.take("self-test", DType::i32, {n});
    std::vector<std::int32_t> out(static_cast<std::size_t>(n)), back(out.size());
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(i) * 2654435761u);
    ops_->upload(block_, out.data());
    ops_->download(back.data(), block_);
    ops_->synchronize();
    for (std::size_t i = 0; i < out.size(); ++i)
        if (out[i] != back[i]) return fmt::format("byte {} of a block of memory came back changed", 4 * i);
    return "";
}

/// Rank r of n contributes (r + 1) (i % 1000): the sum is n (n + 1) / 2 (i % 1000), without rounding.
std::string SelfTest::reduce(Communicator& group) {
    constexpr std::int64_t kElements = std::int64_t{1} << 18;  // 1 MiB
    const std::int64_t ranks = group.size();
    if (sums_.data() == nullptr) sums_ = arena_.take("self-test", DType::f32, {kElements});
    // Whole numbers up to 2^24 are exact in float32.
    const std::int64_t period = std::clamp<std::int64_t>((1 << 24) / (ranks * (ranks + 1) / 2), 1, 1000);
    std::vector<float> values(kElements);
    for (std::int64_t i = 0; i < kElements; ++i)
        values[static_cast<std::size_t>(i)] = static_cast<float>((group.rank() + 1) * (i % period));
    ops_->upload(sums_, values.data());
    ops_->all_reduce(group, sums_, Reduce::sum);
    ops_->download(values.data(), sums_);
    ops_->synchronize();
    for (std::int64_t i = 0; i < kElements; ++i) {
        const auto wanted = static_cast<float>(ranks * (ranks + 1) / 2 * (i % period));
        const float found = values[static_cast<std::size_t>(i)];
        if (found != wanted)
            return fmt::format("element {} of a sum over the {} ranks of `{}` is {} instead of {}", i, ranks,
                               group.name(), found, wanted);
    }
    return "";
}

struct CloseFile {
    void operator()(int descriptor) const { ::close(descriptor); }
};

/// A file of 4 MiB in the run directory: written, synced, read, deleted.
std::string SelfTest::file() const {
    const std::string path = run_.path(fmt::format(".self_test.{}", run_.grid.rank()));
    const auto failed = [&](const char* what) {
        const std::string why = std::strerror(errno);
        ::unlink(path.c_str());
        return fmt::format("cannot {} {}: {}", what, path, why);
    };
    std::vector<char> bytes(std::size_t{4} << 20), back(bytes.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + i / 257);
    const UniqueHandle<int, CloseFile, -1> file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file) return failed("open");
    for (std::size_t at = 0; at < bytes.size();) {
        const ssize_t n = ::pwrite(file.get(), bytes.data() + at, bytes.size() - at, static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return failed("write");
        at += static_cast<std::size_t>(n);
    }
    if (::fsync(file.get()) != 0) return failed("sync");
    for (std::size_t at = 0; at < back.size();) {
        const ssize_t n = ::pread(file.get(), back.data() + at, back.size() - at, static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return failed("read");
        at += static_cast<std::size_t>(n);
    }
    if (bytes != back) return fmt::format("{} came back with other bytes; it stays for a look", path);
    if (::unlink(path.c_str()) != 0) return failed("delete");
    return "";
}

}  // namespace

void run_self_test(Run& run) {
    SelfTest test(run);
    test.step("product", [&] { return test.product(); });
    test.step("memory", [&] { return test.memory(); });
    const Grid& grid = run.grid;
    for (Communicator* group : {&grid.world(), &grid.data(), &grid.tensor(), &grid.expert(), &grid.expert_data()})
        test.step(fmt::format("sum over {}", group->name()), [&] { return test.reduce(*group); });
    test.step("file", [&] { return test.file(); });
}

}  // namespace gradus
